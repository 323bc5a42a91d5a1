package pop3

import (
	"strconv"
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
		return s.err(textGone)
	}
	reason := failed[op]
	if s.call.command != nil && s.call.command.verb == "QUIT" && (op == OpList || untouched(kind)) {
		reason = maildrop.ReasonNotRemoved
	}
	return s.refusal(reason, "", 0, s.id)
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
	case maildrop.Full, maildrop.ReadOnly, maildrop.Busy, maildrop.NotOwner, maildrop.Transient:
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

// Refusal is the reply to a client that is refused for the reason, without its CRLF, in
// English: what the log and the operator are shown. text and wait stand in the words'
// placeholders; the reference names the session in the log; "" leaves it out.
func Refusal(reason maildrop.Reason, text string, wait time.Duration, reference string) string {
	return string(english.refusal(nil, reason, text, wait, reference))
}

// refusal adds the reply to a client that is refused for the reason: the response code
// (RFC 2449 section 8), the language's words, and the reason, which support can look up.
// Codes are for machines, and the same in every language.
func (l *language) refusal(b []byte, reason maildrop.Reason, text string, wait time.Duration, reference string) []byte {
	m, _ := reason.Meaning()
	b = append(append(append(b, "-ERR ["...), m.Response...), "] "...)
	words := l.reasons[reason]
	if words == "" {
		words = m.Words
	}
	b = l.expand(b, words, values{text: ascii(text, maxText), wait: wait})
	b = append(append(b, " ("...), reason...)
	if reference != "" {
		b = append(append(b, ", reference "...), reference...)
	}
	return append(b, ')')
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
	return s.refusal(reason, text, wait, "")
}

func (s *Session) refusal(reason maildrop.Reason, text string, wait time.Duration, reference string) Step {
	s.out = append(s.language.refusal(s.out, reason, text, wait, reference), "\r\n"...)
	status := StatusErr
	if m, _ := reason.Meaning(); m.Response == maildrop.ResponseTemp {
		status = StatusTemp
	}
	step := s.done(s.out, status)
	step.Reason = reason
	return step
}

// ok and err end the command under way with a reply of one line.

func (s *Session) ok(t text, v ...values) Step {
	s.say("+OK ", t, v)
	return s.done(s.out, StatusOK)
}

func (s *Session) err(t text, v ...values) Step {
	s.say("-ERR ", t, v)
	return s.done(s.out, StatusErr)
}

// first begins a reply of many lines.
func (s *Session) first(t text, v ...values) { s.say("+OK ", t, v) }

// say adds a line in the session's language.
func (s *Session) say(indicator string, t text, v []values) {
	var with values
	if len(v) > 0 {
		with = v[0]
	}
	s.out = append(s.out, indicator...)
	s.out = s.language.append(s.out, t, with)
	s.out = append(s.out, "\r\n"...)
}

// done ends the command under way.
func (s *Session) done(reply []byte, status Status) Step {
	step := Step{Reply: reply, Status: status}
	if s.call.command != nil {
		step.Command = s.call.command.verb
	}
	return step
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
