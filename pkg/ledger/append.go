package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// MaxInFlight is how many appends of a ledger are written at once.
const MaxInFlight = 4

// Append writes the drafts as one object and returns their entries when it is
// durable, with all appends before it: all of them or none. No drafts are no object.
// Up to MaxInFlight callers are served at once, in the order of their calls;
// more wait. An answer waits for the answers before it.
//
// Errors: ErrFenced (Kind NotOwner; nothing counts as written) and ErrBroken
// (Kind Maybe): close, and open anew. After any other error nothing was written:
// Full, Invalid (ErrLimit, or a draft that makes no sense), Transient and Canceled (the
// context ended while the store refused); the ledger can mostly be used on, and
// says ErrBroken at the next append if a later one was written already.
// The context bounds how long an unknown outcome is asked after: give it
// a deadline of seconds, and never end it because one caller went away.
func (l *Ledger) Append(ctx context.Context, drafts []Draft) ([]Entry, error) {
	const op = "ledger.append"
	if err := l.usable(op); err != nil || len(drafts) == 0 {
		return nil, err
	}
	if err := validate(drafts); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	batch, err := layOut(drafts, &l.spares)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	f, err := l.takeOff(ctx)
	if err != nil {
		return nil, err
	}
	err = l.fly(ctx, f, batch)
	if err != nil {
		l.abandonAfter(f)
	}
	if f.before != nil {
		<-f.before.landed // bounded by that one's context
		f.before = nil
	}
	if err == nil {
		err = l.count(ctx, f)
	}
	if err := l.land(f, batch, err); err != nil {
		return nil, err // no spare: who knows where its octets still are
	}
	l.spares.give(batch.object)
	return batch.entries, nil
}

// flight is an append on its way.
type flight struct {
	sequence uint64
	durable  uint64        // all up to here was durable at its start
	began    time.Duration // by Clock, before its first try
	before   *flight       // the one in the air before it, or nil
	giveUp   chan struct{} // closed: one before it failed, so begin no further try
	landed   chan struct{} // closed: it is answered
	gaveUp   bool          // giveUp is closed
}

// takeOff waits for the caller's turn and assigns the next sequence.
func (l *Ledger) takeOff(ctx context.Context) (*flight, error) {
	const op = "ledger.append"
	canceled := func() error {
		return &maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: fmt.Errorf("waiting for earlier appends: %w", context.Cause(ctx))}
	}
	select {
	case l.turn <- struct{}{}: // those who wait for a channel are served in their order
	case <-ctx.Done():
		return nil, canceled()
	}
	defer func() { <-l.turn }()
	for {
		f, changed, err := l.tryTakeOff()
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, canceled()
		}
	}
}

// tryTakeOff returns a flight, an error, or what to wait for.
func (l *Ledger) tryTakeOff() (*flight, <-chan struct{}, error) {
	const op = "ledger.append"
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopped != nil:
		return nil, nil, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: l.stopped}
	case l.failing || len(l.air) >= l.lanes():
		return nil, l.changed, nil
	case l.next > MaxSequence:
		return nil, nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("the ledger is at its end: %w", ErrLimit)}
	}
	f := &flight{
		sequence: l.next, durable: l.durable, began: l.clock(),
		giveUp: make(chan struct{}), landed: make(chan struct{}),
	}
	if n := len(l.air); n > 0 {
		f.before = l.air[n-1]
	}
	l.next++
	l.air = append(l.air, f)
	return f, nil, nil
}

// lanes is how many appends may be in the air. Where a dead owner's may still
// land it is one, so that a sequence can be skipped without changing an order that
// was given.
func (l *Ledger) lanes() int {
	if l.junk(l.durable + 1) {
		return 1
	}
	return MaxInFlight
}

// junk reports whether an older owner's object may be at the sequence. All
// before an owner's first unanswered append are there, and it has MaxInFlight in the
// air at most; so our fence, at the first free sequence, has less than that
// many of them behind it.
func (l *Ledger) junk(sequence uint64) bool { return sequence < l.fenced+MaxInFlight }

// fly writes the object until its outcome is known.
func (l *Ledger) fly(ctx context.Context, f *flight, b *batch) error {
	for {
		object, _ := b.seal(l.header(f))
		err := l.files.commit(ctx, l.files.object(f.sequence), object, headerSize, f.giveUp, l.log)
		var taken *takenError
		switch {
		case !errors.As(err, &taken):
			return err
		case taken.epoch >= l.epoch:
			return fmt.Errorf("%w: %w", ErrFenced, err)
		case !l.junk(f.sequence):
			return fmt.Errorf("%w: an older owner's object is where none can be: %w", errUnknown, err)
		}
		l.log.Warn("a dead owner's object is skipped", "key", l.files.object(f.sequence), "epoch", taken.epoch)
		l.skip(f)
	}
}

// skip moves the only flight on. What it skips is there, so it counts as durable.
func (l *Ledger) skip(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.durable = f.sequence
	f.sequence++
	l.next = f.sequence + 1
	l.stats.Skipped++
}

// header begins an object of ours; its nonce is what an unknown outcome is
// told by.
func (l *Ledger) header(f *flight) header {
	h := header{identity: l.identity, epoch: l.epoch, sequence: f.sequence, durable: f.durable}
	rand.Read(h.nonce[:]) // never fails: crypto/rand ends the process instead
	return h
}

// abandonAfter lets no append begin, and none behind this one begin another try,
// until it is known what became of those in the air.
func (l *Ledger) abandonAfter(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = true
	for _, later := range l.air {
		if later.sequence > f.sequence && !later.gaveUp {
			later.gaveUp = true
			close(later.giveUp)
		}
	}
}

// fault is what became of an append that isn't durable.
type fault uint8

const (
	noFault fault = iota
	hole          // it failed cleanly: nothing is at its sequence
	fenced        // a newer owner has begun
	doubt         // it may be written
)

func faultOf(err error) fault {
	switch {
	case err == nil:
		return noFault
	case errors.Is(err, ErrFenced):
		return fenced
	case errors.Is(err, errUnknown):
		return doubt
	}
	return hole
}

// errHole: an append before this one failed, so this one wasn't begun or not
// repeated.
var errHole = errors.New("an append before this one failed")

// land answers an append; all before it are answered. err is what became of it
// alone: nil, ErrFenced, errUnknown, or a clean failure.
func (l *Ledger) land(f *flight, b *batch, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(f.landed)
	if err == nil && l.fault == noFault {
		l.durable = f.sequence
		l.proof = max(l.proof, f.began)
		l.stats.Objects++
		l.stats.Records += uint64(len(b.entries))
		l.stats.Octets += uint64(len(b.object))
		l.leave(f)
		return nil
	}
	err = l.fail(f, err)
	l.leave(f)
	return err
}

// fail says what the caller of an append learns that isn't durable or is behind
// one that isn't, and stops the ledger where it can't go on. l.mu is held.
func (l *Ledger) fail(f *flight, err error) error {
	const op = "ledger.append"
	verdict, first := faultOf(err), l.fault
	if first == noFault {
		l.fault, l.hole = verdict, f.sequence
	} else if verdict == noFault || verdict == doubt {
		// It is written, or perhaps so. Behind a fence nobody replays it. Behind a
		// hole nobody will, but the hole can't be filled any more.
		verdict = doubt
		if first == fenced {
			verdict = fenced
		}
		err = errors.Join(err, errHole)
	}
	switch verdict {
	case fenced:
		l.stop(ErrFenced)
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: because(ErrFenced, err)}
	case doubt:
		l.stop(ErrBroken)
		return &maildrop.Error{Op: op, Kind: maildrop.Maybe, Err: because(ErrBroken, err)}
	}
	return &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
}

// because gives an error its sentinel, once.
func because(sentinel, err error) error {
	if errors.Is(err, sentinel) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// leave ends a flight. When the last one behind a failure has ended and none of
// them was written, their sequences are free again. l.mu is held.
func (l *Ledger) leave(f *flight) {
	l.air = slices.DeleteFunc(l.air, func(other *flight) bool { return other == f })
	if len(l.air) == 0 && l.failing {
		l.failing = false
		if l.stopped == nil { // so the fault is a hole
			l.next, l.fault = l.hole, noFault
		}
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// stop ends appending for good. The first reason stays. l.mu is held.
func (l *Ledger) stop(reason error) {
	if l.stopped == nil {
		l.stopped = reason
	}
}

// usable is nil while nothing has stopped the ledger.
func (l *Ledger) usable(op string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: l.stopped}
	}
	return nil
}
