package pop3

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// mechanism is a SASL mechanism that the client's first response decides.
type mechanism struct {
	name    string
	respond func(*Session, []byte) Step
}

// capa: RFC 2449 section 5. With TLS only EXPIRE differs between the states.
func (s *Session) capa(call) Step {
	switch s.state {
	case Cleartext:
		return s.done(s.protocol.clear, StatusOK)
	case Authorization:
		return s.done(s.protocol.before, StatusOK)
	}
	return s.done(s.protocol.capabilities(s.expire()), StatusOK)
}

// expire is what EXPIRE says of this maildrop (RFC 2449 section 6.7).
func (s *Session) expire() string {
	if days := s.info.Class.Days(); days > 0 {
		return strconv.Itoa(days)
	}
	return strconv.Itoa(maildrop.ClassContinuity.Days())
}

// user: RFC 1939 section 7. Whether the name exists is not told (section 13).
func (s *Session) user(c call) Step {
	if len(c.text) == 0 {
		return s.err("a user name is wanted")
	}
	s.name = string(c.text)
	return s.ok("send PASS")
}

// pass: RFC 1939 section 7. The rest of the line is the password, spaces and all.
func (s *Session) pass(c call) Step {
	name := s.name
	switch {
	case name == "":
		return s.err("send USER first")
	case len(c.text) == 0:
		return s.err("a password is wanted")
	}
	s.name = ""
	return s.login("USER", name, string(c.text))
}

// auth: RFC 5034 section 4. Alone it lists the mechanisms, as old clients expect.
func (s *Session) auth(c call) Step {
	if len(c.text) == 0 {
		return s.mechanisms()
	}
	name, initial, has := bytes.Cut(c.text, []byte(" "))
	m := s.protocol.mechanism(name)
	switch {
	case m == nil:
		return s.err("this mechanism is not offered")
	case !has:
		s.exchange = m
		s.out = append(s.out, "+ \r\n"...)
		return Step{Reply: s.out}
	case string(initial) == "=": // an initial response that is there, and empty
		return m.respond(s, nil)
	}
	return s.decoded(m, initial)
}

func (s *Session) mechanisms() Step {
	s.out = append(s.out, "+OK mechanisms follow\r\n"...)
	for i := range s.protocol.mechanisms {
		s.out = append(s.out, s.protocol.mechanisms[i].name...)
		s.out = append(s.out, "\r\n"...)
	}
	return s.done(append(s.out, ".\r\n"...), StatusOK)
}

func (p *Protocol) mechanism(name []byte) *mechanism {
	for i := range p.mechanisms {
		if strings.EqualFold(p.mechanisms[i].name, string(name)) {
			return &p.mechanisms[i]
		}
	}
	return nil
}

// response takes the line that follows a challenge.
func (s *Session) response(line []byte) Step {
	m := s.exchange
	s.exchange = nil
	s.call = call{command: s.protocol.lookup([]byte("AUTH"))}
	if string(line) == "*" {
		return s.err("cancelled")
	}
	return s.decoded(m, line)
}

func (s *Session) decoded(m *mechanism, text []byte) Step {
	response, err := decodeBase64(text)
	if err != nil {
		return s.err("the response is not base64")
	}
	return m.respond(s, response)
}

var errBase64 = errors.New("not base64")

// decodeBase64 is RFC 4648 section 4 and nothing else: the library skips line ends.
func decodeBase64(text []byte) ([]byte, error) {
	if bytes.ContainsAny(text, "\r\n") {
		return nil, errBase64
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(out, text)
	if err != nil {
		return nil, errBase64
	}
	return out[:n], nil
}

// plain: RFC 4616. Nobody acts for somebody else.
func (s *Session) plain(response []byte) Step {
	authzid, name, password, ok := splitPlain(response)
	if !ok {
		return s.err("the response is not one of PLAIN")
	}
	if authzid != "" && !sameUser(authzid, name) {
		s.mechanism = "PLAIN"
		return s.refused()
	}
	return s.login("PLAIN", name, password)
}

// splitPlain is message = [authzid] NUL authcid NUL passwd (RFC 4616 section 2).
func splitPlain(message []byte) (authzid, name, password string, ok bool) {
	parts := bytes.Split(message, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return "", "", "", false
	}
	return string(parts[0]), string(parts[1]), string(parts[2]), true
}

// sameUser reports whether two spellings name one address.
func sameUser(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := maildrop.ParseAddress(a)
	y, errY := maildrop.ParseAddress(b)
	return errX == nil && errY == nil && x == y
}

// login asks for the maildrop.
func (s *Session) login(mechanism, name, password string) Step {
	s.mechanism = mechanism
	address, err := maildrop.ParseAddress(strings.Trim(name, " "))
	if err != nil || !utf8.ValidString(password) || strings.IndexByte(password, 0) >= 0 {
		return s.refused()
	}
	return s.ask(Request{Op: OpOpen, Address: address, Password: password})
}

// opened takes the answer to a login.
func (s *Session) opened(r Result) Step {
	if r.Err == nil {
		return s.enter(r.Info)
	}
	if maildrop.KindOf(r.Err) != maildrop.Denied {
		step := s.trouble(OpOpen, r.Err)
		step.Login = LoginUnavailable
		return step
	}
	if maildrop.ReasonOf(r.Err) == maildrop.ReasonCredentials {
		return s.refused()
	}
	step := s.trouble(OpOpen, r.Err)
	step.Login = LoginDenied
	if maildrop.ReasonOf(r.Err) == maildrop.ReasonLockout {
		return s.failure(step)
	}
	return step
}

// refused is the one reply to wrong credentials, whatever is wrong with them (RFC
// 1939 section 13, RFC 3206 section 5).
func (s *Session) refused() Step {
	step := s.refuse(maildrop.ReasonCredentials, "", 0)
	step.Login = LoginRefused
	return s.failure(step)
}

// failure counts a guess, and ends a connection that has had enough of them.
func (s *Session) failure(step Step) Step {
	s.failed++
	if s.failed >= maxFailedLogins {
		return s.end(step, EndRefused)
	}
	return step
}

// enter begins the TRANSACTION state.
func (s *Session) enter(info maildrop.Info) Step {
	s.state, s.info, s.checked, s.name = Transaction, info, s.now, ""
	s.out = append(s.out, "+OK "...)
	s.out = appendCount(s.out, uint64(info.Count), "message")
	s.out = append(s.out, ", "...)
	s.out = appendCount(s.out, info.Octets, "octet")
	if days := info.Class.Days(); days > 0 {
		s.out = append(s.out, ", kept "...)
		s.out = appendCount(s.out, uint64(days), "day")
	}
	step := s.done(append(s.out, "\r\n"...), StatusOK)
	step.Login = LoginOK
	return step
}
