package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

// exact reads a body of exactly so many octets. It gives the last ones away
// only when the body has ended after them.
type exact struct {
	src        io.Reader
	size, done int64 // octets
}

// fill reads all of p. The body must go on for so long, and end when size is
// reached.
func (e *exact) fill(p []byte) error {
	n, err := io.ReadFull(e.src, p)
	e.done += int64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the body ended after %d of %d octets: %w", e.done, e.size, io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("reading the body: %w", err)
	case e.done < e.size:
		return nil
	}
	var more [1]byte
	switch n, err := io.ReadFull(e.src, more[:]); {
	case n > 0:
		return fmt.Errorf("the body goes on after %d octets", e.size)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
}

// Read implements io.Reader.
func (e *exact) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), e.size-e.done)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	if err := e.fill(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// outgoing is a body on its way into a connection. The connection may read on
// after its request has ended; the caller's body is never read then.
type outgoing struct {
	progress func()

	mu      sync.Mutex
	src     io.Reader
	left    int64 // octets not yet given to the connection
	stopped bool
	fail    error // of src
}

func newOutgoing(ctx context.Context, src io.Reader, size int64) *outgoing {
	return &outgoing{src: src, left: size, progress: exchangeOf(ctx).progress}
}

// Read implements io.Reader.
func (o *outgoing) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return 0, errStopped
	}
	o.progress()
	n, err := o.src.Read(p)
	o.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		o.fail = err
	}
	return n, err
}

// stop ends the reading. whole reports whether the connection has had all of
// the body: if not, no server ever will.
func (o *outgoing) stop() (whole bool, fail error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	return o.left <= 0, o.fail
}

// piece is a body, or a part of one, that is in memory.
type piece struct {
	content io.ReaderAt
	size    int64  // octets
	sum     string // SHA-256 in hex
	release func() // gives the memory back
}

// reader reads the piece from its beginning.
func (p piece) reader() io.Reader { return io.NewSectionReader(p.content, 0, p.size) }

// load takes a whole body of at most partSize octets into memory.
func (s *Store) load(ctx context.Context, body io.Reader, size int64) (piece, error) {
	switch held := body.(type) {
	case *bytes.Reader:
		return borrow(held, size)
	case interface {
		inMemory
		blob.Mirrored
	}:
		return borrow(held, size)
	}
	return s.loadPart(ctx, &exact{src: body, size: size}, size)
}

// inMemory is a bytes.Reader, or what holds one.
type inMemory interface {
	io.Reader
	io.ReaderAt
	Len() int
	Size() int64
}

// borrow uses what is in memory already.
func borrow(body inMemory, size int64) (piece, error) {
	sum := sha256.New()
	begin := body.Size() - int64(body.Len())
	if _, err := io.Copy(sum, &exact{src: body, size: size}); err != nil {
		return piece{}, err
	}
	return piece{
		content: io.NewSectionReader(body, begin, size), size: size,
		sum: hex.EncodeToString(sum.Sum(nil)), release: func() {},
	}, nil
}

// loadPart takes the next size octets of a body into memory, and waits for
// room there.
func (s *Store) loadPart(ctx context.Context, body *exact, size int64) (piece, error) {
	if err := s.memory.Acquire(ctx, size); err != nil {
		return piece{}, err
	}
	buffer, giveBack := s.buffer(size)
	release := func() {
		giveBack()
		s.memory.Release(size)
	}
	if err := body.fill(buffer); err != nil {
		release()
		return piece{}, err
	}
	sum := sha256.Sum256(buffer)
	return piece{content: bytes.NewReader(buffer), size: size, sum: hex.EncodeToString(sum[:]), release: release}, nil
}

// buffer makes a small buffer, and takes a large one from those used before.
func (s *Store) buffer(size int64) (buffer []byte, giveBack func()) {
	if size < partSize/4 {
		return make([]byte, size), func() {}
	}
	part := s.parts.Get().(*[partSize]byte)
	return part[:size], func() { s.parts.Put(part) }
}
