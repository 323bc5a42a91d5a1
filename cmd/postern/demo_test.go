package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

// Bounds of the demo's promises, generous: other tests run beside this one.
const (
	startWithin = 60 * time.Second
	stopWithin  = 10 * time.Second
)

// running is a demo in a process of its own.
type running struct {
	t      *testing.T
	dir    string
	base   int
	cmd    *exec.Cmd
	output *bytes.Buffer
	report demoReport
}

func startDemo(t *testing.T, dir string, base int) *running {
	t.Helper()
	r := &running{t: t, dir: dir, base: base, output: &bytes.Buffer{}}
	r.cmd = exec.Command(binary, "demo", "--data", dir, "--base-port", strconv.Itoa(base))
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cmd.Process.Kill() })
	ended := make(chan struct{})
	go func() { r.cmd.Wait(); close(ended) }()
	t.Cleanup(func() { <-ended })
	for deadline := time.Now().Add(startWithin); ; time.Sleep(50 * time.Millisecond) {
		if text, err := os.ReadFile(demoFile(dir)); err == nil {
			if err := json.Unmarshal(text, &r.report); err != nil {
				t.Fatal(err)
			}
			return r
		}
		select {
		case <-ended:
			t.Fatalf("the demo ended: %v\n%s", r.cmd.ProcessState, r.output)
		default:
		}
		if time.Now().After(deadline) {
			r.cmd.Process.Kill()
			<-ended
			t.Fatalf("not ready after %v\n%s", startWithin, r.output)
		}
	}
}

// stop ends the demo as Ctrl-C does, and holds it to its time and its order.
func (r *running) stop() {
	r.t.Helper()
	began := time.Now()
	r.cmd.Process.Signal(syscall.SIGINT)
	for r.alive() {
		if time.Since(began) > stopWithin+5*time.Second {
			r.t.Fatalf("still there after %v", time.Since(began))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(began); took > stopWithin {
		r.t.Errorf("stopping took %v", took)
	}
	if _, err := os.Stat(demoFile(r.dir)); !os.IsNotExist(err) {
		r.t.Errorf("demo.json after the stop: %v", err)
	}
	r.nobodyLeft(0)
}

func (r *running) alive() bool { return r.cmd.Process.Signal(syscall.Signal(0)) == nil }

func (r *running) region(name string) demoRegionReport {
	r.t.Helper()
	for _, region := range r.report.Regions {
		if region.Name == name {
			return region
		}
	}
	r.t.Fatalf("no region %s", name)
	return demoRegionReport{}
}

// user is the first user of a kind in a region.
func (r *running) user(region, kind string) demoUser {
	r.t.Helper()
	for _, u := range r.report.Users {
		if u.Region == region && u.Kind == kind {
			return u
		}
	}
	r.t.Fatalf("no %s user in %s", kind, region)
	return demoUser{}
}

// connect opens a POP3S connection to a region's front, as one of its users'
// mail clients does.
func (r *running) connect(region string) *mailclient.POP {
	r.t.Helper()
	pool, err := readPool(r.report.CA)
	if err != nil {
		r.t.Fatal(err)
	}
	at := r.region(region)
	pop, err := mailclient.DialPOP(r.t.Context(), at.POP3S, &tls.Config{RootCAs: pool, ServerName: at.Hostname})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { pop.Close() })
	return pop
}

// login opens a user's maildrop at a region's front.
func (r *running) login(region string, u demoUser) *mailclient.POP {
	r.t.Helper()
	pop := r.connect(region)
	if err := pop.Login(u.Address, u.Password); err != nil {
		r.t.Fatalf("%s at %s: %v", u.Address, region, err)
	}
	return pop
}

// mailOf is the UIDs of a user's messages in their order, and their octets.
func (r *running) mailOf(region string, u demoUser) (uids []string, messages [][]byte) {
	r.t.Helper()
	pop := r.login(region, u)
	byNumber, err := pop.UIDs()
	if err != nil {
		r.t.Fatal(err)
	}
	for n := 1; n <= len(byNumber); n++ {
		var message bytes.Buffer
		if _, err := pop.Retr(n, &message); err != nil {
			r.t.Fatal(err)
		}
		uids, messages = append(uids, byNumber[n]), append(messages, message.Bytes())
	}
	if err := pop.Quit(); err != nil {
		r.t.Fatal(err)
	}
	return uids, messages
}

// freePorts is a base of which no port is taken, outside the range that the
// kernel takes ports from by itself.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 50 {
		base := 10000 + 200*rand.IntN(100)
		layout, err := (&demoCmd{Data: t.TempDir(), BasePort: base}).layout()
		if err != nil {
			t.Fatal(err)
		}
		if layout.checkPorts() == nil {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// TestDemo is the demo's life as its users see it.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("20 processes, twice")
	}
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
	t.Run("continuity", func(t *testing.T) {
		dora := r.user("us", kindContinuity)
		if err := r.connect("us").Login(dora.Address, dora.Password); err == nil || strings.Contains(err.Error(), "[AUTH]") {
			t.Errorf("without an event: %v", err)
		}
	})
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
	r.stop()

	again := startDemo(t, dir, r.base)
	if got, _ := again.mailOf("eu", again.user("eu", kindLocal)); fmt.Sprint(got) != fmt.Sprint(uids) {
		t.Errorf("UIDs after the second start %v, before %v", got, uids)
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
				time.Sleep(10 * time.Millisecond)
			}
			if syscall.Kill(p.PID, 0) == nil {
				r.t.Errorf("%s/%s (pid %d) was left behind", region.Name, p.Name, p.PID)
			}
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
