package sealed

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/blob"
)

// sealing reads a body and yields the sealed object, a segment in memory at a time.
type sealing struct {
	src    io.Reader
	aead   cipher.AEAD
	layout layout
	size   int64
	left   int64  // octets of the body not yet read
	number uint32 // of the next segment
	buffer []byte
	ready  []byte // sealed, to be yielded
	fail   error
}

func (s *Store) newSealing(key string, body io.Reader, size int64) (*sealing, error) {
	mirror, pads := divide(body, size)
	h := newHeader(s.current, mirror, pads)
	derived, err := h.objectKey(s.data, key)
	if err != nil {
		return nil, err
	}
	aead, err := derived.cipher()
	if err != nil {
		return nil, err
	}
	return &sealing{
		src: body, aead: aead, layout: h.layout(), size: size, left: size, ready: h.encode(),
		buffer: make([]byte, min(size, segmentSize)+tagSize),
	}, nil
}

// Read implements io.Reader.
func (s *sealing) Read(p []byte) (int, error) {
	if len(s.ready) == 0 && s.fail == nil {
		s.fail = s.fill()
	}
	if len(s.ready) == 0 {
		return 0, s.fail
	}
	n := copy(p, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

// fill seals the next segment. The last one waits until the body has ended
// where it should: without it the object is none.
func (s *sealing) fill() error {
	if s.left == 0 {
		return io.EOF
	}
	at := s.size - s.left
	if l := s.layout; l.mirror > 0 && at == l.first {
		return s.gap()
	}
	plain := s.buffer[:min(s.left, segmentSize, s.layout.side(at)-at)]
	if err := s.read(plain); err != nil {
		return err
	}
	if s.left == 0 {
		if err := s.ended(); err != nil {
			return err
		}
	}
	s.ready = s.aead.Seal(plain[:0], nonce(s.number, s.left == 0), plain, nil)
	s.number++
	return nil
}

// read reads the next octets of the body.
func (s *sealing) read(p []byte) error {
	n, err := io.ReadFull(s.src, p)
	s.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the body ended after %d of %d octets: %w", s.size-s.left, s.size, io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
}

// gap leaves the octets of the gap out, which are zero, and fills up to the size
// that the object has in lists.
func (s *sealing) gap() error {
	var gap [blob.MirrorGap]byte
	if err := s.read(gap[:]); err != nil {
		return err
	}
	if gap != [blob.MirrorGap]byte{} {
		return errors.New("the gap before the body's mirror isn't zero")
	}
	s.ready = make([]byte, s.layout.begin-s.layout.firstEnd())
	if len(s.ready) == 0 {
		return s.fill()
	}
	return nil
}

// ended finds out that the body has no more octets.
func (s *sealing) ended() error {
	var more [1]byte
	switch n, err := io.ReadFull(s.src, more[:]); {
	case n > 0:
		return fmt.Errorf("the body goes on after %d octets", s.size)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
}
