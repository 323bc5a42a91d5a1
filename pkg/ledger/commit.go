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

// How long a call that failed waits before it is repeated: doubling, with
// jitter, so that the shards of a node don't knock in step.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// errUnknown: the object may be written, now or later.
var errUnknown = errors.New("outcome unknown")

// errGone: somebody's object was at the key, and is there no more.
var errGone = errors.New("was there and is gone")

// takenError: the key holds somebody else's object, and ours was never written.
type takenError struct {
	key   string
	epoch uint64 // of the other
}

func (e *takenError) Error() string { return fmt.Sprintf("%s is taken by epoch %d", e.key, e.epoch) }

// commit creates the object, as often as it takes to know the outcome, until
// ctx ends or giveUp is closed. Its first octets, so many as head says, are like no other
// object's. Errors: a takenError, errUnknown, and after any other one (the
// store's or the context's) the object is not written and will not be.
func (f files) commit(ctx context.Context, key string, object []byte, head int, giveUp <-chan struct{}, log *slog.Logger) error {
	inDoubt := false
	r := retry{pause: firstPause}
	var last error
	for {
		select {
		case <-giveUp:
			return outcome(inDoubt, last, errHole)
		default:
		}
		last = f.attempt(ctx, key, object, head)
		var taken *takenError
		switch {
		case last == nil, errors.Is(last, errUnknown), errors.As(last, &taken):
			return last
		case errors.Is(last, blob.ErrMaybe):
			inDoubt = true
		case hopeless(last) && !inDoubt:
			return last
		}
		if ended := r.wait(ctx, giveUp, log, "object not written, trying again", key, last); ended != nil {
			return outcome(inDoubt, last, ended)
		}
	}
}

// hopeless reports whether repeating a create that certainly did nothing is of no use
// within the seconds that an append has. What is in doubt is repeated all the same.
func hopeless(err error) bool {
	return errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrReadOnly)
}

// outcome is the error of a commit that was given up.
func outcome(inDoubt bool, err, ended error) error {
	switch {
	case err == nil:
		return ended
	case inDoubt:
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return fmt.Errorf("%w (given up: %s)", err, ended.Error())
}

// attempt is one try: nil, a takenError, errUnknown, or what the store said.
func (f files) attempt(ctx context.Context, key string, object []byte, head int) error {
	err := f.store.Create(ctx, key, bodyOf(object), int64(len(object)))
	if !errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrMaybe) {
		return err
	}
	// It may be ours: an earlier try whose answer was lost, also one that the
	// store repeated by itself.
	there := make([]byte, head)
	n, err := f.store.ReadAt(ctx, key, there, 0)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		// Deleted since. Creating it anew would write into a part of the ledger
		// that nobody reads any more: never repeat.
		return fmt.Errorf("%w: %s: %w", errUnknown, key, errGone)
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, ErrCorrupt):
		return fmt.Errorf("%w: %s is there and can't be read: %w", blob.ErrMaybe, key, err)
	case bytes.Equal(there[:n], object[:head]):
		return nil
	}
	h, err := f.readHeader(ctx, key)
	switch ours, notOurs := decodeHeader(object); {
	case err != nil && (errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion)):
		return fmt.Errorf("%w: %s is there: %w", errUnknown, key, err)
	case err != nil:
		return fmt.Errorf("%w: %s is there and can't be read: %w", blob.ErrMaybe, key, err)
	case notOurs == nil && h == ours:
		return nil
	}
	return &takenError{key: key, epoch: h.epoch}
}

// retry counts the tries of a call and paces them.
type retry struct {
	tries int
	pause time.Duration
}

// wait pauses, give or take a half, unless ctx ends or giveUp is closed before;
// then it says so.
func (r *retry) wait(ctx context.Context, giveUp <-chan struct{}, log *slog.Logger, what, key string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // it was us who gave up, and not the store that refused
	}
	if r.tries++; r.tries&(r.tries-1) == 0 { // 1, 2, 4, …: not a line for each try
		log.Warn(what, "key", key, "attempt", r.tries, "error", err)
	}
	timer := time.NewTimer(r.pause/2 + rand.N(r.pause)) //nolint:gosec // chance, no secret
	defer timer.Stop()
	r.pause = min(2*r.pause, lastPause)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-giveUp:
		return errHole
	case <-timer.C:
		return nil
	}
}

// patiently repeats a call that only reads, while its errors may pass, until
// ctx ends.
func patiently(ctx context.Context, log *slog.Logger, key string, call func() error) error {
	r := retry{pause: firstPause}
	for {
		err := call()
		if err == nil || lasting(err) {
			return err
		}
		if ended := r.wait(ctx, nil, log, "the store refuses, trying again", key, err); ended != nil {
			return outcome(false, err, ended)
		}
	}
}

// lasting reports whether repeating a read makes no sense.
func lasting(err error) bool {
	for _, known := range []error{
		blob.ErrNotFound, io.EOF, ErrCorrupt, ErrVersion, ErrFenced,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
