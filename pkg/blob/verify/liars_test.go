package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

var bg = context.Background()

// liars are stores that break a promise, each as some store was once seen to.
// The short form finds every one.
var liars = []struct {
	name   string
	breaks []string // at least
	stores func() []blob.Store
}{
	{"two writers win now and then", []string{"one winner"}, one(func(l *lie) {
		var losers atomic.Int64
		l.create = func(ctx context.Context, key string, content []byte) error {
			err := l.honest(ctx, key, content)
			if errors.Is(err, blob.ErrExists) && losers.Add(1)%100 == 0 {
				return nil
			}
			return err
		}
	})},
	{"create overwrites", []string{"one winner", "never changes", "lost answer"}, one(func(l *lie) {
		var mu sync.Mutex // two that found nothing there would be judged by the honest store
		l.create = func(ctx context.Context, key string, content []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if !l.Alter(key, func([]byte) []byte { return content }) {
				return l.honest(ctx, key, content)
			}
			return nil
		}
	})},
	{"create says exists, and overwrites", []string{"never changes"}, one(func(l *lie) {
		l.create = func(ctx context.Context, key string, content []byte) error {
			err := l.honest(ctx, key, content)
			if errors.Is(err, blob.ErrExists) {
				l.Alter(key, func([]byte) []byte { return content })
			}
			return err
		}
	})},
	{"each endpoint has its own lock", []string{"one winner"}, func() []blob.Store {
		shared := blobtest.NewMemory()
		return []blob.Store{islandOf(shared), islandOf(shared)}
	}},
	{"the list is a call behind", []string{"list after write"}, one(func(l *lie) {
		l.list = behind(l.Memory)
	})},
	{"the list has sizes of its own", []string{"list after write"}, one(func(l *lie) {
		l.list = func(prefix string) iter.Seq2[blob.Info, error] {
			return func(yield func(blob.Info, error) bool) {
				for info, err := range l.Memory.List(bg, prefix, "") {
					info.Size++
					if !yield(info, err) {
						return
					}
				}
			}
		}
	})},
	{"remembers that there was nothing", []string{"read your write"}, one(func(l *lie) {
		l.read = forgetful(l.Memory)
	})},
	{"reads what it read before", []string{"delete"}, one(func(l *lie) {
		l.read = remembering(l.Memory)
	})},
	{"tells the winner that it exists, and has nothing", []string{"one winner", "list after write"}, one(func(l *lie) {
		var calls atomic.Int64
		l.create = func(ctx context.Context, key string, content []byte) error {
			if calls.Add(1)%7 == 1 {
				return blob.ErrExists
			}
			return l.honest(ctx, key, content)
		}
	})},
	{"loses a write", []string{"read your write"}, one(func(l *lie) {
		var wins atomic.Int64
		l.create = func(ctx context.Context, key string, content []byte) error {
			err := l.honest(ctx, key, content)
			if err == nil && wins.Add(1)%3 == 0 {
				return l.Memory.Delete(ctx, key)
			}
			return err
		}
	})},
	{"loses a write only where none races", []string{"read your write", "list after write"}, one(func(l *lie) {
		created := make(map[string]int)
		var mu sync.Mutex
		l.create = func(ctx context.Context, key string, content []byte) error {
			mu.Lock()
			defer mu.Unlock()
			created[key]++
			if len(created) > 20 && created[key] == 1 && len(created)%4 == 0 {
				return nil
			}
			return l.honest(ctx, key, content)
		}
	})},
	{"a missing key is forbidden", []string{"missing is missing"}, one(func(l *lie) {
		l.read = func(key string, p []byte, offset int64) (int, error) {
			n, err := l.Memory.ReadAt(bg, key, p, offset)
			if errors.Is(err, blob.ErrNotFound) {
				err = errors.New("403 Forbidden")
			}
			return n, err
		}
	})},
	{"a missing key is empty", []string{"missing is missing", "delete"}, one(func(l *lie) {
		l.read = func(key string, p []byte, offset int64) (int, error) {
			n, err := l.Memory.ReadAt(bg, key, p, offset)
			if errors.Is(err, blob.ErrNotFound) {
				err = io.EOF
			}
			return n, err
		}
	})},
	{"reading makes an object", []string{"missing is missing"}, one(func(l *lie) {
		reads := make(map[string]int)
		l.read = func(key string, p []byte, offset int64) (int, error) {
			n, err := l.Memory.ReadAt(bg, key, p, offset)
			if errors.Is(err, blob.ErrNotFound) {
				if reads[key]++; reads[key] == 4 {
					_ = l.honest(bg, key, []byte("x"))
				}
			}
			return n, err
		}
	})},
	{"an abandoned create comes later, over all", []string{"lost answer"}, one(func(l *lie) {
		late := make(map[string][]byte)
		var mu sync.Mutex
		l.create = func(ctx context.Context, key string, content []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() != nil {
				late[key] = content
				return blob.ErrMaybe
			}
			for other, content := range late {
				if other != key && l.Alter(other, func([]byte) []byte { return content }) {
					delete(late, other)
				}
			}
			return l.honest(ctx, key, content)
		}
	})},
	{"an abandoned create is said to have no effect", []string{"lost answer"}, one(func(l *lie) {
		l.create = func(ctx context.Context, key string, content []byte) error {
			return errors.Join(l.honest(bg, key, content), ctx.Err())
		}
	})},
	{"ranges are ignored", []string{"exact ranges"}, one(func(l *lie) {
		l.read = func(key string, p []byte, _ int64) (int, error) { return l.Memory.ReadAt(bg, key, p, 0) }
	})},
	{"the last octet is missing", []string{"exact ranges"}, one(func(l *lie) {
		l.read = func(key string, p []byte, offset int64) (int, error) {
			n, err := l.Memory.ReadAt(bg, key, p, offset)
			if offset > 0 && errors.Is(err, io.EOF) && n > 0 {
				n--
			}
			return n, err
		}
	})},
	{"doesn't say that the object ends", []string{"exact ranges"}, one(func(l *lie) {
		l.read = func(key string, p []byte, offset int64) (int, error) {
			n, err := l.Memory.ReadAt(bg, key, p, offset)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
	})},
	{"lists what was deleted", []string{"delete"}, one(func(l *lie) {
		everything := blobtest.NewMemory()
		l.create = func(ctx context.Context, key string, content []byte) error {
			err := l.honest(ctx, key, content)
			if err == nil {
				_ = everything.Create(bg, key, strings.NewReader(string(content)), int64(len(content)))
			}
			return err
		}
		l.list = func(prefix string) iter.Seq2[blob.Info, error] { return everything.List(bg, prefix, "") }
	})},
	{"deletes nothing", []string{"delete"}, one(func(l *lie) {
		l.delete = func(string) error { return nil }
	})},
	{"a deleted key is used for ever", []string{"delete"}, one(func(l *lie) {
		deleted := make(map[string]bool)
		var mu sync.Mutex
		l.delete = func(key string) error {
			mu.Lock()
			defer mu.Unlock()
			deleted[key] = true
			return l.Memory.Delete(bg, key)
		}
		l.create = func(ctx context.Context, key string, content []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if deleted[key] {
				return blob.ErrExists
			}
			return l.honest(ctx, key, content)
		}
	})},
}

// one makes a liar of one endpoint.
func one(teach func(*lie)) func() []blob.Store {
	return func() []blob.Store {
		l := &lie{Memory: blobtest.NewMemory()}
		teach(l)
		return []blob.Store{l}
	}
}

// islandOf is an endpoint that knows what the others have only once it lists or
// reads, and then has its own way.
func islandOf(shared *blobtest.Memory) *lie {
	l := &lie{Memory: shared}
	var mu sync.Mutex
	mine := blobtest.NewMemory()
	l.create = func(ctx context.Context, key string, content []byte) error {
		mu.Lock()
		defer mu.Unlock()
		err := mine.Create(ctx, key, strings.NewReader(string(content)), int64(len(content)))
		if err == nil {
			_ = l.honest(ctx, key, content)
		}
		return err
	}
	return l
}

// behind lists what there was at the call before.
func behind(m *blobtest.Memory) func(string) iter.Seq2[blob.Info, error] {
	before := m.Clone()
	return func(prefix string) iter.Seq2[blob.Info, error] {
		stale := before
		before = m.Clone()
		return stale.List(bg, prefix, "")
	}
}

// forgetful answers the two reads after a "not found" so as well.
func forgetful(m *blobtest.Memory) func(string, []byte, int64) (int, error) {
	var mu sync.Mutex
	missing := make(map[string]int)
	return func(key string, p []byte, offset int64) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if missing[key] > 0 {
			missing[key]--
			return 0, blob.ErrNotFound
		}
		n, err := m.ReadAt(bg, key, p, offset)
		if errors.Is(err, blob.ErrNotFound) {
			missing[key] = 2
		}
		return n, err
	}
}

// remembering is a cache that nothing is ever removed from.
func remembering(m *blobtest.Memory) func(string, []byte, int64) (int, error) {
	var mu sync.Mutex
	cache := blobtest.NewMemory()
	return func(key string, p []byte, offset int64) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if n, err := cache.ReadAt(bg, key, p, offset); !errors.Is(err, blob.ErrNotFound) {
			return n, err
		}
		whole := make([]byte, 1<<20)
		if n, _ := m.ReadAt(bg, key, whole, 0); n > 0 {
			_ = cache.Create(bg, key, strings.NewReader(string(whole[:n])), int64(n))
		}
		return m.ReadAt(bg, key, p, offset)
	}
}

func TestLiarsAreFound(t *testing.T) {
	for _, liar := range liars {
		t.Run(liar.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := Run(bg, liar.stores(), Short())
				var found []string
				for _, result := range r.Results {
					if result.State == Broken {
						found = append(found, result.Promise)
						t.Log(result.Promise, ": ", result.Seen)
					}
				}
				for _, promise := range liar.breaks {
					if !slices.Contains(found, promise) {
						t.Errorf("%q was found kept; broken: %q", promise, found)
					}
				}
				if err := r.Err(); !errors.Is(err, ErrBroken) {
					t.Error(err)
				}
			})
		})
	}
}

// A store whose lists end with their first page is found by a run that isn't short.
func TestCutListsAreFound(t *testing.T) {
	long := Options{Writers: 2, Rounds: longRounds}
	for name, c := range map[string]struct {
		stores []blob.Store
		want   State
	}{
		"honest": {[]blob.Store{blobtest.NewMemory()}, Kept},
		"one page": {one(func(l *lie) {
			l.list = func(prefix string) iter.Seq2[blob.Info, error] {
				return func(yield func(blob.Info, error) bool) {
					n := 0
					for info, err := range l.Memory.List(bg, prefix, "") {
						if n++; n > 1000 || !yield(info, err) {
							return
						}
					}
				}
			}
		})(), Broken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, result := range Run(bg, c.stores, long).Results {
					if result.Promise == "whole lists" && result.State == c.want {
						return
					}
				}
				t.Errorf("%q isn't %s", "whole lists", c.want)
			})
		})
	}
}

// A list that answers with others' keys never gets them deleted.
func TestForeignKeysAreSafe(t *testing.T) {
	l := &lie{Memory: blobtest.NewMemory()}
	if err := l.honest(bg, "eu/shard-0001/ledger/00000000000000000001", []byte("mail")); err != nil {
		t.Fatal(err)
	}
	l.list = func(string) iter.Seq2[blob.Info, error] { return l.Memory.List(bg, "", "") }
	if err := Quick(bg, l); !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
	if got := fmt.Sprint(left(t, l.Memory)); got != "[eu/shard-0001/ledger/00000000000000000001]" {
		t.Errorf("left: %s", got)
	}
}
