package pop3

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// capa: RFC 2449 section 5. With TLS only EXPIRE and LOGIN-DELAY differ between the
// states.
func (s *Session) capa(call) Step {
	s.first(textCapabilities)
	switch s.state {
	case Cleartext:
		return s.done(append(s.out, s.protocol.clear...), StatusOK)
	case Authorization:
		if s.longest == 0 {
			return s.done(append(s.out, s.protocol.before...), StatusOK)
		}
		return s.done(s.protocol.appendCapabilities(s.out, leastExpire, inSeconds(s.longest)+" USER"), StatusOK)
	}
	return s.done(s.protocol.appendCapabilities(s.out, s.expire(), s.delay()), StatusOK)
}

// delay is what LOGIN-DELAY says of this user; "" where nobody has one. One who has
// none is told so after the longest of all was announced (RFC 2449 section 6.5).
func (s *Session) delay() string {
	if s.longest == 0 && s.info.LoginDelay == 0 {
		return ""
	}
	return inSeconds(s.info.LoginDelay)
}

func inSeconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

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
		return s.err(textUserWanted)
	}
	s.name = string(c.text)
	return s.ok(textSendPass)
}

// pass: RFC 1939 section 7. The rest of the line is the password, spaces and all.
func (s *Session) pass(c call) Step {
	name := s.name
	switch {
	case name == "":
		return s.err(textSendUser)
	case len(c.text) == 0:
		return s.err(textPasswordWanted)
	}
	s.name = ""
	return s.login("USER", name, string(c.text))
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
	address, err := userAddress(name)
	s.claimed = address
	if err != nil || !utf8.ValidString(password) || strings.IndexByte(password, 0) >= 0 || len(password) > maxPassword {
		return s.refused()
	}
	return s.ask(Request{Op: OpOpen, Address: address, Password: password})
}

// userAddress is the address that a user calls himself.
func userAddress(name string) (maildrop.Address, error) {
	return maildrop.ParseAddress(strings.Trim(name, " "))
}

// opened takes the answer to a login.
func (s *Session) opened(r Result) Step {
	switch {
	case r.Err == nil && s.scram != nil:
		return s.scram.prove(s, r.Info)
	case r.Err == nil:
		return s.enter(r.Info)
	}
	return s.notOpened(r.Err)
}

// notOpened says why a user isn't let in.
func (s *Session) notOpened(err error) Step {
	s.scram = nil
	if maildrop.KindOf(err) != maildrop.Denied {
		step := s.trouble(OpOpen, err)
		step.Login = LoginUnavailable
		return step
	}
	if maildrop.ReasonOf(err) == maildrop.ReasonCredentials {
		return s.refused()
	}
	step := s.trouble(OpOpen, err)
	step.Login = LoginDenied
	if maildrop.ReasonOf(err) == maildrop.ReasonLockout {
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
	if limit := s.protocol.maxFailed; limit > 0 && s.failed >= limit {
		return s.end(step, EndRefused)
	}
	return step
}

// enter begins the TRANSACTION state.
func (s *Session) enter(info maildrop.Info) Step {
	s.state, s.info, s.checked, s.name, s.scram = Transaction, info, s.now, "", nil
	welcome, days := textWelcome, info.Class.Days()
	if days > 0 {
		welcome = textWelcomeKept
	}
	step := s.ok(welcome, values{messages: uint64(info.Count), octets: info.Octets, days: uint64(days)})
	step.Login = LoginOK
	return step
}
