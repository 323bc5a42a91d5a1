package pop3

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/scram"
)

// exchange is a SASL exchange that waits for the client's response (RFC 4422 section
// 3): it ends the command, asks the back end, or sends another challenge.
type exchange func(s *Session, response []byte) Step

// mechanism is a SASL mechanism. One whose secrets another server verifies, such as
// OAUTHBEARER (RFC 7628), is another row: what it tells of a failure is a challenge
// whose exchange takes the client's dummy response.
type mechanism struct {
	name  string
	asks  string // the first challenge, for a client that sent no initial response
	begin func() exchange
}

// knownMechanisms is the table, in the order in which they are listed.
func knownMechanisms() []mechanism {
	return []mechanism{
		{name: "PLAIN", begin: func() exchange { return (*Session).plain }},                        // RFC 4616
		{name: "LOGIN", asks: "Username:", begin: func() exchange { return (*Session).loginName }}, // draft-murchison-sasl-login-00
		{name: scram.Name, begin: func() exchange { return (&scramExchange{}).firstMessage }},      // RFC 7677
		{name: scram.Plus, begin: func() exchange { return (&scramExchange{plus: true}).firstMessage }},
	}
}

// DefaultMechanisms are all but SCRAM-SHA-256-PLUS: where that is offered, mutt 2.2 with
// GNU SASL 2.2 can't log in.
func DefaultMechanisms() []string { return []string{"PLAIN", "LOGIN", scram.Name} }

// CheckMechanisms reports a mechanism that isn't known, or is named twice.
func CheckMechanisms(names []string) error {
	table := knownMechanisms()
	known := make([]string, len(table))
	for i := range table {
		known[i] = table[i].name
	}
	for i, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("SASL mechanism %q: known are %s", name, strings.Join(known, ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("SASL mechanism %s twice", name)
		}
	}
	return nil
}

// offered are the rows of the table that are named, in the table's order.
func offered(names []string) (rows []mechanism) {
	if len(names) == 0 {
		names = DefaultMechanisms()
	}
	for _, m := range knownMechanisms() {
		if slices.Contains(names, m.name) {
			rows = append(rows, m)
		}
	}
	return rows
}

// mechanism finds a mechanism that is offered, or nil.
func (p *Protocol) mechanism(name string) *mechanism {
	for i := range p.mechanisms {
		if strings.EqualFold(p.mechanisms[i].name, name) {
			return &p.mechanisms[i]
		}
	}
	return nil
}

// auth: RFC 5034 section 4. Alone it lists the mechanisms, as old clients expect.
func (s *Session) auth(c call) Step {
	if len(c.text) == 0 {
		return s.mechanisms()
	}
	name, initial, has := bytes.Cut(c.text, []byte(" "))
	m := s.protocol.mechanism(string(name))
	switch {
	case m == nil:
		return s.err(textNoMechanism)
	case !has:
		return s.challenge(m.asks, m.begin())
	case string(initial) == "=": // an initial response that is there, and empty
		return m.begin()(s, nil)
	}
	return s.decoded(m.begin(), initial)
}

func (s *Session) mechanisms() Step {
	s.first(textMechanisms)
	for i := range s.protocol.mechanisms {
		s.out = append(s.out, s.protocol.mechanisms[i].name...)
		s.out = append(s.out, "\r\n"...)
	}
	return s.done(append(s.out, ".\r\n"...), StatusOK)
}

// challenge sends one (RFC 5034 section 4), and next takes the response.
func (s *Session) challenge(text string, next exchange) Step {
	s.exchange = next
	s.out = append(s.out, "+ "...)
	s.out = base64.StdEncoding.AppendEncode(s.out, []byte(text))
	s.out = append(s.out, "\r\n"...)
	return Step{Reply: s.out}
}

// response takes the line that follows a challenge.
func (s *Session) response(line []byte) Step {
	s.call = call{command: s.protocol.lookup([]byte("AUTH"))}
	if string(line) == "*" { // RFC 5034 section 4
		return s.abandon(textCancelled)
	}
	next := s.exchange
	s.exchange = nil
	return s.decoded(next, line)
}

func (s *Session) decoded(next exchange, text []byte) Step {
	response, err := decodeBase64(text)
	if err != nil {
		return s.abandon(textNotBase64)
	}
	return next(s, response)
}

// abandon ends an exchange without a login, and undoes one that waited for the client's
// word only.
func (s *Session) abandon(t text, v ...values) Step {
	undo := s.scram != nil && s.scram.open
	s.exchange, s.scram = nil, nil
	if undo {
		s.farewell = phrase{text: t}
		if len(v) > 0 {
			s.farewell.values = v[0]
		}
		return s.ask(Request{Op: OpLeave})
	}
	return s.err(t, v...)
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
		return s.err(textNotPlain)
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

// loginName: draft-murchison-sasl-login-00 section 2. The name may come as an initial
// response, as Outlook sends it.
func (s *Session) loginName(response []byte) Step {
	if len(response) == 0 {
		return s.err(textNotLogin)
	}
	name := string(response)
	return s.challenge("Password:", func(s *Session, response []byte) Step {
		if len(response) == 0 {
			return s.err(textNotLogin)
		}
		return s.login("LOGIN", name, string(response))
	})
}
