package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// errNotFetched says that a message isn't on its way: it is to be asked for alone.
var errNotFetched = errors.New("not on its way")

// fetch is a call of Read that goes on with the messages that will be read next: they
// arrive while the one before is being read, as many octets as the window has.
type fetch struct {
	client *Client
	wide   bool // it has a place among those with wide windows
	cancel context.CancelFunc
	idle   *time.Timer

	mu     sync.Mutex
	stream grpc.ClientStream // nil: it has ended
	uids   []maildrop.UID    // that are to come, the first one at the stream's head
}

// Expect says what will be read after the next message.
func (d *drop) Expect(uids []maildrop.UID) { d.expected = uids[:min(len(uids), maxThen)] }

// forget lets go what is on its way.
func (d *drop) forget() {
	if d.ahead != nil {
		d.ahead.close()
		d.ahead = nil
	}
}

// readAhead reads a message that is on its way, or asks for it together with those that
// are expected after it. An error without any octet is no answer: ask for the message alone.
func (d *drop) readAhead(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (n uint64, err error) {
	if d.ahead != nil && offset == 0 {
		if n, err = d.ahead.read(ctx, uid, w); n > 0 || err == nil {
			return n, err
		}
	}
	d.forget()
	if len(d.expected) == 0 {
		return 0, errNotFetched
	}
	uids := append([]maildrop.UID{uid}, d.expected...)
	d.expected = nil
	if d.ahead, err = d.fetch(uids, offset); err != nil {
		return 0, err
	}
	return d.ahead.read(ctx, uid, w)
}

// fetch asks for messages, for the first one from an offset on.
func (d *drop) fetch(uids []maildrop.UID, offset uint64) (*fetch, error) {
	f := &fetch{client: d.client, wide: d.client.pool.widen(), uids: uids}
	ctx, cancel := context.WithCancel(context.Background()) // it outlives the call that asks
	stream, err := d.client.begin(ctx, !f.wide, &posternv1.ReadRequest{
		Address: string(d.info.Address), Token: d.token, Uid: string(uids[0]), Offset: offset, Small: true, Then: uidsToWire(uids[1:]),
	})
	if err != nil {
		cancel()
		f.giveWidth()
		return nil, err
	}
	f.cancel, f.stream = cancel, stream
	f.idle = time.AfterFunc(fetchIdle, f.close)
	return f, nil
}

// begin calls Read on a connection, which is to be released unless there is an error.
func (c *Client) begin(ctx context.Context, narrow bool, in *posternv1.ReadRequest) (grpc.ClientStream, error) {
	conn, err := c.acquire("rpc.read", narrow)
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, posternv1.Maildrop_Read_FullMethodName)
	if err == nil {
		err = stream.SendMsg(in)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		c.release()
		return nil, c.failed("rpc.read", err, false)
	}
	return stream, nil
}

// read reads the message at the stream's head, if it is that one.
func (f *fetch) read(ctx context.Context, uid maildrop.UID, w io.Writer) (n uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stream == nil || len(f.uids) == 0 || f.uids[0] != uid {
		return 0, errNotFetched
	}
	f.idle.Stop()
	start := time.Now()
	stop := context.AfterFunc(ctx, f.cancel)
	n, err = f.message(w)
	stop()
	f.client.pool.meter.observe(posternv1.Maildrop_Read_FullMethodName, start, err)
	if f.uids = f.uids[1:]; err != nil || len(f.uids) == 0 {
		f.end()
		return n, err
	}
	f.idle.Reset(fetchIdle)
	return n, nil
}

// message writes what comes up to a message's end to w.
func (f *fetch) message(w io.Writer) (n uint64, err error) {
	const op = "rpc.read"
	for {
		piece := frame{field: fieldReadData}
		err := f.stream.RecvMsg(&piece)
		if errors.Is(err, io.EOF) {
			return n, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: io.ErrUnexpectedEOF}
		}
		if err != nil {
			return n, f.client.failed(op, err, false)
		}
		k, err := piece.writeTo(w)
		n += k
		switch {
		case err != nil:
			return n, canceled(op, err)
		case piece.end:
			return n, nil
		}
	}
}

// close ends the call, and with it what has arrived and nobody read.
func (f *fetch) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
}

// end is close for who has the lock.
func (f *fetch) end() {
	if f.stream == nil {
		return
	}
	f.idle.Stop()
	f.cancel()
	f.stream = nil
	f.giveWidth()
	f.client.release()
}

func (f *fetch) giveWidth() {
	if f.wide {
		f.client.pool.narrowDown()
	}
}
