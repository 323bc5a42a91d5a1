package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

func prepare(t *testing.T, config Config) (*Prepared, *history) {
	t.Helper()
	h := &history{}
	p, err := Prepare(t.Context(), config, h.begin)
	if err != nil {
		t.Fatal(err)
	}
	return p, h
}

// reads counts what is read of objects.
type reads struct {
	blob.Store

	mu   sync.Mutex
	keys []string
}

func (s *reads) ReadAt(ctx context.Context, key string, b []byte, offset int64) (int, error) {
	s.mu.Lock()
	s.keys = append(s.keys, key)
	s.mu.Unlock()
	return s.Store.ReadAt(ctx, key, b, offset)
}

// An opening that was prepared reads what came since, and nothing else.
func TestPreparedReadsTheRest(t *testing.T) {
	store := &reads{Store: blobtest.NewMemory()}
	config := Config{Store: store, Prefix: prefix, Owner: "heir"}
	l, _ := open(t, store)
	for n := range uint64(20) {
		add(t, l, n)
	}
	prepared, h := prepare(t, config)
	if got := fmt.Sprint(len(h.numbers())); got != "20" {
		t.Fatalf("prepared %s messages", got)
	}
	add(t, l, 20) // the owner goes on
	add(t, l, 21)
	store.keys = nil
	config.Prepared = prepared
	heir, err := Open(t.Context(), config, h.begin)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(store.keys)
	if want := []string{l.files.object(22), l.files.object(23)}; !slices.Equal(store.keys, want) {
		t.Errorf("read %v, want %v", store.keys, want)
	}
	if n := len(h.numbers()); n != 22 || heir.Epoch() != l.Epoch()+1 {
		t.Errorf("%d messages in epoch %d", n, heir.Epoch())
	}
	if _, err := l.Append(t.Context(), []Draft{message(30)}); err == nil {
		t.Error("the former owner appends")
	}
	add(t, heir, 22)
	if _, h := open(t, store); len(h.numbers()) != 23 {
		t.Errorf("replayed %v", h.numbers())
	}
}

// What was prepared counts once, for its own ledger, and for a while.
func TestPreparedInVain(t *testing.T) {
	for name, change := range map[string]func(now *time.Duration, config *Config){
		"too old":        func(now *time.Duration, _ *Config) { *now += preparedFor + time.Second },
		"another ledger": func(_ *time.Duration, config *Config) { config.Prefix = "eu/shard-0099" },
		"used before": func(_ *time.Duration, config *Config) {
			if _, err := Open(context.Background(), *config, (&history{}).begin); err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := blobtest.NewMemory()
			now := time.Hour
			l, _ := open(t, store)
			add(t, l, 1, 2)
			config := Config{Store: store, Prefix: prefix, Clock: func() time.Duration { return now }}
			prepared, h := prepare(t, config)
			config.Prepared = prepared
			change(&now, &config)
			fresh := &history{}
			if _, err := Open(t.Context(), config, fresh.begin); err != nil {
				t.Fatal(err)
			}
			want := []uint64{1, 2}
			if name == "another ledger" {
				want = nil
			}
			if !slices.Equal(fresh.numbers(), want) {
				t.Errorf("read %v anew, want %v (prepared %v)", fresh.numbers(), want, h.numbers())
			}
		})
	}
}

// An owner's appends that overtake each other leave a hole for a moment. What is behind it
// waits for the opening, which finds it filled.
func TestPreparedAtAHole(t *testing.T) {
	store := blobtest.NewMemory()
	config := Config{Store: store, Prefix: prefix}
	l, _ := open(t, store)
	for n := range uint64(5) {
		add(t, l, n)
	}
	hole := hiding{hidden{store, l.files.object(4)}, l.files.object(4)}
	config.Store = hole
	prepared, h := prepare(t, config)
	if got := fmt.Sprint(h.numbers()); got != "[0 1]" {
		t.Fatalf("prepared %s", got)
	}
	config.Store, config.Prepared = store, prepared
	if _, err := Open(t.Context(), config, h.begin); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(h.numbers()); got != "[0 1 2 3 4]" {
		t.Errorf("opened with %s", got)
	}
}

// hidden has no such object.
type hidden struct {
	blob.Store
	key string
}

func (s hidden) ReadAt(ctx context.Context, key string, b []byte, offset int64) (int, error) {
	if key == s.key {
		return 0, fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	}
	return s.Store.ReadAt(ctx, key, b, offset)
}

// Damage that came since ends nothing that reading all can mend.
func TestPreparedBeforeACheckpoint(t *testing.T) {
	store := blobtest.NewMemory()
	config := Config{Store: store, Prefix: prefix}
	l, h := open(t, store)
	add(t, l, 1)
	prepared, _ := prepare(t, config)
	add(t, l, 2)
	if err := l.WriteCheckpoint(t.Context(), l.Last(), partsOf(h.numbers())); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), l.files.object(3)); err != nil { // covered: nobody has to have it
		t.Fatal(err)
	}
	add(t, l, 3)
	config.Prepared = prepared
	fresh := &history{}
	if _, err := Open(t.Context(), config, fresh.begin); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(fresh.numbers()); got != "[3]" { // and the checkpoint's, which has none here
		t.Errorf("opened with %s", got)
	}
}
