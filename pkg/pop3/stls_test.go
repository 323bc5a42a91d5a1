package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

// TestSTLSInjection is STLS-04 (RFC 2595 section 4: a client sends nothing behind STLS
// before TLS; the class of CVE-2011-0411): what somebody put behind STLS, in the same
// packet or another, is never answered inside TLS, however the octets are cut.
func TestSTLSInjection(t *testing.T) {
	const injected = "STLS\r\nCAPA\r\nUSER alice@example.com\r\n"
	for _, size := range []int{len(injected), 8, 6, 3, 1} {
		synctest.Test(t, func(t *testing.T) {
			b := newBox("five")
			server := testServer(t, b, nil)
			c := pipeCleartext(t, server)
			c.expect("+OK *")
			go func() {
				for text := []byte(injected); len(text) > 0; {
					n := min(size, len(text))
					if _, err := c.raw.Write(text[:n]); err != nil {
						return
					}
					text = text[n:]
				}
			}()
			answer, err := io.ReadAll(c.lines)
			if err != nil {
				t.Error(err)
			}
			if size >= 8 && string(answer) != "-ERR nothing may follow STLS before TLS\r\n" {
				t.Errorf("%d octets at once: %q", size, answer)
			}
			if strings.Contains(string(answer), "capabilities") || strings.Contains(string(answer), "send PASS") {
				t.Errorf("%d octets at once: the injected command was answered: %q", size, answer)
			}
			c.raw.Close()
			stop(t, server)
		})
	}
}

// TestSTLSDriver: what the Session does with each outcome of a handshake.
func TestSTLSDriver(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		err   error
		reply string
		end   End
		state State
	}{
		{nil, "", "", Authorization},
		{ErrTrailing, "-ERR nothing may follow STLS before TLS\r\n", EndTrailing, Ended},
		{errors.New("no TLS"), "", EndTLS, Ended},
		{context.DeadlineExceeded, "", EndTLS, Ended},
	} {
		s := NewProtocol("eu-pop.example.com", "eu").Cleartext("ABC")
		s.Greet()
		step := s.Line(now, []byte("STLS"))
		if step.Do.Op != OpTLS || string(step.Do.Preface) != "+OK begin TLS\r\n" || len(step.Reply) > 0 {
			t.Fatalf("STLS: %+v", step)
		}
		if early := s.Line(now, []byte("CAPA")); early.End != EndBadOrder && test.err == nil {
			t.Errorf("a line during the handshake: %+v", early)
		}
		s = NewProtocol("eu-pop.example.com", "eu").Cleartext("ABC")
		s.Line(now, []byte("STLS"))
		step = s.Result(now, Result{Err: test.err})
		if string(step.Reply) != test.reply || step.End != test.end || s.State() != test.state || step.Command != "STLS" {
			t.Errorf("%v: %+v, state %v", test.err, step, s.State())
		}
	}
}

// TestSTLSGarbage: who says STLS and then not TLS, or nothing, is gone by the
// handshake's time, and costs the others nothing.
func TestSTLSGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		server := testServer(t, newBox("five"), func(c *Config) { c.Registerer = registry })
		garbage, silent := pipeCleartext(t, server), pipeCleartext(t, server)
		for _, c := range []*client{garbage, silent} {
			c.expect("+OK *")
			c.say("STLS\r\n")
			c.expect("+OK begin TLS")
		}
		go io.WriteString(garbage.raw, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		began := time.Now()
		if answer, _ := io.ReadAll(garbage.lines); bytes.Contains(answer, []byte("OK")) || time.Since(began) > lingerTime+time.Second {
			t.Errorf("garbage: %q after %v", answer, time.Since(began))
		}
		io.ReadAll(silent.lines)
		if took := time.Since(began); took > handshakeTimeout+lingerTime {
			t.Errorf("silence: closed after %v", took)
		}
		garbage.raw.Close()
		silent.raw.Close()
		stop(t, server)
		if got := value(t, registry, "postern_front_commands_total", "STLS", "err"); got != 2 {
			t.Errorf("%v failed STLS", got)
		}
	})
}

// TestHealthChecks: a balancer that connects and closes, on either door, is counted
// and leaves no line in the log.
func TestHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		registry := prometheus.NewPedanticRegistry()
		server := testServer(t, newBox("five"), func(c *Config) {
			c.Registerer, c.Log = registry, slog.New(slog.NewTextHandler(&log, nil))
		})
		for range 3 {
			for _, admit := range []func(net.Conn){server.admit, server.admitCleartext} {
				near, far := net.Pipe()
				admit(far)
				near.Close()
			}
			greeted := pipe(t, server)
			greeted.expect("+OK *")
			greeted.Conn.Close()
		}
		stop(t, server)
		if log.Len() > 0 {
			t.Errorf("log %q", log.String())
		}
		if got := value(t, registry, "postern_front_connections_total", "accepted"); got != 9 {
			t.Errorf("%v accepted", got)
		}
	})
}

// drip is a connection that sends each octet by itself, slowly.
type drip struct {
	net.Conn
	pause time.Duration
}

func (d *drip) Write(p []byte) (n int, err error) {
	for i := range p {
		time.Sleep(d.pause)
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestSlowHandshake is TLS-18 (RFC 8446 section 4.6.3 bounds nothing here): half a
// handshake, three seconds of nothing, then the rest octet by octet; it works, with STLS
// and without, and others don't notice.
func TestSlowHandshake(t *testing.T) {
	for name, connect := range map[string]func(testing.TB, *Server) *client{"TLS": nil, "STLS": pipeCleartext} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := testServer(t, newBox("five"), nil)
				var slow *client
				if connect != nil {
					slow = connect(t, server)
					slow.expect("+OK *")
					slow.say("STLS\r\n")
					slow.expect("+OK begin TLS")
				} else {
					near, far := net.Pipe()
					server.admit(far)
					slow = &client{t: t, raw: &stream{Conn: near}}
					slow.lines = bufio.NewReader(slow.raw)
				}
				slow.raw.Conn = &drip{Conn: slow.raw.Conn, pause: 3 * time.Second / 300}
				done := make(chan struct{})
				began := time.Now()
				go func() {
					defer close(done)
					slow.secure(&tls.Config{MaxVersion: tls.VersionTLS12})
				}()
				time.Sleep(time.Second)
				for range 10 {
					other := pipe(t, server)
					other.login()
					other.say("QUIT\r\n")
					other.expect("+OK *")
					other.expectEnd()
					other.raw.Close()
				}
				if took := time.Since(began); took > time.Second+100*time.Millisecond {
					t.Errorf("the others took %v", took-time.Second)
				}
				<-done
				if took := time.Since(began); took < 3*time.Second {
					t.Errorf("the handshake took only %v", took)
				}
				if connect == nil {
					slow.expect("+OK *")
				}
				slow.say("USER alice@example.com\r\nPASS secret\r\n")
				slow.expect("+OK *", "+OK *")
				slow.raw.Close()
				stop(t, server)
			})
		})
	}
}

// TestCleartextAsksNothing: whatever is said before TLS, in whatever order, the back end
// isn't asked, nobody is let in, and nothing of it counts after TLS.
func TestCleartextAsksNothing(t *testing.T) {
	words := []string{
		"USER alice@example.com", "PASS secret", "AUTH PLAIN", "AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==", "AUTH SCRAM-SHA-256",
		"AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==", "*", "CAPA", "capa ", "LANG de", "UTF8", "STAT", "LIST", "RETR 1", "DELE 1", "NOOP", "RSET",
		"STLS x", "FOO", "", "STLS\x00", strings.Repeat("x", 300),
	}
	rapid.Check(t, func(t *rapid.T) {
		b := newBox("five")
		d := newDriver(b)
		d.session = d.session.protocol.Cleartext("ABC")
		for _, word := range rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(words), rapid.StringN(0, 300, 300)), 0, 50).Draw(t, "lines") {
			d.sent.Reset()
			if strings.EqualFold(strings.TrimRight(word, " "), "STLS") || strings.EqualFold(strings.TrimRight(word, " "), "QUIT") {
				continue
			}
			d.line([]byte(word))
			if got := d.sent.String(); !strings.HasPrefix(got, "-ERR ") && got != "" && !strings.HasSuffix(got, "\r\nSTLS\r\nRESP-CODES\r\n.\r\n") {
				t.Fatalf("%q: %q", word, got)
			}
			if d.end != "" {
				return
			}
		}
		if len(b.calls) > 0 || d.session.State() != Cleartext {
			t.Fatalf("asked %v, state %v", b.calls, d.session.State())
		}
		d.sent.Reset()
		d.line([]byte("STLS"))
		d.line([]byte("PASS secret"))
		if got := d.sent.String(); got != "+OK begin TLS\r\n-ERR send USER first\r\n" || len(b.calls) > 0 {
			t.Fatalf("a name from before TLS counts: %q", got)
		}
	})
}
