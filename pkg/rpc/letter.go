package rpc

import (
	"encoding/binary"
	"io"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// The numbers of FeedRequest's fields, which are framed by hand; see maildrop.proto.
const (
	fieldFeedCall = 1
	fieldFeedData = 2
)

// letter is a FeedRequest on its way out.
type letter struct {
	op      string
	call    *posternv1.FeedCall
	body    mem.Buffer // nil: none
	changes bool       // it is a Deliver
	done    chan error // of one answer; written to with the feed's lock held
}

// encode frames the body where it lies.
func (l *letter) encode() (mem.BufferSlice, error) {
	size := proto.Size(l.call)
	head := make([]byte, 0, size+4*binary.MaxVarintLen64)
	head = protowire.AppendTag(head, fieldFeedCall, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	head, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(head, l.call)
	if err != nil || l.body == nil {
		return mem.BufferSlice{mem.SliceBuffer(head)}, err
	}
	head = protowire.AppendTag(head, fieldFeedData, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(l.body.Len()))
	return mem.BufferSlice{mem.SliceBuffer(head), l.body}, nil
}

// parcel is a FeedRequest that came in. Its body stays in the transport's buffers until
// it is read or closed.
type parcel struct {
	call posternv1.FeedCall
	body *mem.Reader // nil: none
}

func (p *parcel) decode(data mem.BufferSlice) error {
	r := data.Reader()
	call, err := field(r, fieldFeedCall)
	if err != nil || len(call) == 0 && r.Remaining() > 0 {
		r.Close()
		return p.decodeSlowly(data.Materialize())
	}
	if err := proto.Unmarshal(call, &p.call); err != nil {
		r.Close()
		return err
	}
	if r.Remaining() == 0 {
		return r.Close()
	}
	tag, err := binary.ReadUvarint(r)
	if err == nil && tag == protowire.EncodeTag(fieldFeedData, protowire.BytesType) {
		if size, err := binary.ReadUvarint(r); err == nil && size == uint64(r.Remaining()) {
			p.body = r
			return nil
		}
	}
	r.Close()
	return p.decodeSlowly(data.Materialize())
}

// field reads a field of that number, if it comes next; short ones only.
func field(r *mem.Reader, number protowire.Number) ([]byte, error) {
	tag, err := binary.ReadUvarint(r)
	if err != nil || tag != protowire.EncodeTag(number, protowire.BytesType) {
		return nil, errFrame
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > uint64(r.Remaining()) || size > maxHeader {
		return nil, errFrame
	}
	octets := make([]byte, size)
	_, err = io.ReadFull(r, octets)
	return octets, err
}

// decodeSlowly takes what a sender of a later version may have added.
func (p *parcel) decodeSlowly(b []byte) error {
	var whole posternv1.FeedRequest
	if err := proto.Unmarshal(b, &whole); err != nil {
		return err
	}
	proto.Reset(&p.call)
	if whole.GetCall() != nil {
		proto.Merge(&p.call, whole.GetCall())
	}
	p.body = mem.BufferSlice{mem.SliceBuffer(whole.GetData())}.Reader()
	return nil
}

// size is how many octets of body there are.
func (p *parcel) size() int {
	if p.body == nil {
		return 0
	}
	return p.body.Remaining()
}

// take reads the body.
func (p *parcel) take() ([]byte, error) {
	whole := make([]byte, p.size())
	if len(whole) == 0 {
		return nil, nil
	}
	_, err := io.ReadFull(p.body, whole)
	return whole, err
}

func (p *parcel) close() {
	if p.body != nil {
		p.body.Close()
		p.body = nil
	}
}
