package sealed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

type mirroredBody struct {
	*bytes.Reader
	mirror int64
}

func (b mirroredBody) Mirror() int64 { return b.mirror }

// twoSides is octets with a gap before the second side.
func twoSides(first, second int) (content []byte, mirror int64) {
	content = make([]byte, first+blob.MirrorGap+second)
	source := rand.NewChaCha8([32]byte{byte(first), byte(second)})
	_, _ = source.Read(content)
	clear(content[first : first+blob.MirrorGap])
	return content, int64(first + blob.MirrorGap)
}

// Objects of two sides have the sizes that lists say, and are read like others,
// whatever the sides' sizes.
func TestTwoSides(t *testing.T) {
	memory, w := blobtest.NewMemory(), testWrapper(t)
	s, err := Open(t.Context(), memory, "", w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{1, 15, 16, 17, 400, segmentSize - 17, segmentSize - 16, segmentSize - 15, segmentSize - 1, segmentSize, segmentSize + 1, 3*segmentSize - 8, 3 * segmentSize}
	for _, first := range sizes {
		for _, second := range sizes {
			content, mirror := twoSides(first, second)
			if err := s.Create(t.Context(), "x", mirroredBody{bytes.NewReader(content), mirror}, int64(len(content))); err != nil {
				t.Fatal(err)
			}
			for info := range s.List(t.Context(), "", "") {
				if info.Size != int64(len(content)) {
					t.Errorf("%d and %d: listed with %d octets, want %d", first, second, info.Size, len(content))
				}
			}
			for range 40 {
				s.known.drop("x")
				from := rand.IntN(len(content) + 2)
				p := make([]byte, 1+rand.IntN(len(content)))
				want := content[min(from, len(content)):min(from+len(p), len(content))]
				if n, err := s.ReadAt(t.Context(), "x", p, int64(from)); !bytes.Equal(p[:n], want) || (err != nil) != (n < len(p)) || err != nil && !errors.Is(err, io.EOF) {
					t.Fatalf("%d and %d: read %d of %d octets from %d: %v", first, second, n, len(p), from, err)
				}
			}
			if err := s.Delete(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// No octet that is damaged hits both sides.
func TestOneSideIsLeft(t *testing.T) {
	memory, w := blobtest.NewMemory(), testWrapper(t)
	s, err := Open(t.Context(), memory, "", w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	content, mirror := twoSides(300, 200)
	if err := s.Create(t.Context(), "x", mirroredBody{bytes.NewReader(content), mirror}, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	for octet := range sealedSize(int64(len(content))) {
		flip := func(b []byte) []byte { b[octet] ^= 8; return b }
		memory.Alter("x", flip)
		s.known.drop("x")
		a, b := make([]byte, 300), make([]byte, 200)
		_, errA := s.ReadAt(context.Background(), "x", a, 0)
		_, errB := s.ReadAt(context.Background(), "x", b, mirror)
		if errA != nil && errB != nil || errA == nil && !bytes.Equal(a, content[:300]) || errB == nil && !bytes.Equal(b, content[mirror:]) {
			t.Errorf("octet %d: %v and %v", octet, errA, errB)
		}
		if octet >= headerSize && errA == nil && errB == nil {
			t.Errorf("octet %d: not noticed", octet)
		}
		memory.Alter("x", flip)
	}
}

// What the first release sealed is read.
func TestVersion1(t *testing.T) {
	memory, w := blobtest.NewMemory(), testWrapper(t)
	s, err := Open(t.Context(), memory, "", w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	content, _ := twoSides(segmentSize, 100)
	h := newHeader(1, 0, 0)
	h.version = 1
	key, err := h.objectKey(s.data, "x")
	if err != nil {
		t.Fatal(err)
	}
	aead, err := key.cipher()
	if err != nil {
		t.Fatal(err)
	}
	stored := h.encode()
	stored = aead.Seal(stored, nonce(0, false), content[:segmentSize], nil)
	stored = aead.Seal(stored, nonce(1, true), content[segmentSize:], nil)
	if err := memory.Create(t.Context(), "x", bytes.NewReader(stored), int64(len(stored))); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, len(content))
	if n, err := s.ReadAt(t.Context(), "x", p, 0); n != len(p) || err != nil || !bytes.Equal(p, content) {
		t.Errorf("%d octets, %v", n, err)
	}
}
