package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/movein"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	importChunk   = 256 << 10              // octets of a message sent at once
	importAhead   = 64                     // messages sent and not yet answered
	importTries   = 8                      // streams in a row that got nothing done
	importPause   = 500 * time.Millisecond // before the second try; doubled for each
	importSlack   = time.Hour              // a message that grew too old while it was under way
	maxSourceText = 255                    // octets of where the mail comes from, for the audit
)

// importRun moves one maildrop, over as many streams as it takes. A stream sends
// messages in their order, some ahead of their verdicts; when one breaks the
// next begins with the first message that has none. Sent twice they are stored
// once.
type importRun struct {
	client   *client
	old      *movein.Maildrop
	to       maildrop.Address
	source   string
	progress func(next int)

	next    int // the first message that is not done with
	stored  int
	octets  uint64
	skipped []movein.Skip
}

// all moves what there is.
func (r *importRun) all(ctx context.Context) error {
	pause := importPause
	for tries := 1; ; tries++ {
		before := r.next
		err := r.stream(ctx)
		if err == nil {
			return nil
		}
		if r.next > before {
			tries, pause = 0, importPause
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if !passing(err) || tries == importTries {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause *= 2
	}
}

// errCut is a stream that was given up because a message could not be sent
// whole. The next one goes on behind it.
var errCut = errors.New("a message changed while it was sent")

// passing reports whether another try may help.
func passing(err error) bool {
	var stopped *stoppedError
	if !errors.As(err, &stopped) {
		return errors.Is(err, errCut)
	}
	switch stopped.kind {
	case maildrop.Busy, maildrop.NotOwner, maildrop.Transient, maildrop.Maybe, maildrop.Canceled:
		return true
	}
	return false
}

// stoppedError is what a gateway said, in words.
type stoppedError struct {
	error
	kind   maildrop.Kind
	reason maildrop.Reason
	worded bool // the gateway said what to do
}

func stopped(server string, err error) error {
	err = rpc.FromStatus("import", err, true)
	s := &stoppedError{inWords(server, err), maildrop.KindOf(err), maildrop.ReasonOf(err), maildrop.TextOf(err) != ""}
	if passing(s) && maildrop.TextOf(err) == "" { // those words are about a change that is one call
		s.error = fmt.Errorf("%s does not go on: %w", server, errors.Unwrap(err))
	}
	return s
}

// importConn is a stream to a gateway that takes the maildrop.
type importConn struct {
	server string
	conn   *grpc.ClientConn
	stream posternv1.Admin_ImportClient
	limits importLimits
	cancel context.CancelFunc
	stall  *time.Timer
	wait   time.Duration
}

func (c *importConn) close() {
	c.stall.Stop()
	c.cancel()
	c.conn.Close()
}

// moved says that the stream is alive: only one on which nothing happens is
// given up.
func (c *importConn) moved() { c.stall.Reset(c.wait) }

// connect begins an import at the first gateway that takes it. One of another
// region may not: some regions' mail passes through no other.
func (r *importRun) connect(ctx context.Context) (*importConn, error) {
	config, err := readContext(r.client.Context)
	if err != nil {
		return nil, err
	}
	var refused error
	for _, server := range config.Servers {
		one := *config
		one.Servers = []string{server}
		conn, err := r.connectTo(ctx, &one)
		var s *stoppedError
		switch {
		case err == nil:
			return conn, nil
		case errors.As(err, &s) && s.reason != maildrop.ReasonRegion && !passing(err):
			return nil, err // it would say the same everywhere
		}
		if refused == nil || errors.As(err, &s) {
			refused = err
		}
	}
	return nil, refused
}

func (r *importRun) connectTo(ctx context.Context, config *contextConfig) (*importConn, error) {
	transport, err := config.transport()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.client.Context, err)
	}
	server, err := config.reachable(ctx, transport)
	if err != nil {
		return nil, &stoppedError{error: err, kind: maildrop.Transient}
	}
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(credentials.NewTLS(transport)))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &importConn{server: server, conn: conn, cancel: cancel, wait: r.client.Timeout, stall: time.AfterFunc(r.client.Timeout, cancel)}
	if err := c.begin(ctx, r); err != nil {
		c.close()
		return nil, stopped(server, err)
	}
	return c, nil
}

func (c *importConn) begin(ctx context.Context, r *importRun) (err error) {
	if c.stream, err = posternv1.NewAdminClient(c.conn).Import(ctx); err != nil {
		return err
	}
	source := strings.ToValidUTF8(r.source[:min(len(r.source), maxSourceText)], "")
	err = c.send(&posternv1.ImportRequest{Part: &posternv1.ImportRequest_Start{
		Start: &posternv1.ImportStart{Address: string(r.to), Source: source}}})
	if err != nil {
		return err
	}
	answer, err := c.stream.Recv()
	if err != nil {
		return err
	}
	c.moved()
	c.limits = importLimits{
		oldest: time.Unix(0, answer.GetAdmitted().GetOldestUnixNano()), largest: answer.GetAdmitted().GetMaxWire(),
	}
	return nil
}

// send sends a part. That the gateway has ended the stream is for Recv to say.
func (c *importConn) send(part *posternv1.ImportRequest) error {
	err := c.stream.Send(part)
	if errors.Is(err, io.EOF) {
		_, err = c.stream.Recv()
	}
	c.moved()
	return err
}

// importLimits are what the mailbox takes.
type importLimits struct {
	oldest  time.Time
	largest uint64
}

// look reads a message and counts it, unless it is one that is not moved.
func (l importLimits) look(message *movein.Message) (*movein.Content, *movein.Skip) {
	skip := &movein.Skip{Name: message.Name}
	if message.Received.Before(l.oldest) {
		skip.Why, skip.Text = movein.TooOld, "it arrived "+message.Received.UTC().Format(time.DateOnly)
		return nil, skip
	}
	content, err := message.Measure()
	switch {
	case errors.Is(err, movein.ErrVanished):
		skip.Why = movein.Vanished
	case err != nil:
		skip.Why, skip.Text = movein.Damaged, err.Error()
	case content.Wire() > l.largest:
		skip.Why, skip.Text = movein.TooLarge, octets(content.Size())
	default:
		return content, nil
	}
	return nil, skip
}

// step is a message that was sent, or is not moved.
type step struct {
	n    int
	size uint64
	skip *movein.Skip // nil: a verdict will come
}

// stream moves messages over one stream until there are none left or it breaks.
func (r *importRun) stream(ctx context.Context) error {
	if r.next == len(r.old.Messages) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.close()
	steps, sent, first := make(chan step, importAhead), make(chan error, 1), r.next // the receiver moves it on
	go func() {
		defer close(steps)
		sent <- r.sender(ctx, conn, first, steps)
	}()
	received := r.receiver(conn, steps)
	cancel() // a sender that waits for the gateway waits no more
	switch err := <-sent; {
	case errors.Is(err, errCut):
		return err
	case received != nil:
		return stopped(conn.server, received)
	}
	return nil
}

// sender sends messages one after the other. That the gateway has ended the
// stream, io.EOF, is for the receiver to say.
func (r *importRun) sender(ctx context.Context, conn *importConn, first int, steps chan<- step) error {
	for n := first; n < len(r.old.Messages); n++ {
		content, skip := conn.limits.look(r.old.Messages[n])
		s := step{n: n, skip: skip}
		if skip == nil {
			s.size = content.Size()
		}
		select {
		case steps <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
		conn.moved()
		if skip != nil {
			continue
		}
		if err := conn.message(content, r.to); err != nil {
			if errors.Is(err, errCut) {
				conn.cancel() // the gateway waits for octets that will not come
			}
			return err
		}
	}
	return conn.stream.CloseSend()
}

// message sends one message.
func (c *importConn) message(content *movein.Content, to maildrop.Address) error {
	envelope := content.Envelope(to, "")
	head := &posternv1.ImportHead{Id: envelope.ID[:], Uid: string(envelope.UID), Wire: content.Wire(), Size: content.Size()}
	if !envelope.Received.IsZero() {
		head.ReceivedUnixNano = envelope.Received.UnixNano()
	}
	if err := c.stream.Send(&posternv1.ImportRequest{Part: &posternv1.ImportRequest_Head{Head: head}}); err != nil {
		return err
	}
	r, err := content.Open()
	if err != nil {
		return errCut
	}
	defer r.Close()
	for left := content.Wire(); left > 0; {
		chunk := make([]byte, min(left, importChunk))
		if _, err := io.ReadFull(r, chunk); err != nil {
			return errCut
		}
		if err := c.stream.Send(&posternv1.ImportRequest{Part: &posternv1.ImportRequest_Data{Data: chunk}}); err != nil {
			return err
		}
		c.moved()
		left -= uint64(len(chunk))
	}
	return nil
}

// receiver takes the verdicts, and holds what was done.
func (r *importRun) receiver(conn *importConn, steps <-chan step) error {
	for s := range steps {
		skip := s.skip
		if skip == nil {
			answer, err := conn.stream.Recv()
			if err != nil {
				return err
			}
			conn.moved()
			skip = r.verdict(s, answer.GetVerdict(), conn.limits)
		}
		if skip != nil {
			r.skipped = append(r.skipped, *skip)
		}
		r.next = s.n + 1
		r.progress(r.next)
	}
	if _, err := conn.stream.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (r *importRun) verdict(s step, v *posternv1.ImportVerdict, limits importLimits) *movein.Skip {
	if !v.GetRefused() {
		r.stored++
		r.octets += s.size
		return nil
	}
	message := r.old.Messages[s.n]
	why := movein.Refused
	if message.Received.Before(limits.oldest.Add(importSlack)) {
		why = movein.TooOld
	}
	return &movein.Skip{Name: message.Name, Why: why, Text: v.GetText()}
}
