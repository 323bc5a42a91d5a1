package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/mailclient"
)

// Bounds of the demo's promises, generous: other tests run beside this one.
const (
	startWithin = 60 * time.Second
	stopWithin  = 10 * time.Second
)

// running is a demo in a process of its own.
type running struct {
	t      testing.TB
	dir    string
	base   int
	cmd    *exec.Cmd
	output *bytes.Buffer   // complete when it has ended
	ended  <-chan struct{} // closed when the process is gone
	report demoReport
}

// ofProcesses leaves a test of other processes out of a short run. Those are for the race
// detector, which sees nothing of a process that isn't the test's own.
func ofProcesses(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the race detector sees nothing of other processes, which make test runs")
	}
}

func startDemo(t testing.TB, dir string, base int, flags ...string) *running {
	t.Helper()
	ofProcesses(t)
	r := &running{t: t, dir: dir, base: base, output: &bytes.Buffer{}}
	r.cmd = exec.Command(binary, append([]string{"demo", "--data", dir, "--base-port", strconv.Itoa(base)}, flags...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	r.ended = ended
	go func() { r.cmd.Wait(); close(ended) }()
	t.Cleanup(func() { r.cmd.Process.Kill(); <-ended })
	for deadline := time.Now().Add(startWithin); ; sleep(t.Context(), 50*time.Millisecond) {
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

// startEU starts a demo of one region, with so many shards.
func startEU(t testing.TB, shards int, flags ...string) *running {
	t.Helper()
	region, err := config.LoadRegion("../../regions/eu.yaml")
	if err != nil {
		t.Fatal(err)
	}
	region.File, region.Shards = "", shards
	text, err := yaml.Marshal(region)
	files := t.TempDir()
	if err == nil {
		err = os.WriteFile(filepath.Join(files, "eu.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return startDemo(t, t.TempDir(), freePorts(t), append(flags, "--regions", files)...)
}

// in is the demo for a subtest, which must fail in its own name.
func (r *running) in(t testing.TB) *running {
	same := *r
	same.t = t
	return &same
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
		sleep(r.t.Context(), 20*time.Millisecond)
	}
	<-r.ended
	if took := time.Since(began); took > stopWithin {
		r.t.Errorf("stopping took %v", took)
	}
	if _, err := os.Stat(demoFile(r.dir)); !os.IsNotExist(err) {
		r.t.Errorf("demo.json after the stop: %v", err)
	}
	if strings.Contains(r.output.String(), "did not stop in time") {
		r.t.Errorf("the stop says\n%s", r.output)
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
	at := r.region(region)
	pop, err := mailclient.DialPOP(r.t.Context(), at.POP3S, r.tls(at))
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
func freePorts(t testing.TB) int {
	t.Helper()
	for range 50 {
		base := 10000 + 200*mathrand.IntN(100)
		layout, err := (&demoCmd{Data: t.TempDir(), BasePort: base, Nodes: 2}).layout()
		if err != nil {
			t.Fatal(err)
		}
		if layout.checkPorts(t.Context()) == nil {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// patientLogin opens a session, again while the answer is a temporary one.
func (r *running) patientLogin(region demoRegionReport, user demoUser) *mailclient.POP {
	r.t.Helper()
	until := time.Now().Add(time.Minute)
	for {
		pop, err := mailclient.DialPOP(r.t.Context(), region.POP3S, r.tls(region))
		if err == nil {
			err = pop.Login(user.Address, user.Password)
		}
		if err == nil {
			return pop
		}
		if pop != nil {
			pop.Close()
		}
		if !strings.Contains(err.Error(), "[SYS/TEMP]") || time.Now().After(until) {
			r.t.Fatalf("%s: %v", user.Address, err)
		}
	}
}

// makeUsers makes n more users of a region's demo customer, as its
// administrator does.
func (r *running) makeUsers(region string, n int) []demoUser {
	r.t.Helper()
	users, series := make([]demoUser, n), strings.ToLower(rand.Text()[:6])
	var group errgroup.Group
	group.SetLimit(2) // a password costs 64 MiB and a tenth of a second
	for i := range users {
		users[i] = demoUser{fmt.Sprintf("%s-%04d@%s-demo.example", series, i, region), rand.Text(), region + "-demo", region, kindLocal}
		group.Go(func() error {
			cmd := exec.Command(binary, "address", "add", users[i].Address, "--password-stdin", "--context", r.report.Context)
			cmd.Stdin = strings.NewReader(users[i].Password + "\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		r.t.Fatal(err)
	}
	return users
}

// residentMemory is what each process of eu has in memory, in octets.
func (r *running) residentMemory() map[string]int64 {
	r.t.Helper()
	all := map[string]int64{}
	for _, process := range r.region("eu").Processes {
		all[process.Name] = procOctets(r.t, process.PID, "status", "VmRSS:")
	}
	return all
}

// procOctets reads a line in KiB of a file in /proc (proc(5)).
func procOctets(t testing.TB, pid int, file, field string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in /proc/%d/%s", field, pid, file)
	return 0
}

// tls is how a mail client trusts a region's front.
func (r *running) tls(region demoRegionReport) *tls.Config {
	r.t.Helper()
	pool, err := readPool(r.report.CA)
	if err != nil {
		r.t.Fatal(err)
	}
	return &tls.Config{RootCAs: pool, ServerName: region.Hostname}
}

// reread brings the report up to date: processes that were started again have
// other pids.
func (r *running) reread() {
	r.t.Helper()
	text, err := os.ReadFile(demoFile(r.dir))
	if err == nil {
		err = json.Unmarshal(text, &r.report)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// postern runs one of the operator's commands.
func (r *running) postern(args ...string) string {
	r.t.Helper()
	out, err := r.tryPostern(args...)
	if err != nil {
		r.t.Fatalf("postern %v: %v\n%s", args, err, out)
	}
	return out
}

// tryPostern is postern for one that may fail.
func (r *running) tryPostern(args ...string) (string, error) {
	out, err := exec.Command(binary, append(args, "--context", r.report.Context)...).CombinedOutput()
	return string(out), err
}
