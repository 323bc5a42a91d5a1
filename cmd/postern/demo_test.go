package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// TestDemo is the demo's life as its users see it.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a demo")
	r := startDemo(t, dir, freePorts(t))
	anna := r.user("eu", kindLocal)
	uids, messages := r.mailOf("eu", anna)

	t.Run("samples", func(t *testing.T) {
		want := samples()
		if len(messages) != len(want) {
			t.Fatalf("%d messages, want %d", len(messages), len(want))
		}
		for i, s := range want {
			if !bytes.HasSuffix(messages[i], s.message(anna.Address)) {
				t.Errorf("%s is not what was delivered", s.name)
			}
		}
	})
	t.Run("each region", func(t *testing.T) {
		for _, region := range r.report.Regions {
			if got, _ := r.mailOf(region.Name, r.user(region.Name, kindLocal)); len(got) != len(uids) {
				t.Errorf("%s: %d messages", region.Name, len(got))
			}
		}
	})
	t.Run("through another region", func(t *testing.T) {
		got, _ := r.mailOf("us", anna)
		if fmt.Sprint(got) != fmt.Sprint(uids) {
			t.Errorf("UIDs %v, at home %v", got, uids)
		}
		err := r.connect("us").Login(r.user("je", kindLocal).Address, r.user("je", kindLocal).Password)
		if err == nil || !strings.Contains(err.Error(), "SYS/PERM") || !strings.Contains(err.Error(), r.region("je").Hostname) {
			t.Errorf("a user of je at us: %v", err)
		}
	})
	t.Run("everywhere", func(t *testing.T) { r.in(t).everywhere() })
	t.Run("SCRAM", func(t *testing.T) { r.in(t).proofs() })
	t.Run("continuity", func(t *testing.T) { r.in(t).continuity() })
	t.Run("changes", func(t *testing.T) { r.in(t).changes() })
	t.Run("lock-outs", func(t *testing.T) { r.in(t).lockouts() })
	t.Run("login delay", func(t *testing.T) { r.in(t).loginDelay() })
	t.Run("deliver", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "message")
		os.WriteFile(file, []byte("Subject: by hand\n\n.\nmore\n"), 0o600)
		ben := r.report.Users[1]
		before, _ := r.mailOf(ben.Region, ben)
		out, err := exec.Command(binary, "deliver", "--lmtp", r.region("us").LMTP, "--from", "a@sender.example", "--to", ben.Address, file).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		after, messages := r.mailOf(ben.Region, ben)
		if len(after) != len(before)+1 || !bytes.HasSuffix(messages[len(messages)-1], []byte("Subject: by hand\r\n\r\n.\r\nmore\r\n")) {
			t.Errorf("%d messages, before %d", len(after), len(before))
		}
	})
	t.Run("second start", func(t *testing.T) { r.secondStart(t) })
	t.Run("ports taken", func(t *testing.T) { r.portsTaken(t) })
	t.Run("kill -9 of a mailbox node", func(t *testing.T) { r.killNode(t, anna, messages) })
	t.Run("TLS", func(t *testing.T) { r.in(t).modernTLS() })
	r.login("eu", anna) // an idle session holds nothing up
	r.postern("account", "set", anna.Account, "--lockout-tries", fmt.Sprint(liftedTries), "--lockout-minutes", fmt.Sprint(liftedMinutes))
	r.stop()

	again := startDemo(t, dir, r.base)
	if got, _ := again.mailOf("eu", again.user("eu", kindLocal)); fmt.Sprint(got) != fmt.Sprint(uids) {
		t.Errorf("UIDs after the second start %v, before %v", got, uids)
	}
	if got := again.postern("account", "show", anna.Account); !strings.Contains(got, "after 5 wrong passwords in 15 minutes") {
		t.Errorf("limits that an earlier start has lifted: %s", got)
	}
	again.cmd.Process.Kill()
	again.nobodyLeft(5 * time.Second)
}

// nobodyLeft holds a demo that ended, however it did, to leaving no process.
func (r *running) nobodyLeft(within time.Duration) {
	r.t.Helper()
	deadline := time.Now().Add(within)
	for _, region := range r.report.Regions {
		for _, p := range region.Processes {
			for syscall.Kill(p.PID, 0) == nil && time.Now().Before(deadline) {
				sleep(r.t.Context(), 10*time.Millisecond)
			}
			if syscall.Kill(p.PID, 0) == nil {
				r.t.Errorf("%s/%s (pid %d) was left behind", region.Name, p.Name, p.PID)
			}
		}
	}
}

// continuity: mail that came before an event can be read while it is on, at
// every region, and neither before nor after.
func (r *running) continuity() {
	r.t.Helper()
	dora, account := r.user("us", kindContinuity), "us-continuity"
	refused := func(when string) {
		r.t.Helper()
		err := r.connect("us").Login(dora.Address, dora.Password)
		if err == nil || !strings.Contains(err.Error(), "[SYS/PERM] no continuity event is on") {
			r.t.Errorf("%s: %v", when, err)
		}
	}
	refused("without an event")
	text := []byte("Subject: before the event\r\n\r\nhere\r\n")
	if err := deliverOnce(r.t.Context(), r.region("us").LMTP, dora.Address, text); err != nil {
		r.t.Fatal(err)
	}
	refused("with mail but without an event")
	r.postern("continuity", "start", account, "--for", "1h")
	for _, region := range []string{"us", "eu"} {
		r.within(inForce, func() error { return r.loginError(region, dora) })
		if _, messages := r.mailOf(region, dora); !bytes.HasSuffix(messages[len(messages)-1], text) {
			r.t.Errorf("at %s the message from before the event isn't there", region)
		}
	}
	session := r.login("us", dora)
	r.postern("continuity", "end", account)
	r.endsWithin(session, "[SYS/PERM] no continuity event is on")
	refused("after the event")
}

// inForce is how long a change may take to be in force in every region.
const inForce = 2 * time.Second

// changes are in force everywhere within two seconds, and end running sessions.
func (r *running) changes() {
	r.t.Helper()
	carla := r.user("eu", kindLocal)
	for _, change := range []struct{ set, undo []string }{
		{[]string{"override", "set", carla.Account, "block"}, []string{"override", "set", carla.Account, "none"}},
		{[]string{"address", "set", carla.Address, "--access", "deny"}, []string{"address", "set", carla.Address, "--access", "inherit"}},
		{[]string{"account", "disable", carla.Account}, []string{"account", "enable", carla.Account}},
	} {
		home, away := r.login("eu", carla), r.login("us", carla)
		r.postern(change.set...)
		r.endsWithin(home, "[SYS/PERM]")
		r.endsWithin(away, "[SYS/PERM]")
		r.postern(change.undo...)
		for _, region := range []string{"eu", "us"} {
			r.within(inForce, func() error { return r.loginError(region, carla) })
		}
	}
}

// endsWithin holds a session to its end, with the words, at a command soon after
// a change.
func (r *running) endsWithin(session *mailclient.POP, words string) {
	r.t.Helper()
	var ended error
	r.within(inForce, func() error {
		if _, ended = session.Command("NOOP"); ended == nil {
			return errors.New("the session goes on")
		}
		return nil
	})
	if ended != nil && !strings.Contains(ended.Error(), words) {
		r.t.Errorf("the session ended with %v, want %s", ended, words)
	}
}

// loginError is nil when the user may log in at the region.
func (r *running) loginError(region string, u demoUser) error {
	pop := r.connect(region)
	defer pop.Close()
	return pop.Login(u.Address, u.Password)
}

// within asks again until the answer is nil, for a while.
func (r *running) within(limit time.Duration, ask func() error) {
	r.t.Helper()
	var err error
	for began := time.Now(); time.Since(began) < limit; sleep(r.t.Context(), 20*time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	r.t.Errorf("after %v: %v", limit, err)
}

// modernTLS: AEAD and forward secrecy only, and no protocol but ours.
func (r *running) modernTLS() {
	r.t.Helper()
	region := r.region("eu")
	for name, change := range map[string]func(*tls.Config){
		"CBC": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		},
		"HTTP by ALPN": func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
	} {
		config := r.tls(region)
		change(config)
		if conn, err := (&tls.Dialer{Config: config}).DialContext(r.t.Context(), "tcp", region.POP3S); err == nil {
			conn.Close()
			r.t.Errorf("%s is taken", name)
		}
	}
}

// secondStart: one directory, one demo.
func (r *running) secondStart(t *testing.T) {
	out, err := exec.Command(binary, "demo", "--data", r.dir).CombinedOutput()
	want := fmt.Sprintf("in use by a running postern (pid %d)", r.cmd.Process.Pid)
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v\n%s", err, out)
	}
}

// portsTaken: another directory, the same ports.
func (r *running) portsTaken(t *testing.T) {
	out, err := exec.Command(binary, "demo", "--data", t.TempDir(), "--base-port", strconv.Itoa(r.base)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), r.region("eu").POP3S+" (eu POP3S)") || !strings.Contains(string(out), "--base-port N") {
		t.Errorf("%v\n%s", err, out)
	}
}

// killNode kills each mailbox node of eu in turn while a session is open; the
// session goes on as if nothing had happened, and the node comes back.
func (r *running) killNode(t *testing.T, u demoUser, messages [][]byte) {
	pop := r.login("eu", u)
	for _, p := range r.region("eu").Processes {
		if p.Role != "mailbox" {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for n := range messages {
			began := time.Now()
			var message bytes.Buffer
			if _, err := pop.Retr(n+1, &message); err != nil {
				t.Fatalf("RETR %d after kill -9 of %s: %v", n+1, p.Name, err)
			}
			if took := time.Since(began); n == 0 {
				t.Logf("RETR after kill -9 of %s took %v", p.Name, took)
			}
			if !bytes.Equal(message.Bytes(), messages[n]) {
				t.Errorf("message %d has other octets after kill -9 of %s", n+1, p.Name)
			}
		}
		r.awaitReborn(t, p)
	}
	if err := pop.Quit(); err != nil {
		t.Error(err)
	}
}

// awaitReborn waits until demo.json has another pid for a process, and its
// health port answers.
func (r *running) awaitReborn(t *testing.T, dead demoProcessReport) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; sleep(ctx, 50*time.Millisecond) {
		text, err := os.ReadFile(demoFile(r.dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &r.report); err != nil {
			t.Fatal(err)
		}
		for i, p := range r.region("eu").Processes {
			if p.Name != dead.Name || p.PID == dead.PID {
				continue
			}
			conn, err := net.Dial("tcp", r.region("eu").Metrics[i])
			if err == nil {
				conn.Close()
				return
			}
		}
	}
	t.Fatalf("%s was not started again", dead.Name)
}
