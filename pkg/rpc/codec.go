package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of all other messages
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers of the fields that are framed by hand; see maildrop.proto.
const (
	fieldReadData    = 1 // ReadResponse.data
	fieldReadEnd     = 2 // ReadResponse.end
	fieldDeliverData = 2 // DeliverRequest.data
)

var errFrame = errors.New("malformed message on the wire")

// codec is the protobuf codec with a short cut for messages that are mostly octets
// (frame, letter, parcel). It yields and takes exactly what the generated code does.
type codec struct{ proto encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Name is that of the protobuf codec: on the wire they are one.
func (codec) Name() string { return "proto" }

// Marshal encodes a message. A frame's buffers become the transport's.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *frame:
		return m.encode(), nil
	case *letter:
		return m.encode()
	}
	return c.proto.Marshal(v)
}

// Unmarshal decodes a message. A frame keeps the transport's buffers until it
// is closed.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *frame:
		return m.decode(data)
	case *parcel:
		return m.decode(data)
	}
	return c.proto.Unmarshal(data, v)
}

// frame is a message with one bytes field: a piece of a mail body.
type frame struct {
	field  protowire.Number
	data   mem.Buffer  // to be sent
	reader *mem.Reader // received
	end    bool        // received: fieldReadEnd, of a ReadResponse
}

func (f *frame) encode() mem.BufferSlice {
	head := protowire.AppendTag(nil, f.field, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(f.data.Len()))
	return mem.BufferSlice{mem.SliceBuffer(head), f.data}
}

func (f *frame) decode(data mem.BufferSlice) error {
	f.reader = data.Reader()
	if f.reader.Remaining() == 0 {
		return nil
	}
	tag, err := binary.ReadUvarint(f.reader)
	if err == nil && tag == protowire.EncodeTag(f.field, protowire.BytesType) {
		if size, err := binary.ReadUvarint(f.reader); err == nil && size == uint64(f.reader.Remaining()) {
			return nil
		}
	}
	f.close()
	return f.decodeSlowly(data.Materialize())
}

// decodeSlowly takes a message's end, and what a sender of a later version may have
// added.
func (f *frame) decodeSlowly(b []byte) error {
	var octets []byte
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errFrame
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return errFrame
		}
		switch {
		case number == f.field && kind == protowire.BytesType:
			octets, _ = protowire.ConsumeBytes(b[n:])
		case number == fieldReadEnd && f.field == fieldReadData && kind == protowire.VarintType:
			end, _ := protowire.ConsumeVarint(b[n:])
			f.end = end != 0
		}
		b = b[n+size:]
	}
	f.reader = mem.BufferSlice{mem.SliceBuffer(octets)}.Reader()
	return nil
}

func (f *frame) close() {
	if f.reader != nil {
		f.reader.Close()
		f.reader = nil
	}
}

// writeTo writes what the frame holds, in the pieces that it came in, and
// closes it. n is what w took.
func (f *frame) writeTo(w io.Writer) (n uint64, err error) {
	defer f.close()
	var space [24][]byte // a chunk comes in some 17 pieces
	pieces, err := f.reader.Peek(f.reader.Remaining(), space[:0])
	if err != nil {
		return 0, err
	}
	for _, p := range pieces {
		k, err := w.Write(p)
		n += uint64(max(0, k))
		if err == nil && k != len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// chunks is a pool of buffers of one size. gRPC's own pools have none of chunkOctets,
// and clear each buffer before it is filled.
type chunks struct {
	size int // octets
	pool sync.Pool
}

// Get returns a buffer of the given length, at most the pool's size.
func (c *chunks) Get(length int) *[]byte {
	b, ok := c.pool.Get().(*[]byte)
	if !ok {
		fresh := make([]byte, c.size)
		b = &fresh
	}
	*b = (*b)[:length]
	return b
}

// Put takes a buffer of Get back.
func (c *chunks) Put(b *[]byte) {
	*b = (*b)[:cap(*b)]
	c.pool.Put(b)
}
