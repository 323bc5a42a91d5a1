package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// Watcher follows a region's nodes and claims. While etcd is away it keeps
// what it last knew: only etcd's own word removes an entry.
type Watcher struct {
	client *clientv3.Client
	space  space
	region string
	shards int
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	interval time.Duration // between questions to a silent watch

	sources []snapshot.Source

	mu      sync.Mutex
	view    View
	changed chan struct{} // closed and replaced at each change
	synced  time.Time     // when etcd last confirmed that the view is current
}

// Watch loads a region of the given number of shards and follows it until
// Close. ctx bounds the first load only, which is tried until then; while etcd
// doesn't answer the sources are asked, newest first. Errors are Transient, and
// Invalid for arguments that can't be right.
func Watch(ctx context.Context, client *clientv3.Client, region string, shards int, log *slog.Logger, sources ...snapshot.Source) (*Watcher, error) {
	const op = "placement.watch"
	space, err := spaceOf(op, region)
	if err != nil {
		return nil, err
	}
	if shards < 1 || shards > MaxShards {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid,
			Err: fmt.Errorf("%d shards: expected 1 to %d", shards, MaxShards)}
	}
	w := &Watcher{
		client: client, space: space, region: region, shards: shards, log: log, sources: sources, interval: progressInterval,
		done: make(chan struct{}), changed: make(chan struct{}),
	}
	if err := w.first(ctx); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	go w.run(background)
	return w, nil
}

// first loads until it succeeds, somebody else knows, or ctx ends: a slow etcd is
// no reason for a process not to start.
func (w *Watcher) first(ctx context.Context) error {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := w.load(ctx)
		if err == nil || ctx.Err() != nil || w.recall(ctx) {
			return ctx.Err()
		}
		w.log.Warn("placement: no answer from etcd yet, asking again", "error", err)
		pause(ctx, wait)
	}
}

// View is what is known now. It does no I/O.
func (w *Watcher) View() View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// Changed is closed at the view's next change. Ask for it before View, or a
// change between the two is missed.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Owner is where a shard's owner serves: see [View.Owner].
func (w *Watcher) Owner(shard int) (address string, ok bool) { return w.View().Owner(shard) }

// Age is how long ago etcd last confirmed that the view is current.
func (w *Watcher) Age() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.synced)
}

// Close ends the following. The view stays readable.
func (w *Watcher) Close() {
	w.stop()
	<-w.done
}

// run follows etcd and, whenever that breaks off, loads everything anew: after
// a compaction, a cancelled watch, a stall.
func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	wait := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := w.follow(ctx, w.View().Revision)
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		for err != nil && ctx.Err() == nil {
			w.log.Warn("placement: no news from etcd, keeping the last view", "error", err, "age", w.Age())
			pause(ctx, wait)
			wait = min(2*wait, retryMax)
			if err = w.load(ctx); err != nil {
				w.recall(ctx)
			}
		}
	}
}

// load reads all keys at one revision and puts them in the view's place.
func (w *Watcher) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := w.client.Get(ctx, string(w.space), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	view := emptyView(w.shards)
	view.take(w.space, resp.Kvs, func(err error) { w.log.Warn("placement: unreadable entry in etcd", "error", err) })
	view.Revision = resp.Header.Revision
	w.publish(view)
	return nil
}

var (
	errStalled = errors.New("watch stalled")
	errEnded   = errors.New("watch ended")
	// errBackwards is seen when a backup was restored, and at a member that lags.
	errBackwards = errors.New("etcd's revision went backwards")
)

// follow applies changes after a revision until the watch breaks off. etcd is
// asked for a sign of life now and then: a connection that only looks alive
// shows itself by silence. See ask.
func (w *Watcher) follow(ctx context.Context, after int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	var opening sync.WaitGroup
	defer opening.Wait()
	defer cancel()
	opened, events := make(chan clientv3.WatchChan, 1), clientv3.WatchChan(nil)
	opening.Go(func() { // Watch itself doesn't return while etcd is away
		opened <- w.client.Watch(ctx, string(w.space), clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithProgressNotify())
	})
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	answers := make(chan answer, 1)
	heard, last := true, after
	for {
		select {
		case events = <-opened:
		case resp, ok := <-events:
			if !ok {
				return errEnded
			}
			if err := resp.Err(); err != nil {
				return err
			}
			heard, last = true, max(last, resp.Header.Revision)
			w.apply(resp)
		case a := <-answers:
			switch {
			case a.revision < a.known:
				return errBackwards
			case a.revision <= last: // the watch has nothing to say
				heard = true
				w.current()
			}
		case <-ticker.C:
			if !heard {
				return errStalled
			}
			heard = false
			known := last
			opening.Go(func() { w.ask(ctx, known, answers) })
		}
	}
}

// answer is etcd's revision, asked for when another one was known.
type answer struct{ known, revision int64 }

// ask asks etcd for its revision, and, if that is beyond what is known, the watch to say
// that it has got there too. A watch whose first revision hasn't come yet answers
// nothing, and nor do those beside it. Errors need no handling: without an answer the
// watch counts as stalled.
func (w *Watcher) ask(ctx context.Context, known int64, answers chan<- answer) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := w.client.Get(ctx, string(w.space), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return
	}
	if resp.Header.Revision > known {
		_ = w.client.RequestProgress(ctx)
	}
	select {
	case answers <- answer{known, resp.Header.Revision}:
	case <-ctx.Done():
	}
}

// current notes that etcd says nothing that the view doesn't.
func (w *Watcher) current() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced = time.Now()
}

func (w *Watcher) apply(resp clientv3.WatchResponse) {
	if len(resp.Events) == 0 {
		w.current()
		return
	}
	view := w.View().Clone()
	for _, event := range resp.Events {
		key := strings.TrimPrefix(string(event.Kv.Key), string(w.space))
		if event.Type == clientv3.EventTypeDelete {
			view.remove(key, event.Kv.ModRevision)
		} else if err := view.put(key, event.Kv); err != nil {
			w.log.Warn("placement: unreadable entry in etcd", "error", err)
		}
	}
	w.publish(view)
}

func (w *Watcher) publish(view View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view, w.synced = view, time.Now()
	w.broadcast()
}

func (w *Watcher) broadcast() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// pause waits for about d (half to one and a half of it, so that a region's
// processes don't return to etcd in step), or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // spreads load, keeps no secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
