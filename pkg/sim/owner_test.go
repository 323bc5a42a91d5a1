package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/mutation"
	"github.com/postern-pop/postern/pkg/shard"
)

// owner is a process that owns the shard, or would, or thinks so: one
// incarnation of a node.
type owner struct {
	world *world
	name  string // "b3" is node b's, the third of all
	epoch uint64 // that etcd gave it
	door  *door
	shard *shard.Shard // of one that is open

	live context.Context // the process's life
	kill context.CancelFunc

	// What the seed has in store for it.
	spared   bool // it is late in the run: let it end well
	crashAt  int  // call of the store; 0: none
	sleepAt  int  // create
	sleepFor time.Duration

	// Guarded by world.mu.
	isOpen   bool
	fence    string    // key of its last ledger object from before it was open
	replaced time.Time // when a newer owner's fence was durable; zero: never
}

// longestOpen is how long a take-over may take, at most.
const longestOpen = 10 * time.Minute

// longestPrepared is how long before a take-over the shard is read, at most: sometimes too long.
const longestPrepared = 12 * time.Minute

// sparedFrom is the first incarnation that crashes and sleeps no more.
const sparedFrom = 14

// incarnate makes a process.
func (w *world) incarnate(node string) *owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.incarnations++
	o := &owner{world: w, name: fmt.Sprintf("%s%d", node, w.incarnations)}
	t := w.dice.roll("owner", o.name)
	o.spared = w.healed || w.incarnations >= sparedFrom
	if t.chance(0.7) { // else etcd was restored, and knows nothing
		o.epoch = uint64(w.incarnations)
	}
	if t.chance(w.temper.crashes) {
		o.crashAt = 1 + t.IntN(oneOf(t, 12, 60, 300))
	}
	if t.chance(w.temper.sleeps) {
		o.sleepAt, o.sleepFor = 1+t.IntN(oneOf(t, 3, 12, 40)), t.between(w.temper.sleep[0], w.temper.sleep[1])
	}
	o.door = &door{world: w, owner: o, attempts: make(map[string]int), names: make(map[string]string)}
	o.live, o.kill = context.WithCancel(context.Background())
	w.all = append(w.all, o)
	return o
}

func (o *owner) isDead() bool { return o.live.Err() != nil }

// die is a crash: nothing of the process reaches the store or a client any more.
func (o *owner) die(format string, args ...any) {
	if o.isDead() {
		return
	}
	o.world.note(o.name, nil, "CRASHES "+format, args...)
	o.kill()
}

// clock goes on while the owner sleeps, as CLOCK_BOOTTIME does; but not the
// mutant's.
func (o *owner) clock() time.Duration {
	now := time.Since(o.world.began)
	if os.Getenv(mutation.Switch) == "clock" {
		return now - o.door.slept()
	}
	return now
}

// sleep holds up all that the process does.
func (o *owner) sleep(length time.Duration, where string) {
	o.world.note(o.name, nil, "SLEEPS for %s, %s", length, where)
	o.door.fallAsleep(length)
	o.world.lulled(o, length)
}

// pause waits, unless ctx or the process ends before.
func (o *owner) pause(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-o.live.Done():
		return errDead
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// opening is how long a take-over may take. Without an end it goes on when its
// process wakes up: timers of a machine that was asleep don't know.
func (o *owner) opening(t throw) (context.Context, context.CancelFunc) {
	if o.sleepAt == 1 {
		return context.WithCancel(o.live)
	}
	return context.WithTimeout(o.live, t.between(5*time.Second, longestOpen))
}

// open takes the shard over.
func (o *owner) open() error {
	w := o.world
	t := w.dice.roll("open", o.name)
	ctx, cancel := o.opening(t)
	defer cancel()
	config := o.config()
	if t.chance(0.7) {
		config.CacheBytes = -1
	}
	if t.chance(0.4) { // and the one before goes on meanwhile
		var err error
		if config.Prepared, err = shard.Prepare(ctx, config); err != nil {
			w.note(o.name, nil, "can't prepare: %v", err)
		}
		o.pause(ctx, t.between(0, longestPrepared))
	}
	w.note(o.name, nil, "opens, with epoch %d", o.epoch)
	opened, err := shard.Open(ctx, config, o.epoch)
	if err != nil {
		o.kill()
		w.note(o.name, nil, "can't open: %v", err)
		w.refusal(err, "open", nil)
		return err
	}
	o.shard = opened
	w.mu.Lock()
	o.isOpen = true
	w.mu.Unlock()
	w.note(o.name, nil, "is open in epoch %d", opened.Epoch())
	w.mind(o)
	return nil
}

// mind ends what is left of an owner when its process has ended.
func (w *world) mind(o *owner) {
	w.others.Go(func() {
		<-o.live.Done()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = o.shard.Close(ended) // always nil
	})
	w.others.Go(func() {
		select {
		case <-o.shard.Done():
			w.note(o.name, nil, "owns nothing any more")
		case <-o.live.Done():
		}
		w.bereaved(o)
	})
}

// answer is what a call was answered with.
type answer[T any] struct {
	value T
	err   error
}

// errUnheard is what a client has when no answer comes: it may have been done.
var errUnheard = &maildrop.Error{Op: "sim.ask", Kind: maildrop.Maybe, Err: errors.New("the owner doesn't answer")}

// ask calls an owner as a client on the network does: the call waits while the
// owner sleeps, and so does its answer; a client that leaves hears nothing.
func ask[T any](ctx context.Context, o *owner, call func(context.Context, *shard.Shard) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer[T], 1)
	o.world.others.Go(func() {
		if o.door.pass() != nil {
			return
		}
		var a answer[T]
		a.value, a.err = call(ctx, o.shard)
		if o.door.pass() == nil {
			answers <- a
		}
	})
	defer cancel()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
	case <-o.live.Done():
	}
	var nothing T
	return nothing, errUnheard
}

// created sees every object that comes to be, whoever still waits for it.
func (w *world) created(o *owner, key string, size int) {
	w.note(o.name, nil, "%s is there, %d octets", key[len(prefix):], size)
	if !isLedger(key) {
		return
	}
	inPast := w.covered(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.isOpen || inPast {
		return
	}
	// Its fence; a later one when it found that the first stands in the past.
	o.fence, o.replaced = key, time.Time{}
	for _, other := range w.fenced {
		if other.fence < key && other.replaced.IsZero() {
			other.replaced = time.Now()
		}
	}
	w.fenced = append(w.fenced, o)
}

// covered reports whether a checkpoint covers the ledger object: then it fences
// nobody, for it stands in a past that nobody reads.
func (w *world) covered(key string) bool {
	sequence := key[strings.LastIndexByte(key, '/')+1:]
	for range w.store.List(context.Background(), prefix+"/manifest/", prefix+"/manifest/"+sequence) {
		return true
	}
	return false
}

// replacedAt is when a newer owner's fence was durable; the far future when
// there is none.
func (o *owner) replacedAt() time.Time {
	o.world.mu.Lock()
	defer o.world.mu.Unlock()
	if o.replaced.IsZero() {
		return time.Unix(math.MaxInt32, 0)
	}
	return o.replaced
}

// refusal looks at an error that a call ended with. It reports whether the call
// may be repeated.
func (w *world) refusal(err error, what string, about []string) bool {
	switch kind := maildrop.KindOf(err); {
	case kind == maildrop.Corrupt:
		w.violated("4, damage where nothing was damaged", about, "%s: %v", what, err)
	case kind == maildrop.Internal:
		w.violated("9, an error that nobody has classified", about, "%s: %v", what, err)
	case kind == maildrop.Full && !errors.Is(err, blob.ErrFull):
		w.violated("9, full without a reason", about, "%s: %v", what, err)
	case kind.Temporary():
		return true
	}
	return false
}
