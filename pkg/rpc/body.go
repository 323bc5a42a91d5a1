package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var (
	errBodyLength = errors.New("body is not as long as its envelope says")
	errBodyTwice  = errors.New("a body that is streamed can be opened only once")
	errBodyLate   = errors.New("read of a body after its delivery ended")
)

// receiver is the part of a stream that an arrival needs.
type receiver interface{ RecvMsg(m any) error }

// arrival is a body on its way in: a maildrop.Body. Up to maxBuffered it is read
// whole, else it is the stream itself and can be opened once.
type arrival struct {
	stream     receiver
	wire, size uint64
	whole      []byte // nil: streamed
	opened     bool   // of a streamed one
	current    *frame // what was received last
	got        uint64 // octets received
	err        error  // sticky
}

func (a *arrival) Wire() uint64 { return a.wire }
func (a *arrival) Size() uint64 { return a.size }

// readAll receives the whole body.
func (a *arrival) readAll() error {
	whole := make([]byte, a.wire)
	_, _ = io.ReadFull(arrivalReader{a}, whole) // whatever stops it, next says again
	if err := a.next(); !errors.Is(err, io.EOF) {
		return err
	}
	a.whole = whole
	return nil
}

// Open returns a reader at the first octet. See the package comment.
func (a *arrival) Open() (io.ReadCloser, error) {
	switch {
	case a.whole != nil || a.wire == 0:
		return io.NopCloser(bytes.NewReader(a.whole)), nil
	case a.opened:
		return nil, &maildrop.Error{Op: "rpc.body", Kind: maildrop.Internal, Err: errBodyTwice}
	}
	a.opened = true
	return arrivalReader{a}, nil
}

// Whole is the body when it was read whole, else nil. Nobody changes it.
func (a *arrival) Whole() []byte { return a.whole }

// close ends the use of the body: its delivery is over.
func (a *arrival) close() {
	if a.current != nil {
		a.current.close()
		a.current = nil
	}
	if a.err == nil {
		a.err = errBodyLate
	}
}

// next receives until there is something to read. It holds that the sender keeps
// to the length it declared.
func (a *arrival) next() error {
	for a.err == nil && (a.current == nil || a.current.reader.Remaining() == 0) {
		f := &frame{field: fieldDeliverData}
		switch err := a.stream.RecvMsg(f); {
		case errors.Is(err, io.EOF) && a.got == a.wire:
			a.err = io.EOF
		case errors.Is(err, io.EOF):
			a.err = invalid("rpc.deliver", fmt.Sprintf("%v: %d octets of %d", errBodyLength, a.got, a.wire))
		case err != nil:
			a.err = FromStatus("rpc.deliver", err, false)
		default:
			a.take(f)
		}
	}
	return a.err
}

func (a *arrival) take(f *frame) {
	a.got += uint64(f.reader.Remaining())
	if a.got > a.wire {
		f.close()
		a.err = invalid("rpc.deliver", fmt.Sprintf("%v: more than %d octets", errBodyLength, a.wire))
		return
	}
	if a.current != nil {
		a.current.close()
	}
	a.current = f
}

// arrivalReader reads an arrival's octets off the network.
type arrivalReader struct{ a *arrival }

func (r arrivalReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.a.next(); err != nil {
		return 0, err
	}
	return r.a.current.reader.Read(p)
}

// WriteTo hands the octets on in the pieces they came in.
func (r arrivalReader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		switch err := r.a.next(); {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
		k, err := r.a.current.writeTo(w)
		r.a.current = nil
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

func (arrivalReader) Close() error { return nil }
