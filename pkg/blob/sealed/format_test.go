package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

// testWrapper is a key-encryption key of this process.
func testWrapper(t testing.TB) *Wrapper {
	t.Helper()
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	w, err := (&keyFile{path: "test", handle: handle}).wrapper()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestSizesAreInverse(t *testing.T) {
	last := int64(0)
	for plain := int64(1); plain < 5*segmentSize; plain++ {
		stored := sealedSize(plain)
		if plainSize(stored) != plain {
			t.Fatalf("%d octets are stored as %d, and that is said to be %d", plain, stored, plainSize(stored))
		}
		for impossible := last + 1; impossible < stored; impossible++ {
			if got := plainSize(impossible); got != 0 {
				t.Fatalf("%d stored octets are said to be %d", impossible, got)
			}
		}
		last = stored
	}
	for _, stored := range []int64{-1, 0, headerSize, headerSize + tagSize, sealedSize(maxPlain) + 1, 1 << 62, 1<<63 - 1} {
		if got := plainSize(stored); got != 0 {
			t.Errorf("%d stored octets are said to be %d", stored, got)
		}
	}
	if got := plainSize(sealedSize(maxPlain)); got != maxPlain {
		t.Errorf("the largest object: %d", got)
	}
}

// The format is fixed: what was sealed once must open in every later release.
func TestObjectOfVersion1(t *testing.T) {
	data := newSecret([]byte(strings.Repeat("k", keySize)))
	h := header{version: 1, generation: 3}
	copy(h.salt[:], strings.Repeat("s", saltSize))
	key, err := h.objectKey(data, "eu/shard-0007/body/x")
	if err != nil {
		t.Fatal(err)
	}
	const wantKey = "eb54d00f50f9b3f88df29ebdacaecc841c63141e7dedb9ad622944e0bbc72ffe" // by another implementation of RFC 5869
	if got := fmt.Sprintf("%x", *key.reveal()); got != wantKey {
		t.Errorf("object key %s", got)
	}
	const wantHeader = "5053544e5345414c" + "0100" + "0000" + "03000000" + "00400000" + "00000000"
	if got := fmt.Sprintf("%x", h.encode()[:atSalt]); got != wantHeader {
		t.Errorf("header %s", got)
	}
	if got := fmt.Sprintf("%x %x", nonce(0x01020304, false), nonce(5, true)); got != "000000000000000102030400 000000000000000000000501" {
		t.Errorf("nonces %s", got)
	}
}

// No way to print a Store, or what it has, shows a key.
func TestKeysAreNotPrinted(t *testing.T) {
	store, err := Open(t.Context(), blobtest.NewMemory(), "eu/x", testWrapper(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := store.data.reveal()[:]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, what := range []any{store, store.ring, store.data, store.ring.keys, []*secret{store.data}, opened{key: store.data}} {
			printed := fmt.Sprintf(verb, what)
			for _, form := range []string{"%s", "%x", "%v", "%d", "%#v", "%q"} {
				shown := strings.Trim(fmt.Sprintf(form, data), "[]\"")
				if strings.Contains(printed, shown) {
					t.Errorf("%s of %s shows the key", verb, reflect.TypeOf(what))
				}
			}
		}
	}
}

func TestForbiddenModes(t *testing.T) {
	for _, c := range []struct {
		owner, me int
		want      uint32
	}{{0, 0, 0o077}, {1000, 1000, 0o077}, {1000, 0, 0o077}, {0, 1000, 0o037}, {-1, 1000, 0o077}} {
		if got := forbidden(c.owner, c.me); uint32(got) != c.want {
			t.Errorf("file of %d read by %d: %o, want %o", c.owner, c.me, got, c.want)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(3)
	for i := range 10 {
		c.put(fmt.Sprint(i), &opened{})
		c.take("0") // used all the time
	}
	if _, ok := c.take("0"); !ok || len(c.byKey) != 3 || c.order.Len() != 3 {
		t.Errorf("%d kept, the one used all the time: %t", len(c.byKey), ok)
	}
	c.drop("0")
	if _, ok := c.take("0"); ok || len(c.byKey) != 2 {
		t.Error("kept after drop")
	}
}

func TestSlots(t *testing.T) {
	for _, s := range []slot{{1, 0}, {1, 1}, {4294967295, 9999}, {12, 34}} {
		if got, ok := parseSlot(s.name()); !ok || got != s {
			t.Errorf("%s: %v, %t", s.name(), got, ok)
		}
	}
	for _, name := range []string{"", "1", "0000000000", "0000000001-", "0000000001-1", "0000000001-0000", "0000000001-10000", "4294967296", "+000000001", "0000000001-0001-0001", "x"} {
		if s, ok := parseSlot(name); ok {
			t.Errorf("%q is %v", name, s)
		}
	}
}

func FuzzKeyObject(f *testing.F) {
	w := testWrapper(f)
	good, err := w.wrap(context.Background(), "eu/x", 7, randomSecret())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:len(good)/2])
	f.Add([]byte(keyMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, damaged, err := decodeKeyObject(b)
		if err != nil {
			return
		}
		again, err := k.encode()
		if err != nil || damaged == nil && !bytes.Equal(again, b) && !bytes.Equal(again[len(again)/2:], b) {
			t.Errorf("decoded and encoded again: %x, %v", again, err)
		}
		if _, err := w.unwrap(t.Context(), "eu/x", k); err == nil && !bytes.Equal(again, good) {
			t.Error("unwrapped what was never wrapped")
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(newHeader(1, 0, 0).encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, damage := decodeHeader(b)
		if damage == "" && !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Errorf("%x decoded and encoded again: %x", b, h.encode())
		}
	})
}

// Whatever is stored under an object's name, what is read is what was sealed
// there, or nothing.
func FuzzStoredObject(f *testing.F) {
	memory, w := blobtest.NewMemory(), testWrapper(f)
	s, err := Open(context.Background(), memory, "", w, Options{})
	if err != nil {
		f.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<10+3)
	if err := s.Create(context.Background(), "x", bytes.NewReader(content), int64(len(content))); err != nil {
		f.Fatal(err)
	}
	stored := make([]byte, sealedSize(int64(len(content))))
	if _, err := memory.ReadAt(context.Background(), "x", stored, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(stored, uint(0), uint(100))
	f.Add(stored[:headerSize], uint(0), uint(100))
	f.Add(stored[:headerSize+sealedSegment], uint(20000), uint(10))
	f.Fuzz(func(t *testing.T, b []byte, offset, length uint) {
		memory.Alter("x", func([]byte) []byte { return b })
		s.known.drop("x")
		p := make([]byte, length%(1<<17))
		n, err := s.ReadAt(t.Context(), "x", p, int64(offset%(1<<17)))
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			if at := int(offset % (1 << 17)); n > 0 && (at+n > len(content) || !bytes.Equal(content[at:at+n], p[:n])) {
				t.Errorf("%d octets beside %v that weren't sealed there", n, err)
			}
		case n > 0 && !bytes.Contains(content, p[:n]):
			t.Errorf("read what was never sealed: %q", p[:n])
		case n == 0 && len(p) > 0 && int(offset%(1<<17)) < len(content):
			t.Error("an end where there is none")
		}
	})
}
