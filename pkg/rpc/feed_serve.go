package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

var errCrowded = errors.New("too many calls at once")

// feeding is one feed at the server: a goroutine that reads calls, and some that
// make them.
type feeding struct {
	server *maildropServer
	stream grpc.ServerStream
	work   chan func() // a call, to a goroutine that has nothing to do
	all    sync.WaitGroup

	sending sync.Mutex // one answer at a time

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
	resting int // goroutines that wait for work
}

// Feed makes the calls of a feed.
func (s *maildropServer) Feed(stream grpc.BidiStreamingServer[posternv1.FeedRequest, posternv1.FeedResponse]) error {
	f := &feeding{server: s, stream: stream, work: make(chan func()), running: make(map[uint64]context.CancelFunc)}
	read := make(chan struct{})
	f.all.Go(func() {
		select {
		case <-s.stopping:
			_ = f.send(&posternv1.FeedResponse{}) // who can't hear it is gone
		case <-read:
		}
	})
	err := f.read()
	close(read)
	close(f.work)
	f.all.Wait()
	return err
}

// read reads calls and has them made until the client sends no more.
func (f *feeding) read() error {
	for {
		p := &parcel{}
		if err := f.stream.RecvMsg(p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if p.call.GetCancel() {
			f.cancel(p.call.GetNumber())
			p.close()
			continue
		}
		f.begin(p)
	}
}

// begin has a call made: by a goroutine that rests, whose stack has grown already,
// or by a new one.
func (f *feeding) begin(p *parcel) {
	ctx, cancel := context.WithCancel(f.stream.Context())
	f.mu.Lock()
	crowded := len(f.running) >= maxStreams
	if !crowded {
		f.running[p.call.GetNumber()] = cancel
	}
	f.mu.Unlock()
	if crowded {
		f.answer(p, cancel, &maildrop.Error{Op: "rpc.feed", Kind: maildrop.Busy, Err: errCrowded})
		return
	}
	call := func() { f.answer(p, cancel, f.do(ctx, p)) }
	select {
	case f.work <- call:
	default:
		f.all.Go(func() { f.serve(call) })
	}
}

// serve makes calls, one after the other, until enough others rest.
func (f *feeding) serve(call func()) {
	for call != nil {
		call()
		if !f.rest(1) {
			return
		}
		call = <-f.work
		f.rest(-1)
	}
}

// rest counts those who rest; false: there are enough.
func (f *feeding) rest(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resting+n > maxResting {
		return false
	}
	f.resting += n
	return true
}

func (f *feeding) cancel(number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cancel := f.running[number]; cancel != nil {
		cancel()
	}
}

// do makes one call.
func (f *feeding) do(ctx context.Context, p *parcel) (err error) {
	start, method := time.Now(), posternv1.Maildrop_Deliver_FullMethodName
	defer func() { f.server.meter.observe(method, start, err) }()
	switch {
	case p.call.GetAccept() != nil:
		method = posternv1.Maildrop_Accept_FullMethodName
		_, err = f.server.Accept(ctx, p.call.GetAccept())
		return err
	case p.call.GetEnvelope() != nil:
		return f.server.takeWhole(ctx, p)
	}
	return invalid("rpc.feed", "neither a delivery nor a question")
}

// answer ends a call.
func (f *feeding) answer(p *parcel, cancel context.CancelFunc, err error) {
	p.close()
	cancel()
	f.mu.Lock()
	delete(f.running, p.call.GetNumber())
	f.mu.Unlock()
	out := &posternv1.FeedResponse{Number: p.call.GetNumber()}
	if err != nil {
		out.Fault = faultOf(err)
	}
	_ = f.send(out) // who can't hear it is gone
}

func (f *feeding) send(out *posternv1.FeedResponse) error {
	f.sending.Lock()
	defer f.sending.Unlock()
	return f.stream.SendMsg(out)
}

// takeWhole takes one message that came in one piece.
func (s *maildropServer) takeWhole(ctx context.Context, p *parcel) error {
	const op = "rpc.deliver"
	envelope, err := envelopeFromWire(op, p.call.GetEnvelope())
	if err == nil {
		err = notImported(envelope)
	}
	if err != nil {
		return err
	}
	body := &arrival{wire: p.call.GetEnvelope().GetWire(), size: p.call.GetEnvelope().GetSize()}
	if body.wire != uint64(p.size()) {
		return invalid(op, fmt.Sprintf("%v: %d octets of %d", errBodyLength, p.size(), body.wire))
	}
	if err := s.room.hold(op, body); err != nil {
		return err
	}
	defer s.room.give(int64(body.wire))
	if body.whole, err = p.take(); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: err}
	}
	p.close()
	return s.service.Deliver(ctx, envelope, body)
}
