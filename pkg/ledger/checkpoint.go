package ledger

import (
	"context"
	"errors"
	"iter"
)

// MaxPart is the most octets of one part of a checkpoint.
const MaxPart = 8 << 20

// WriteCheckpoint writes a checkpoint of the state after the sequence, which is
// durable and at least that of this opening's fence. The checkpoint may hold effects
// of later entries, durable ones: replaying over it what comes after the sequence
// must lead to the same state. A part has at most MaxPart octets and may be reused
// after each yield; an error among the parts ends the writing and is returned.
func (l *Ledger) WriteCheckpoint(ctx context.Context, sequence uint64, parts iter.Seq2[[]byte, error]) error {
	return errors.ErrUnsupported
}

// Tail is how many ledger objects there are after the newest checkpoint, those
// in flight included: what a take-over has to replay.
func (l *Ledger) Tail() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.next - 1)
}
