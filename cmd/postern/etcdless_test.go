package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// TestWithoutEtcd stops both etcds of a region in their tracks. Its processes go on,
// and a front that starts meanwhile serves by what its disk or its neighbours know.
func TestWithoutEtcd(t *testing.T) {
	d := startEU(t, 16, "--no-restart-children")
	region, user := d.region("eu"), d.user("eu", kindLocal)
	early := d.login("eu", user)

	// A shard that is on its way when etcd goes has no owner until it is back.
	d.settled(t, "eu", 2)
	state := filepath.Join(d.dir, "eu", "front-1.state")
	d.kept(state)

	// etcd runs in the demo's own process: a stopped one answers nothing at all.
	d.cmd.Process.Signal(syscall.SIGSTOP)
	t.Cleanup(func() { d.cmd.Process.Signal(syscall.SIGCONT) })
	serves := func(when string) {
		t.Helper()
		pop := d.patientLogin(region, user)
		defer pop.Close()
		uids, err := pop.UIDs()
		if err != nil || len(uids) == 0 {
			t.Fatalf("%s: %v, %v", when, uids, err)
		}
		if err := pop.Dele(len(uids)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := pop.Quit(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := deliverOnce(t.Context(), region.LMTP, user.Address, []byte("Subject: "+when+"\r\n\r\nx\r\n")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	serves("without etcd")
	if err := early.Quit(); err != nil {
		t.Fatal("a session from before:", err)
	}

	for _, process := range region.Processes {
		if process.Role == "front" {
			syscall.Kill(process.PID, syscall.SIGKILL)
		}
	}
	front := d.startFront("eu", "front-1")
	serves("after a start from the disk")
	front.Process.Kill()
	front.Wait()
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	d.startFront("eu", "front-1")
	serves("after a start from the neighbours")

	d.cmd.Process.Signal(syscall.SIGCONT)
	d.postern("override", "set", user.Account, "block")
	until := time.Now().Add(time.Minute)
	for {
		pop := d.connect("eu")
		err := pop.Login(user.Address, user.Password)
		pop.Close()
		if err != nil && strings.Contains(err.Error(), "override-block") {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("etcd is back, and not heard: %v", err)
		}
		sleep(t.Context(), 100*time.Millisecond)
	}
}

// startFront starts a front of the demo's in its place, and waits until it is
// ready. It ends with the test.
func (r *running) startFront(region, name string) *exec.Cmd {
	r.t.Helper()
	file := filepath.Join(r.dir, region, name+".yaml")
	cfg, err := config.Load(file)
	if err != nil {
		r.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(r.dir, "log", region+"-"+name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	r.awaitPorts(cfg)
	cmd := exec.Command(binary, "front", "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for until := time.Now().Add(startWithin); ; sleep(r.t.Context(), 50*time.Millisecond) {
		answer, err := http.Get("http://" + string(cfg.HTTP.Listen) + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return cmd
			}
		}
		if time.Now().After(until) {
			text, _ := os.ReadFile(log.Name())
			r.t.Fatalf("%s isn't ready: %v\n%s", name, err, text[max(0, len(text)-4000):])
		}
	}
}

// kept waits until a front's directory has the owners as they are.
func (r *running) kept(state string) {
	r.t.Helper()
	for until := time.Now().Add(time.Minute); ; sleep(r.t.Context(), 100*time.Millisecond) {
		owners := map[string]string{}
		for _, v := range r.shards(r.t, "eu") {
			owners[fmt.Sprintf("shards/%04d", v.Shard)] = v.Owner
		}
		s, err := snapshot.Dir(state).Load(r.t.Context(), placement.SnapshotView("eu"), 0)
		for _, entry := range s.Entries {
			var claim placement.Claim
			if json.Unmarshal(entry.Value, &claim) == nil && owners[entry.Key] == claim.Owner {
				delete(owners, entry.Key)
			}
		}
		if err == nil && len(owners) == 0 {
			return
		}
		if time.Now().After(until) {
			r.t.Fatalf("not kept: %v, %v", owners, err)
		}
	}
}

// awaitPorts waits until a process that was killed has let go of its ports: the kernel
// does so some time after the signal.
func (r *running) awaitPorts(cfg *config.Process) {
	r.t.Helper()
	all := []listener{{address: cfg.HTTP.Listen}, {address: cfg.Gossip.Bind, udp: true},
		{address: cfg.Front.POP3S.Listen}, {address: cfg.Front.Gateway.Listen}}
	for until := time.Now().Add(startWithin); len(all) > 0; sleep(r.t.Context(), 10*time.Millisecond) {
		free, err := all[0].free(r.t.Context())
		if err != nil || time.Now().After(until) {
			r.t.Fatalf("%s isn't free: %v", all[0].address, err)
		}
		if free {
			all = all[1:]
		}
	}
}
