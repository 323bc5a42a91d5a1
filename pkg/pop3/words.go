package pop3

import (
	"strconv"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// trouble says an error of the back end in words for a stranger, and decides whether
// the session goes on. What the error holds for the log is never part of them.
//
// Trouble never looks like a wrong password (RFC 3206 section 4): [AUTH] is for
// what a shard's owner said of the credentials.
func (s *Session) trouble(op Op, err error) Step {
	kind := maildrop.KindOf(err)
	switch {
	case kind == maildrop.Denied:
		step := s.refuse(reasonOf(err), maildrop.TextOf(err), maildrop.WaitOf(err))
		if op != OpOpen { // access ended in mid-session
			return s.end(step, EndAccess)
		}
		return step
	case kind == maildrop.NotFound && op == OpRead:
		return s.err("this message is no longer there; the others keep their numbers")
	}
	reason := failed[op]
	if s.call.command != nil && s.call.command.verb == "QUIT" && (op == OpList || untouched(kind)) {
		reason = maildrop.ReasonNotRemoved
	}
	return s.coded(reason, Refusal(reason, "", 0, s.id))
}

// reasonOf is why the back end refused, as far as this version knows.
func reasonOf(err error) maildrop.Reason {
	reason := maildrop.ReasonOf(err)
	if _, known := reason.Meaning(); !known {
		return maildrop.ReasonNoAccess
	}
	return reason
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

// failed is what can't be done at the moment, by request.
var failed = [...]maildrop.Reason{
	OpOpen:   maildrop.ReasonUnavailable,
	OpCheck:  maildrop.ReasonUnavailable,
	OpList:   maildrop.ReasonNoListing,
	OpRead:   maildrop.ReasonNoMessage,
	OpRemove: maildrop.ReasonRemovalUnknown,
}

// Refusal is the reply to a client that is refused for the reason, without its CRLF:
// the response code (RFC 2449 section 8), the words of maildrop's table, and the
// reason, which support can look up. text and wait stand in the words' placeholders;
// the reference names the session in the log; "" leaves it out.
func Refusal(reason maildrop.Reason, text string, wait time.Duration, reference string) string {
	m, _ := reason.Meaning()
	words := strings.NewReplacer("{text}", ascii(text, maxText), "{wait}", waiting(wait)).Replace(m.Words)
	if reference != "" {
		reference = ", reference " + reference
	}
	return "-ERR [" + string(m.Response) + "] " + words + " (" + string(reason) + reference + ")"
}

// waiting is a duration as a user reads it, rounded up.
func waiting(d time.Duration) string {
	if d <= time.Minute {
		return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10) + " s"
	}
	return strconv.FormatInt(int64((d+time.Minute-1)/time.Minute), 10) + " min"
}

// refuse ends the command under way for a reason of maildrop's table.
func (s *Session) refuse(reason maildrop.Reason, text string, wait time.Duration) Step {
	return s.coded(reason, Refusal(reason, text, wait, ""))
}

func (s *Session) coded(reason maildrop.Reason, reply string) Step {
	status := StatusErr
	if m, _ := reason.Meaning(); m.Response == maildrop.ResponseTemp {
		status = StatusTemp
	}
	step := s.line("", reply, status)
	step.Reason = reason
	return step
}

// ok and err end the command under way with a reply of one line.

func (s *Session) ok(text string) Step  { return s.line("+OK ", text, StatusOK) }
func (s *Session) err(text string) Step { return s.line("-ERR ", text, StatusErr) }

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
