package pop3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestShutdown: who hasn't logged in is turned away, who has may go on until the
// deadline, is then told, and nothing is removed unasked.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		stranger, idle, working, leaving := pipe(t, server), pipe(t, server), pipe(t, server), pipe(t, server)
		stranger.expect("+OK *")
		for _, c := range []*client{idle, working, leaving} {
			c.login()
			c.say("DELE 1\r\n")
			c.expect("+OK *")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- server.Shutdown(ctx) }()

		began := time.Now()
		stranger.expect("-ERR [SYS/TEMP] server is restarting, please reconnect (restart)")
		stranger.expectEnd()
		near, far := net.Pipe()
		server.admit(far)
		if _, err := near.Read(make([]byte, 1)); err != io.EOF {
			t.Error("a new connection after Shutdown:", err)
		}
		idle.say("NOOP\r\n")
		idle.expect("+OK *")
		if time.Since(began) > time.Second {
			t.Error("sessions had to wait")
		}

		time.Sleep(59 * time.Second)
		release := b.holdCalls(OpRemove)
		leaving.say("QUIT\r\n")
		b.holdCalls(OpRead)
		working.say("RETR 2\r\n")
		idle.expect("-ERR [SYS/TEMP] server is restarting, please reconnect (restart)")
		idle.expectEnd()
		working.expect("-ERR [SYS/TEMP] this message*", "-ERR [SYS/TEMP] server is restarting*")
		working.expectEnd()
		if d := time.Since(began); d != time.Minute {
			t.Errorf("told after %v", d)
		}
		time.Sleep(time.Second)
		release()
		leaving.expect("+OK goodbye, 1 message removed")
		leaving.expectEnd()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Error("Shutdown:", err)
		}
		if len(b.gone()) != 1 {
			t.Errorf("removed %v", b.gone())
		}
	})
}

// TestShutdownStuck: clients that take nothing and back ends that ignore their
// context hold Shutdown up for seconds only.
func TestShutdownStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		b.wire[0] = strings.Repeat("x\r\n", 100000)
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		c.say("RETR 1\r\n")
		leaving := pipe(t, server)
		leaving.login()
		b.holdCalls(OpRemove)
		leaving.say("DELE 1\r\nQUIT\r\n")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		server.Shutdown(ctx)
		if d := time.Since(began); d > time.Minute+hardStop+time.Second {
			t.Errorf("Shutdown took %v", d)
		}
		c.raw.Close()
		leaving.raw.Close()
	})
}

// TestMaxConnections: told, not just dropped; and never counted wrong.
func TestMaxConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		server := testServer(t, newBox("five"), func(c *Config) { c.Limits = limited(func(l *Limits) { l.Connections = 2 }); c.Registerer = registry })
		first, second := pipe(t, server), pipe(t, server)
		first.expect("+OK *")
		second.expect("+OK *")
		for range 3 {
			third := pipe(t, server)
			third.expect("-ERR [SYS/TEMP] too many connections, please try again in a minute (too-many-connections)")
			third.expectEnd()
		}
		first.say("QUIT\r\n")
		first.expect("+OK *")
		first.expectEnd()
		synctest.Wait()
		again := pipe(t, server)
		again.login()
		again.raw.Close()
		second.raw.Close()
		synctest.Wait()
		for result, want := range map[string]float64{"accepted": 3, "conn_limit": 3} {
			if got := value(t, registry, "postern_front_connections_total", result); got != want {
				t.Errorf("%s: %v, want %v", result, got, want)
			}
		}
		stop(t, server)
	})
}

// TestReport: one line of log and the metrics of a session. No password in either.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		registry := prometheus.NewPedanticRegistry()
		b := newBox("five")
		server := testServer(t, b, func(c *Config) {
			c.Registerer = registry
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		c := pipe(t, server)
		c.expect("+OK *")
		c.say("USER alice@example.com\r\nPASS hunter2\r\nUSER alice@example.com\r\nPASS secret\r\n")
		c.expect("+OK *", "-ERR [AUTH] *", "+OK *", "+OK *")
		c.say("RETR 4\r\nTOP 1 0\r\nDELE 4\r\nBOGUS\r\nQUIT\r\n")
		c.expect("+OK 12 octets", "Subject: 4", ".", "+OK *", "Subject: 1", "", ".", "+OK *", "-ERR *", "+OK *")
		c.expectEnd()
		stop(t, server)
		for _, want := range []string{
			"msg=session", "end=quit", `tls="TLS 1.3"`, "cipher=TLS_", "user=alice@example.com", "mechanism=USER", "home=eu", "node=n1",
			"class=local", "messages=5", "retr=1", "top=1", "dele=1", "removed=1", "octets_in=", "uids_before=", "uids_after=", "failed_logins=1", "route=local",
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %q in %s", want, log.String())
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || strings.Contains(log.String(), "secret") || strings.Contains(log.String(), "hunter2") {
			t.Errorf("%d lines: %s", n, log.String())
		}
		for series, want := range map[string]float64{
			"auth_attempts_total USER failed": 1, "auth_attempts_total USER ok": 1,
			"logins_total ok local": 1, "logins_total auth_failed none": 1, "sessions_total quit": 1,
			"commands_total OTHER err": 1, "commands_total RETR ok": 1, "commands_total PASS err": 1,
			"messages_retrieved_total": 1, "messages_deleted_total": 1, "tls_versions_total 1.3": 1,
			"connections_active tls": 0, "connections_active authorization": 0,
			"connections_active transaction": 0, "connections_active update": 0,
		} {
			words := strings.Fields(series)
			if got := value(t, registry, "postern_front_"+words[0], words[1:]...); got != want {
				t.Errorf("%s: %v, want %v", series, got, want)
			}
		}
	})
}

// value is the counter or gauge that has the labels' values, in the labels' order.
func value(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var values []string
			for _, label := range metric.GetLabel() {
				values = append(values, label.GetValue())
			}
			slices.Sort(values)
			if slices.Equal(values, slices.Sorted(slices.Values(labels))) {
				return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return -1
}
