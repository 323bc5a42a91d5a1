package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// partsOf is a checkpoint of history's form, three numbers a part, in a buffer
// that is used again and again.
func partsOf(numbers []uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var buffer [24]byte
		for three := range slices.Chunk(numbers, 3) {
			b := buffer[:0]
			for _, n := range three {
				b = binary.LittleEndian.AppendUint64(b, n)
			}
			if !yield(b, nil) {
				return
			}
			clear(buffer[:])
		}
	}
}

// writeCheckpoint writes one that covers all, of the numbers.
func writeCheckpoint(t testing.TB, l *Ledger, numbers ...uint64) {
	t.Helper()
	if err := l.WriteCheckpoint(context.Background(), l.Last(), partsOf(numbers)); err != nil {
		t.Fatal(err)
	}
}

// clock is one that stands still until it is told.
type clock struct{ now time.Duration }

func (c *clock) read() time.Duration { return c.now }

func openAt(t testing.TB, store blob.Store, c *clock) (*Ledger, *history) {
	t.Helper()
	h := &history{}
	l, err := Open(context.Background(), Config{Store: store, Prefix: prefix, Owner: "node-1", Clock: c.read}, h.begin)
	if err != nil {
		t.Fatal(err)
	}
	return l, h
}

// keys are those of the store below the ledger's prefix, of one folder.
func keys(t testing.TB, store blob.Store, folder string) (found []string) {
	t.Helper()
	for info, err := range store.List(context.Background(), prefix+"/"+folder+"/", "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Key)
	}
	return found
}

func wantNumbers(t testing.TB, h *history, want string) {
	t.Helper()
	if got := fmt.Sprint(h.numbers()); got != want {
		t.Errorf("replayed %s, want %s", got, want)
	}
}

// A take-over reads the newest checkpoint, and of the ledger only what came after it.
func TestCheckpointAndTail(t *testing.T) {
	store := onDisk(t)
	l, _ := open(t, store)
	add(t, l, 0, 1)
	add(t, l, 2, 3)
	writeCheckpoint(t, l, 0, 1, 2, 3)
	if l.Tail() != 0 || l.Last() != 3 {
		t.Errorf("tail %d, last %d", l.Tail(), l.Last())
	}
	add(t, l, 4)
	if l.Tail() != 1 {
		t.Errorf("tail %d", l.Tail())
	}
	next, h := open(t, store)
	wantNumbers(t, h, "[0 1 2 3 4]")
	if fmt.Sprint(h.loaded) != "[0 1 2 3]" && len(h.loaded) != 4 {
		t.Errorf("loaded %v", h.loaded)
	}
	first := h.entries[0]
	fence, ok := first.Record.(*Fence)
	if !ok || first.Position != 0 || fence.Secret != l.Secret() || fence.Ledger != l.Identity() || fence.Epoch != 1 {
		t.Errorf("the first entry isn't the fence in force: %+v", first)
	}
	if next.Identity() != l.Identity() || next.Secret() != l.Secret() || next.Epoch() != 2 || next.Tail() != 2 {
		t.Errorf("epoch %d, tail %d", next.Epoch(), next.Tail())
	}
	// An empty state is one.
	writeCheckpoint(t, next)
	_, h = open(t, store)
	wantNumbers(t, h, "[]")
}

func TestWriteCheckpointRefuses(t *testing.T) {
	store := blobtest.NewMemory()
	first, _ := open(t, store)
	add(t, first, 1)
	l, _ := open(t, store)
	add(t, l, 2)
	none := partsOf(nil)
	broken := &maildrop.Error{Op: "test", Kind: maildrop.Busy}
	for name, c := range map[string]struct {
		sequence uint64
		parts    iter.Seq2[[]byte, error]
		kind     maildrop.Kind
	}{
		"not durable":      {5, none, maildrop.Invalid},
		"before our fence": {2, none, maildrop.Invalid},
		"nothing":          {0, none, maildrop.Invalid},
		"a large part":     {4, func(yield func([]byte, error) bool) { yield(make([]byte, MaxPart+1), nil) }, maildrop.Invalid},
		"broken":           {4, func(yield func([]byte, error) bool) { _ = yield([]byte("12345678"), nil) && yield(nil, broken) }, maildrop.Busy},
	} {
		if err := l.WriteCheckpoint(context.Background(), c.sequence, c.parts); maildrop.KindOf(err) != c.kind {
			t.Errorf("%s: %v; want %s", name, err, c.kind)
		}
	}
	if found := keys(t, store, "manifest"); len(found) != 0 || l.Tail() != 4 {
		t.Errorf("%v, tail %d", found, l.Tail())
	}
	if err := first.WriteCheckpoint(context.Background(), 2, none); err != nil {
		t.Errorf("a fenced owner who doesn't know: %v", err) // harmless: it covers what was durable
	}
	if _, err := first.Append(context.Background(), []Draft{message(1)}); !errors.Is(err, ErrFenced) {
		t.Error(err)
	}
	if err := first.WriteCheckpoint(context.Background(), 2, none); !errors.Is(err, ErrFenced) {
		t.Errorf("a fenced owner: %v", err)
	}
}

// A checkpoint comes into being whatever the store does, or not at all.
func TestCheckpointOnHostileStore(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			memory := blobtest.NewMemory()
			store := blobtest.NewFaulty(memory, nil)
			l, _ := open(t, store)
			add(t, l, 0, 1, 2, 3, 4)
			store.SetPlan(blobtest.Seeded(seed, 0.3))
			err := l.WriteCheckpoint(context.Background(), l.Last(), partsOf([]uint64{0, 1, 2, 3, 4}))
			store.SetPlan(nil)
			if (err == nil) != (l.Tail() == 0) {
				t.Errorf("seed %d: %v, tail %d", seed, err, l.Tail())
			}
			next, h := open(t, memory)
			wantNumbers(t, h, "[0 1 2 3 4]")
			if (len(h.loaded) == 0) != (err != nil) || next.Stats().Damaged != 0 {
				t.Errorf("seed %d: %v, %d loaded", seed, err, len(h.loaded))
			}
		})
	}
}

// trimmed is a ledger with two checkpoints, whose objects before the older one
// are gone: messages 0 to 9, checkpoints after 4 and 7.
func trimmed(t testing.TB) *blobtest.Memory {
	t.Helper()
	store, c := blobtest.NewMemory(), &clock{}
	l, _ := openAt(t, store, c)
	for n := range uint64(10) {
		add(t, l, n)
		if n == 4 || n == 7 {
			writeCheckpoint(t, l, []uint64{0, 1, 2, 3, 4, 5, 6, 7}[:n+1]...)
		}
	}
	c.now = keepCovered
	if n, err := l.Trim(context.Background(), func(uint64) bool { return false }); n != 6 || err != nil {
		t.Fatalf("trimmed %d, error %v", n, err)
	}
	return store
}

// Whatever is wrong with the newest checkpoint, the one before does; when both
// are no good the error names both; and when all of the ledger is there it is
// replayed from its beginning.
func TestFallback(t *testing.T) {
	find := func(store *blobtest.Memory, newest bool) (manifest, part string) {
		manifests := keys(t, store, "manifest")
		manifest = manifests[0]
		if newest {
			manifest = manifests[1]
		}
		c, _ := files{prefix: prefix}.checkpointOf(manifest)
		return manifest, files{prefix: prefix}.part(c.name, 1)
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	whole := blobtest.NewMemory()
	l, _ := open(t, whole)
	for n := range uint64(10) {
		add(t, l, n)
		if n == 4 || n == 7 {
			writeCheckpoint(t, l, []uint64{0, 1, 2, 3, 4, 5, 6, 7}[:n+1]...)
		}
	}
	damages := map[string]func(store *blobtest.Memory, manifest, part string){
		"manifest": func(s *blobtest.Memory, manifest, _ string) { s.Alter(manifest, flip) },
		"part":     func(s *blobtest.Memory, _, part string) { s.Alter(part, flip) },
		"no part":  func(s *blobtest.Memory, _, part string) { remove(t, s, part) },
		"long":     func(s *blobtest.Memory, _, part string) { s.Alter(part, func(b []byte) []byte { return append(b, 0) }) },
		"a sound part, not the manifest's": func(s *blobtest.Memory, _, part string) {
			s.Alter(part, func(b []byte) []byte {
				c, _ := files{prefix: prefix}.checkpointOf(prefix + "/manifest/00000000000000000001-" + strings.Split(part, "/")[3])
				forged, _ := encodePart(nil, c, binary.LittleEndian.Uint32(b[atIdentity:]), 1, append([]byte("12345678"), b[partSize+8:]...))
				return forged
			})
		},
		"another part": func(s *blobtest.Memory, _, part string) {
			replace(t, s, part, s, strings.TrimSuffix(part, "1")+"0")
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			store := trimmed(t)
			m, p := find(store, true)
			damage(store, m, p)
			l, h := open(t, store)
			wantNumbers(t, h, "[0 1 2 3 4 5 6 7 8 9]")
			if len(h.loaded) != 5 || l.Stats().Damaged != 1 {
				t.Errorf("%d loaded, %d damaged", len(h.loaded), l.Stats().Damaged)
			}
			m2, p2 := find(store, false)
			damage(store, m2, p2)
			_, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, (&history{}).begin)
			if maildrop.KindOf(err) != maildrop.Corrupt || !strings.Contains(err.Error(), sound(m, p, err)) || !strings.Contains(err.Error(), sound(m2, p2, err)) {
				t.Errorf("both damaged: %v", err)
			}
			full := whole.Clone()
			for _, newest := range []bool{true, false} {
				m, p := find(full, newest)
				damage(full, m, p)
			}
			l, h = open(t, full)
			wantNumbers(t, h, "[0 1 2 3 4 5 6 7 8 9]")
			if len(h.loaded) != 0 || l.Stats().Damaged != 2 {
				t.Errorf("full replay: %d loaded, %d damaged", len(h.loaded), l.Stats().Damaged)
			}
		})
	}
}

// sound is the one of two keys that the error names.
func sound(manifest, part string, err error) string {
	if strings.Contains(err.Error(), part) {
		return part
	}
	return manifest
}

// A State may find a part damaged, too.
func TestLoadRefuses(t *testing.T) {
	store := trimmed(t)
	l, _ := open(t, store)
	add(t, l, 10)
	bad := func(yield func([]byte, error) bool) { yield([]byte("not of eight octets"), nil) }
	if err := l.WriteCheckpoint(context.Background(), l.Last(), bad); err != nil {
		t.Fatal(err)
	}
	l, h := open(t, store)
	wantNumbers(t, h, "[0 1 2 3 4 5 6 7 8 9 10]")
	if len(h.loaded) != 8 || l.Stats().Damaged != 1 {
		t.Errorf("%d loaded, %d damaged", len(h.loaded), l.Stats().Damaged)
	}
}

// A ledger that ends before a checkpoint does isn't begun a second time.
func TestLedgerEndsBeforeCheckpoint(t *testing.T) {
	store := trimmed(t)
	manifests := keys(t, store, "manifest")
	store.Alter(manifests[1], func(b []byte) []byte { return b[:50] })
	for _, key := range keys(t, store, "ledger") {
		remove(t, store, key)
	}
	_, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, (&history{}).begin)
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), manifests[1]) {
		t.Errorf("Open: %v", err)
	}
}

// Each bit of a manifest and of a part: a changed one is noticed.
func TestEachFlippedBitOfCheckpoint(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	add(t, l, 0, 1, 2, 3)
	writeCheckpoint(t, l, 0, 1, 2, 3)
	remove(t, store, l.files.object(1)) // so it is this checkpoint, or nothing
	remove(t, store, l.files.object(2))
	if err := verify(store.Clone()); err != nil {
		t.Fatal(err)
	}
	for _, key := range append(keys(t, store, "manifest"), keys(t, store, "checkpoint")...) {
		size := 0
		store.Alter(key, func(b []byte) []byte { size = len(b); return b })
		for bit := range size * 8 {
			damaged := store.Clone()
			damaged.Alter(key, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b })
			err := verify(damaged)
			if maildrop.KindOf(err) != maildrop.Corrupt || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "octet ") {
				t.Fatalf("%s: bit %d: %v", key, bit, err)
			}
		}
	}
}

// A part of one checkpoint is none of another's.
func TestPartIsTiedToItsName(t *testing.T) {
	a, b := checkpoint{epoch: 1, name: newName(1)}, checkpoint{epoch: 1, name: newName(1)}
	part, _ := encodePart(nil, a, 7, 0, []byte("x"))
	if _, err := decodePart(a, 7, 0, part); err != nil {
		t.Error(err)
	}
	for name, decode := range map[string]func() ([]byte, error){
		"name": func() ([]byte, error) { return decodePart(b, 7, 0, part) }, "identity": func() ([]byte, error) { return decodePart(a, 8, 0, part) },
		"number": func() ([]byte, error) { return decodePart(a, 7, 1, part) },
	} {
		if _, err := decode(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// A take-over's work is bounded by the tail, however much there was before.
func TestTailBoundsTakeOver(t *testing.T) {
	if testing.Short() {
		t.Log("NOT TESTED with -short: a million entries")
		return
	}
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	l, _ := open(t, store)
	drafts := slices.Repeat([]Draft{{Record: &Removal{Mailbox: "a"}}}, 10_000)
	for range 100 {
		if _, err := l.Append(context.Background(), drafts); err != nil {
			t.Fatal(err)
		}
	}
	writeCheckpoint(t, l, 1, 2, 3)
	for n := range uint64(20) {
		add(t, l, 10+n)
	}
	before := store.Calls()
	l, h := open(t, store)
	if calls := store.Calls() - before; calls > 30 || len(h.entries) > 30 || l.Stats().Objects != 21 {
		t.Errorf("%d calls of the store and %d entries for a tail of 20", calls, len(h.entries))
	}
}
