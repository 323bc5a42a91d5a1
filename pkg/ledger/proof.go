package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// The two halves of the rule for writers that stall: an object is deleted so
// long after a checkpoint covers it, and so long an owner may rely on what it knew.
// See the package's decisions.
const (
	keepCovered = time.Hour
	proofAge    = 30 * time.Minute
)

// Confirm asks the store whether a newer owner has begun: then there is its
// object behind ours, or a checkpoint of its. nil: when Confirm was called there
// was none. ErrFenced (Kind NotOwner): there is. After any other error nothing is known.
//
// An append finds out by itself; Confirm is for an owner that only reads, and
// that nobody else can tell, being cut off or having slept.
func (l *Ledger) Confirm(ctx context.Context) error {
	const op = "ledger.confirm"
	if err := l.usable(op); err != nil {
		return err
	}
	began := l.clock()
	first := l.Last() + 1
	err := l.nobodyBehind(ctx, first, began)
	if err == nil {
		err = l.stillPresent(ctx, first)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.proof = max(l.proof, began)
		return nil
	case errors.Is(err, ErrFenced):
		l.stop(ErrFenced)
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: err}
	}
	return &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
}

// nobodyBehind walks over what is behind our last answered append: our own
// objects in the air, and those of dead owners. A newer owner's fence would be
// reached before a sequence that is free.
func (l *Ledger) nobodyBehind(ctx context.Context, sequence uint64, began time.Duration) error {
	for ; ; sequence++ {
		key := l.files.object(sequence)
		h, err := l.files.readHeader(ctx, key)
		if errors.Is(err, blob.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		l.mu.Lock()
		ours := h.epoch == l.epoch && sequence < l.next
		proved := l.proof > began // an append that began later than we did counts
		l.mu.Unlock()
		switch {
		case proved:
			return nil
		case h.epoch >= l.epoch && !ours:
			return fmt.Errorf("%w: %s is of epoch %d", ErrFenced, key, h.epoch)
		}
	}
}

// count proves that an append which is written counts. Errors: ErrFenced, or
// errUnknown when the store doesn't tell before ctx ends.
func (l *Ledger) count(ctx context.Context, f *flight) error {
	err := patiently(ctx, l.log, l.files.object(f.sequence), func() error { return l.stillPresent(ctx, f.sequence) })
	if err != nil && !errors.Is(err, ErrFenced) {
		return fmt.Errorf("%w: not known whether a checkpoint covers it: %w", errUnknown, err)
	}
	return err
}

// stillPresent is the rule for writers that stall: an owner whose last proof is
// older than proofAge asks whether a checkpoint covers the sequence. The clock
// is read after whatever the sequence was found out by.
func (l *Ledger) stillPresent(ctx context.Context, sequence uint64) error {
	began := l.clock()
	l.mu.Lock()
	fresh := began-l.proof <= proofAge
	l.mu.Unlock()
	if fresh {
		return nil
	}
	covering, err := l.files.covering(ctx, sequence, l.epoch)
	switch {
	case err != nil:
		return err
	case covering != "":
		return fmt.Errorf("%w: sequence %d is in the past, %s covers it", ErrFenced, sequence, covering)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proof = max(l.proof, began)
	return nil
}

// covering is the key of a manifest that covers the sequence and that another
// epoch than ours wrote, or empty.
func (f files) covering(ctx context.Context, sequence, ours uint64) (string, error) {
	after := fmt.Sprintf("%s%020d", f.manifestPrefix(), sequence)
	for info, err := range f.store.List(ctx, f.manifestPrefix(), after) {
		if err != nil {
			return "", fmt.Errorf("list %s: %w", f.manifestPrefix(), err)
		}
		if c, ok := f.checkpointOf(info.Key); ok && c.epoch != ours {
			return info.Key, nil
		}
	}
	return "", nil
}
