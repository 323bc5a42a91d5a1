package pop3

import (
	"context"
	"errors"

	"github.com/postern-pop/postern/pkg/wire"
)

// ErrTrailing is the error of an OpTLS whose client sent more behind STLS without
// waiting for the reply. Whoever sits between the two could have put it there, to have
// it run as if it had come by TLS (CVE-2011-0411).
var ErrTrailing = errors.New("octets behind STLS, before TLS")

// Cleartext begins a session without TLS: it offers CAPA, STLS and QUIT, and takes
// no password (RFC 8314 section 3.3).
func (p *Protocol) Cleartext(id string) *Session {
	s := p.Session(id)
	s.state = Cleartext
	return s
}

// cleartextCapabilities is CAPA's list before TLS. It says nothing of what comes
// after it: a client must ask again (RFC 2595 section 4).
func (p *Protocol) cleartextCapabilities() []byte {
	var b []byte
	for i := range p.commands {
		if c := &p.commands[i]; c.capa != "" && c.states&Cleartext != 0 {
			b = append(append(b, c.capa...), "\r\n"...)
		}
	}
	return append(b, "RESP-CODES\r\n.\r\n"...) // RFC 2449 section 6.4
}

// stls: RFC 2595 section 4. The reply is said by the driver: only it knows whether
// something has come behind the command.
func (s *Session) stls(call) Step {
	reply := s.ok(textBeginTLS).Reply
	return s.ask(Request{Op: OpTLS, Preface: reply})
}

// secured takes what came of a handshake. Nothing that was said before it counts
// after it (RFC 2595 section 4).
func (s *Session) secured(err error) Step {
	switch {
	case errors.Is(err, ErrTrailing):
		return s.end(s.err(textTrailing), EndTrailing)
	case err != nil:
		return s.end(s.done(nil, StatusErr), EndTLS)
	}
	s.state, s.before = Authorization, s.lines
	return s.done(nil, StatusOK)
}

// upgrade makes TLS of a connection that began without. What the client sent ahead is
// not passed on: the connection ends.
func (c *conn) upgrade(ctx context.Context, r Request) Result {
	if c.lines.Buffered() > 0 {
		return Result{Err: ErrTrailing}
	}
	_, err := c.out.Write(r.Preface)
	if err == nil {
		err = c.out.Flush()
	}
	if err == nil {
		err = c.handshake(ctx)
	}
	if err != nil {
		return Result{Err: err}
	}
	c.in.conn, c.out.conn = c.tls, c.tls
	c.lines = wire.NewReader(c.in, lineBuffer)
	c.enterPhase(phaseAuthorization)
	return Result{}
}
