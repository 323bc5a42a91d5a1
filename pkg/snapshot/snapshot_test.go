package snapshot

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func sample(revision int64) Snapshot {
	return Snapshot{
		View: "owners/eu", Revision: revision, Taken: time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC),
		Entries: []Entry{{"/a", []byte(`{"x":1}`), 3}, {"/b", []byte{0, 0xff}, 0}},
	}
}

func TestDamageIsSeen(t *testing.T) {
	whole, err := Encode(sample(7))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode("owners/eu", whole); err != nil || !reflect.DeepEqual(got, sample(7)) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := Decode("directory", whole); err == nil {
		t.Error("another view's is taken")
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x10
		if _, err := Decode("owners/eu", damaged); err == nil {
			t.Errorf("octet %d: a flipped bit goes unseen", i)
		}
		if _, err := Decode("owners/eu", whole[:i]); err == nil {
			t.Errorf("cut at %d: it goes unseen", i)
		}
	}
}

func FuzzDecode(f *testing.F) {
	whole, err := Encode(sample(7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, octets []byte) {
		if s, err := Decode("owners/eu", octets); err == nil && s.Revision <= 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestDirKeepsTheLast(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "made", "here"))
	if _, err := d.Load(t.Context(), "owners/eu", 0); !errors.Is(err, ErrNone) {
		t.Fatalf("nothing kept yet: %v", err)
	}
	for revision := range int64(3) {
		if err := d.Save(sample(revision + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := d.Load(t.Context(), "owners/eu", 2); err != nil || got.Revision != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := d.Load(t.Context(), "owners/eu", 3); !errors.Is(err, ErrNone) {
		t.Fatalf("nothing newer: %v", err)
	}
	if files, err := os.ReadDir(string(d)); err != nil || len(files) != 1 {
		t.Fatalf("left behind: %v, %v", files, err)
	}
}

func TestNewestOfAll(t *testing.T) {
	has := func(revision int64) Source {
		return func(context.Context, string, int64) (Snapshot, error) { return sample(revision), nil }
	}
	fails := func(context.Context, string, int64) (Snapshot, error) { return Snapshot{}, errors.New("broken") }
	hangs := func(ctx context.Context, _ string, _ int64) (Snapshot, error) {
		<-ctx.Done()
		return Snapshot{}, ctx.Err()
	}
	synctest.Test(t, func(t *testing.T) {
		got, err := Newest(t.Context(), []Source{has(4), fails, has(9), hangs, has(2)}, "owners/eu", 3)
		if err != nil || got.Revision != 9 {
			t.Fatalf("%+v, %v", got, err)
		}
		if _, err := Newest(t.Context(), []Source{has(4), fails}, "owners/eu", 4); !errors.Is(err, ErrNone) {
			t.Fatal(err)
		}
		if _, err := Newest(t.Context(), nil, "owners/eu", 0); !errors.Is(err, ErrNone) {
			t.Fatal(err)
		}
	})
}

// changing is a view whose revision a test changes.
type changing struct {
	mu       sync.Mutex
	revision int64
	changed  chan struct{}
}

func (c *changing) Snapshot() (Snapshot, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sample(c.revision), c.revision > 0
}

func (c *changing) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *changing) change() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision++
	close(c.changed)
	c.changed = make(chan struct{})
}

func TestKeepWritesChangesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, view := Dir(t.TempDir()), &changing{changed: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { Keep(ctx, d, view, slog.New(slog.DiscardHandler)); close(ended) }()
		kept := func() int64 {
			s, err := d.Load(t.Context(), "owners/eu", 0)
			if err != nil && !errors.Is(err, ErrNone) {
				t.Fatal(err)
			}
			return s.Revision
		}
		synctest.Wait()
		for range 5 {
			view.change()
			synctest.Wait()
		}
		if got := kept(); got != 0 {
			t.Fatalf("written at revision %d, in the midst of changes", got)
		}
		time.Sleep(settle)
		synctest.Wait()
		if got := kept(); got != 5 {
			t.Fatalf("revision %d is kept, not 5", got)
		}
		stop()
		<-ended
	})
}
