package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Deliver sends a message to the server, by the method Import when its envelope
// has a UID or a time of its own. As long as the last octets of the body weren't
// handed over nothing can have been stored, whatever breaks.
func (c *Client) Deliver(ctx context.Context, envelope maildrop.Envelope, body maildrop.Body) error {
	const op = "rpc.deliver"
	method := posternv1.Maildrop_Deliver_FullMethodName
	if imported(envelope) {
		method = posternv1.Maildrop_Import_FullMethodName
	} else if body.Wire() <= chunkOctets && c.feedable() {
		if err := c.deliverFed(ctx, op, envelope, body); !errors.Is(err, errFeedless) {
			return err
		}
	}
	return c.deliver(ctx, op, method, envelopeToWire(envelope, body), body)
}

// deliver sends an envelope and a body to a method that takes them.
func (c *Client) deliver(ctx context.Context, op, method string, envelope *posternv1.Envelope, body maildrop.Body) error {
	if body.Wire() > maxBody {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("body of %d octets, the most is %d", body.Wire(), maxBody)}
	}
	r, err := body.Open()
	if err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
	}
	defer r.Close()
	desc := &grpc.StreamDesc{ClientStreams: true}
	return c.stream(ctx, op, method, desc, false, func(stream grpc.ClientStream) error {
		d := &departure{stream: stream, chunks: c.pool.chunks, body: r, left: body.Wire()}
		err := d.send(envelope)
		var local *maildrop.Error
		if errors.As(err, &local) {
			return err
		}
		if err == nil || errors.Is(err, io.EOF) { // io.EOF: the server has answered already
			err = stream.RecvMsg(&posternv1.DeliverResponse{})
		}
		return c.failed(op, err, d.complete)
	})
}

// deliverFed sends a message that is small enough for it by the feed.
func (c *Client) deliverFed(ctx context.Context, op string, envelope maildrop.Envelope, body maildrop.Body) error {
	octets, err := c.fedBody(op, body)
	if err != nil {
		return err
	}
	call := &posternv1.FeedCall{What: &posternv1.FeedCall_Envelope{Envelope: envelopeToWire(envelope, body)}}
	return c.fed(ctx, posternv1.Maildrop_Deliver_FullMethodName, &letter{op: op, call: call, body: octets, changes: true})
}

// departure is one body on its way out.
type departure struct {
	stream   grpc.ClientStream
	chunks   *chunks
	body     io.Reader
	left     uint64 // octets not yet handed over
	complete bool   // the server may have the whole message
}

// send sends the envelope and the body. An error of *maildrop.Error is about the
// body, any other is the stream's.
func (d *departure) send(envelope *posternv1.Envelope) error {
	if d.left == 0 {
		if err := d.atEnd(); err != nil {
			return err
		}
		d.complete = true
	}
	if err := d.stream.SendMsg(&posternv1.DeliverRequest{Envelope: envelope}); err != nil {
		return err
	}
	for d.left > 0 {
		if err := d.sendChunk(); err != nil {
			return err
		}
	}
	return d.stream.CloseSend()
}

func (d *departure) sendChunk() error {
	chunk := d.chunks.Get(int(min(d.left, chunkOctets)))
	if _, err := io.ReadFull(d.body, *chunk); err != nil {
		d.chunks.Put(chunk)
		return unreadable(err)
	}
	d.left -= uint64(len(*chunk))
	if d.left == 0 {
		if err := d.atEnd(); err != nil {
			d.chunks.Put(chunk)
			return err
		}
		d.complete = true
	}
	w := chunkWriter{stream: d.stream, field: fieldDeliverData, chunks: d.chunks, chunk: chunk}
	return w.flush()
}

// atEnd holds that the body ends where it said.
func (d *departure) atEnd() error {
	var one [1]byte
	if _, err := io.ReadFull(d.body, one[:]); err == nil {
		return &maildrop.Error{Op: "rpc.deliver", Kind: maildrop.Internal, Err: errBodyLength}
	} else if !errors.Is(err, io.EOF) {
		return unreadable(err)
	}
	return nil
}

// unreadable is the error of a body that can't be read here: the server stores
// nothing of it.
func unreadable(err error) error {
	kind := maildrop.Transient
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		kind, err = maildrop.Internal, errBodyLength
	}
	return &maildrop.Error{Op: "rpc.deliver", Kind: kind, Err: err}
}
