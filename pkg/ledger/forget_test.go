package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// twoEpochs is objects 1 (fence), 2, 3, 4 (fence of epoch 2), 5, 6.
func twoEpochs(t *testing.T) *blobtest.Memory {
	t.Helper()
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	add(t, l, 0)
	add(t, l, 1)
	l, _ = open(t, store)
	add(t, l, 2)
	add(t, l, 3)
	return store
}

func forget(store *blobtest.Memory, f Forgotten) (Forgotten, error) {
	f.By = "somebody"
	return Forget(context.Background(), Config{Store: store, Prefix: prefix}, f)
}

// What is lost beyond repair stops every owner until it is forgotten; then the rest
// is replayed, and goes on to be, also when the object turns up again.
func TestForget(t *testing.T) {
	key := files{prefix: prefix}.object
	for name, c := range map[string]struct {
		sequence uint64
		change   func(m *blobtest.Memory)
		want     string
	}{
		"missing":           {3, func(m *blobtest.Memory) { remove(t, m, key(3)) }, "[0 2 3]"},
		"both headers":      {2, func(m *blobtest.Memory) { m.Alter(key(2), both(30)) }, "[1 2 3]"},
		"both records":      {5, func(m *blobtest.Memory) { m.Alter(key(5), both(headerSize+9)) }, "[0 1 3]"},
		"a fence":           {4, func(m *blobtest.Memory) { remove(t, m, key(4)) }, "[0 1 2 3]"},
		"another's content": {3, func(m *blobtest.Memory) { replace(t, m, key(3), m, key(2)) }, "[0 2 3]"},
	} {
		t.Run(name, func(t *testing.T) {
			store := twoEpochs(t)
			sound := store.Clone()
			c.change(store)
			_, err := openDamaged(store.Clone())
			var lost *LostError
			if !errors.As(err, &lost) || lost.Sequence != c.sequence || lost.Key != key(c.sequence) || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v; want a LostError of sequence %d", err, c.sequence)
			}
			for sequence := range uint64(9) {
				if _, err := forget(store, Forgotten{Sequence: sequence}); sequence != c.sequence && (!errors.Is(err, ErrNotLost) || maildrop.KindOf(err) != maildrop.Invalid) {
					t.Fatalf("sequence %d: %v; want ErrNotLost", sequence, err)
				}
			}
			if _, err := forget(store, Forgotten{Sequence: c.sequence}); !errors.Is(err, ErrNotLost) {
				t.Fatalf("twice: %v; want ErrNotLost", err)
			}
			for range 2 {
				l, h := open(t, store)
				wantNumbers(t, h, c.want)
				if l.Epoch() < 3 {
					t.Errorf("epoch %d", l.Epoch())
				}
				r, _, err := read(store)
				if err != nil || len(r.Lost()) != 0 || len(r.Forgotten()) != 1 || r.Forgotten()[0].By != "somebody" || r.Forgotten()[0].Why == "" {
					t.Errorf("%v: %v, %v", err, r.Lost(), r.Forgotten())
				}
				if store.Alter(key(c.sequence), func([]byte) []byte { return contentOf(sound, key(c.sequence)) }); contentOf(store, key(c.sequence)) == nil {
					put(t, store, key(c.sequence), contentOf(sound, key(c.sequence)))
				}
			}
		})
	}
}

func put(t *testing.T, store *blobtest.Memory, key string, content []byte) {
	t.Helper()
	if err := store.Create(context.Background(), key, strings.NewReader(string(content)), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

// A ledger that has lost its end, and whose epoch is known, goes on in a higher
// one, so no UID of the lost end is given again.
func TestForgetTheEnd(t *testing.T) {
	store := twoEpochs(t)
	key := files{prefix: prefix}.object
	l, _ := open(t, store.Clone())
	minted := map[string]bool{}
	_, h := open(t, store.Clone())
	for _, e := range h.entries {
		minted[UID(l.Identity(), e.Position, e.Mint)] = true
	}
	for sequence := uint64(4); sequence <= 6; sequence++ {
		remove(t, store, key(sequence))
	}
	config := Config{Store: store, Prefix: prefix, Epoch: 3, Ledger: l.Identity(), Fenced: 2}
	if _, err := Open(context.Background(), config, (&history{}).begin); !errors.Is(err, ErrForeign) {
		t.Fatalf("%v; want ErrForeign", err)
	}
	for _, f := range []Forgotten{{Sequence: 4}, {Sequence: 5, Epoch: 2}, {Sequence: 4, Epoch: 1}, {Sequence: 4, Epoch: MaxEpoch + 1}} {
		if _, err := forget(store, f); !errors.Is(err, ErrNotLost) {
			t.Errorf("%+v: %v; want ErrNotLost", f, err)
		}
	}
	if _, err := forget(store, Forgotten{Sequence: 4, Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	next, err := Open(context.Background(), config, (&history{}).begin)
	if err != nil || next.Epoch() < 3 || next.Last() != 5 {
		t.Fatal(err)
	}
	entries, err := next.Append(context.Background(), []Draft{message(7)})
	if err != nil || minted[UID(next.Identity(), entries[0].Position, entries[0].Mint)] {
		t.Errorf("%v: %v", err, entries)
	}
}

// A damaged note of what is forgotten is as good as a sound one, and is counted.
func TestEachFlippedBitOfForgotten(t *testing.T) {
	store := twoEpochs(t)
	remove(t, store, files{prefix: prefix}.object(3))
	if _, err := forget(store, Forgotten{Sequence: 3}); err != nil {
		t.Fatal(err)
	}
	key := files{prefix: prefix}.forgotten(3)
	for bit := range len(contentOf(store, key)) * 8 {
		damaged := store.Clone()
		damaged.Alter(key, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b })
		l, h := open(t, damaged)
		wantNumbers(t, h, "[0 2 3]")
		if d := l.Damage(); len(d) != 1 || d[0].Key != key {
			t.Fatalf("bit %d: %v", bit, d)
		}
		var said strings.Builder
		if err := Describe(&said, key, contentOf(damaged, key)); !errors.Is(err, ErrCorrupt) || !strings.Contains(said.String(), `sequence 3`) {
			t.Fatalf("bit %d: %q, %v", bit, said.String(), err)
		}
	}
}

// The beginning says whose ledger it is: it can't be forgotten.
func TestBeginningIsNotForgotten(t *testing.T) {
	store := twoEpochs(t)
	remove(t, store, files{prefix: prefix}.object(1))
	if _, err := forget(store, Forgotten{Sequence: 1}); err == nil {
		t.Error("forgotten")
	}
	if n := len(keys(t, store, "forgotten")); n > 0 {
		t.Error(fmt.Sprint(n, " objects"))
	}
}
