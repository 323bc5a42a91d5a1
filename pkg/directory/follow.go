package directory

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	errStalled = errors.New("etcd has fallen silent")
	errClosed  = errors.New("the watch ended")
	// errBackwards is seen when a backup was restored, and when a watch went on
	// at a member that lags. A load tells.
	errBackwards = errors.New("etcd's revision went backwards")
	errBehind    = errors.New("etcd is ahead of the view")
	errLostData  = errors.New("etcd has lost its data: its revision went backwards and it has no accounts and domains; restore it, what was known stays in use")
)

// follow loads and watches, for ever.
func (v *View) follow(ctx context.Context) {
	defer close(v.done)
	wait := v.pace.retryMin
	for {
		began := time.Now()
		err := v.round(ctx)
		if ctx.Err() != nil {
			return
		}
		v.broken(err)
		if time.Since(began) > v.pace.stall {
			wait = v.pace.retryMin
		}
		// Spread: every process of every region is here at once.
		if !sleep(ctx, wait/2+rand.N(wait)) { //nolint:gosec // chance, no secret
			return
		}
		wait = min(2*wait, v.pace.retryMax)
		// gRPC's own wait between attempts to connect grows to two minutes.
		v.client.ActiveConnection().ResetConnectBackoff()
	}
}

// round loads the whole directory and then watches it until something is wrong.
func (v *View) round(ctx context.Context) error {
	kvs, revision, err := rangeAll(ctx, v.client, prefix, v.pace.request)
	if err != nil {
		v.recall(ctx)
		return err
	}
	if err := v.reload(kvs, revision); err != nil {
		return err
	}
	return v.watch(ctx, revision+1)
}

func (v *View) broken(err error) {
	reason := "error"
	switch {
	case errors.Is(err, errStalled):
		reason = "stalled"
	case errors.Is(err, rpctypes.ErrCompacted):
		reason = "compacted"
	case errors.Is(err, errClosed):
		reason = "canceled"
	}
	v.mu.Lock()
	v.restarts[reason]++
	v.synced = false
	age := time.Since(v.heard)
	v.mu.Unlock()
	v.log.Warn("directory: lost touch with etcd; what is known stays in use", "reason", reason, "error", err, "age", age)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reload makes the View agree with a complete load. Reading the records of a
// large directory takes a while, so it happens outside the lock.
func (v *View) reload(kvs []*mvccpb.KeyValue, revision int64) error {
	fresh, garbage := newState(), uint64(0)
	for _, kv := range kvs {
		garbage += v.put(fresh, kv)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if revision < v.revision {
		if v.state.customers() && !fresh.customers() {
			return errLostData
		}
		v.log.Warn("directory: etcd's revision went backwards: a restored backup?", "before", v.revision, "after", revision)
	}
	fresh.inherit(v.state)
	v.state = fresh
	v.garbage += garbage
	v.heard, v.revision, v.synced = time.Now(), revision, true
	v.known()
	return nil
}

// known says that something whole is known, and that it has changed.
func (v *View) known() {
	v.broadcast()
	select {
	case <-v.loaded:
	default:
		close(v.loaded)
	}
}

// watch applies what changes from the revision on, until something is wrong.
func (v *View) watch(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	trouble := make(chan error, 1)
	var asking sync.WaitGroup
	defer func() {
		cancel()
		asking.Wait()
	}()
	// First of all: Watch itself doesn't return while etcd is away.
	asking.Go(func() { trouble <- v.ask(ctx); cancel() })
	responses := v.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithFragment())
	for {
		select {
		case response, ok := <-responses:
			if err := response.Err(); err != nil || !ok {
				return cause(trouble, cmp.Or(err, errClosed))
			}
			if err := v.apply(&response); err != nil {
				return err
			}
		case err := <-trouble:
			return err
		}
	}
}

// cause is the trouble that ended a watch, if there was any; it comes before the
// end that it causes.
func cause(trouble <-chan error, end error) error {
	select {
	case err := <-trouble:
		return err
	default:
		return end
	}
}

// ask looks for signs of life while a watch runs, and returns what is wrong
// when there are none. A watch of a quiet etcd says nothing, not even when asked:
// it answers only once the store has reached the revision it waits for. So etcd
// is asked for its revision first. If that is the View's, the View is current
// whether the watch lives or not; if it is a later one, the watch must be able to
// say that it has got there too.
func (v *View) ask(ctx context.Context) error {
	for sleep(ctx, v.pace.progress) {
		known, heard := v.position()
		if time.Since(heard) > v.pace.stall {
			return errStalled
		}
		limited, cancel := context.WithTimeout(ctx, v.pace.request)
		answer, err := v.client.Get(limited, prefix, clientv3.WithKeysOnly())
		if err == nil {
			err = v.compare(known, answer.Header.GetRevision())
		}
		if errors.Is(err, errBehind) {
			_ = v.client.RequestProgress(limited) // its failure shows as silence
		}
		cancel()
		if errors.Is(err, errBackwards) {
			return err
		}
	}
	return errClosed
}

func (v *View) position() (revision int64, heard time.Time) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.revision, v.heard
}

// compare holds etcd's revision, asked for when the View was at known, against
// the View's.
func (v *View) compare(known, etcd int64) error {
	if etcd < known {
		return errBackwards
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if etcd > v.revision {
		return errBehind
	}
	v.heard = time.Now()
	return nil
}

// apply takes what a watch says. The state is written here and in reload only,
// both in one goroutine.
func (v *View) apply(response *clientv3.WatchResponse) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if response.Header.GetRevision() < v.revision {
		return errBackwards
	}
	for _, event := range response.Events {
		switch event.Type {
		case clientv3.EventTypePut:
			v.garbage += v.put(v.state, event.Kv)
		case clientv3.EventTypeDelete:
			v.state.remove(string(event.Kv.Key))
		}
	}
	v.heard, v.revision = time.Now(), response.Header.GetRevision()
	if len(response.Events) > 0 {
		v.broadcast()
	}
	return nil
}

// put gives one value to a state and returns how many unreadable ones that makes.
func (v *View) put(s *state, kv *mvccpb.KeyValue) uint64 {
	err := s.put(string(kv.Key), kv.Value)
	if err == nil {
		return 0
	}
	v.log.Error("directory: unreadable record; its last good value stays in use",
		"key", printableKey(kv.Key), "revision", kv.ModRevision, "error", err)
	return 1
}

func (v *View) broadcast() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// printableKey bounds a key for the log.
func printableKey(key []byte) string {
	const enough = 400
	if len(key) > enough {
		key = key[:enough]
	}
	return string(key)
}
