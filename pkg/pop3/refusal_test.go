package pop3

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// refusalForm is a reply with a response code (RFC 2449 section 8, RFC 3206): code,
// words, and the reason that support can look up.
var refusalForm = regexp.MustCompile(`^-ERR \[(AUTH|SYS/TEMP|SYS/PERM|LOGIN-DELAY)\] ([ -;=?-~]+) \(([a-z-]+)(?:, reference [A-Z0-9]+)?\)\r\n$`)

// What the back end's errors hold there.
var refusedText = "caf\u00e9 <x>\r\n" + strings.Repeat("x", 600)

const refusedWait = 1 << 62

// everyRefusal is each reply with a response code that a Session can make: of every
// error of the back end, in every call, and those of its own.
func everyRefusal() (replies []Step) {
	say := func(verb string, made func(*Session) Step) {
		s := NewProtocol("h", "r").Session(strings.Repeat("R", 64))
		s.call = call{command: s.protocol.lookup([]byte(verb))}
		if step := made(s); strings.HasPrefix(string(step.Reply), "-ERR [") {
			replies = append(replies, step)
		}
	}
	reasons := []maildrop.Reason{"", "of-a-later-version", "<b>\r\n"}
	for _, m := range maildrop.Meanings() {
		reasons = append(reasons, m.Reason)
	}
	for _, verb := range []string{"NOOP", "QUIT"} {
		for op := OpOpen; op <= OpRemove; op++ {
			for kind := maildrop.Internal; int(kind) < maildrop.Kinds; kind++ {
				for _, reason := range reasons {
					err := &maildrop.Error{Kind: kind, Reason: reason, Text: refusedText, Wait: refusedWait}
					say(verb, func(s *Session) Step { return s.trouble(op, err) })
				}
			}
		}
	}
	say("PASS", (*Session).refused)
	say("PASS", func(s *Session) Step { return s.TurnAway(maildrop.ReasonFull) })
	say("PASS", (*Session).Restart)
	say("PASS", (*Session).TooMuch)
	say("PASS", func(s *Session) Step {
		s.protocol.maxLines = 1
		s.Line(time.Now(), []byte("CAPA"))
		return s.Line(time.Now(), []byte("CAPA"))
	})
	return replies
}

// TestRefusals is CAP-15 (RFC 2449 section 8, RFC 3206): it holds every refusal that can be sent against maildrop's table, and the
// table against what can be sent.
func TestRefusals(t *testing.T) {
	seen := make(map[maildrop.Reason]bool)
	for _, step := range everyRefusal() {
		reply := string(step.Reply)
		parts := refusalForm.FindStringSubmatch(reply)
		if parts == nil || len(reply) > maxReply {
			t.Fatalf("%d octets: %q", len(reply), reply)
		}
		m, known := maildrop.Reason(parts[3]).Meaning()
		if !known || string(m.Response) != parts[1] || step.Reason != m.Reason {
			t.Fatalf("%q: the table has %+v, the step %q", reply, m, step.Reason)
		}
		if temporary := m.Response == maildrop.ResponseTemp; temporary != (step.Status == StatusTemp) {
			t.Errorf("%q: status %v", reply, step.Status)
		}
		seen[m.Reason] = true
	}
	for _, m := range maildrop.Meanings() {
		if !seen[m.Reason] {
			t.Errorf("%s is in the table, and nothing sends it", m.Reason)
		}
		if len(m.Words) > maildrop.MaxWords || m.Words != ascii(m.Words, maxReply) || m.User == "" || m.Operator == "" {
			t.Errorf("%+v", m)
		}
	}
}

// TestWaiting: a user who comes back after the time that he was told is let in.
func TestWaiting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "1 s", time.Millisecond: "1 s", 40 * time.Second: "40 s", time.Minute: "60 s",
		time.Minute + 1: "2 min", 15 * time.Minute: "15 min", 24 * time.Hour: "1440 min",
	} {
		if got := waiting(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestLoginReply: what a helper is told is what was sent.
func TestLoginReply(t *testing.T) {
	for want, a := range map[string]maildrop.Attempt{
		"+OK 2 messages, 1 octet, kept 60 days":                                                                                               {Class: maildrop.ClassLocal, Count: 2, Octets: 1},
		"-ERR [AUTH] wrong user name or password; the user name is the full mail address (credentials)":                                       {Reason: maildrop.ReasonCredentials},
		"-ERR [SYS/TEMP] your mailbox can't be reached at the moment, please try again in a minute (unavailable, reference X7)":               {Reason: maildrop.ReasonUnavailable, Session: "X7"},
		"-ERR [LOGIN-DELAY] the last login is too recent; try again in 9 s, and let your mail program look for mail less often (login-delay)": {Reason: maildrop.ReasonLoginDelay, Wait: 9 * time.Second},
		"-ERR [SYS/PERM] POP is switched off for your whole organization; ask your administrator (override-block)":                            {Reason: maildrop.ReasonBlocked, Language: "xx"},
		"+OK 2 Nachrichten, 1 Oktett, aufbewahrt 60 Tage":                                                                                     {Language: "de", Class: maildrop.ClassLocal, Count: 2, Octets: 1},
		"-ERR [SYS/PERM] access to this mailbox is not possible; ask your administrator (no-access)":                                          {Reason: "of-a-later-version"},
	} {
		if got := LoginReply(a); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestEveryReasonIsExplained: of each reason a front can send, a helper is told what was
// sent, word for word.
func TestEveryReasonIsExplained(t *testing.T) {
	sent := make(map[string]bool)
	for _, step := range everyRefusal() {
		sent[strings.TrimSuffix(string(step.Reply), "\r\n")] = true
	}
	for _, m := range maildrop.Meanings() {
		a := maildrop.Attempt{Reason: m.Reason, Session: strings.Repeat("R", 64), Text: refusedText, Wait: refusedWait}
		if got := LoginReply(a); !sent[got] || !strings.Contains(got, "("+string(m.Reason)) {
			t.Errorf("%s: nothing sends %q", m.Reason, got)
		}
	}
}
