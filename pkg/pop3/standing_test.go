package pop3

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestRefusedIsTold: what is refused here is told with the texts' makings; what the
// mailbox's owner refused, and remembers, isn't.
func TestRefusedIsTold(t *testing.T) {
	denied := func(reason maildrop.Reason) error {
		return &maildrop.Error{Op: "test", Kind: maildrop.Denied, Reason: reason, Text: "text", Wait: time.Minute}
	}
	for name, c := range map[string]struct {
		op   Op
		err  error
		say  string
		want maildrop.Attempt // zero: nothing is told
	}{
		"the owner's":          {op: OpOpen, err: denied(maildrop.ReasonNoEvent), say: "STAT"},
		"the owner's password": {op: OpOpen, err: denied(maildrop.ReasonCredentials), say: "STAT"},
		"the router's": {op: OpOpen, err: denied(maildrop.ReasonRegion), say: "STAT",
			want: maildrop.Attempt{Reason: maildrop.ReasonRegion, Text: "text", Wait: time.Minute}},
		"out of reach": {op: OpOpen, err: &maildrop.Error{Kind: maildrop.Transient}, say: "STAT", want: maildrop.Attempt{Reason: maildrop.ReasonUnavailable}},
		"no message":   {op: OpRead, err: &maildrop.Error{Kind: maildrop.Corrupt}, say: "RETR 1", want: maildrop.Attempt{Reason: maildrop.ReasonNoMessage}},
		"no listing":   {op: OpList, err: &maildrop.Error{Kind: maildrop.Transient}, say: "UIDL", want: maildrop.Attempt{Reason: maildrop.ReasonNoListing}},
		"no answer":    {op: OpRead, say: "RETR 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox("five")
				b.faults[c.op] = c.err
				told := make(chan maildrop.Attempt, 9)
				server := testServer(t, b, func(config *Config) {
					config.Refused = func(user maildrop.Address, a maildrop.Attempt) {
						if user != "alice@example.com" || a.Session == "" || a.Mechanism != "USER" || a.Language != "en" || !a.Time.Equal(time.Now()) {
							t.Errorf("%s: %+v", user, a)
						}
						told <- a
					}
				})
				client := pipe(t, server)
				client.expect("+OK *")
				client.say("USER alice@example.com\r\nPASS secret\r\n" + c.say + "\r\nQUIT\r\n")
				_, _ = io.Copy(io.Discard, client.lines) // a message that broke off ends without close_notify
				client.raw.Close()
				synctest.Wait()
				var got maildrop.Attempt
				if len(told) > 0 {
					got = <-told
				}
				if got.Reason != c.want.Reason || got.Text != c.want.Text || got.Wait != c.want.Wait || len(told) > 0 {
					t.Errorf("told %+v and %d more, want %+v", got, len(told), c.want)
				}
				stop(t, server)
			})
		})
	}
}

// TestRefusedHere: a password that nobody can have, and a session too many.
func TestRefusedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan maildrop.Reason, 9)
		server := testServer(t, newBox("five"), func(config *Config) {
			config.Limits = limited(func(l *Limits) { l.PerAddress = 1 })
			config.Refused = func(_ maildrop.Address, a maildrop.Attempt) { told <- a.Reason }
		})
		client, second := pipe(t, server), pipe(t, server)
		client.expect("+OK *")
		client.say("USER alice@example.com\r\nPASS \xff\r\nUSER no address\r\nPASS x\r\nUSER alice@example.com\r\nPASS secret\r\n")
		client.expect("+OK *", "-ERR [AUTH] *", "+OK *", "-ERR [AUTH] *", "+OK *", "+OK *")
		second.expect("+OK *")
		second.say("USER alice@example.com\r\nPASS secret\r\n")
		second.expect("+OK *", "-ERR [SYS/TEMP] *")
		close(told)
		var got []string
		for reason := range told {
			got = append(got, string(reason))
		}
		if all := strings.Join(got, " "); all != "credentials too-many-sessions" {
			t.Errorf("told %q", all)
		}
		client.raw.Close()
		second.raw.Close()
		synctest.Wait()
		stop(t, server)
	})
}

// TestStanding: a helper is told of the limits that a login from there would meet.
func TestStanding(t *testing.T) {
	server := testServer(t, newBox("five"), func(config *Config) {
		config.Limits = limited(func(l *Limits) { l.PerIP, l.Per64, l.FreeFailures = 2, 1, 1 })
	})
	defer stop(t, server)
	from, wide := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	standing := func(remote netip.Addr) (connections, delay maildrop.Finding) {
		all := server.Standing(remote, "alice@example.com")
		return all[0], all[1]
	}
	if c, d := standing(from); c.Reason != "" || c.Value != "0" || !strings.HasPrefix(c.Words, "of at most 2 from 192.0.2.7") || d.Value != "none" || !strings.HasPrefix(d.Words, "0 wrong passwords") {
		t.Errorf("%+v, %+v", c, d)
	}
	gate := server.Gate()
	for range 2 {
		gate.Connect(from)
		gate.Connect(wide)
		gate.Failed(from, "alice@example.com", "")
	}
	if c, d := standing(from); c.Reason != maildrop.ReasonFullIP || c.Value != "2" || d.Value != "250ms" {
		t.Errorf("%+v, %+v", c, d)
	}
	if c, _ := standing(wide); c.Reason != maildrop.ReasonFullNetwork || c.Value != "1" {
		t.Errorf("%+v", c)
	}
}
