package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/maildrop"
)

const prefix = "eu/shard-0007"

// wrapper is one of a new keyset file.
func wrapper(t testing.TB) *sealed.Wrapper {
	t.Helper()
	return fileWrapper(t, newKeyFile(t))
}

func newKeyFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	if _, err := sealed.CreateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileWrapper(t testing.TB, path string) *sealed.Wrapper {
	t.Helper()
	w, err := sealed.KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func open(t testing.TB, store blob.Store, w *sealed.Wrapper) *sealed.Store {
	t.Helper()
	return openAt(t, store, prefix, w, sealed.Options{})
}

func openAt(t testing.TB, store blob.Store, prefix string, w *sealed.Wrapper, options sealed.Options) *sealed.Store {
	t.Helper()
	s, err := sealed.Open(t.Context(), store, prefix, w, options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s blob.Store, key string, content []byte) {
	t.Helper()
	if err := s.Create(context.Background(), key, bytes.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("Create(%s): %v", key, err)
	}
}

// all reads an object whole, with a read that reaches behind its end.
func all(s blob.Store, key string, size int) ([]byte, error) {
	p := make([]byte, size+1)
	n, err := s.ReadAt(context.Background(), key, p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:n], err
}

func random(n int) []byte {
	b := make([]byte, n)
	source := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	return b
}

func keys(t testing.TB, s blob.Store, prefix string) (found []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Key)
	}
	return found
}

func TestContract(t *testing.T) {
	w := wrapper(t)
	inner := map[string]func(t *testing.T) blob.Store{
		"memory": func(*testing.T) blob.Store { return blobtest.NewMemory() },
		"dir": func(t *testing.T) blob.Store {
			s, err := dir.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
	}
	for name, store := range inner {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/plain=%t", name, plain), func(t *testing.T) {
				blobtest.Run(t, func(t *testing.T) blob.Store {
					return openAt(t, store(t), "", w, sealed.Options{Plain: plain})
				})
			})
		}
	}
}

// Sizes around every border: the stored size tells the plaintext's, and any
// range reads what was written.
func TestSizesAndRanges(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	s := open(t, memory, w)
	const segment = 16 << 10
	for _, size := range []int{1, 2, segment - 1, segment, segment + 1, 2*segment - 1, 2 * segment, 2*segment + 1, 9 * segment, 200_001} {
		key := fmt.Sprintf("%s/ledger/%d", prefix, size)
		content := random(size)
		put(t, s, key, content)
		for info, err := range s.List(t.Context(), key, "") {
			if err != nil || info.Size != int64(size) {
				t.Errorf("%s: listed with %d octets, error %v", key, info.Size, err)
			}
		}
		// One Store knows the object's key already, the other one has to look.
		for _, store := range []blob.Store{s, open(t, memory, w)} {
			for _, at := range []int{0, 1, segment - 1, segment, segment + 1, 2 * segment, 9*segment - 1, size - 1, size, size + 1, size + segment, 10 * size} {
				for _, length := range []int{1, 100, segment - 1, segment, segment + 1, 3 * segment, size} {
					p := make([]byte, length)
					n, err := store.ReadAt(t.Context(), key, p, int64(at))
					want := content[min(at, size):min(at+length, size)]
					if !bytes.Equal(p[:n], want) || (n < length) != errors.Is(err, io.EOF) || (n == length && err != nil) {
						t.Fatalf("%s: %d octets at %d: %d, %v; want %d", key, length, at, n, err, len(want))
					}
				}
			}
		}
	}
	if _, err := s.ReadAt(t.Context(), prefix+"/ledger/1", make([]byte, 10), 1<<62); !errors.Is(err, io.EOF) {
		t.Errorf("far behind the end: %v", err)
	}
}

// Nothing of a content, and no key, is in what is stored.
func TestNothingIsInTheClear(t *testing.T) {
	memory := blobtest.NewMemory()
	s := open(t, memory, wrapper(t))
	put(t, s, prefix+"/body/x", bytes.Repeat([]byte("Subject: the merger\r\n"), 5000))
	for _, key := range keys(t, memory, "") {
		stored, err := all(memory, key, 1<<20)
		if err != nil || bytes.Contains(stored, []byte("merger")) {
			t.Errorf("%s: %v, or it is in the clear", key, err)
		}
	}
}

// refused holds that a changed object is read with an error, and nothing of it.
func refused(t *testing.T, s blob.Store, key, what string, content []byte) {
	t.Helper()
	got, err := all(s, key, len(content))
	switch {
	case err == nil:
		t.Errorf("%s: read %d octets without an error", what, len(got))
	case !bytes.HasPrefix(content, got):
		t.Errorf("%s: %d octets came out beside the error that aren't the object's", what, len(got))
	case !errors.Is(err, sealed.ErrCorrupt) && !errors.Is(err, sealed.ErrNoKey):
		t.Errorf("%s: %v", what, err)
	}
}

// Every octet of an object counts, and so does its length.
func TestTampering(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	key := prefix + "/ledger/1"
	content := random(16<<10 + 40)
	put(t, open(t, memory, w), key, content)
	stored, err := all(memory, key, len(content)+1000)
	if err != nil {
		t.Fatal(err)
	}
	change := func(what string, how func([]byte) []byte) {
		memory.Alter(key, func([]byte) []byte { return how(slices.Clone(stored)) })
		refused(t, open(t, memory, w), key, what, content)
	}
	for i := range stored {
		// All of the header and the tags; of the rest every 13th. One octet of the header can be told.
		if i < 56 {
			memory.Alter(key, func([]byte) []byte { b := slices.Clone(stored); b[i] ^= 1 << (i % 8); return b })
			said := ""
			s := openAt(t, memory, prefix, w, sealed.Options{Found: func(key string, octet int64, what string) { said = fmt.Sprint(key, octet) }})
			if got, err := all(s, key, len(content)); err != nil || !bytes.Equal(got, content) || said != fmt.Sprint(key, i) {
				t.Errorf("octet %d: %v, found %q", i, err, said)
			}
			change(fmt.Sprintf("octet %d and another", i), func(b []byte) []byte { b[i] ^= 1 << (i % 8); b[(i+30)%56] ^= 64; return b })
		} else if i < 100 || i > 16<<10 || i%13 == 0 {
			change(fmt.Sprintf("octet %d", i), func(b []byte) []byte { b[i] ^= 1 << (i % 8); return b })
		}
	}
	for n := range stored {
		if n < 200 || n > 16<<10 || n%13 == 0 {
			change(fmt.Sprintf("cut to %d", n), func(b []byte) []byte { return b[:n] })
		}
	}
	for _, n := range []int{1, 15, 16, 17, 16 << 10, 16<<10 + 16} {
		change(fmt.Sprintf("%d more", n), func(b []byte) []byte { return append(b, make([]byte, n)...) })
		change(fmt.Sprintf("%d of its own again", n), func(b []byte) []byte { return append(b, b[len(b)-min(n, 56):]...) })
	}
}

// Segments stay where they are, and objects under their names.
func TestSwaps(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	s := open(t, memory, w)
	const header, segment = 56, 16<<10 + 16
	one, two := prefix+"/body/1", prefix+"/body/2"
	content := random(5 * 16 << 10)
	put(t, s, one, content)
	put(t, s, two, content)
	stored := map[string][]byte{}
	for _, key := range []string{one, two} {
		stored[key], _ = all(memory, key, len(content)+1000)
	}
	at := func(b []byte, i int) []byte { return b[header+i*segment : header+(i+1)*segment] }
	for what, how := range map[string]func(b []byte) []byte{
		"two segments swapped": func(b []byte) []byte {
			copy(at(b, 1), at(stored[one], 2))
			copy(at(b, 2), at(stored[one], 1))
			return b
		},
		"another object's segment":      func(b []byte) []byte { copy(at(b, 1), at(stored[two], 1)); return b },
		"another object":                func([]byte) []byte { return slices.Clone(stored[two]) },
		"a segment left out":            func(b []byte) []byte { return slices.Delete(b, header+segment, header+2*segment) },
		"the last segment left out":     func(b []byte) []byte { return b[:len(b)-segment] },
		"all but the first left out":    func(b []byte) []byte { return b[:header+segment] },
		"all segments left out":         func(b []byte) []byte { return b[:header] },
		"the last segment twice":        func(b []byte) []byte { return append(b, at(b, 4)...) },
		"another header":                func(b []byte) []byte { copy(b, stored[two][:header]); return b },
		"a plain object in its place":   func([]byte) []byte { return []byte("PSTNLEDG and so on, all in the clear") },
		"an object of another shard":    func([]byte) []byte { return foreign(t, w, one, content) },
		"nothing of it, and not sealed": func([]byte) []byte { return []byte("x") },
	} {
		memory.Alter(one, func([]byte) []byte { return how(slices.Clone(stored[one])) })
		refused(t, open(t, memory, w), one, what, content)
		if what != "another header" { // who knows the object's key does not read it again
			refused(t, s, one, what+", by who knew it", content)
		}
	}
}

// foreign is an object of that name, sealed by another shard's data key.
func foreign(t *testing.T, w *sealed.Wrapper, key string, content []byte) []byte {
	t.Helper()
	memory := blobtest.NewMemory()
	put(t, open(t, memory, w), key, content)
	stored, _ := all(memory, key, len(content)+1000)
	return stored
}

// An object cut off at a segment's end is found out by any read that says where
// it ends, also from behind.
func TestTruncationIsNoEnd(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	key := prefix + "/body/1"
	put(t, open(t, memory, w), key, random(5*16<<10))
	memory.Alter(key, func(b []byte) []byte { return b[:56+3*(16<<10+16)] })
	for _, at := range []int64{3 << 14, 3<<14 + 1, 4 << 14, 5 << 14, 1 << 30} {
		n, err := open(t, memory, w).ReadAt(t.Context(), key, make([]byte, 10), at)
		if n != 0 || !errors.Is(err, sealed.ErrCorrupt) {
			t.Errorf("at %d: %d octets, %v", at, n, err)
		}
	}
	var kind *maildrop.Error
	_, err := open(t, memory, w).ReadAt(t.Context(), key, make([]byte, 10), 2<<14+10)
	if err == nil || !errors.As(err, &kind) || kind.Kind != maildrop.Corrupt || !strings.Contains(err.Error(), key+": octet 32768") {
		t.Errorf("in the last segment left: %v", err)
	}
}

// reads counts the calls that reach the store, and their octets.
type reads struct {
	blob.Store
	mu     sync.Mutex
	calls  int
	octets int
}

func (r *reads) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	r.mu.Lock()
	r.calls++
	r.octets += len(p)
	r.mu.Unlock()
	return r.Store.ReadAt(ctx, key, p, offset)
}

func (r *reads) taken() (calls, octets int) {
	calls, octets = r.calls, r.octets
	r.calls, r.octets = 0, 0
	return calls, octets
}

// A read costs one read of the segments that it needs.
func TestReadsWhatItNeeds(t *testing.T) {
	w, counted := wrapper(t), &reads{Store: blobtest.NewMemory()}
	key := prefix + "/body/1"
	put(t, open(t, counted, w), key, random(1<<20))
	s := open(t, counted, w)
	counted.taken()
	for _, c := range []struct {
		length, at, calls, octets int
	}{
		{4096, 896_000, 2, 56 + (16<<10 + 16) + 1}, // the header is far
		{4096, 896_000, 1, 16<<10 + 16 + 1},        // and known
		{4096, 16<<10 - 1, 1, 2*(16<<10+16) + 1},
		{90 << 10, 0, 1, 6*(16<<10+16) + 1},
	} {
		if _, err := s.ReadAt(t.Context(), key, make([]byte, c.length), int64(c.at)); err != nil {
			t.Fatal(err)
		}
		if calls, octets := counted.taken(); calls != c.calls || octets != c.octets {
			t.Errorf("%d octets at %d: %d reads of %d octets, want %d of %d", c.length, c.at, calls, octets, c.calls, c.octets)
		}
	}
	s = open(t, counted, w)
	counted.taken()
	if _, err := s.ReadAt(t.Context(), key, make([]byte, 4096), 100); err != nil {
		t.Fatal(err)
	}
	if calls, octets := counted.taken(); calls != 1 || octets != 56+16<<10+16+1 {
		t.Errorf("an unknown object's begin: %d reads of %d octets", calls, octets)
	}
}

// An object that another process deleted and made anew is read as it is now.
func TestMadeAnew(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	key := prefix + "/body/1"
	mine := open(t, memory, w)
	put(t, mine, key, []byte("before"))
	if got, err := all(mine, key, 10); err != nil || string(got) != "before" {
		t.Fatal(got, err)
	}
	theirs := open(t, memory, w)
	if err := theirs.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := all(mine, key, 10); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	for _, content := range []string{"after", "and once more"} {
		put(t, theirs, key, []byte(content))
		if got, err := all(mine, key, 20); err != nil || string(got) != content {
			t.Errorf("read %q, %v", got, err)
		}
		if err := theirs.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

// A Store is of its shard, and keeps the keys' place to itself.
func TestOtherPlaces(t *testing.T) {
	memory := blobtest.NewMemory()
	put(t, memory, "eu/shard-0008/ledger/1", []byte("another shard's"))
	put(t, memory, "eu/shard-00070/ledger/1", []byte("another shard's"))
	s := open(t, memory, wrapper(t))
	put(t, s, prefix+"/ledger/1", []byte("ours"))
	for _, key := range []string{"eu/shard-0008/ledger/1", "eu/shard-00070/ledger/1", prefix, prefix + "/key", prefix + "/key/0000000001", prefix + "/key/x"} {
		_, readErr := all(s, key, 10)
		for what, err := range map[string]error{
			"Create": s.Create(t.Context(), key, strings.NewReader("x"), 1), "Delete": s.Delete(t.Context(), key), "ReadAt": readErr,
		} {
			if err == nil {
				t.Errorf("%s(%s) is taken", what, key)
			}
		}
	}
	for _, listed := range []string{"", "eu", "eu/shard-0007", prefix + "/", prefix + "/ledger"} {
		if got := keys(t, s, listed); !slices.Equal(got, []string{prefix + "/ledger/1"}) {
			t.Errorf("List(%q) = %q", listed, got)
		}
	}
	for _, listed := range []string{"eu/shard-0008", "za", prefix + "/key/", prefix + "/key"} {
		if got := keys(t, s, listed); len(got) > 0 {
			t.Errorf("List(%q) = %q", listed, got)
		}
	}
	if len(keys(t, memory, "")) != 4 {
		t.Errorf("stored: %q", keys(t, memory, ""))
	}
}
