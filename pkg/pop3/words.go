package pop3

import (
	"strconv"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// trouble says an error of the back end in words for a stranger, and decides whether
// the session goes on. What the error holds for the log is never part of them.
//
// [AUTH] isn't said here: trouble never looks like a wrong password (RFC 3206
// section 4).
func (s *Session) trouble(op Op, err error) Step {
	kind := maildrop.KindOf(err)
	switch {
	case kind == maildrop.Denied:
		step := s.err("[SYS/PERM] " + refusal(err))
		if op != OpOpen { // access ended in mid-session
			return s.end(step, EndAccess)
		}
		return step
	case kind == maildrop.NotFound && op == OpRead:
		return s.err("this message is no longer there; the others keep their numbers")
	}
	if s.call.command != nil && s.call.command.verb == "QUIT" && (op == OpList || untouched(kind)) {
		return s.temp("[SYS/TEMP] the marked messages were not removed, please try again in a minute (reference " + s.id + ")")
	}
	return s.temp("[SYS/TEMP] " + temporary[op] + ", please try again in a minute (reference " + s.id + ")")
}

// untouched reports whether an error of the kind says for certain that nothing
// was changed: see maildrop.Kind.
func untouched(kind maildrop.Kind) bool {
	switch kind {
	case maildrop.Full, maildrop.Busy, maildrop.NotOwner, maildrop.Transient:
		return true
	}
	return false
}

// temporary is what failed, by request.
var temporary = [...]string{
	OpOpen:   "your mailbox can't be reached at the moment",
	OpCheck:  "your mailbox can't be reached at the moment",
	OpList:   "the listing can't be read at the moment",
	OpRead:   "this message can't be read at the moment",
	OpRemove: "it is not certain whether the marked messages were removed",
}

// refusal is why the user may not use his maildrop: the words of who refused, and
// the reason's code, which support can look up.
func refusal(err error) string {
	text, reason := maildrop.TextOf(err), maildrop.ReasonOf(err)
	if text == "" {
		text = "access to this mailbox is not possible, please ask your administrator"
		if reason == maildrop.ReasonCredentials || reason == maildrop.ReasonChanged {
			text = "the access to this mailbox was changed, please log in again"
		}
	}
	text = ascii(text, 300)
	if reason != maildrop.ReasonNone {
		text += " (" + ascii(string(reason), 40) + ")"
	}
	return text
}

// ok, err and temp end the command under way with a reply of one line.

func (s *Session) ok(text string) Step   { return s.line("+OK ", text, StatusOK) }
func (s *Session) err(text string) Step  { return s.line("-ERR ", text, StatusErr) }
func (s *Session) temp(text string) Step { return s.line("-ERR ", text, StatusTemp) }

func (s *Session) line(indicator, text string, status Status) Step {
	s.out = append(append(append(s.out, indicator...), text...), "\r\n"...)
	return s.done(s.out, status)
}

// done ends the command under way.
func (s *Session) done(reply []byte, status Status) Step {
	step := Step{Reply: reply, Status: status}
	if s.call.command != nil {
		step.Command = s.call.command.verb
	}
	return step
}

// appendCount adds "1 message", "2 messages".
func appendCount(b []byte, n uint64, noun string) []byte {
	b = strconv.AppendUint(b, n, 10)
	b = append(b, ' ')
	b = append(b, noun...)
	if n != 1 {
		b = append(b, 's')
	}
	return b
}

// ascii is text fit for a reply (RFC 1939 section 3): printable ASCII, no angle
// brackets, which would make a greeting an offer of APOP, and at most limit octets.
func ascii(text string, limit int) string {
	b := make([]byte, 0, min(len(text), limit))
	for _, r := range text {
		if len(b) == limit {
			break
		}
		if r < 0x20 || r > 0x7E || r == '<' || r == '>' {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return string(b)
}
