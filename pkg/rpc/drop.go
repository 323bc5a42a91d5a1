package rpc

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// drop is an open maildrop at another process: what Open said of it, and the
// token that each call shows.
type drop struct {
	client  *Client
	info    maildrop.Info
	token   []byte
	listing *maildrop.Listing // nil: not fetched yet

	expected []maildrop.UID // that will be read after the next one, by the caller's guess
	ahead    *fetch         // messages on their way; nil: none
}

var _ maildrop.Expecter = (*drop)(nil)

// Info is what Open answered with.
func (d *drop) Info() maildrop.Info { return d.info }

// Token is the session's token, the latest that the server gave.
func (d *drop) Token() []byte { return d.token }

// Close ends the use of the drop. The server keeps nothing of it.
func (d *drop) Close() error {
	d.forget()
	return nil
}

// List returns the snapshot's listing: the one that came with Open, else the
// server's. Callers don't change it.
func (d *drop) List(ctx context.Context) (*maildrop.Listing, error) {
	const op = "rpc.list"
	if d.listing != nil {
		return d.listing, nil
	}
	in := &posternv1.ListRequest{Address: string(d.info.Address), Token: d.token}
	l, err := d.client.listing(ctx, op, posternv1.Maildrop_List_FullMethodName, in, d.info.Count)
	if err != nil {
		return nil, err
	}
	d.listing = l
	return l, nil
}

// listing asks for a listing of so many messages, about.
func (c *Client) listing(ctx context.Context, op, method string, in any, count int) (*maildrop.Listing, error) {
	count = min(count, maxListing)
	l := maildrop.NewListing(count, count*typicalUID)
	err := c.answers(ctx, op, method, in, func(stream grpc.ClientStream) error {
		var part posternv1.Listing
		if err := stream.RecvMsg(&part); err != nil {
			return err
		}
		err := appendListing(l, &part)
		if err == nil && l.Len() > maxListing {
			err = fmt.Errorf("listing of more than %d messages", maxListing)
		}
		if err != nil {
			return &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Read streams a message to w. One that is on its way already isn't asked for again.
func (d *drop) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	if n, err := d.readAhead(ctx, uid, offset, w); n > 0 || err == nil {
		return n, err
	}
	return d.readOne(ctx, uid, offset, w)
}

func (d *drop) readOne(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (n uint64, err error) {
	const op = "rpc.read"
	wide := d.client.pool.widen()
	if wide {
		defer d.client.pool.narrowDown()
	}
	in := &posternv1.ReadRequest{Address: string(d.info.Address), Token: d.token, Uid: string(uid), Offset: offset, Small: !wide}
	err = d.client.answersBy(ctx, op, posternv1.Maildrop_Read_FullMethodName, !wide, in, func(stream grpc.ClientStream) error {
		f := frame{field: fieldReadData}
		if err := stream.RecvMsg(&f); err != nil {
			return err
		}
		k, err := f.writeTo(w)
		n += k
		if err != nil {
			return canceled(op, err)
		}
		return nil
	})
	return n, err
}

// Remove removes messages at the server.
func (d *drop) Remove(ctx context.Context, uids []maildrop.UID) error {
	in := &posternv1.RemoveRequest{Address: string(d.info.Address), Token: d.token, Uids: uidsToWire(uids)}
	return d.client.call(ctx, "rpc.remove", posternv1.Maildrop_Remove_FullMethodName, in, &posternv1.RemoveResponse{}, true)
}

// Check asks whether the session may go on, and takes the renewed token.
func (d *drop) Check(ctx context.Context) error {
	var out posternv1.CheckResponse
	in := &posternv1.CheckRequest{Address: string(d.info.Address), Token: d.token}
	err := d.client.call(ctx, "rpc.check", posternv1.Maildrop_Check_FullMethodName, in, &out, false)
	if err == nil && len(out.GetToken()) > 0 {
		d.token = out.GetToken()
	}
	return err
}
