package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// errFeedless says that the server knows no Feed: it runs an earlier version. It
// has done nothing of what was sent.
var errFeedless = errors.New("no feed")

// feed is one stream for many calls of Accept and Deliver. A call's caller waits for
// its answer only: the goroutines of the stream are what waits for the network.
//
//	caller ── post ──▶ queue ── send ──▶ sent ══════▶ server
//	   ▲                 │ leave          │ leave: Maybe, if it changes something
//	   │                 ▼                ▼
//	   │             taken back       the server is told
//	   └──────────────── done ◀── receive ◀══════════ server
//
// It is retired after a while, or when the server stops: it takes no more calls
// then, and ends with the answer to its last one.
type feed struct {
	wake chan struct{} // something is to be sent, or it may be over
	over chan struct{} // closed when receive has ended

	mu      sync.Mutex
	queue   []*letter          // to be sent
	sent    map[uint64]*letter // not answered yet
	left    []uint64           // sent, and nobody waits for the answer
	last    uint64             // number given
	retired bool
}

func newFeed() *feed {
	return &feed{wake: make(chan struct{}, 1), over: make(chan struct{}), sent: make(map[uint64]*letter)}
}

// fed makes a call by the client's feed. errFeedless: by another way, please.
func (c *Client) fed(ctx context.Context, method string, l *letter) (err error) {
	start := time.Now()
	defer func() {
		if !errors.Is(err, errFeedless) {
			c.pool.meter.observe(method, start, err)
		}
	}()
	l.done = make(chan error, 1)
	if err := ctx.Err(); err != nil {
		l.drop()
		return c.failed(l.op, status.FromContextError(err).Err(), false)
	}
	conn, err := c.acquire(l.op, false)
	if err != nil {
		l.drop()
		return err
	}
	defer c.release()
	f := c.post(conn, l)
	select {
	case err = <-l.done:
	case <-ctx.Done():
		err = f.leave(l, status.FromContextError(ctx.Err()).Err())
	}
	return c.located(err)
}

// post hands a letter to the client's feed, or to a new one.
func (c *Client) post(conn *grpc.ClientConn, l *letter) *feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.feed == nil || !c.feed.post(l) {
		f := newFeed()
		f.post(l)
		c.feed = f
		c.feeds.Go(func() { c.run(f, conn) })
	}
	return c.feed
}

// feedable reports whether calls go by a feed.
func (c *Client) feedable() bool {
	if !c.pool.config.Feeds {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !time.Now().Before(c.feedless)
}

// run opens the feed's stream and sends what is posted until it is over.
func (c *Client) run(f *feed, conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, posternv1.Maildrop_Feed_FullMethodName)
	if err != nil {
		c.end(f, err)
		return
	}
	go c.receive(f, stream)
	f.send(stream)
	cancel()
	<-f.over
}

// send sends what is posted until the feed is over, or retired and done with.
func (f *feed) send(stream grpc.ClientStream) {
	age := time.NewTimer(feedAge)
	defer age.Stop()
	for {
		for l := f.next(); l != nil; l = f.next() {
			if err := stream.SendMsg(l); err != nil { // receive learns why
				<-f.over
				return
			}
		}
		if f.idle() {
			_ = stream.CloseSend() // it always says nil
			<-f.over
			return
		}
		select {
		case <-f.wake:
		case <-age.C:
			f.retire()
		case <-f.over:
			return
		}
	}
}

// receive hands out answers until the stream ends.
func (c *Client) receive(f *feed, stream grpc.ClientStream) {
	var answer posternv1.FeedResponse
	for {
		if err := stream.RecvMsg(&answer); err != nil {
			c.end(f, err)
			return
		}
		f.answer(answer.GetNumber(), answer.GetFault())
	}
}

// end ends a feed with the error of its stream. What was sent and not answered has an
// unknown outcome.
func (c *Client) end(f *feed, err error) {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the server ended the stream")
	}
	feedless := status.Code(err) == codes.Unimplemented
	if feedless {
		c.mu.Lock()
		c.feedless = time.Now().Add(feedAge)
		c.mu.Unlock()
	}
	defer close(f.over)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = true
	answer := func(l *letter, left bool) {
		if feedless {
			l.done <- errFeedless
			return
		}
		l.done <- FromStatus(l.op, err, l.changes && left)
	}
	for _, l := range f.sent {
		answer(l, true)
	}
	for _, l := range f.queue {
		l.drop()
		answer(l, false)
	}
	f.sent, f.queue = nil, nil
}

// post queues a letter; false: the feed takes no more.
func (f *feed) post(l *letter) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.retired {
		return false
	}
	f.queue = append(f.queue, l)
	f.signal()
	return true
}

// next is what is to be sent now; nil: nothing. From here on it may have left.
func (f *feed) next() *letter {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.left); n > 0 {
		number := f.left[n-1]
		f.left = f.left[:n-1]
		return &letter{call: &posternv1.FeedCall{Number: number, What: &posternv1.FeedCall_Cancel{Cancel: true}}}
	}
	if len(f.queue) == 0 || f.sent == nil {
		return nil
	}
	l := f.queue[0]
	f.queue[0] = nil
	if f.queue = f.queue[1:]; len(f.queue) == 0 {
		f.queue = nil
	}
	f.last++
	l.call.Number = f.last
	f.sent[f.last] = l
	return l
}

// idle reports whether a retired feed has nothing to wait for.
func (f *feed) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.retired && len(f.queue) == 0 && len(f.sent) == 0 && len(f.left) == 0
}

func (f *feed) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = true
	f.signal()
}

func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// answer is the server's. It stops: the feed is retired.
func (f *feed) answer(number uint64, fault *posternv1.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.sent[number]
	delete(f.sent, number)
	switch {
	case number == 0:
		f.retired = true
	case l == nil: // nobody waits any more
	case fault == nil:
		l.done <- nil
	default:
		l.done <- errorOf(l.op, fault)
	}
	if f.retired {
		f.signal()
	}
}

// leave is for a caller whose context ended, with the error that is. A letter that
// wasn't sent is taken back.
func (f *feed) leave(l *letter, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case answered := <-l.done:
		return answered
	default:
	}
	for i, queued := range f.queue {
		if queued == l {
			f.queue = append(f.queue[:i:i], f.queue[i+1:]...)
			l.drop()
			return FromStatus(l.op, err, false)
		}
	}
	delete(f.sent, l.call.GetNumber())
	f.left = append(f.left, l.call.GetNumber())
	f.signal()
	return FromStatus(l.op, err, l.changes)
}

// drop gives back the body of a letter that isn't sent.
func (l *letter) drop() {
	if l.body != nil {
		l.body.Free()
	}
}

// fedBody reads a body into a buffer, for a letter; nil: it has no octets.
func (c *Client) fedBody(op string, body maildrop.Body) (mem.Buffer, error) {
	r, err := body.Open()
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
	}
	defer r.Close()
	d := &departure{body: r}
	if body.Wire() == 0 {
		return nil, d.atEnd()
	}
	chunk := c.pool.chunks.Get(int(body.Wire()))
	if _, err = io.ReadFull(r, *chunk); err != nil {
		err = unreadable(err)
	} else {
		err = d.atEnd()
	}
	if err != nil {
		c.pool.chunks.Put(chunk)
		return nil, err
	}
	return mem.NewBuffer(chunk, c.pool.chunks), nil
}
