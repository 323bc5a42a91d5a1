package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
)

// inDir opens so many Stores of one directory.
func inDir(t testing.TB, n int) (stores []blob.Store) {
	t.Helper()
	path := t.TempDir()
	for range n {
		s, err := dir.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
	}
	return stores
}

// left is what a run didn't remove.
func left(t *testing.T, s blob.Store) (keys []string) {
	t.Helper()
	for info, err := range s.List(context.Background(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func TestHonestStores(t *testing.T) {
	memory := blobtest.NewMemory()
	for name, stores := range map[string][]blob.Store{
		"memory":             {blobtest.NewMemory()},
		"memory, endpoints":  {memory, memory, memory},
		"dir":                inDir(t, 1),
		"dir, three of them": inDir(t, 3),
	} {
		t.Run(name, func(t *testing.T) {
			r := Run(context.Background(), stores, Short())
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			for _, result := range r.Results {
				if result.State != Kept || result.Tries == 0 {
					t.Errorf("%+v", result)
				}
			}
			if got := left(t, stores[0]); len(got) != 0 || r.Left != 0 {
				t.Errorf("left: %d, %q", r.Left, got)
			}
			if r.Endpoints != len(stores) {
				t.Errorf("%d endpoints", r.Endpoints)
			}
		})
	}
}

// Trouble that any honest store may have is never taken for a broken promise.
func TestTroubleIsNoLie(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			s := blobtest.NewFaulty(blobtest.NewMemory(), blobtest.Seeded(seed, 0.05))
			if err := Quick(context.Background(), s); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// A create that says both isn't known to have found an object.
func TestUnknownOutcomeThatSaysExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := blobtest.NewFaulty(blobtest.NewMemory(), func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpCreate && c.N%3 == 0 {
				return blobtest.Fault{Before: errors.Join(blob.ErrMaybe, blob.ErrExists)}
			}
			return blobtest.Fault{}
		})
		if err := Quick(context.Background(), s); err != nil {
			t.Error(err)
		}
	})
}

// A store that can't be reached isn't broken: it is untested.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := blobtest.NewFaulty(blobtest.NewMemory(), func(blobtest.Call) blobtest.Fault {
			return blobtest.Fault{Before: blobtest.ErrInjected}
		})
		began := time.Now()
		err := Quick(context.Background(), s)
		if err == nil || errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), blobtest.ErrInjected.Error()) {
			t.Errorf("%v; want that it is untested, and why", err)
		}
		t.Log("found after ", time.Since(began))
	})
}

// A store that answers nothing at all holds nobody up.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := blobtest.NewFaulty(blobtest.NewMemory(), func(c blobtest.Call) blobtest.Fault {
			return blobtest.Fault{Delay: time.Hour}
		})
		began := time.Now()
		if err := Quick(context.Background(), s); err == nil || errors.Is(err, ErrBroken) {
			t.Errorf("%v; want that it is untested", err)
		}
		if took := time.Since(began); took > quickTime+removeTime {
			t.Errorf("took %v", took)
		}
	})
}

// An interrupted run takes away what it made.
func TestInterrupted(t *testing.T) {
	memory := blobtest.NewMemory()
	calls := blobtest.NewFaulty(memory, nil)
	if err := calls.Create(context.Background(), "mail/1", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if err := Quick(context.Background(), calls); err != nil {
		t.Fatal(err)
	}
	all := calls.Calls()
	for stop := 1; stop < all; stop += 97 {
		ctx, cancel := context.WithCancel(context.Background())
		s := blobtest.NewFaulty(memory, func(c blobtest.Call) blobtest.Fault {
			if c.N == stop {
				cancel()
			}
			return blobtest.Fault{}
		})
		if err := Quick(ctx, s); errors.Is(err, ErrBroken) {
			t.Errorf("interrupted at call %d: %v", stop, err)
		}
		cancel()
		if got := left(t, memory); fmt.Sprint(got) != "[mail/1]" {
			t.Fatalf("interrupted at call %d: left %q", stop, got)
		}
	}
}

func TestProgress(t *testing.T) {
	last, calls := 0, 0
	o := Options{Writers: 2, Rounds: 3}
	o.Progress = func(_ string, done, total int) {
		if done != last+1 || total != 3+7*5 {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
		calls++
	}
	Run(context.Background(), []blob.Store{blobtest.NewMemory()}, o)
	if calls != 3+7*5 {
		t.Errorf("%d calls", calls)
	}
}

// lie is a store that keeps its word but for what a test puts in.
type lie struct {
	*blobtest.Memory

	create func(ctx context.Context, key string, content []byte) error
	read   func(key string, p []byte, offset int64) (int, error)
	list   func(prefix string) iter.Seq2[blob.Info, error]
	delete func(key string) error
}

func (l *lie) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	content, err := io.ReadAll(body)
	if err != nil || int64(len(content)) != size {
		return fmt.Errorf("the body has %d octets: %w", len(content), err)
	}
	if l.create == nil {
		return l.honest(ctx, key, content)
	}
	return l.create(ctx, key, content)
}

func (l *lie) honest(ctx context.Context, key string, content []byte) error {
	return l.Memory.Create(ctx, key, strings.NewReader(string(content)), int64(len(content)))
}

func (l *lie) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	if l.read == nil {
		return l.Memory.ReadAt(ctx, key, p, offset)
	}
	return l.read(key, p, offset)
}

func (l *lie) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	if l.list == nil {
		return l.Memory.List(ctx, prefix, after)
	}
	return l.list(prefix)
}

func (l *lie) Delete(ctx context.Context, key string) error {
	if l.delete == nil {
		return l.Memory.Delete(ctx, key)
	}
	return l.delete(key)
}
