package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// The methods of a store, as the world's decisions name them.
const (
	opCreate = "create"
	opRead   = "read"
	opList   = "list"
	opDelete = "delete"
)

var (
	errTrouble = errors.New("the store has trouble")
	errCut     = errors.New("the store can't be reached")
	errDead    = errors.New("the owner has crashed")
)

// door is one owner's way to the store that all share. It does what package blob
// allows real stores to do, and what becomes of a process: see fate.
//
//	call ─▶ [crash] ─▶ before ─▶ [asleep] ─▶ EFFECT ─▶ after ─▶ [asleep] ─▶ [crash] ─▶ answer
type door struct {
	world *world
	owner *owner

	mu       sync.Mutex
	calls    int               // begun
	creates  int               // of these, creates
	attempts map[string]int    // calls of one kind for one thing
	names    map[string]string // of keys that chance made, by the order they were first used in
	asleep   time.Time         // nothing gets through until then
	lost     time.Duration     // to sleep, that of now to its end included
	cut      time.Time         // no call succeeds until then
	full     time.Time         // no create succeeds until then
}

// fate is all that happens to one call.
type fate struct {
	name          string // of the key, the same in every run
	before, after time.Duration
	fault         fault
	late          time.Duration // of a create that is done later
	sleep         time.Duration // the owner falls asleep in this call
	awakeFirst    bool          // it does so behind the effect
	crash         crash
	coin          bool // for what may or may not be
}

type fault uint8

const (
	none      fault = iota
	refused         // an error that passes, and no effect
	noRoom          // of a create
	lost            // of a create: outcome unknown, no effect
	unheard         // of a create: outcome unknown, done; of a delete or a list: an error behind the effect
	repeated        // of a create: the client library did it twice and heard of the first
	overtaken       // of a create: outcome unknown, done after a time
)

type crash uint8

const (
	lives crash = iota
	diesBefore
	diesBehind
	diesLate // its create is done hours later
)

// fate decides, by the seed, what becomes of a call.
func (d *door) fate(op, key string) fate {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if op == opCreate {
		d.creates++
	}
	f := fate{name: d.name(key)}
	d.attempts[op+f.name]++
	t := d.world.dice.roll("call", d.owner.name, op, f.name, d.attempts[op+f.name])
	temper := d.world.temper
	f.before, f.after, f.coin = t.between(0, temper.latency), t.between(0, temper.latency), t.chance(0.5)
	if t.chance(temper.slow) {
		f.before += t.between(0, 8*time.Second)
	}
	f.late = t.between(time.Millisecond, temper.late)
	d.faults(&f, op, t)
	if !d.owner.spared {
		d.ends(&f, op, t)
	}
	if op == opCreate && time.Now().Before(d.full) {
		f.fault = noRoom
	}
	return f
}

func (d *door) faults(f *fate, op string, t throw) {
	rate := d.world.temper.readFaults
	if op == opCreate {
		rate = d.world.temper.createFaults
	}
	if d.owner.spared {
		rate /= 8
	}
	switch {
	case !t.chance(rate):
	case op == opCreate:
		f.fault = oneOf(t, refused, noRoom, lost, lost, unheard, unheard, repeated, overtaken, overtaken)
	default:
		f.fault = oneOf(t, refused, unheard)
	}
}

// ends are what may end, or nearly so, the owner itself.
func (d *door) ends(f *fate, op string, t throw) {
	if d.calls == d.owner.crashAt {
		f.crash = oneOf(t, diesBefore, diesBehind, diesLate)
	}
	if op == opCreate && d.creates == d.owner.sleepAt {
		f.sleep, f.awakeFirst = d.owner.sleepFor, t.chance(0.3)
	}
}

// name is a key without what chance has put into it.
func (d *door) name(key string) string {
	key = strings.TrimPrefix(key, prefix)
	if strings.HasPrefix(key, "/ledger/") || strings.HasSuffix(key, "/") {
		return key
	}
	if d.names[key] == "" {
		kind, _, _ := strings.Cut(strings.TrimPrefix(key, "/"), "/")
		d.names[key] = fmt.Sprintf("/%s/#%d", kind, len(d.names)+1)
	}
	return d.names[key]
}

// pass waits until nothing holds the owner up, whatever its context says: a
// process that is asleep doesn't notice the time.
func (d *door) pass() error {
	for {
		d.mu.Lock()
		left := time.Until(d.asleep)
		d.mu.Unlock()
		switch {
		case d.owner.isDead():
			return errDead
		case left <= 0:
			return nil
		}
		d.owner.pause(context.Background(), left)
	}
}

func (d *door) fallAsleep(length time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if left := max(0, time.Until(d.asleep)); length > left {
		d.lost += length - left
		d.asleep = time.Now().Add(length)
	}
}

// slept is how long the owner has slept until now.
func (d *door) slept() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost - max(0, time.Until(d.asleep))
}

// undisturbed reports whether the owner was never asleep nor cut off.
func (d *door) undisturbed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost == 0 && d.cut.IsZero()
}

func (d *door) isCut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.cut)
}

// approach is a call's way to its effect. A nil error: it takes place.
func (d *door) approach(ctx context.Context, op string, f fate) error {
	if d.owner.isDead() {
		return errDead
	}
	if f.crash != lives && f.crash != diesBehind {
		d.owner.die("in %s %s, ahead of its effect", op, f.name)
	}
	if err := d.owner.pause(ctx, f.before); err != nil {
		return err
	}
	if f.sleep > 0 && !f.awakeFirst {
		d.owner.sleep(f.sleep, fmt.Sprintf("ahead of the effect of %s %s", op, f.name))
	}
	if err := d.pass(); err != nil {
		return err
	}
	if d.isCut() {
		if err := d.owner.pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		return errCut
	}
	return nil
}

// leave is a call's way from its effect to its answer.
func (d *door) leave(ctx context.Context, op string, f fate) error {
	if f.crash == diesBehind {
		d.owner.die("in %s %s, behind its effect", op, f.name)
		return errDead
	}
	err := d.owner.pause(ctx, f.after)
	if f.sleep > 0 && f.awakeFirst {
		d.owner.sleep(f.sleep, fmt.Sprintf("behind the effect of %s %s", op, f.name))
	}
	if dead := d.pass(); dead != nil {
		return dead
	}
	if err == nil && d.isCut() {
		err = errCut
	}
	return err
}

// Create implements blob.Store.
func (d *door) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	content, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return err
	}
	if int64(len(content)) != size {
		return fmt.Errorf("create %s: body has not %d octets", key, size)
	}
	f := d.fate(opCreate, key)
	if err := d.approach(ctx, opCreate, f); err != nil {
		return d.midway(f, key, content, err)
	}
	switch f.fault {
	case refused:
		return fmt.Errorf("create %s: %w", key, errTrouble)
	case noRoom:
		return fmt.Errorf("create %s: %w", key, blob.ErrFull)
	case lost, overtaken:
		if f.fault == overtaken {
			d.later(f, key, content)
		}
		return fmt.Errorf("create %s: %w", key, errors.Join(blob.ErrMaybe, d.leave(ctx, opCreate, f)))
	}
	err = d.world.create(d.owner, key, content)
	if left := d.leave(ctx, opCreate, f); left != nil {
		return fmt.Errorf("create %s: %w: %w", key, blob.ErrMaybe, left)
	}
	switch f.fault {
	case unheard:
		return fmt.Errorf("create %s: %w", key, blob.ErrMaybe)
	case repeated:
		return fmt.Errorf("create %s: %w", key, blob.ErrExists)
	}
	return err
}

// midway is a create that its owner has left, or can't send: it may not have been
// sent at all, it may be lost, or it may be done later.
func (d *door) midway(f fate, key string, content []byte, why error) error {
	sent := f.coin || f.crash == diesLate
	switch {
	case !sent:
		return fmt.Errorf("create %s: not sent: %w", key, why)
	case f.crash == diesLate, f.before%2 == 0:
		d.later(f, key, content)
	}
	return fmt.Errorf("create %s: %w: %w", key, blob.ErrMaybe, why)
}

// later does a create when nobody waits for it any more.
func (d *door) later(f fate, key string, content []byte) {
	d.world.note(d.owner.name, nil, "%s is on its way, for %s", f.name, f.late)
	d.world.others.Go(func() {
		time.Sleep(f.late)
		_ = d.world.create(d.owner, key, content) // its outcome interests nobody
	})
}

// ReadAt implements blob.Store.
func (d *door) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	f := d.fate(opRead, key)
	if err := d.approach(ctx, opRead, f); err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	if f.fault == refused {
		return 0, fmt.Errorf("read %s: %w", key, errTrouble)
	}
	n, err := d.world.store.ReadAt(context.Background(), key, p, offset)
	if left := d.leave(ctx, opRead, f); left != nil {
		return 0, fmt.Errorf("read %s: %w", key, left)
	}
	if f.fault == unheard {
		return 0, fmt.Errorf("read %s: %w", key, errTrouble)
	}
	return n, err
}

// List implements blob.Store. It shows all that was there when it began and is
// still there, and of the rest what the coin says.
func (d *door) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		f := d.fate(opList, prefix)
		first := d.world.infos(prefix, after)
		if err := d.approach(ctx, opList, f); err != nil {
			yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		if f.fault == refused {
			yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, errTrouble))
			return
		}
		merged := d.merge(f, first, d.world.infos(prefix, after))
		broken := d.leave(ctx, opList, f) != nil || f.fault == unheard
		if broken {
			merged = merged[:len(merged)/2]
		}
		for _, info := range merged {
			if !yield(info, nil) {
				return
			}
		}
		if broken {
			yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, errTrouble))
		}
	}
}

// merge joins what was there first with what is there now, by key.
func (d *door) merge(f fate, first, now []blob.Info) (merged []blob.Info) {
	for len(first)+len(now) > 0 {
		switch {
		case len(first) > 0 && len(now) > 0 && first[0].Key == now[0].Key:
			merged, first, now = append(merged, first[0]), first[1:], now[1:]
		case len(now) == 0 || (len(first) > 0 && first[0].Key < now[0].Key):
			merged, first = d.toss(f, merged, first)
		default:
			merged, now = d.toss(f, merged, now)
		}
	}
	return merged
}

// toss takes the first of the rest, or leaves it out.
func (d *door) toss(f fate, merged, rest []blob.Info) (_, _ []blob.Info) {
	if d.world.dice.roll("toss", d.owner.name, f.name, rest[0].Key).chance(0.5) {
		merged = append(merged, rest[0])
	}
	return merged, rest[1:]
}

// Delete implements blob.Store.
func (d *door) Delete(ctx context.Context, key string) error {
	f := d.fate(opDelete, key)
	if err := d.approach(ctx, opDelete, f); err != nil {
		if f.coin {
			d.deleteLater(f, key)
		}
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if f.fault == refused {
		return fmt.Errorf("delete %s: %w", key, errTrouble)
	}
	err := d.world.delete(d.owner, key)
	if left := d.leave(ctx, opDelete, f); left != nil {
		return fmt.Errorf("delete %s: %w", key, left)
	}
	if f.fault == unheard {
		return fmt.Errorf("delete %s: %w", key, errTrouble)
	}
	return err
}

func (d *door) deleteLater(f fate, key string) {
	d.world.others.Go(func() {
		time.Sleep(f.late)
		_ = d.world.delete(d.owner, key)
	})
}

// create is a create's effect.
func (w *world) create(o *owner, key string, content []byte) error {
	err := w.store.Create(context.Background(), key, bytes.NewReader(content), int64(len(content)))
	switch {
	case err == nil:
		w.created(o, key, len(content))
	case !errors.Is(err, blob.ErrExists):
		w.violated("the world itself", nil, "create %s: %v", key, err)
	}
	return err
}

func (w *world) delete(o *owner, key string) error {
	w.note(o.name, nil, "deletes %s", strings.TrimPrefix(key, prefix))
	return w.store.Delete(context.Background(), key)
}

func (w *world) infos(prefix, after string) (infos []blob.Info) {
	for info, err := range w.store.List(context.Background(), prefix, after) {
		if err != nil {
			w.violated("the world itself", nil, "list %s: %v", prefix, err)
		}
		infos = append(infos, info)
	}
	return infos
}
