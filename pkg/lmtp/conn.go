package lmtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// errDraining says that Shutdown was called and no transaction is open.
var errDraining = errors.New("shutting down")

// conn is one connection: a socket, its timers, and the session on it.
type conn struct {
	server  *Server
	session *session
	log     *slog.Logger
	cancel  context.CancelFunc // ends the calls that the session waits for
	raw     net.Conn           // for deadlines and kill
	net     net.Conn           // raw, or TLS on it
	r       *wire.Reader       // of the conn itself, see Read
	w       *bufio.Writer      // to the conn itself, see Write
	began   time.Time

	mu       sync.Mutex
	waiting  bool // for a command, with no transaction open
	draining bool
}

func newConn(s *Server, nc net.Conn, session *session, cancel context.CancelFunc) *conn {
	c := &conn{
		server: s, session: session, cancel: cancel, raw: nc, net: nc, began: time.Now(),
		log: s.config.Log.With("session", session.id, "remote", session.remote.String()),
	}
	c.r = wire.NewReader(c, readBuffer)
	c.w = bufio.NewWriterSize(c, replyBuffer)
	return c
}

// Read is the Reader's source. Replies go out before the connection waits for
// its client, so that neither waits for the other, and none before, so that
// pipelined commands are answered in few packets (RFC 2920 section 3.2).
func (c *conn) Read(p []byte) (int, error) {
	if err := c.w.Flush(); err != nil {
		return 0, err
	}
	c.arm()
	n, err := c.net.Read(p)
	c.server.metrics.received.Add(float64(n))
	return n, err
}

// Write writes replies. Each write has the whole idle time.
func (c *conn) Write(p []byte) (int, error) {
	c.raw.SetWriteDeadline(time.Now().Add(c.server.config.Idle))
	return c.net.Write(p)
}

// arm sets the deadline of the next read.
func (c *conn) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	deadline := now.Add(c.server.config.Idle)
	if end := c.began.Add(strangerTime); !c.session.gateway && end.Before(deadline) {
		deadline = end
	}
	if c.draining && c.waiting {
		deadline = now
	}
	c.raw.SetReadDeadline(deadline)
}

// drain makes the connection end as soon as no transaction is open.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.waiting {
		c.raw.SetReadDeadline(time.Now())
	}
}

// kill ends the connection now. A delivery that is running is cancelled.
func (c *conn) kill() {
	c.cancel()
	c.raw.Close()
}

// serve runs the connection until it ends.
func (c *conn) serve(ctx context.Context) {
	defer c.cancel()
	c.say(reply{code: 220, text: c.greeting()})
	c.commands(ctx)
	c.raw.SetDeadline(time.Now().Add(farewellTime))
	_ = c.w.Flush() // whether it is heard or not, the connection ends
	c.net.Close()   // with TLS: close_notify, within 5 seconds
	c.raw.Close()
}

func (c *conn) greeting() string {
	text := c.server.config.Hostname + " LMTP Postern"
	if region := c.server.config.Region; region != "" {
		text += " (" + printable(region) + ")"
	}
	return text
}

// commands answers one command after the other, until the last.
func (c *conn) commands(ctx context.Context) {
	for {
		line, err := c.line()
		r := replyTooLong
		switch {
		case err == nil:
			r = c.session.command(ctx, line)
		case !errors.Is(err, wire.ErrLineTooLong):
			c.farewell(err)
			return
		}
		c.say(r)
		if r.then == thenClose || r.then == thenData && !c.data(ctx) || r.then == thenTLS && !c.startTLS(ctx) {
			return
		}
	}
}

// line waits for a command. While no transaction is open Shutdown ends the wait.
func (c *conn) line() ([]byte, error) {
	idle := c.session.open == nil
	if c.wait(idle) && idle {
		return nil, errDraining
	}
	line, err := c.r.Line(MaxLine)
	if c.wait(false) && idle {
		return nil, errDraining
	}
	return line, err
}

// wait says whether the connection may be ended while it waits, and reports
// whether it shall end.
func (c *conn) wait(waiting bool) (draining bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = waiting
	return c.draining
}

// farewell is the last reply, for the errors that have one.
func (c *conn) farewell(err error) {
	switch {
	case errors.Is(err, errDraining):
		c.say(replyDraining)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.say(replyIdle)
	case errors.Is(err, wire.ErrFlood):
		c.say(replyFlood)
	case errors.Is(err, errSwallowed):
		c.say(replyTooLarge)
	default: // the client is gone
		if c.session.open != nil {
			c.log.Debug("connection ended within a transaction", "err", err)
		}
	}
}

// say queues a reply. An error of the socket comes again at the next Read.
func (c *conn) say(r reply) {
	_, _ = c.w.Write(r.append(c.w.AvailableBuffer()))
}

// startTLS shakes hands. What the client sent before is thrown away: it isn't
// known to be the client's (RFC 3207 section 4.2).
func (c *conn) startTLS(ctx context.Context) bool {
	if c.w.Flush() != nil {
		return false
	}
	c.r.Discard()
	c.raw.SetDeadline(time.Now().Add(handshakeTime))
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	secured := tls.Server(c.raw, c.server.config.TLS)
	c.net = secured
	if err := secured.HandshakeContext(ctx); err != nil {
		c.server.metrics.handshakes.WithLabelValues("error").Inc()
		c.log.Info("TLS handshake failed", "err", err)
		return false
	}
	c.raw.SetDeadline(time.Time{})
	verified := len(secured.ConnectionState().VerifiedChains) > 0
	c.session.tlsOn(verified)
	result := "anonymous"
	if verified {
		result = "gateway"
	}
	c.server.metrics.handshakes.WithLabelValues(result).Inc()
	return true
}

// data reads a message, delivers it and answers for each recipient. It reports
// whether the connection goes on.
func (c *conn) data(ctx context.Context) bool {
	t, begin := c.session.open, time.Now()
	in := &intake{data: c.r.Data(), spool: &spool{from: c.server.spooler}, limit: uint64(c.server.config.MaxSize), swallow: MaxSwallow}
	defer in.spool.Close()
	if err := in.read(); err != nil {
		c.account(ctx, t, in, "cut", err, begin, time.Now())
		c.farewell(err)
		return false
	}
	came := time.Now()
	result, failed := in.verdict()
	replies := c.session.end(ctx, in.content(), failed)
	c.account(ctx, t, in, result, in.spool.err, begin, came)
	for _, r := range replies {
		c.say(r)
	}
	return true
}

// account is what is left of a transaction: one line and some numbers.
func (c *conn) account(ctx context.Context, t *transaction, in *intake, result string, err error, begin, came time.Time) {
	m, now := c.server.metrics, time.Now()
	m.messages.WithLabelValues(result).Inc()
	var results tally
	for _, k := range t.refused {
		results.add("refused_" + k.String())
	}
	if result == "whole" {
		m.size.Observe(float64(in.data.Size()))
		m.duration.WithLabelValues("receive").Observe(came.Sub(begin).Seconds())
		m.duration.WithLabelValues("deliver").Observe(now.Sub(came).Seconds())
		for _, r := range t.recipients() {
			m.delivery(r.err)
			results.add(outcome(r.err, "delivered"))
			if r.err != nil && maildrop.KindOf(r.err).Temporary() && err == nil {
				err = r.err // one cause is enough to look for the others by the session's id
			}
		}
	}
	attrs := []slog.Attr{
		slog.String("transaction", t.id), slog.Bool("tls", c.session.secured), slog.String("sender_domain", senderDomain(t.mail.sender)),
		slog.Int("recipients", len(t.accepted)), slog.Uint64("size", in.data.Size()), slog.String("content", result),
		{Key: "results", Value: slog.GroupValue(results...)},
		slog.Float64("receive_seconds", came.Sub(begin).Seconds()), slog.Float64("seconds", now.Sub(t.began).Seconds()),
	}
	level := slog.LevelInfo
	if err != nil {
		level, attrs = slog.LevelWarn, append(attrs, slog.Any("err", err))
	}
	c.log.LogAttrs(ctx, level, "delivery", attrs...)
}

// tally counts by name. There are few names, and mostly one.
type tally []slog.Attr

func (t *tally) add(name string) {
	for i := range *t {
		if counted := &(*t)[i]; counted.Key == name {
			counted.Value = slog.Int64Value(counted.Value.Int64() + 1)
			return
		}
	}
	*t = append(*t, slog.Int(name, 1))
}
