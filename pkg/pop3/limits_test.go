package pop3

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// limited is the default limits, changed.
func limited(change func(*Limits)) *Limits {
	l := DefaultLimits()
	change(l)
	return l
}

// from is a connection in memory that says where it comes from.
type from struct {
	net.Conn
	remote netip.Addr
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.remote, 1)) }

var (
	office    = netip.MustParseAddr("203.0.113.7")
	elsewhere = netip.MustParseAddr("198.51.100.1")
	ipv6      = netip.MustParseAddr("2001:db8::1")
)

// TestConnectionsPerSource: each source is told, and only the one that has too many.
func TestConnectionsPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		server := testServer(t, newBox("five"), func(c *Config) {
			c.Limits = limited(func(l *Limits) { l.PerIP, l.Per64 = 2, 1 })
			c.Registerer = registry
		})
		var open []*client
		for _, remote := range []netip.Addr{office, office, ipv6} {
			c := pipeFrom(t, server, remote)
			c.expect("+OK *")
			open = append(open, c)
		}
		for remote, words := range map[netip.Addr]string{
			office: "-ERR [SYS/TEMP] too many connections from your address, * (ip-connections)",
			ipv6:   "-ERR [SYS/TEMP] too many connections from your network, * (network-connections)",
		} {
			c := pipeFrom(t, server, remote)
			c.expect(words)
			c.expectEnd()
		}
		neighbour := pipeFrom(t, server, elsewhere)
		neighbour.login()
		open[0].say("QUIT\r\n")
		open[0].expect("+OK *")
		open[0].expectEnd()
		synctest.Wait()
		again := pipeFrom(t, server, office)
		again.login()
		for _, c := range append(open[1:], neighbour, again) {
			c.raw.Close()
		}
		synctest.Wait()
		for result, want := range map[string]float64{"accepted": 5, "ip_limit": 1, "network_limit": 1} {
			if got := value(t, registry, "postern_front_connections_total", result); got != want {
				t.Errorf("%s: %v, want %v", result, got, want)
			}
		}
		stop(t, server)
	})
}

// TestSessionsPerAddress: who has too many sessions on a maildrop gets no other, and
// one again when one has ended, however it ended.
func TestSessionsPerAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, func(c *Config) { c.Limits = limited(func(l *Limits) { l.PerAddress = 1 }) })
		first := pipe(t, server)
		first.login()
		second := pipe(t, server)
		second.expect("+OK *")
		second.say("USER alice@example.com\r\nPASS secret\r\n")
		second.expect("+OK *", "-ERR [SYS/TEMP] too many sessions are open on this mailbox, * (too-many-sessions)")
		first.raw.Close()
		synctest.Wait()
		second.say("USER alice@example.com\r\nPASS secret\r\n")
		second.expect("+OK *", "+OK *")
		second.raw.Close()
		synctest.Wait()
		if len(server.sessions) != 0 || b.closed != 3 {
			t.Errorf("%v are open, %d closed", server.sessions, b.closed)
		}
		stop(t, server)
	})
}

// TestGuesserWaits: failures from a source make its next logins wait, before the
// password is looked at; others, and who logged in from there before, don't. Trouble of
// ours is no failure, and no more wait than may.
func TestGuesserWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, func(c *Config) {
			c.Limits = limited(func(l *Limits) { l.FreeFailures, l.FailedLogins, l.Login, l.Delayed = 2, 0, 0, 1 })
		})
		try := func(remote netip.Addr, user, password, want string) time.Duration {
			t.Helper()
			c := pipeFrom(t, server, remote)
			c.expect("+OK *")
			began := time.Now()
			c.say("USER " + user + "\r\nPASS " + password + "\r\n")
			c.expect("+OK *", want)
			took := time.Since(began)
			c.raw.Close()
			synctest.Wait()
			return took
		}
		b.fault("open transient")
		for range 20 {
			if took := try(office, "ben@example.com", "x", "-ERR [SYS/TEMP]*"); took != 0 {
				t.Fatalf("trouble counts: %v", took)
			}
		}
		b.fault("open denied no-event words")
		for range 20 {
			if took := try(office, "ben@example.com", "x", "-ERR [SYS/PERM]*"); took != 0 {
				t.Fatalf("a policy's refusal counts: %v", took)
			}
		}
		b.fault("none")
		var took []time.Duration
		for i := range 9 {
			took = append(took, try(office, "ben@example.com", strings.Repeat("x", i+1), "-ERR [AUTH]*"))
		}
		for i, least := range []float64{0, 0, 0, 0.24, 0.48, 0.95, 1.9, 3.7, 7.3} {
			if got := took[i].Seconds(); got < least || got > least*1.25 {
				t.Errorf("login %d took %v, want about %v s", i+1, took[i], least)
			}
		}
		if took := try(elsewhere, "ben@example.com", "x", "-ERR [AUTH]*"); took != 0 {
			t.Errorf("from elsewhere: %v", took)
		}
		if took := try(office, "alice@example.com", "secret", "+OK *"); took > 8*time.Second || took < 7*time.Second {
			t.Errorf("a right password behind the same NAT waited %v", took)
		}
		if took := try(office, "alice@example.com", "secret", "+OK *"); took != 0 {
			t.Errorf("a right password from where it was right before waited %v", took)
		}
		waiting := pipeFrom(t, server, office)
		waiting.expect("+OK *")
		waiting.say("USER carl@example.com\r\n")
		waiting.expect("+OK *")
		waiting.say("PASS x\r\n")
		synctest.Wait()
		try(office, "dora@example.com", "x", "-ERR [SYS/TEMP] too many wrong passwords from your network, please try again in * s (slow-down)")
		opens := len(b.calls)
		waiting.raw.Close() // a hang-up ends the wait, and nothing is asked
		time.Sleep(10 * time.Second)
		if len(b.calls) != opens {
			t.Error("a login was tried for a client that had gone")
		}
		server.mu.Lock()
		if server.delayed != 0 {
			t.Errorf("%d logins wait", server.delayed)
		}
		server.mu.Unlock()
		stop(t, server)
	})
}

// TestBeforeLogin: what a stranger may send, and for how long he may be one.
func TestBeforeLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t, newBox("five"), func(c *Config) {
			c.Limits = limited(func(l *Limits) { l.OctetsBeforeLogin, l.LinesBeforeLogin, l.FailedLogins = 1000, 50, 1 })
		})
		wordy := pipe(t, server)
		wordy.expect("+OK *")
		for range 4 {
			wordy.say("USER " + strings.Repeat("x", 243) + "\r\n")
			wordy.expect("+OK *")
		}
		wordy.say("CAPA" + strings.Repeat(" ", 100) + "\r\n")
		wordy.expect("-ERR [SYS/PERM] too much sent before login; please check your mail program (octets-before-login)")
		wordy.expectEnd()

		slow, began := pipe(t, server), time.Now()
		slow.expect("+OK *")
		for time.Since(began) < 170*time.Second {
			time.Sleep(34 * time.Second)
			slow.say("USER alice@example.com\r\n")
			slow.expect("+OK *")
		}
		slow.expectEnd()
		if took := time.Since(began); took != 3*time.Minute {
			t.Errorf("a stranger was thrown out after %v", took)
		}
		guesser := pipe(t, server)
		guesser.expect("+OK *")
		guesser.say("USER alice@example.com\r\nPASS x\r\n")
		guesser.expect("+OK *", "-ERR [AUTH]*")
		guesser.expectEnd()
		stop(t, server)
	})
}

// TestLimitsAreChecked: what can't be meant is refused.
func TestLimitsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Limits){
		"no connections": func(l *Limits) { l.Connections = 0 }, "negative": func(l *Limits) { l.PerIP = -1 },
		"back in time": func(l *Limits) { l.Login = -1 },
	} {
		config := Config{Opener: newBox("five"), TLS: TLSConfig(nil), Limits: limited(change)}
		if _, err := NewServer(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewServer(Config{Opener: newBox("five"), TLS: TLSConfig(nil), Limits: &Limits{Connections: 1}}); err != nil {
		t.Error(err)
	}
}
