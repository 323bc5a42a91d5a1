package pop3

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestLoginDelayInCAPA: RFC 2449 section 6.5: before the login the largest value of
// any user, with USER, after it this user's own; nothing where nobody has one. CAP-10.
func TestLoginDelayInCAPA(t *testing.T) {
	for _, c := range []struct {
		longest, own  time.Duration
		before, after string
	}{
		{0, 0, "", ""},
		{10 * time.Minute, time.Minute, "LOGIN-DELAY 600 USER\r\n", "LOGIN-DELAY 60\r\n"},
		{10 * time.Minute, 0, "LOGIN-DELAY 600 USER\r\n", "LOGIN-DELAY 0\r\n"},
		{0, time.Minute, "", "LOGIN-DELAY 60\r\n"}, // set since the session began
	} {
		s := NewProtocol("h", "r").Session("X")
		s.Delay(c.longest)
		s.Greet()
		for _, want := range []string{c.before, c.after} {
			got := ""
			for line := range strings.Lines(string(s.Line(time.Now(), []byte("CAPA")).Reply)) {
				if strings.HasPrefix(line, "LOGIN-DELAY") {
					got += line
				}
			}
			if got != want {
				t.Errorf("%+v: %q, want %q", c, got, want)
			}
			s.enter(maildrop.Info{Class: maildrop.ClassLocal, LoginDelay: c.own})
			s.checked, s.state = time.Now(), Transaction
		}
	}
}
