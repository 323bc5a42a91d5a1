package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/drill"
	"github.com/postern-pop/postern/pkg/history"
)

// TestDrill holds every drill on a small demo, and lets drills find what is broken there.
func TestDrill(t *testing.T) {
	d := startEU(t, 4)
	t.Run("links", func(t *testing.T) { d.in(t).drillCuts() })
	t.Run("Ctrl-C", func(t *testing.T) { d.in(t).drillBrokenOff() })
	t.Run("behind the drill's back", func(t *testing.T) { d.in(t).drillFinds() })
	t.Run("by commands", func(t *testing.T) { d.in(t).drillKills() })
	t.Run("looks first", func(t *testing.T) { d.in(t).drillAsks() })
	for _, one := range drill.Names() {
		t.Run(one, func(t *testing.T) { d.in(t).drillHolds(one) })
	}
}

func TestAsk(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "Yes \n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		var asked bytes.Buffer
		if err := ask(t.Context(), strings.NewReader(answer), true, &asked); (err == nil) != want || !strings.Contains(asked.String(), "[y/N]") {
			t.Errorf("%q: %v, asked %q", answer, err, &asked)
		}
	}
	if err := ask(t.Context(), strings.NewReader("y\n"), false, io.Discard); err == nil {
		t.Error("who isn't there has said yes")
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	silent, hangUp := io.Pipe()
	defer hangUp.Close()
	if err := ask(interrupted, silent, true, io.Discard); err == nil {
		t.Error("Ctrl-C was taken for a yes")
	}
}

// TestDrillIsSettled: every shard is served, and who had shards has some again.
func TestDrillIsSettled(t *testing.T) {
	shard := func(owner string) shardView { return shardView{Owner: owner, Serving: owner != ""} }
	nodes := []nodeView{{Name: "a", State: "present"}, {Name: "b", State: "present"}, {Name: "c", State: "present"}, {Name: "d", State: "present"}}
	r := drilled("eu", "")
	for _, c := range []struct {
		shards []shardView
		gone   string // a node that may have none any more
		want   string
	}{
		{nil, "", "the region has no shards"},
		{[]shardView{shard("a"), shard("")}, "", "shard 0 is not served"},
		{[]shardView{shard("a"), shard("b"), shard("b")}, "", ""}, // c and d have none by right
		{[]shardView{shard("a"), shard("a"), shard("c")}, "", "b has not got its shards back yet"},
		{[]shardView{shard("a"), shard("a"), shard("c")}, "b", ""},
		{[]shardView{shard("b"), shard("a"), shard("a")}, "", ""},
	} {
		seen := slices.Clone(nodes)
		for i := range seen {
			if seen[i].Name == c.gone {
				seen[i].State = "drained"
			}
		}
		if err := r.unsettled(c.shards, seen); c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%+v: %v, want %q", c.shards, err, c.want)
		}
	}
}

// drilled runs postern drill, and returns its exit code and what it said where.
func (r *running) drilled(args ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.Command(binary, append([]string{"drill", "--calm", "500ms", "--for", "1500ms"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	_ = cmd.Run() // the exit code says it
	return cmd.ProcessState.ExitCode(), out.String(), complaints.String()
}

// drillHolds holds one drill, which did what it says, and found nothing.
func (r *running) drillHolds(name string) {
	r.t.Helper()
	r.reread()
	before := slices.Clone(r.region("eu").Processes) // rereading writes over them
	record := r.t.TempDir()
	code, stdout, stderr := r.drilled(name, "--demo", r.dir, "-o", "json", "--record", record)
	var reports []drill.Report
	if err := json.Unmarshal([]byte(stdout), &reports); err != nil || len(reports) != 1 {
		r.t.Fatalf("exit %d, %v\n%s\n%s", code, err, stdout, stderr)
	}
	got := reports[0]
	if code != 0 || !got.OK || got.Scenario != name || got.Region != "eu" || got.Users != 3 {
		r.t.Fatalf("exit %d\n%s\n%s", code, stdout, stderr)
	}
	done := map[string]int{}
	for _, wait := range got.Waits {
		done[wait.What] = wait.Done
	}
	if len(done) != 4 || len(got.Invariants) != 7 || done["delivery"] < 3 || got.LongestMilli == 0 {
		r.t.Errorf("%s", stdout)
	}
	r.drillDid(before, got)
	kept, err := os.ReadFile(filepath.Join(record, name+".json"))
	if err != nil || !json.Valid(kept) {
		r.t.Errorf("%v: %s", err, kept)
	}
	events := recorded(r.t, record, name)
	if wrong := history.Check(events, time.Second); len(wrong) > 0 {
		r.t.Errorf("%q", wrong)
	}
	if foreign := len(samples()); len(events) == 0 || r.count(r.user("eu", kindLocal)) != foreign {
		r.t.Errorf("%d events; the mailbox had %d messages before, has %d after", len(events), foreign, r.count(r.user("eu", kindLocal)))
	}
}

// drillDid holds a report to harm that shows.
func (r *running) drillDid(before []demoProcessReport, got drill.Report) {
	r.t.Helper()
	r.reread()
	other := map[string]int{} // role → processes that have begun another life
	for i, p := range r.region("eu").Processes {
		if p.PID != before[i].PID {
			other[p.Role]++
		}
	}
	want := map[string]map[string]int{
		"node-loss": {"mailbox": 1}, "region-cut": {"mailbox": 1}, "front-loss": {"front": 1},
		"rolling-restart": {"mailbox": 2, "intake": 1, "front": 1},
	}[got.Scenario]
	if fmt.Sprint(other) != fmt.Sprint(want) && len(other)+len(want) > 0 {
		r.t.Errorf("other lives: %v, want %v", other, want)
	}
	for _, wait := range got.Waits {
		if got.Scenario == "store-slow" && wait.What == "delivery" && wait.LongestMilli < 500 {
			r.t.Errorf("no delivery was late: %+v", got.Waits)
		}
	}
	for _, link := range []string{linkGateway, linkGlobal, linkRegional} {
		if _, err := os.Stat(linkSwitch(r.dir, "eu", link)); !os.IsNotExist(err) {
			r.t.Errorf("the link to %s is still cut", link)
		}
	}
}

// count is how many messages a user has.
func (r *running) count(u demoUser) int {
	r.t.Helper()
	pop := r.patientLogin(r.region("eu"), u)
	defer pop.Quit()
	n, _, err := pop.Stat()
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func recorded(t testing.TB, dir, name string) []history.Event {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name+".history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := history.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// drillCuts: the region's processes reach etcd, and other regions its gateway, by links that can be cut.
func (r *running) drillCuts() {
	r.t.Helper()
	front, err := config.Load(filepath.Join(r.dir, "eu", "front-1.yaml"))
	if err != nil {
		r.t.Fatal(err)
	}
	for link, address := range map[string]config.HostPort{
		linkGateway: front.Region.Gateway, linkGlobal: front.Etcd.Global.Endpoints[0], linkRegional: front.Etcd.Regional.Endpoints[0],
	} {
		file := linkSwitch(r.dir, "eu", link)
		if err := os.WriteFile(file, []byte(time.Now().Add(time.Minute).Format(time.RFC3339)), 0o600); err != nil {
			r.t.Fatal(err)
		}
		if r.reacts(address, 300*time.Millisecond) {
			r.t.Errorf("%s answers through a link that is cut", link)
		}
		if err := os.Remove(file); err != nil {
			r.t.Fatal(err)
		}
		if !r.reacts(address, 30*time.Second) {
			r.t.Errorf("%s doesn't answer", link)
		}
	}
}

// reacts reports whether a server of TLS does anything about what is no TLS.
func (r *running) reacts(address config.HostPort, within time.Duration) bool {
	r.t.Helper()
	conn, err := net.Dial("tcp", string(address))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(within))
	io.WriteString(conn, "NOOP\r\n\r\n")
	_, err = conn.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// drillTarget writes a target file for the demo whose store-slow is two scripts.
func (r *running) drillTarget(do, undo string) string {
	r.t.Helper()
	region, user := r.region("eu"), r.user("eu", kindLocal)
	dir := r.t.TempDir()
	processes := ""
	for i, p := range region.Processes {
		processes += fmt.Sprintf("  - {name: %s, role: %s, http: %q}\n", p.Name, p.Role, region.Metrics[i])
	}
	text := fmt.Sprintf(`
region: eu
context: %s
pop3s: {addresses: [%q], hostname: %s, ca: %s}
lmtp: {addresses: [%q]}
users: [{address: %s, password: %s}]
before: [touch, %[8]s/before]
after: [touch, %[8]s/after]
processes:
%[9]sstore-slow:
  do: [sh, -c, %[10]q]
  undo: [sh, -c, %[11]q]
`, r.report.Context, region.POP3S, region.Hostname, r.report.CA, region.LMTP, user.Address, user.Password, dir, processes, "cd "+dir+"; "+do, "cd "+dir+"; "+undo)
	file := filepath.Join(dir, "drill.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

// awaitFile waits until a script has made a file.
func (r *running) awaitFile(dir, name string) {
	r.t.Helper()
	for until := time.Now().Add(time.Minute); !there(dir, name); sleep(r.t.Context(), 20*time.Millisecond) {
		if time.Now().After(until) {
			r.t.Fatalf("no %s", name)
		}
	}
}

func there(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// drillFinds: somebody removes a user's mail, and sends him some, behind the drill's back.
func (r *running) drillFinds() {
	r.t.Helper()
	file := r.drillTarget("touch begun; until [ -e go-on ]; do sleep 0.1; done", "true")
	dir := filepath.Dir(file)
	ended := make(chan struct{})
	var code int
	var stdout, stderr string
	go func() {
		defer close(ended)
		code, stdout, stderr = r.drilled("store-slow", "--target", file, "--yes", "-o", "json", "--record", dir)
	}()
	r.awaitFile(dir, "begun")
	user := r.user("eu", kindLocal)
	pop := r.patientLogin(r.region("eu"), user)
	n, _, err := pop.Stat()
	for ; err == nil && n > len(samples()); n-- {
		err = pop.Dele(n)
	}
	if err == nil {
		err = pop.Quit()
	}
	if err == nil {
		err = deliverOnce(r.t.Context(), r.region("eu").LMTP, user.Address, []byte("Subject: not the drill's\r\n\r\nx\r\n"))
	}
	if err != nil {
		r.t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go-on"), nil, 0o600); err != nil {
		r.t.Error(err)
	}
	<-ended
	var reports []drill.Report
	if err := json.Unmarshal([]byte(stdout), &reports); err != nil || len(reports) != 1 {
		r.t.Fatalf("exit %d, %v\n%s\n%s", code, err, stdout, stderr)
	}
	if code != 1 || reports[0].OK || !strings.Contains(stderr, "postern: store-slow: an invariant is broken") {
		r.t.Errorf("exit %d\n%s\n%s", code, stdout, stderr)
	}
	for _, v := range reports[0].Invariants {
		found := strings.Join(v.Findings, "\n")
		want := map[history.Invariant]string{history.Kept: "nobody had asked to remove it", history.Exact: "a message that nobody sent"}[v.Name]
		if !strings.Contains(found, want) || v.OK != (found == "") {
			r.t.Errorf("%+v, want %q", v, want)
		}
	}
	if wrong := history.Check(recorded(r.t, dir, "store-slow"), time.Second); len(wrong) < 2 {
		r.t.Errorf("in what was recorded is only %q", wrong)
	}
	r.drillLeft(user)
}

// drillLeft removes what a drill has left as evidence.
func (r *running) drillLeft(user demoUser) {
	r.t.Helper()
	pop := r.patientLogin(r.region("eu"), user)
	n, _, err := pop.Stat()
	for ; err == nil && n > len(samples()); n-- {
		err = pop.Dele(n)
	}
	if err == nil {
		err = pop.Quit()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// drillKills: a front is killed and looked at by commands, and what starts it again is run.
func (r *running) drillKills() {
	r.t.Helper()
	r.reread()
	region := r.region("eu")
	i := slices.IndexFunc(region.Processes, func(p demoProcessReport) bool { return p.Role == "front" })
	front := region.Processes[i]
	file := r.drillTarget("true", "true")
	text, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	dir := filepath.Dir(file)
	// A started process has another pid. The demo starts it by itself; start only says that it was asked to.
	life := fmt.Sprintf("curl -sf http://%s/readyz >/dev/null && curl -sf http://%[1]s/metrics | grep ^process_start_time_seconds", region.Metrics[i])
	commands := fmt.Sprintf("life: [sh, -c, %q], kill: [kill, \"-9\", %q], start: [touch, %s/started]}", life, fmt.Sprint(front.PID), dir)
	changed := strings.Replace(string(text), fmt.Sprintf("role: front, http: %q}", region.Metrics[i]), "role: front, "+commands, 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		r.t.Fatal(err)
	}
	code, stdout, stderr := r.drilled("front-loss", "--target", file, "--yes")
	for _, want := range []string{"front-loss in eu: ok.", fmt.Sprintf("kill front-1: kill -9 %d", front.PID), "start front-1: touch ", "front-1 is back, after"} {
		if !strings.Contains(stdout, want) {
			r.t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	r.reread()
	if code != 0 || !there(dir, "started") || r.region("eu").Processes[i].PID == front.PID {
		r.t.Errorf("exit %d\n%s\n%s", code, stdout, stderr)
	}
}

// drillBrokenOff: Ctrl-C, which every process of the terminal gets, undoes what was done.
func (r *running) drillBrokenOff() {
	r.t.Helper()
	file := r.drillTarget("touch harmed", "sleep 0.2; rm harmed; touch undone")
	dir := filepath.Dir(file)
	var stderr bytes.Buffer
	cmd := exec.Command(binary, "drill", "store-slow", "--target", file, "--yes", "--calm", "100ms", "--for", "1h")
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.awaitFile(dir, "harmed")
	for range 2 { // once more does no harm
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
			r.t.Error(err)
		}
	}
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "broken off, without a verdict") {
		r.t.Errorf("exit %d\n%s", code, &stderr)
	}
	if there(dir, "harmed") || !there(dir, "undone") || !there(dir, "after") {
		r.t.Errorf("it is not undone:\n%s", &stderr)
	}
	r.drillLeft(r.user("eu", kindLocal))
}

// drillAsks: without a yes nothing is done, and a dry run says what would be.
func (r *running) drillAsks() {
	r.t.Helper()
	file := r.drillTarget("touch harmed", "rm harmed")
	dir := filepath.Dir(file)
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"store-slow", "--target", file}, 1, []string{"nothing was done: nobody can be asked here", "--yes", "store-slow: sh -c 'cd"}},
		{[]string{"store-slow", "--target", file, "--dry-run"}, 0, []string{"before the drill: touch " + dir + "/before", "store-slow: sh", "touch harmed", "undo store-slow: sh", "rm harmed", "after the drill: touch " + dir + "/after"}},
		{[]string{"store-slow", "node-loss", "--target", file, "--yes"}, 1, []string{"the target file has no processes: mailbox-", "so nobody knows how that is done"}},
		{[]string{"region-cut", "--target", file, "--yes"}, 1, []string{"the target file has no region-cut"}},
		{[]string{"node-loss", "--demo", r.dir, "--dry-run"}, 0, []string{"SIGKILL to mailbox-"}},
		{[]string{"node-loss", "--demo", dir}, 1, []string{"no demo runs in " + dir}},
		{[]string{"node-loss", "--demo", r.dir, "-r", "us"}, 1, []string{`the demo has no region "us"; it has eu`}},
		{[]string{"node-los"}, 2, []string{"node-loss", `got "node-los"`}},
		{[]string{"etcd-loss", "--demo", r.dir, "--for", "0s"}, 1, []string{"--for 0s: expected more than nothing"}},
	} {
		code, stdout, stderr := r.drilled(c.args...)
		for _, want := range c.want {
			if !strings.Contains(stdout+stderr, want) {
				r.t.Errorf("%q: no %q in\n%s%s", c.args, want, stdout, stderr)
			}
		}
		if code != c.code {
			r.t.Errorf("%q: exit %d, want %d", c.args, code, c.code)
		}
	}
	if there(dir, "before") || there(dir, "harmed") || there(dir, "after") {
		r.t.Error("something was done")
	}
}
