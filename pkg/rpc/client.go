package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Client is a maildrop.Service at another process. Its calls fail fast: an
// address that doesn't answer is Transient, and the caller decides what next.
type Client struct {
	pool    *Pool
	address string

	mu     sync.Mutex
	conn   *grpc.ClientConn // nil: none at the moment
	narrow *grpc.ClientConn // the same, for messages that are read while many others are
	calls  int              // that run
	used   time.Time        // when the last one ended
	closed bool

	feed     *feed          // for what comes next; nil: none yet
	feeds    sync.WaitGroup // their goroutines
	feedless time.Time      // the server knew none; until then it isn't asked again
}

var _ maildrop.Service = (*Client)(nil)

// call is one unary call. changes: it may change something at the server.
func (c *Client) call(ctx context.Context, op, method string, in, out any, changes bool) (err error) {
	start := time.Now()
	defer func() { c.pool.meter.observe(method, start, err) }()
	conn, err := c.acquire(op, false)
	if err != nil {
		return err
	}
	defer c.release()
	var reached peer.Peer // stays empty when the call never left
	err = conn.Invoke(ctx, method, in, out, grpc.Peer(&reached))
	return c.failed(op, err, changes && reached.Addr != nil)
}

// failed is FromStatus with the server's address in the cause.
func (c *Client) failed(op string, err error, changes bool) error {
	return c.located(FromStatus(op, err, changes))
}

func (c *Client) located(err error) error {
	var e *maildrop.Error
	if errors.As(err, &e) {
		e.Err = fmt.Errorf("at %s: %w", c.address, e.Err)
	}
	return err
}

// stream opens a stream of the method and calls use with it. However use ends,
// the stream is over then.
func (c *Client) stream(ctx context.Context, op, method string, desc *grpc.StreamDesc, narrow bool, use func(grpc.ClientStream) error) (err error) {
	start := time.Now()
	defer func() { c.pool.meter.observe(method, start, err) }()
	conn, err := c.acquire(op, narrow)
	if err != nil {
		return err
	}
	defer c.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, desc, method)
	if err != nil {
		return c.failed(op, err, false)
	}
	return use(stream)
}

// answers opens a stream of answers to one message. Each is received by recv
// until it says io.EOF; an error of the stream is op's, one of *maildrop.Error
// is passed on.
func (c *Client) answers(ctx context.Context, op, method string, in any, recv func(grpc.ClientStream) error) error {
	return c.answersBy(ctx, op, method, false, in, recv)
}

// answersBy is answers by a connection with narrow windows or wide ones.
func (c *Client) answersBy(ctx context.Context, op, method string, narrow bool, in any, recv func(grpc.ClientStream) error) error {
	desc := &grpc.StreamDesc{ServerStreams: true}
	return c.stream(ctx, op, method, desc, narrow, func(stream grpc.ClientStream) error {
		err := stream.SendMsg(in)
		if err == nil {
			err = stream.CloseSend()
		}
		if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the server's error is to be received
			return c.failed(op, err, false)
		}
		for {
			err := recv(stream)
			var ours *maildrop.Error // before io.EOF: it may wrap a writer's
			switch {
			case errors.As(err, &ours):
				return err
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return c.failed(op, err, false)
			}
		}
	})
}

// Challenge begins a login by SCRAM at the server.
func (c *Client) Challenge(ctx context.Context, login maildrop.Login) (maildrop.Challenge, error) {
	var out posternv1.ChallengeResponse
	in := &posternv1.ChallengeRequest{Address: string(login.Address), Remote: login.Remote.AsSlice(), Session: login.Session}
	if err := c.call(ctx, "rpc.challenge", posternv1.Maildrop_Challenge_FullMethodName, in, &out, false); err != nil {
		return maildrop.Challenge{}, err
	}
	return challengeFromWire(&out), nil
}

// Open verifies a user at the server.
func (c *Client) Open(ctx context.Context, login maildrop.Login) (maildrop.Drop, error) {
	var out posternv1.OpenResponse
	if err := c.call(ctx, "rpc.open", posternv1.Maildrop_Open_FullMethodName, loginToWire(login), &out, false); err != nil {
		return nil, err
	}
	d := &drop{client: c, info: infoFromWire(&out), token: out.GetToken()}
	if d.info.Count <= inlineListing {
		l := maildrop.NewListing(d.info.Count, d.info.Count*typicalUID)
		if err := appendListing(l, out.GetListing()); err == nil && l.Len() == d.info.Count {
			d.listing = l
		}
	}
	return d, nil
}

// Resume makes a Drop of a session's token. It does no I/O.
func (c *Client) Resume(_ context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return &drop{client: c, info: info, token: token}, nil
}

// Accept asks whether mail to a recipient would be taken.
func (c *Client) Accept(ctx context.Context, to maildrop.Recipient) error {
	in := &posternv1.AcceptRequest{Address: string(to.Address), Session: to.Session}
	if c.feedable() {
		call := &posternv1.FeedCall{What: &posternv1.FeedCall_Accept{Accept: in}}
		err := c.fed(ctx, posternv1.Maildrop_Accept_FullMethodName, &letter{op: "rpc.accept", call: call})
		if !errors.Is(err, errFeedless) {
			return err
		}
	}
	return c.call(ctx, "rpc.accept", posternv1.Maildrop_Accept_FullMethodName, in, &posternv1.AcceptResponse{}, false)
}

// PutAddress writes an address record.
func (c *Client) PutAddress(ctx context.Context, record maildrop.AddressRecord) error {
	in := &posternv1.PutAddressRequest{Record: recordToWire(record)}
	return c.call(ctx, "rpc.put-address", posternv1.Maildrop_PutAddress_FullMethodName, in, &posternv1.PutAddressResponse{}, true)
}

// Address reads an address record.
func (c *Client) Address(ctx context.Context, address maildrop.Address) (maildrop.AddressRecord, error) {
	var out posternv1.AddressRecord
	in := &posternv1.GetAddressRequest{Address: string(address)}
	if err := c.call(ctx, "rpc.address", posternv1.Maildrop_GetAddress_FullMethodName, in, &out, false); err != nil {
		return maildrop.AddressRecord{}, err
	}
	return recordFromWire(&out), nil
}

// RemoveAddress ends an address.
func (c *Client) RemoveAddress(ctx context.Context, address maildrop.Address) error {
	in := &posternv1.RemoveAddressRequest{Address: string(address)}
	return c.call(ctx, "rpc.remove-address", posternv1.Maildrop_RemoveAddress_FullMethodName, in, &posternv1.RemoveAddressResponse{}, true)
}

// Addresses lists an account's records, as far as the server answers for them.
func (c *Client) Addresses(ctx context.Context, account string) (records []maildrop.AddressRecord, err error) {
	const op = "rpc.addresses"
	in := &posternv1.ListAddressesRequest{Account: account}
	err = c.answers(ctx, op, posternv1.Maildrop_ListAddresses_FullMethodName, in, func(stream grpc.ClientStream) error {
		var out posternv1.AddressRecord
		if err := stream.RecvMsg(&out); err != nil {
			return err
		}
		if len(records) == maxRecords {
			return &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: fmt.Errorf("more than %d addresses", maxRecords)}
		}
		records = append(records, recordFromWire(&out))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}
