package sealed

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
)

// sealing reads a body and yields the sealed object, a segment in memory at a time.
type sealing struct {
	src    io.Reader
	aead   cipher.AEAD
	size   int64
	left   int64  // octets of the body not yet read
	number uint32 // of the next segment
	buffer []byte
	ready  []byte // sealed, to be yielded
	fail   error
}

func (s *Store) newSealing(key string, body io.Reader, size int64) (*sealing, error) {
	h := newHeader(s.current)
	derived, err := h.objectKey(s.data, key)
	if err != nil {
		return nil, err
	}
	aead, err := derived.cipher()
	if err != nil {
		return nil, err
	}
	return &sealing{
		src: body, aead: aead, size: size, left: size, ready: h.encode(),
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
	plain := s.buffer[:min(s.left, segmentSize)]
	if n, err := io.ReadFull(s.src, plain); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the body ended after %d of %d octets: %w", s.size-s.left+int64(n), s.size, io.ErrUnexpectedEOF)
		}
		return fmt.Errorf("reading the body: %w", err)
	}
	s.left -= int64(len(plain))
	if s.left == 0 {
		if err := s.ended(); err != nil {
			return err
		}
	}
	s.ready = s.aead.Seal(plain[:0], nonce(s.number, s.left == 0), plain, nil)
	s.number++
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
