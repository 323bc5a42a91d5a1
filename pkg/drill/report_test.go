package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/mailclient"
)

func refusal(reply string) error { return &mailclient.ReplyError{Command: "PASS", Reply: reply} }

// TestErrors: which errors a scenario may bring, and how they are told.
func TestErrors(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	silence := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		err                error
		text               string
		allowed, mayBreaks bool // in a scenario in which nothing may break, and in another one
	}{
		{refusal("-ERR [SYS/TEMP] try again (unavailable, reference 986V)"), "PASS: -ERR [SYS/TEMP] try again (unavailable)", true, true},
		{refusal("451 4.3.0 try again"), "PASS: 451 4.3.0 try again", true, true},
		{refusal("-ERR [AUTH] wrong"), "PASS: -ERR [AUTH] wrong", false, false},
		{refusal("550 5.1.1 no such user"), "PASS: 550 5.1.1 no such user", false, false},
		{reset, "connection: connection reset by peer", false, true},
		{fmt.Errorf("RETR: %w", io.ErrUnexpectedEOF), "connection: closed", false, true},
		{silence, "no answer for 1m0s", false, false},
		{errDisagree, errDisagree.Error(), false, false},
	} {
		for mayBreak, want := range map[bool]bool{false: c.allowed, true: c.mayBreaks} {
			m, r := newMeter(mayBreak), &Report{}
			m.failed(t.Context(), c.err)
			m.failed(t.Context(), c.err)
			m.fill(r)
			if len(r.Errors) != 1 || r.Errors[0] != (Failure{c.text, 2, want}) {
				t.Errorf("%v: %+v, want %q, allowed %v", c.err, r.Errors, c.text, want)
			}
			if r.judge(nil, mayBreak); r.OK != want {
				t.Errorf("%v: the report is ok: %v", c.err, r.OK)
			}
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	m := newMeter(false)
	if m.failed(ended, errors.New("cut off")); m.pulse(0).Errors != 0 {
		t.Error("the drill's own end is counted")
	}
}

func TestReportInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Report{Scenario: "node-loss", Region: "eu", Began: time.Now(), Seconds: 12.3, Users: 2,
			Steps: []Step{{1, "load begins"}, {2.25, "run: \x1b[2Jharm"}}}
		m := newMeter(false)
		for _, pause := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
			began := time.Now()
			time.Sleep(pause)
			m.took(waitSession, began)
		}
		m.took(waitDelivery, time.Now())
		m.failed(t.Context(), refusal("-ERR [AUTH] wrong"))
		if p := m.pulse(time.Minute); p != (Pulse{time.Minute, 1, 3, 3 * time.Second, 1}) {
			t.Errorf("pulse %+v", p)
		}
		m.fill(r)
		var findings []history.Finding
		for i := range 12 {
			findings = append(findings, history.Finding{Invariant: history.Kept, Text: fmt.Sprintf("message %d is lost", i+1)})
		}
		r.judge(findings, false)
		if r.OK || r.LongestMilli != 3000 {
			t.Errorf("ok %v, longest %d", r.OK, r.LongestMilli)
		}
		const want = `node-loss in eu: BROKEN. 2000-01-01T00:00:00Z, 2 users, 12 s

    1.0 s  load begins
    2.2 s  run: ?[2Jharm

WAITED FOR                          DONE  LONGEST  FROM
a message, in a session that stays  3     3.00 s   1.0 s
a delivery                          1     0.00 s   6.0 s

ERRORS                   TIMES  ALLOWED
PASS: -ERR [AUTH] wrong  1      NO

INVARIANTS
BROKEN  what was acknowledged is there until its removal is asked for
          message 1 is lost
          message 2 is lost
          message 3 is lost
          message 4 is lost
          message 5 is lost
          message 6 is lost
          message 7 is lost
          message 8 is lost
          message 9 is lost
          message 10 is lost
          and 2 more
ok      each message is there once
ok      what was fetched is what was sent, octet for octet
ok      what was removed stays removed
ok      a unique-id names one message
BROKEN  no error but temporary ones
          PASS: -ERR [AUTH] wrong (1 times)
ok      everything is back and served
`
		var got strings.Builder
		if err := r.Print(&got); err != nil || got.String() != want {
			t.Errorf("got\n%s\nwant\n%s%v", got.String(), want, err)
		}
	})
}
