package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// Limits on time and memory of one connection.
const (
	// lineBuffer is enough for a command line; it grows for SASL responses.
	lineBuffer = 512
	// openTimeout, callTimeout and removeTimeout end a call that the back end doesn't.
	openTimeout   = 60 * time.Second
	callTimeout   = 60 * time.Second
	removeTimeout = 2 * time.Minute
	// stallTimeout ends a message when the back end says nothing for so long.
	stallTimeout = 60 * time.Second
	// lingerTime and lingerOctets are how long the last reply is held on a connection
	// whose client may still be sending: closing at once would lose the reply.
	lingerTime   = 2 * time.Second
	lingerOctets = 256 << 10
)

// Ends that the protocol doesn't know.
const (
	endClient End = "client_closed"
	endIdle   End = "idle_timeout"
	endLogin  End = "login_timeout"
	endPanic  End = "panic"
)

// conn drives one session: octets between the client, the Session and the maildrop.
// It knows no protocol.
type conn struct {
	server   *Server
	raw      net.Conn  // TCP
	below    *stream   // the same, as TLS reads it
	tls      *tls.Conn // on it; nil: not yet
	failure  error     // the handshake's
	clear    bool      // it began without TLS
	id       string
	remote   netip.Addr
	started  time.Time
	phase    string
	refuse   maildrop.Reason // not empty: only to be told so
	counted  bool            // by the gate
	until    time.Time       // when the login must be done; zero: no limit
	attempt  attempt         // the latest login, until it is judged
	commands int             // that have ended
	reason   maildrop.Reason // of the latest refusal
	refused  int             // logins, for their credentials
	paused   time.Duration   // that its logins waited in all

	in      *input
	out     *output
	lines   *wire.Reader
	session *Session
	drop    maildrop.Drop
	opened  time.Duration // how long the latest successful Open took
	waits   bool          // the read deadline of the line to come is set

	halting
}

// serve runs the connection from the handshake to the end.
func (c *conn) serve(ctx context.Context) {
	defer c.raw.Close()
	c.enterPhase(phaseTLS)
	defer c.enterPhase("")
	c.below = &stream{Conn: c.raw}
	if !c.clear && c.handshake(ctx) != nil {
		c.reportFailure()
		return
	}
	c.until = c.server.config.Limits.until(c.started)
	c.begin()
	end := c.talk(ctx)
	c.leave(end)
	c.report(end)
}

// enterPhase counts the connection in another phase; "" takes it out.
func (c *conn) enterPhase(phase string) {
	if c.phase != "" {
		c.server.metrics.leave(c.phase)
	}
	if c.phase = phase; phase != "" {
		c.server.metrics.enter(phase)
	}
}

// begin makes what a session needs.
func (c *conn) begin() {
	c.session = c.server.protocol.Cleartext(c.id)
	conn := net.Conn(c.below)
	if c.tls != nil {
		c.enterPhase(phaseAuthorization)
		c.session = c.server.protocol.Session(c.id)
		if delay := c.server.config.LoginDelay; delay != nil {
			c.session.Delay(delay())
		}
		conn = c.tls
	}
	c.session.Bind(c.binding)
	c.out = &output{conn: conn, pool: &c.server.records, renew: func() { c.setWrite(time.Now().Add(c.server.config.Idle)) }}
	c.in = &input{conn: conn, below: c.below, before: c.beforeRead, interrupt: c.interrupt}
	c.lines = wire.NewReader(c.in, lineBuffer)
}

// talk alternates between the client and the Session until one of them ends.
func (c *conn) talk(ctx context.Context) End {
	step := c.session.Greet()
	if c.refuse != "" {
		step = c.session.TurnAway(c.refuse)
	}
	for {
		if end := c.perform(ctx, step); end != "" {
			return end
		}
		line, err := c.line()
		switch {
		case err == nil && c.wordy():
			step = c.session.TooMuch()
		case err == nil:
			step = c.session.Line(time.Now(), line)
		case errors.Is(err, wire.ErrLineTooLong):
			step = c.session.Overlong(time.Now())
		case errors.Is(err, wire.ErrFlood):
			step = c.session.Flood(time.Now())
		case timeout(err) && c.stopped():
			step = c.session.Restart()
		case timeout(err) && c.late():
			return endLogin
		case timeout(err):
			return endIdle // RFC 1939 section 3: without a reply, without UPDATE
		default:
			return endClient
		}
	}
}

// line waits for the client.
func (c *conn) line() ([]byte, error) {
	c.waits = false
	return c.lines.Line(c.session.MaxLine())
}

// beforeRead is called when all that the client sent has been dealt with: it gets
// its replies, and its time begins to run. The time is for a whole line; octets that
// drip in don't prolong it.
func (c *conn) beforeRead() error {
	if !c.waits {
		c.waits = true
		c.setRead(c.deadline(time.Now()))
	}
	return c.out.Flush()
}

// perform sends a step's reply and makes its calls, up to where the next line is
// wanted.
func (c *conn) perform(ctx context.Context, step Step) End {
	began := time.Now()
	var failure error // of the step's call
	for {
		if _, err := c.out.Write(step.Reply); err != nil {
			return endClient
		}
		c.server.metrics.step(c, step, began)
		c.tally(step, failure)
		if step.End != "" {
			return step.End
		}
		if step.Do.Op == OpNone {
			return ""
		}
		result := c.execute(ctx, step.Do)
		if step.Do.Op == OpRead && c.out.err != nil {
			return endClient
		}
		step, failure = c.session.Result(time.Now(), result), result.Err
	}
}

// execute makes one call. It is cancelled when the client hangs up or the server
// ends, but for the calls of a QUIT.
func (c *conn) execute(ctx context.Context, r Request) (result Result) {
	switch r.Op {
	case OpMore:
		return Result{}
	case OpLeave:
		c.withdraw()
		return Result{}
	case OpTLS:
		return c.upgrade(ctx, r)
	}
	if r.Leaving {
		ctx = c.server.hard
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !r.Leaving {
		defer c.in.watch(c.lines.Buffered() > 0, cancel)()
	}
	switch r.Op {
	case OpOpen:
		result = c.open(ctx, r)
	case OpChallenge:
		result = c.challenge(ctx, r)
	case OpRead:
		result = c.read(ctx, r)
	default:
		result = c.call(ctx, r)
	}
	c.note(ctx, r.Op, result.Err)
	return result
}

func (c *conn) open(ctx context.Context, r Request) Result {
	c.attempt = attempt{user: string(r.Address), secret: r.Password}
	if err := c.pause(ctx); err != nil {
		return Result{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	began := time.Now()
	drop, err := c.server.config.Opener.Open(ctx, maildrop.Login{
		Address: r.Address, Password: r.Password, Proof: r.Proof, Remote: c.remote, Session: c.id,
		Mechanism: c.session.Mechanism(), Language: c.session.Language(),
	})
	if err != nil {
		return Result{Err: err}
	}
	if !c.server.enter(drop.Info().Address) {
		drop.Close()
		return Result{Err: errSessions}
	}
	c.opened = time.Since(began)
	c.drop = drop
	c.halting.enter()
	c.enterPhase(phaseTransaction)
	return Result{Info: drop.Info()}
}

// challenge begins a login by SCRAM.
func (c *conn) challenge(ctx context.Context, r Request) (result Result) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	login := maildrop.Login{Address: r.Address, Remote: c.remote, Session: c.id}
	result.Challenge, result.Err = c.server.config.Opener.Challenge(ctx, login)
	return result
}

// withdraw is undoing open: the client didn't want to, after all.
func (c *conn) withdraw() {
	c.close()
	c.until = c.server.config.Limits.until(time.Now())
	c.halting.exit()
	c.enterPhase(phaseAuthorization)
}

// call makes a call that sends nothing to the client.
func (c *conn) call(ctx context.Context, r Request) (result Result) {
	limit := callTimeout
	if r.Op == OpRemove {
		limit = removeTimeout
		c.enterPhase(phaseUpdate)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch r.Op {
	case OpCheck:
		result.Err = c.drop.Check(ctx)
	case OpList:
		result.Listing, result.Err = c.drop.List(ctx)
	case OpRemove:
		result.Err = c.drop.Remove(ctx, r.UIDs)
	}
	return result
}

// read streams a message from the back end to the client.
func (c *conn) read(ctx context.Context, r Request) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	body := &content{out: c.out, preface: r.Preface, limit: stallTimeout}
	body.stall = time.AfterFunc(stallTimeout, cancel)
	defer body.stall.Stop()
	err := c.copy(ctx, r, body)
	if err == nil && !body.complete() {
		err = &maildrop.Error{Op: "pop3.read", Kind: maildrop.Corrupt, Text: "the message doesn't end with CRLF"}
	}
	if !body.begun.IsZero() {
		c.server.metrics.firstOctet(c, body.begun.Sub(began))
	}
	return Result{Err: err, Begun: !body.begun.IsZero()}
}

func (c *conn) copy(ctx context.Context, r Request, body io.Writer) error {
	if r.Whole {
		_, err := c.drop.Read(ctx, r.UID, 0, body)
		return err
	}
	top := wire.NewTop(body, r.Lines)
	_, err := c.drop.Read(ctx, r.UID, 0, top)
	if top.Done() {
		return nil
	}
	return err
}

// note logs trouble of the back end. Refusals, and what a hang-up causes, are none.
func (c *conn) note(ctx context.Context, op Op, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	if kind := maildrop.KindOf(err); kind != maildrop.Denied && c.out.err == nil {
		c.server.log.LogAttrs(context.Background(), slog.LevelWarn, "back end",
			slog.String("session", c.id), slog.String("op", op.String()),
			slog.String("kind", kind.String()), slog.Any("err", err))
	}
}

// leave says the last words and closes: close_notify, then FIN, then what the
// client is still sending is thrown away for a while, so that no RST overtakes
// the reply.
func (c *conn) leave(end End) {
	defer c.raw.Close()
	c.close()
	if end != EndBackend {
		c.out.Flush()
	}
	if end == EndBackend || end == endClient && c.out.err != nil {
		abort(c.raw)
		return
	}
	if c.tls != nil {
		_ = c.tls.CloseWrite() // whoever is gone needs no close_notify
	}
	if end == EndQuit && c.lines.Buffered() == 0 || end == endClient || end == endIdle || end == endLogin {
		return
	}
	if t, ok := c.raw.(interface{ CloseWrite() error }); ok && t.CloseWrite() == nil {
		c.raw.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.raw, lingerOctets)
	}
}

// abort ends the connection such that the client sees it broken, not ended.
func abort(raw net.Conn) {
	if t, ok := raw.(interface{ SetLinger(seconds int) error }); ok {
		_ = t.SetLinger(0) // it fails only when the connection is gone
	}
	raw.Close()
}
