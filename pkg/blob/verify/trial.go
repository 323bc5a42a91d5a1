package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	tries     = 6                     // of a call whose error says nothing
	firstWait = 10 * time.Millisecond // before the second, then twice as long each time
)

// trial is one run.
type trial struct {
	Options

	stores      []blob.Store
	prefix      string
	done, total int

	mu     sync.Mutex
	serial int
	made   map[string]bool // keys that may have an object
}

func newTrial(stores []blob.Store, o Options) *trial {
	if o.Writers <= 0 {
		o.Writers = 64
	}
	if o.Rounds <= 0 {
		o.Rounds = 1000
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	t := &trial{
		Options: o, stores: stores, made: make(map[string]bool),
		prefix: "postern-verify/" + strings.ToLower(rand.Text()) + ".",
	}
	for i := range promises {
		t.total += promises[i].steps(t)
	}
	return t
}

func (t *trial) rounds() int { return t.Rounds }
func (t *trial) few() int    { return min(max(t.Rounds/10, 5), 100) }

// pages is 0 in short: so many objects take a node's time at its start.
func (t *trial) pages() int {
	if t.Rounds < longRounds {
		return 0
	}
	return 1
}

// longRounds and more are no short run.
const longRounds = 100

// test tests one promise, step by step.
func (t *trial) test(ctx context.Context, p *promise) Result {
	r := Result{Promise: p.name, Says: p.says, Means: p.means, State: Kept}
	began := time.Now()
	steps := p.steps(t)
	var err error
	for err == nil && r.Tries < steps {
		if err = ctx.Err(); err != nil {
			break
		}
		r.Tries++
		err = p.run(ctx, t)
		t.Progress(p.name, t.done+r.Tries, t.total)
	}
	r.Took = time.Since(began)
	t.done += steps
	var seen broken
	switch {
	case errors.As(err, &seen):
		r.State, r.Seen = Broken, fmt.Sprintf("%s (try %d)", seen, r.Tries)
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		r.State, r.Seen = Untested, "interrupted"
	case err != nil:
		r.State, r.Seen = Untested, err.Error()
	}
	return r
}

// broken is what was seen that the promise excludes.
type broken string

func (b broken) Error() string { return string(b) }

func brokenf(format string, args ...any) error { return broken(fmt.Sprintf(format, args...)) }

// key is a new one, remembered to be removed.
func (t *trial) key() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serial++
	key := fmt.Sprintf("%s%06d", t.prefix, t.serial)
	t.made[key] = true
	return key
}

// octets are like no others: they tell who wrote them.
func octets(size int) []byte {
	nonce := rand.Text()
	return []byte(strings.Repeat(nonce, size/len(nonce)+1)[:max(size, len(nonce))])
}

// again repeats a call whose error says nothing of any promise.
func again(ctx context.Context, call func() error) error {
	wait := firstWait
	for n := 1; ; n++ {
		err := call()
		var seen broken
		if err == nil || n == tries || errors.As(err, &seen) || exists(err) || errors.Is(err, blob.ErrNotFound) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait *= 2
	}
}

// exists says whether a create found an object: a create of unknown outcome doesn't
// know, whatever else it says.
func exists(err error) bool { return errors.Is(err, blob.ErrExists) && !errors.Is(err, blob.ErrMaybe) }

// create is Store.Create of octets.
func create(ctx context.Context, s blob.Store, key string, content []byte) error {
	return s.Create(ctx, key, bytes.NewReader(content), int64(len(content)))
}

// fresh creates an object under a key of its own, and is sure of it.
func (t *trial) fresh(ctx context.Context, s blob.Store, content []byte) (key string, err error) {
	err = again(ctx, func() error {
		key = t.key()
		err := create(ctx, s, key, content)
		if !exists(err) {
			return err
		}
		got, errRead := read(ctx, s, key, len(content))
		switch {
		case errors.Is(errRead, blob.ErrNotFound):
			return brokenf("a key that nobody had used was said to exist, and then there was no object")
		case errRead != nil:
			return fmt.Errorf("%w: reading it: %s", blob.ErrMaybe, errRead.Error())
		case !bytes.Equal(got, content):
			return brokenf("a key that nobody had used has an object")
		}
		return fmt.Errorf("%w: the client repeated by itself", blob.ErrMaybe) // the next key may do better
	})
	return key, err
}

// read reads an object, which should be of so many octets, and sees if it is longer.
func read(ctx context.Context, s blob.Store, key string, size int) (got []byte, err error) {
	err = again(ctx, func() error {
		p := make([]byte, size+1)
		n, err := s.ReadAt(ctx, key, p, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got = p[:n]
		return err
	})
	return got, err
}

// has holds that each endpoint reads these octets.
func (t *trial) has(ctx context.Context, key string, content []byte, when string) error {
	for i, s := range t.stores {
		got, err := read(ctx, s, key, len(content))
		switch {
		case errors.Is(err, blob.ErrNotFound):
			return brokenf("%s, endpoint %d had no object", when, i+1)
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case !bytes.Equal(got, content):
			return brokenf("%s, endpoint %d had other octets: %d of %d", when, i+1, len(got), len(content))
		}
	}
	return nil
}

// hasNot holds that each endpoint has no object.
func (t *trial) hasNot(ctx context.Context, key, when string) error {
	for i, s := range t.stores {
		switch got, err := read(ctx, s, key, 1); {
		case err == nil:
			return brokenf("%s, endpoint %d had an object (%d octets read)", when, i+1, len(got))
		case !errors.Is(err, blob.ErrNotFound):
			return fmt.Errorf("read of a key without object: %w", err)
		}
	}
	return nil
}

// list lists what this run made, through one endpoint.
func (t *trial) list(ctx context.Context, s blob.Store) (sizes map[string]int64, err error) {
	err = again(ctx, func() error {
		sizes = make(map[string]int64)
		last := ""
		for info, err := range s.List(ctx, t.prefix, "") {
			if err != nil {
				return err
			}
			// Whatever is listed will be removed: it has to be ours.
			if !strings.HasPrefix(info.Key, t.prefix) || info.Key <= last {
				return brokenf("a list of the keys that begin with %s has %s after %q", t.prefix, info.Key, last)
			}
			last = info.Key
			sizes[info.Key] = info.Size
		}
		return nil
	})
	return sizes, err
}

// remove deletes an object that is needed no more; if it can't, clean will.
func (t *trial) remove(ctx context.Context, s blob.Store, key string) {
	if s.Delete(ctx, key) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.made, key)
}

// clean removes what is left, and what came late. It says how many stay.
func (t *trial) clean(ctx context.Context) (left int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if listed, err := t.list(ctx, t.stores[0]); err == nil {
		for key := range listed {
			t.made[key] = true
		}
	}
	for key := range t.made {
		remove := func() error { return t.stores[0].Delete(ctx, key) }
		err := remove()
		if err != nil && left == 0 { // patience once, and not for each of a thousand
			err = again(ctx, remove)
		}
		if err != nil {
			left++
		}
	}
	return left
}
