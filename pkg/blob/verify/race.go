package verify

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// writer is one of those who race for a key, and what it found.
type writer struct {
	store  blob.Store
	octets []byte
	won    bool   // it was told so
	exists bool   // it was told that there is an object
	read   []byte // after that
	err    error  // neither
}

// write creates the object, as the ledger does: repeated until the outcome is
// known, then read back.
func (w *writer) write(ctx context.Context, key string) {
	err := again(ctx, func() error { return create(ctx, w.store, key, w.octets) })
	w.won, w.exists = err == nil, exists(err)
	if !w.won && !w.exists {
		w.err = err
		return
	}
	w.read, w.err = read(ctx, w.store, key, len(w.octets))
}

// oneWinner is a round of the race: all start at once.
func oneWinner(ctx context.Context, t *trial) error {
	key := t.key()
	writers := make([]*writer, t.Writers)
	start := make(chan struct{})
	var done sync.WaitGroup
	for i := range writers {
		// Octets of one size, so that whoever overwrites isn't found by the size alone.
		w := &writer{store: t.stores[i%len(t.stores)], octets: octets(1000)}
		writers[i] = w
		done.Go(func() {
			<-start
			w.write(ctx, key)
		})
	}
	close(start)
	done.Wait()
	winner, err := judge(writers)
	if err != nil {
		return err
	}
	if err := t.has(ctx, key, winner.octets, "after the race"); err != nil {
		return err
	}
	t.remove(ctx, writers[0].store, key)
	return nil
}

// judge finds the one winner of a race.
func judge(writers []*writer) (winner *writer, err error) {
	told := 0
	for _, w := range writers {
		if w.won {
			told++
		}
		// A client that repeats by itself is told "exists" of its own object.
		if w.won || (w.exists && bytes.Equal(w.read, w.octets)) {
			winner = w
		}
	}
	switch {
	case told > 1:
		return nil, brokenf("%d of %d writers were told that they had created the object", told, len(writers))
	case winner == nil:
		return nil, nobody(writers)
	}
	for _, w := range writers {
		switch {
		case errors.Is(w.err, blob.ErrNotFound):
			return nil, brokenf("a writer was told that the object is there, and then found none")
		case w.err != nil:
			return nil, w.err
		case !bytes.Equal(w.read, winner.octets):
			return nil, brokenf("a writer read other octets than the winner's")
		}
	}
	return winner, nil
}

// nobody says why a race has no winner.
func nobody(writers []*writer) error {
	for _, w := range writers {
		if w.err != nil && !errors.Is(w.err, blob.ErrNotFound) {
			return w.err // it may have won
		}
	}
	return brokenf("none of %d writers created the object, and all were told that it exists", len(writers))
}

// lostAnswer is a writer who hangs up in mid-create, at an instant that differs
// each time, and repeats while a rival creates the same key, or after that.
func lostAnswer(ctx context.Context, t *trial) error {
	began := time.Now()
	if _, err := t.fresh(ctx, t.stores[0], octets(64<<10)); err != nil {
		return err
	}
	usual := time.Since(began)

	key := t.key()
	first := &writer{store: t.stores[0], octets: octets(64 << 10)}
	rival := &writer{store: t.stores[len(t.stores)-1], octets: octets(64 << 10)}
	if err := hangUp(ctx, first, key, time.Duration(t.serial%8)*usual/6); err != nil {
		return err
	}
	var done sync.WaitGroup
	done.Go(func() { rival.write(ctx, key) })
	if t.serial%2 == 1 {
		done.Wait() // whoever hung up has surely lost, unless the abandoned create was in time
	}
	first.write(ctx, key)
	done.Wait()
	winner, err := judge([]*writer{first, rival})
	if err != nil {
		return err
	}
	// Once more when what was under way has had time to come.
	if err := t.has(ctx, key, winner.octets, "after the outcome was clear"); err != nil {
		return err
	}
	if _, err := t.fresh(ctx, t.stores[0], octets(64<<10)); err != nil {
		return err
	}
	return t.has(ctx, key, winner.octets, "some time after the outcome was clear")
}

// hangUp begins a create and ends its context after a time. What is said of
// the outcome has to be true.
func hangUp(ctx context.Context, w *writer, key string, after time.Duration) error {
	short, cancel := context.WithTimeout(ctx, after)
	defer cancel()
	err := create(short, w.store, key, w.octets)
	got, errRead := read(ctx, w.store, key, len(w.octets))
	switch there := errRead == nil; {
	case errRead != nil && !errors.Is(errRead, blob.ErrNotFound):
		return errRead
	case there && !bytes.Equal(got, w.octets):
		return brokenf("after hanging up other octets were there: %d of %d", len(got), len(w.octets))
	case err == nil && !there:
		return brokenf("a create succeeded just before its caller hung up, and the object wasn't there")
	case err != nil && there && !errors.Is(err, blob.ErrMaybe) && !errors.Is(err, blob.ErrExists):
		return brokenf("a create was said to have failed without an effect, and the object was there: %v", err)
	}
	return nil
}
