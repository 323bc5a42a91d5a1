package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// State is what a ledger is worked out into. Its errors end the opening and are
// returned wrapped; but one of Load that wraps ErrCorrupt says that the checkpoint is
// damaged, and the one before it is tried, with another State.
type State interface {
	// Load takes one part of a checkpoint in, as WriteCheckpoint was given it. Parts
	// come in any order and several at once, from goroutines of their own; a part
	// is State's to read until Load returns.
	Load(part []byte) error
	// Apply takes one entry in. Entries come in their order, one at a time, after
	// all parts. The first one is always a fence: the ledger's first, or, after a
	// checkpoint, the one that was in force there. That one has Position 0 and no Owner
	// and Time; its Ledger and Secret are the ledger's. An entry is State's to keep.
	Apply(entry Entry) error
}

// errAgain: the ledger went on under our reading. The attempt starts over.
var errAgain = errors.New("the ledger went on meanwhile")

// Open takes the ledger over: it loads the newest checkpoint, replays what came
// after it, in order, and fences all earlier owners. A ledger that isn't there is
// begun. begin makes an empty State, once for each attempt: the last one begun counts when
// Open returns nil. It sees every record that counts, fences and the one of this
// opening included.
//
// What the store refuses is repeated until ctx ends: give it a deadline.
// Errors: ErrCorrupt (Kind Corrupt) names object and octet; ErrVersion; ErrForeign (Kind
// Corrupt), before anything is written; Full, for
// a take-over has to write its fence; Maybe when it isn't known whether the fence was
// written (open again); Transient or Canceled when ctx ended while the store refused.
func Open(ctx context.Context, config Config, begin func() State) (*Ledger, error) {
	began := time.Now()
	damaged := []Damage(nil)
	for warm := config.Prepared; ; warm = nil {
		o := newOpener(config, begin)
		attempt := o.run
		if prepared := warm.resume(config, o.log); prepared != nil {
			o, attempt = prepared, prepared.goOn
		}
		err := attempt(ctx)
		damaged = append(damaged, o.lost...)
		switch {
		case err == nil:
			o.lost, o.stats.Damaged = damaged, uint64(len(damaged))
			o.log.Info("ledger taken over", "epoch", o.epoch, "sequence", o.next-1, "checkpoint", o.covered, "objects", o.stats.Objects,
				"records", o.stats.Records, "skipped", o.stats.Skipped, "octets", o.stats.Octets, "seconds", time.Since(began).Seconds())
			return o.ledger(config), nil
		case errors.Is(err, errAgain) && ctx.Err() == nil:
			o.log.Warn("the ledger went on while it was taken over, starting over", "error", err)
		default:
			return nil, &maildrop.Error{Op: "ledger.open", Kind: o.kind(err), Err: err}
		}
	}
}

// opener is one attempt of a take-over. Its fields are of one goroutine.
type opener struct {
	files
	config Config
	log    *slog.Logger
	clock  func() time.Duration
	begin  func() State
	state  State
	take   func(ctx context.Context, got fetched) error // of Open or of Read

	listed  []checkpoint  // oldest first
	sound   []checkpoint  // of these, all but those found damaged
	damaged []error       // what is wrong with those
	covered uint64        // sequence of the checkpoint that was loaded, or 0
	lost    []Damage      // all of it
	missed  []*LostError  // of it, what Open would refuse
	hole    error         // the object that is missing where the ledger ends, and others are behind
	proof   time.Duration // when our fence was proven to count

	tolerant  bool                 // Read's
	forgotten map[uint64]Forgotten // sequences behind the checkpoint that are still to come
	skipped   []Forgotten          // of these, in order
	gap       bool                 // one of these came since the last fence: an epoch may have begun in it

	next     uint64 // sequence of the next object
	epoch    uint64 // of the last fence
	identity uint32
	secret   [32]byte
	stats    Stats
}

func newOpener(config Config, begin func() State) *opener {
	log := config.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("ledger", config.Prefix)
	clock := config.Clock
	if clock == nil {
		clock = sinceBoot
	}
	o := &opener{
		files:  files{store: patient{Store: config.Store, log: log}, prefix: config.Prefix},
		config: config, log: log, clock: clock, begin: begin, next: 1,
	}
	o.take = o.takeStrictly
	return o
}

// run is the attempt: see the package's picture of a take-over.
func (o *opener) run(ctx context.Context) error {
	err := o.readAll(ctx)
	if err == nil {
		err = o.own(ctx)
	}
	return o.judged(ctx, err)
}

// goOn is an attempt that begins with what was prepared. Whatever fails, reading all
// may help.
func (o *opener) goOn(ctx context.Context) error {
	sound := o.sound
	o.listed = nil
	err := o.list(ctx)
	o.sound = sound // a newer one was read by nobody here
	if err == nil {
		err = o.replayTail(ctx)
	}
	if err == nil {
		err = o.own(ctx)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, errGone) {
		return fmt.Errorf("%w: what was prepared can't be gone on from: %w", errAgain, err)
	}
	return err
}

// readAll is the part that changes nothing.
func (o *opener) readAll(ctx context.Context) error {
	err := o.list(ctx)
	if err == nil {
		err = o.loadNewest(ctx)
	}
	if err == nil {
		err = o.listForgotten(ctx)
	}
	if err == nil {
		err = o.replayTail(ctx)
	}
	return err
}

// own is the rest: the end of what was read is held against what is known, and fenced.
func (o *opener) own(ctx context.Context) error {
	err := o.forgottenEnd(ctx)
	if err == nil {
		err = o.reachesAll()
	}
	if err == nil {
		err = o.expected()
	}
	if err == nil {
		err = o.fence(ctx)
	}
	if err == nil {
		err = o.prove(ctx)
	}
	return err
}

// judged is an attempt's error, or errAgain when the ledger went on under our reading.
func (o *opener) judged(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, errAgain) {
		return err
	}
	if (errors.Is(err, ErrCorrupt) || errors.Is(err, errGone)) && o.movedOn(ctx) {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return errors.Join(err, errors.Join(o.damaged...))
}

// ledger is what the attempt has opened.
func (o *opener) ledger(config Config) *Ledger {
	l := &Ledger{
		files: files{store: config.Store, prefix: config.Prefix}, log: o.log, clock: o.clock,
		identity: o.identity, secret: o.secret, epoch: o.epoch, fenced: o.next - 1,
		turn: make(chan struct{}, 1), writing: make(chan struct{}, 1), changed: make(chan struct{}),
		next: o.next, durable: o.next - 1, proof: o.proof, stats: o.stats, damage: o.lost,
	}
	now := o.clock()
	for _, c := range o.sound {
		l.checkpoints = append(l.checkpoints, known{checkpoint: c, since: now})
	}
	return l
}

func (o *opener) kind(err error) maildrop.Kind {
	switch {
	case errors.Is(err, errUnknown):
		return maildrop.Maybe
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrForeign):
		return maildrop.Corrupt
	}
	var inner *maildrop.Error
	if errors.As(err, &inner) { // of State
		return inner.Kind
	}
	return kindOf(err)
}

// list finds the checkpoints there are.
func (o *opener) list(ctx context.Context) error {
	for info, err := range o.store.List(ctx, o.manifestPrefix(), "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", o.manifestPrefix(), err)
		}
		c, ok := o.checkpointOf(info.Key)
		if !ok {
			o.log.Warn("a stray object among the manifests is ignored", "key", info.Key)
			continue
		}
		o.listed = append(o.listed, c)
	}
	o.sound = o.listed
	return nil
}

// reachesAll refuses a ledger that ends before a checkpoint does: a fence there
// would begin a second history.
func (o *opener) reachesAll() error {
	if n := len(o.listed); o.newest() >= o.next {
		return lostAt(o.next, o.object(o.next), fmt.Errorf("%s: missing, and %s covers it: %w", o.object(o.next), o.manifest(o.listed[n-1]), ErrCorrupt))
	}
	return nil
}

// newest is the sequence of the newest checkpoint that was listed, or 0.
func (o *opener) newest() uint64 {
	if n := len(o.listed); n > 0 {
		return o.listed[n-1].sequence
	}
	return 0
}

// movedOn reports whether there is a newer checkpoint by now. Then what is
// missing has been trimmed, by an owner who went on while we read.
func (o *opener) movedOn(ctx context.Context) bool {
	newest := ""
	if n := len(o.listed); n > 0 {
		newest = o.manifest(o.listed[n-1])
	}
	for info, err := range o.store.List(ctx, o.manifestPrefix(), newest) {
		if err != nil {
			return false
		}
		if _, ok := o.checkpointOf(info.Key); ok {
			return true
		}
	}
	return false
}

// expected refuses a ledger that isn't the one asked for, or has lost its end:
// going on there would give sequences, and so unique-ids, for the second time.
func (o *opener) expected() error {
	switch c := o.config; {
	case c.Ledger != 0 && o.identity != c.Ledger:
		return fmt.Errorf("%w: asked for %08x, there is %08x, up to sequence %d", ErrForeign, c.Ledger, o.identity, o.next-1)
	case o.epoch < c.Fenced:
		return &LostEndError{Last: o.next - 1, Epoch: o.epoch, Begun: c.Fenced}
	}
	return nil
}

// fence writes ours at the first free sequence, and takes in what others write
// there before us.
func (o *opener) fence(ctx context.Context) error {
	buffers := newBuffers()
	for {
		object, entry, err := o.draftFence()
		if err != nil {
			return err
		}
		err = o.commit(ctx, o.object(o.next), object, headerSize, nil, o.log)
		var taken *takenError
		switch {
		case err == nil:
			h, err := decodeHeader(object)
			if err != nil {
				return err
			}
			return o.apply(fetched{key: o.object(o.next), header: h, entries: []Entry{entry}})
		case !errors.As(err, &taken):
			return err
		}
		got := o.fetch(ctx, o.next, -1, buffers)
		if errors.Is(got.err, errMissing) {
			return fmt.Errorf("%w: %w", errGone, got.err)
		}
		if err := o.apply(got); err != nil {
			return err
		}
	}
}

// draftFence makes the fence that would follow what was replayed so far.
func (o *opener) draftFence() ([]byte, Entry, error) {
	if o.next > MaxSequence || max(o.config.Epoch, o.epoch+1) > MaxEpoch {
		return nil, Entry{}, fmt.Errorf("the ledger is at its end: %w", ErrLimit)
	}
	fence := &Fence{
		Epoch: max(o.config.Epoch, o.epoch+1), Owner: o.config.Owner, Ledger: o.identity, Secret: o.secret,
		Time: time.Now(),
	}
	if o.next == 1 { // crypto/rand never fails: it ends the process instead
		var identity [4]byte
		rand.Read(identity[:])
		fence.Ledger = binary.LittleEndian.Uint32(identity[:])
		rand.Read(fence.Secret[:])
	}
	h := header{identity: fence.Ledger, epoch: fence.Epoch, sequence: o.next, durable: o.next - 1}
	rand.Read(h.nonce[:])
	object, entries, err := encodeObject(h, []Draft{{Record: fence}})
	if err != nil {
		return nil, Entry{}, err
	}
	return object, entries[0], nil
}

// prove holds our fence against the checkpoints: had we slept since we listed
// them, it might stand in a past that nobody reads any more.
func (o *opener) prove(ctx context.Context) error {
	o.proof = o.clock()
	covering, err := o.covering(ctx, o.next-1, 0)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnknown, err)
	case covering != "":
		return fmt.Errorf("%w: our fence is in the past, %s covers it", errAgain, covering)
	}
	return nil
}

// loadNewest loads the newest checkpoint that is sound; without any it begins
// an empty State.
func (o *opener) loadNewest(ctx context.Context) error {
	for i := len(o.listed) - 1; i >= 0; i-- {
		c := o.listed[i]
		err := o.load(ctx, c)
		if err == nil {
			o.sound = o.listed[:i+1]
			return nil
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		if o.movedOn(ctx) {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		o.log.Error("a checkpoint is damaged, going back to the one before", "key", o.manifest(c), "error", err)
		o.damaged = append(o.damaged, err)
		o.lost = append(o.lost, damageOf(o.manifest(c), err))
		o.stats.Damaged++
	}
	o.sound = nil
	o.state = o.begin()
	return nil
}

// patient is a Store whose reads repeat what may pass, until their context ends.
type patient struct {
	blob.Store
	log *slog.Logger
}

// ReadAt implements blob.Store.
func (p patient) ReadAt(ctx context.Context, key string, b []byte, offset int64) (n int, err error) {
	err = patiently(ctx, p.log, key, func() (err error) {
		n, err = p.Store.ReadAt(ctx, key, b, offset)
		return err
	})
	return n, err
}

// List implements blob.Store. It goes on where it failed.
func (p patient) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		r := retry{pause: firstPause}
		for {
			var failed error
			for info, err := range p.Store.List(ctx, prefix, after) {
				if err != nil {
					failed = err
					break
				}
				after, r = info.Key, retry{pause: firstPause}
				if !yield(info, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			if ended := r.wait(ctx, nil, p.log, "the store refuses, trying again", strings.TrimSuffix(prefix, "/"), failed); ended != nil {
				yield(blob.Info{}, outcome(false, failed, ended))
				return
			}
		}
	}
}
