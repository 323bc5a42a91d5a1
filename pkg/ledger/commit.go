package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// How long a commit waits before it repeats a call that failed: doubling, with
// jitter, so that the shards of a node don't knock in step.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

var (
	// errTaken: the sequence holds somebody else's object, and ours was never
	// written.
	errTaken = errors.New("the sequence is taken")
	// errUnknown: ours may be written, now or later.
	errUnknown = errors.New("outcome unknown")
)

// commit creates the object at the sequence, as often as it takes to know the
// outcome. Errors: errTaken, errUnknown, and after any other one (the store's
// or the context's) the object is not written and will not be.
func (f files) commit(ctx context.Context, sequence uint64, object []byte, log *slog.Logger) error {
	key := f.object(sequence)
	inDoubt := false
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := f.attempt(ctx, key, object)
		switch {
		case err == nil, errors.Is(err, errTaken), errors.Is(err, errUnknown):
			return err
		case errors.Is(err, blob.ErrMaybe):
			inDoubt = true
		case errors.Is(err, blob.ErrFull) && !inDoubt:
			return err
		}
		if attempt&(attempt-1) == 0 { // 1, 2, 4, …: not a line for each try
			log.Warn("ledger object not written, trying again", "key", key, "attempt", attempt, "in_doubt", inDoubt, "error", err)
		}
		if waited := wait(ctx, pause); waited != nil {
			return outcome(inDoubt, err, waited)
		}
		pause = min(2*pause, lastPause)
	}
}

// outcome is the error of a commit that ran out of time.
func outcome(inDoubt bool, err, ended error) error {
	if inDoubt {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return fmt.Errorf("%w (given up: %s)", err, ended.Error())
}

// attempt is one try: nil, errTaken, errUnknown, or what the store said.
func (f files) attempt(ctx context.Context, key string, object []byte) error {
	err := f.store.Create(ctx, key, bytes.NewReader(object), int64(len(object)))
	if !errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrMaybe) {
		return err
	}
	// It may be ours: an earlier try whose answer was lost, also one that the
	// store repeated by itself.
	there := make([]byte, headerSize)
	n, err := f.store.ReadAt(ctx, key, there, 0)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		// Deleted since. Creating it anew would write into a part of the ledger
		// that nobody reads any more: never repeat.
		return fmt.Errorf("%w: %s was there and is gone", errUnknown, key)
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %s is there and can't be read: %w", blob.ErrMaybe, key, err)
	case bytes.Equal(there[:n], object[:headerSize]):
		return nil
	}
	if _, err := decodeHeader(there[:n]); err != nil {
		return fmt.Errorf("%w: %s is there: %w", errUnknown, key, err)
	}
	return fmt.Errorf("%w: %s", errTaken, key)
}

// wait pauses for d, give or take a half, unless ctx ends before.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // chance, no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
