package admin

import (
	"bytes"
	"errors"
	"io"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
)

var errOnce = errors.New("a message that is streamed can be opened only once")

// importBody is a message on its way in: a maildrop.Body. Up to maxHeld it is
// read whole and can be opened any number of times, else it is the stream itself
// and can be opened once. It never takes more from the stream than the head
// said: what follows is the next message.
type importBody struct {
	stream     importStream
	wire, size uint64
	whole      []byte // nil: streamed
	opened     bool   // of a streamed one
	left       uint64 // octets not yet received
	chunk      []byte // received, not yet read
	err        error  // of the stream; sticky
}

// Wire implements maildrop.Body.
func (b *importBody) Wire() uint64 { return b.wire }

// Size implements maildrop.Body.
func (b *importBody) Size() uint64 { return b.size }

// Open implements maildrop.Body.
func (b *importBody) Open() (io.ReadCloser, error) {
	switch {
	case b.whole != nil:
		return io.NopCloser(bytes.NewReader(b.whole)), nil
	case b.opened:
		return nil, &maildrop.Error{Op: "admin.import", Kind: maildrop.Transient, Err: errOnce}
	}
	b.opened = true
	return io.NopCloser(importReader{b}), nil
}

// hold receives the whole message.
func (b *importBody) hold() error {
	whole := make([]byte, b.wire)
	if _, err := io.ReadFull(importReader{b}, whole); err != nil {
		return err
	}
	b.whole = whole
	return nil
}

// skip receives what is left of a message that nobody wants.
func (b *importBody) skip() error {
	_, err := io.Copy(io.Discard, importReader{b})
	return err
}

// receive takes the next octets off the stream.
func (b *importBody) receive() error {
	in, err := b.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		b.err = &maildrop.Error{Op: "admin.import", Kind: maildrop.Canceled, Err: io.ErrUnexpectedEOF}
	case err != nil:
		b.err = rpc.FromStatus("admin.import", err, false)
	case len(in.GetData()) == 0 || uint64(len(in.GetData())) > b.left:
		b.err = refused("admin.import", "a message is not as long as its head says")
	default:
		b.chunk = in.GetData()
		b.left -= uint64(len(b.chunk))
	}
	return b.err
}

// importReader reads an importBody. A body has one reader at a time.
type importReader struct{ body *importBody }

// Read implements io.Reader.
func (r importReader) Read(p []byte) (int, error) {
	b := r.body
	for len(b.chunk) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.left == 0 {
			return 0, io.EOF
		}
		if err := b.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.chunk)
	b.chunk = b.chunk[n:]
	return n, nil
}
