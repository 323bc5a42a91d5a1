package lmtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// inBubble runs a test on fake time, with a client on a pipe that has read the
// greeting and says LHLO.
func inBubble(t *testing.T, config Config, test func(t *testing.T, s *Server, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := server(t, config)
		nc := pipe(s, "127.0.0.1:2000")
		c := newClient(t, nc)
		c.expect("220 ")
		c.send("LHLO client.test\r\n")
		c.reply("250 ")
		test(t, s, c)
		nc.Close()
		s.all.Wait()
	})
}

// pass lets a bubble's time pass.
func pass(d time.Duration) { <-time.After(d) }

func TestIdleTimeout(t *testing.T) {
	for name, before := range map[string]func(c *client){
		"between commands":     func(c *client) {},
		"within a command":     func(c *client) { c.send("NOO") },
		"within a transaction": func(c *client) { c.send("MAIL FROM:<>\r\n"); c.expect("250 ") },
		"within content":       func(c *client) { c.envelope("", "a@example.test"); c.send("Subject: x\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			room := &mailroom{}
			inBubble(t, Config{Deliverer: room}, func(t *testing.T, _ *Server, c *client) {
				before(c)
				begin := time.Now()
				c.expect("421 4.4.2 ")
				c.expect("EOF")
				if d := time.Since(begin); d != DefaultIdle {
					t.Errorf("closed after %v, want %v", d, DefaultIdle)
				}
			})
			if len(room.take()) != 0 {
				t.Error("a message without an end was delivered")
			}
		})
	}
}

func TestSlowButAlive(t *testing.T) {
	room := &mailroom{}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, _ *Server, c *client) {
		c.envelope("", "a@example.test")
		for range 20 { // over an hour
			c.send("x\r\n")
			pass(4 * time.Minute)
		}
		c.send(".\r\n")
		c.expect("250 2.1.5 ")
	})
}

// TestStrangerTime: who may not deliver can't hold a connection by talking.
func TestStrangerTime(t *testing.T) {
	pki := newPKI(t)
	synctest.Test(t, func(t *testing.T) {
		s := server(t, Config{Deliverer: &mailroom{}, TLS: pki.server()})
		c := newClient(t, pipe(s, "192.0.2.1:2000"))
		c.expect("220 ")
		begin := time.Now()
		for range 6 {
			pass(9 * time.Second)
			c.send("NOOP\r\n")
			c.expect("250 ")
		}
		c.expect("421 ")
		c.expect("EOF")
		if d := time.Since(begin); d != strangerTime {
			t.Errorf("closed after %v, want %v", d, strangerTime)
		}
		c.Close()
		s.all.Wait()
	})
}

// TestDeliverDeadline: a Deliverer that hangs is given up before the gateway
// gives us up.
func TestDeliverDeadline(t *testing.T) {
	room := &mailroom{deliver: func(ctx context.Context, _ maildrop.Envelope, _ maildrop.Body) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, _ *Server, c *client) {
		c.envelope("", "a@example.test")
		begin := time.Now()
		c.send(".\r\n")
		c.expect("451 4.3.0 ")
		if d := time.Since(begin); d > deliverTime {
			t.Errorf("answered after %v", d)
		}
	})
}

func TestShutdownIdle(t *testing.T) {
	inBubble(t, Config{Deliverer: &mailroom{}}, func(t *testing.T, s *Server, c *client) {
		synctest.Wait()
		go s.begin()
		c.expect("421 4.3.2 ")
		c.expect("EOF")
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestShutdownWithinTransaction: the transaction ends as it would, and the
// next command hears 421.
func TestShutdownWithinTransaction(t *testing.T) {
	room := &mailroom{}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, s *Server, c *client) {
		c.send("MAIL FROM:<>\r\n")
		c.expect("250 ")
		s.begin()
		pass(time.Minute)
		c.send("RCPT TO:<a@example.test>\r\n")
		c.expect("250 ")
		c.send("DATA\r\n")
		c.expect("354 ")
		pass(time.Minute)
		c.send("x\r\n.\r\n")
		c.expect("250 2.1.5 ")
		c.expect("421 4.3.2 ")
		c.expect("EOF")
		if len(room.take()) != 1 {
			t.Error("not delivered")
		}
	})
}

// TestShutdownForced: when its context ends, deliveries are cancelled and all
// goroutines have ended when it returns.
func TestShutdownForced(t *testing.T) {
	cancelled := false
	room := &mailroom{deliver: func(ctx context.Context, _ maildrop.Envelope, _ maildrop.Body) error {
		<-ctx.Done()
		cancelled = true
		return ctx.Err()
	}}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, s *Server, c *client) {
		c.envelope("", "a@example.test")
		c.send(".\r\n")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 10*time.Second || !cancelled {
			t.Errorf("%v after %v, cancelled %v", err, time.Since(begin), cancelled)
		}
	})
}

func TestServeAfterShutdown(t *testing.T) {
	s := server(t, Config{Deliverer: &mailroom{}})
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Errorf("Serve after Shutdown: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was left open: %v", err)
	}
}

// faulty is a listener that fails in the given ways, and then is closed.
type faulty struct {
	net.Listener
	errs []error
}

func (f *faulty) Accept() (net.Conn, error) {
	if len(f.errs) == 0 {
		return nil, net.ErrClosed
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}
func (f *faulty) Close() error { return nil }

func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, Config{Deliverer: &mailroom{}})
		begin := time.Now()
		err := s.Serve(&faulty{errs: []error{syscall.EMFILE, fmt.Errorf("accept: %w", syscall.ENFILE), syscall.ENOMEM}})
		if maildrop.KindOf(err) != maildrop.Internal || !errors.Is(err, net.ErrClosed) || time.Since(begin) != 35*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	_, address := start(t, Config{Deliverer: &mailroom{}, MaxConnections: 2})
	one, two := greeted(t, address), greeted(t, address)
	three := dial(t, address)
	three.expect("421 4.3.2 ")
	three.expect("EOF")
	one.send("QUIT\r\n")
	one.expect("221 ")
	one.expect("EOF")
	for { // the place is free a moment after the client's end of it is closed
		c := dial(t, address)
		if line := c.line(); strings.HasPrefix(line, "220 ") {
			break
		} else if !strings.HasPrefix(line, "421 ") {
			t.Fatal(line)
		}
		c.Close()
	}
	two.send("NOOP\r\n")
	two.expect("250 ")
}

// TestStrangersAreRefused: without TLS there is no way to show who one is.
func TestStrangersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, Config{Deliverer: &mailroom{}})
		c := newClient(t, pipe(s, "192.0.2.1:2000"))
		c.expect("554 5.7.1 ")
		c.expect("EOF")
		mapped := newClient(t, pipe(s, "[::ffff:127.0.0.1]:2000"))
		mapped.expect("220 ")
		mapped.Close()
		s.all.Wait()
	})
}

// TestManyStrangers: only so many are told why; nobody is waited for.
func TestManyStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, Config{Deliverer: &mailroom{}})
		for range maxRefusing {
			defer pipe(s, "192.0.2.1:2000").Close()
		}
		newClient(t, pipe(s, "192.0.2.1:2000")).expect("EOF")
		begin := time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(begin) > refuseTime {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		newClient(t, pipe(s, "127.0.0.1:2000")).expect("EOF")
	})
}

// TestCut is LMTP-09: no message appears that was cut before its end, wherever.
// See RFC 5321 section 4.5.2.
func TestCut(t *testing.T) {
	room := &mailroom{}
	s, address := start(t, Config{Deliverer: room})
	const text = "Subject: x\r\n\r\nbody\r\n.\r\n"
	for at := range len(text) {
		c := greeted(t, address)
		c.envelope("s@example.test", "a@example.test")
		c.send(text[:at])
		if at%2 == 0 {
			c.Conn.(*net.TCPConn).SetLinger(0) // RST in place of FIN
		}
		c.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := room.take(); len(got) != 0 {
		t.Errorf("%d messages: %q", len(got), got[0].wire)
	}
}

func TestLineLimits(t *testing.T) {
	_, address := start(t, Config{Deliverer: &mailroom{}})
	c := greeted(t, address)
	c.send("NOOP " + strings.Repeat("x", MaxLine-7) + "\r\nNOOP " + strings.Repeat("x", MaxLine-6) + "\r\nRSET\r\n")
	c.expect("250 2.0.0 ")
	c.expect("500 5.5.2 ")
	c.expect("250 2.0.0 ")
	go io.WriteString(c.Conn, strings.Repeat("x", 80<<10))
	c.expect("421 4.7.0 ")
}

func TestManyRecipients(t *testing.T) {
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room})
	c := greeted(t, address)
	var b strings.Builder
	for i := range MaxRecipients + 1 {
		fmt.Fprintf(&b, "RCPT TO:<a%d@example.test>\r\n", i)
	}
	go io.WriteString(c.Conn, "MAIL FROM:<>\r\n"+b.String()+"DATA\r\n")
	for range MaxRecipients + 1 {
		c.expect("250 ")
	}
	c.expect("452 4.5.3 ")
	c.expect("354 ")
	c.send("x\r\n.\r\n")
	for range MaxRecipients {
		c.expect("250 2.1.5 ")
	}
	got := room.take()
	if len(got) != MaxRecipients {
		t.Fatalf("%d deliveries", len(got))
	}
	for _, d := range got {
		if !bytes.Contains(d.wire, []byte("\r\nDelivered-To: "+d.envelope.To+"\r\n")) {
			t.Fatalf("%s got another one's copy", d.envelope.To)
		}
	}
}

// TestParallel: recipients are delivered to at once, but not all of them.
func TestParallel(t *testing.T) {
	room := &mailroom{}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, _ *Server, c *client) {
		running, gate := make(chan struct{}, 100), make(chan struct{})
		room.deliver = func(context.Context, maildrop.Envelope, maildrop.Body) error {
			running <- struct{}{}
			<-gate
			return nil
		}
		var to []string
		for i := range 2*parallelDeliveries + 1 {
			to = append(to, fmt.Sprintf("a%d@example.test", i))
		}
		c.envelope("", to...)
		c.send(".\r\n")
		synctest.Wait()
		if len(running) != parallelDeliveries {
			t.Errorf("%d deliveries at once, want %d", len(running), parallelDeliveries)
		}
		close(gate)
		for range to {
			c.expect("250 ")
		}
	})
}

// TestLogAndMetrics: one line for a transaction, with what an operator asks and
// without what is the users' business; every metric lints and counts.
func TestLogAndMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	log := &logged{}
	s, address := start(t, Config{Deliverer: &mailroom{}, Registerer: registry, Log: slog.New(slog.NewTextHandler(log, nil))})
	c := greeted(t, address)
	c.send("MAIL FROM:<secret@Sender.test>\r\nRCPT TO:<no-not_found@example.test>\r\n")
	c.expect("250 ")
	c.expect("550 ")
	c.send("RSET\r\nFOO\r\n")
	c.expect("250 ")
	c.expect("500 ")
	c.envelope("secret@Sender.test", "alice@example.test", "late-busy@example.test")
	c.send("Subject: secret\r\n.\r\n")
	c.expect("250 ")
	c.expect("452 ")
	c.send("QUIT\r\n")
	c.expect("221 ")
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if strings.Count(text, "\n") != 1 || strings.Contains(text, "secret") || strings.Contains(text, "alice") {
		t.Errorf("log: %s", text)
	}
	for _, want := range []string{"session=", "transaction=", "sender_domain=sender.test", "recipients=2", "size=17", "content=whole",
		"results.busy=1", "results.delivered=1", "level=WARN", "an internal name", "remote=127.0.0.1", "tls=false"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the log: %s", want, text)
		}
	}
	got := gather(t, registry)
	for name, want := range map[string]float64{
		`postern_intake_deliveries_total{result="busy"}`:              1,
		`postern_intake_deliveries_total{result="delivered"}`:         1,
		`postern_intake_recipients_total{result="accepted"}`:          2,
		`postern_intake_recipients_total{result="not_found"}`:         1,
		`postern_intake_messages_total{result="whole"}`:               1,
		`postern_intake_message_size_bytes{}`:                         17,
		`postern_intake_delivery_duration_seconds{stage="receive"}`:   -1,
		`postern_intake_delivery_duration_seconds{stage="deliver"}`:   -1,
		`postern_intake_connections_active{}`:                         0,
		`postern_intake_connections_limit{}`:                          DefaultMaxConnections,
		`postern_intake_connections_total{result="accepted"}`:         1,
		`postern_intake_draining{}`:                                   1,
		`postern_intake_commands_total{command="OTHER",result="err"}`: 1,
		`postern_intake_commands_total{command="RCPT",result="err"}`:  1,
		`postern_intake_commands_total{command="RCPT",result="ok"}`:   2,
		`postern_intake_commands_total{command="MAIL",result="ok"}`:   2,
		`postern_intake_receive_bytes_total{}`:                        -1,
	} {
		if value, ok := got[name]; !ok || want >= 0 && value != want || want < 0 && value <= 0 {
			t.Errorf("%s is %v (%v), want %v", name, value, ok, want)
		}
	}
	if _, err := NewServer(Config{Deliverer: &mailroom{}, Registerer: registry, Log: slog.Default(), Hostname: "h", Networks: loopback}); err == nil {
		t.Error("a second server on one registry was no error")
	}
}

func TestValidate(t *testing.T) {
	good := Config{Deliverer: &mailroom{}, Log: slog.Default(), Hostname: "h.test", Networks: loopback}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no deliverer": func(c *Config) { c.Deliverer = nil },
		"no log":       func(c *Config) { c.Log = nil },
		"no name":      func(c *Config) { c.Hostname = "" },
		"bad name":     func(c *Config) { c.Hostname = "a b" },
		"negative":     func(c *Config) { c.MaxSize = -1 },
		"nobody":       func(c *Config) { c.Networks = nil },
		"bad network":  func(c *Config) { c.Networks = append(c.Networks[:1:1], c.Networks[0]); c.Networks[1] = zeroPrefix },
	} {
		c := good
		spoil(&c)
		if _, err := NewServer(c); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// gather is all of a registry's values by name and labels; of a histogram, its sum.
func gather(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return values
}

// TestDrainBeforeRead: a shutdown that falls between the decision to wait for a
// command and the wait itself is not missed.
func TestDrainBeforeRead(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	s := server(t, Config{Deliverer: &mailroom{}})
	c := newConn(s, theirs, &session{config: s.config, gateway: true}, func() {})
	defer theirs.Close()
	c.wait(true)
	c.drain()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
}
