package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// known is a checkpoint that this process wrote, or found when it opened.
type known struct {
	checkpoint
	since time.Duration // by Clock: no later than this it was there
}

// WriteCheckpoint writes a checkpoint of the state after the sequence, which is
// durable and at least that of this opening's fence. The checkpoint may hold effects
// of later entries, durable ones: replaying over it what comes after the sequence
// must lead to the same state. A part has at most MaxPart octets and may be reused
// after each yield; an error among the parts ends the writing and is returned.
//
// Calls wait for each other. What the store refuses is repeated until ctx ends:
// give it a deadline. After an error there is no checkpoint; Trim removes what was
// written of it.
func (l *Ledger) WriteCheckpoint(ctx context.Context, sequence uint64, parts iter.Seq2[[]byte, error]) error {
	const op = "ledger.write_checkpoint"
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return &maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: context.Cause(ctx)}
	}
	if err := l.usable(op); err != nil {
		return err
	}
	if last := l.Last(); sequence < l.fenced || sequence > last {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("sequence %d, not in %d to %d", sequence, l.fenced, last)}
	}
	c := checkpoint{sequence: sequence, epoch: l.epoch, name: newName(l.epoch)}
	if err := l.writeCheckpoint(ctx, c, parts); err != nil {
		var inner *maildrop.Error
		kind := kindOf(err)
		if errors.As(err, &inner) { // of the parts
			kind = inner.Kind
		}
		return &maildrop.Error{Op: op, Kind: kind, Err: err}
	}
	l.learn(c)
	return nil
}

func (l *Ledger) writeCheckpoint(ctx context.Context, c checkpoint, parts iter.Seq2[[]byte, error]) error {
	m := &manifest{checkpoint: c, identity: l.identity, secret: l.secret, time: time.Now()}
	var buffer []byte
	for payload, err := range parts {
		if err != nil {
			return err
		}
		if len(payload) > MaxPart || len(m.parts) == maxParts {
			return fmt.Errorf("part %d of %d octets: %w", len(m.parts), len(payload), ErrLimit)
		}
		number := len(m.parts)
		part, sum := encodePart(buffer, c, l.identity, number, payload)
		buffer = part
		if err := l.files.commit(ctx, l.files.part(c.name, number), part, partSize, nil, l.log); err != nil {
			return err
		}
		m.parts = append(m.parts, sum)
	}
	return l.files.commit(ctx, l.files.manifest(c), m.encode(), manifestSize, nil, l.log)
}

// learn takes a new checkpoint in.
func (l *Ledger) learn(c checkpoint) {
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkpoints = append(l.checkpoints, known{checkpoint: c, since: now})
	slices.SortFunc(l.checkpoints, func(a, b known) int { return older(a.checkpoint, b.checkpoint) })
	// Horizon needs the two newest, and the newest of those known long enough,
	// which may have been deleted since: what it covered, the newer ones cover.
	for len(l.checkpoints) > 2 && now-l.checkpoints[1].since >= keepCovered {
		l.checkpoints = slices.Delete(l.checkpoints, 0, 1)
	}
}

// older orders checkpoints as the keys of their manifests are.
func older(a, b checkpoint) int {
	switch {
	case a.sequence < b.sequence:
		return -1
	case a.sequence > b.sequence:
		return 1
	}
	return strings.Compare(a.name, b.name)
}

// Tail is how many ledger objects there are after the newest checkpoint, those
// in flight included: what a take-over has to replay.
func (l *Ledger) Tail() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	covered := uint64(0)
	if n := len(l.checkpoints); n > 0 {
		covered = l.checkpoints[n-1].sequence
	}
	return int(l.next - 1 - covered)
}
