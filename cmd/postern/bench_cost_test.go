package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// perfDir, if set, is where a benchmark leaves a CPU profile of each role, user
// code and kernel: perf report -i DIR/BenchmarkDelivery-postern-mailbox.perf. System
// calls and context switches are counted then too. It needs perf, and the right
// to use it.
const perfDir = "POSTERN_BENCH_PERF"

// cost is what the processes of a region have spent since their start.
type cost struct {
	user, system map[string]float64 // seconds of CPU by role
	mallocs      float64
}

// apart starts what is to be measured on the machine's last processor, and
// leaves the others to its clients: what serves is then busy all the time, as it
// is where it counts, and not waking up and falling asleep for each command. On
// a machine with one processor they share it.
func apart(b *testing.B, start func()) {
	b.Helper()
	last := runtime.NumCPU() - 1
	if last < 1 {
		start()
		return
	}
	var clients, servers unix.CPUSet
	servers.Set(last)
	for processor := range last {
		clients.Set(processor)
	}
	runtime.LockOSThread() // processes inherit the processors of the thread that starts them
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, &servers); err != nil {
		b.Fatal(err)
	}
	start()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetaffinity(id, &clients) // a thread that has ended needs none
		}
	}
}

// measureEach runs the operation for warmth and then b.N times, and returns the
// CPU seconds of all of the region's processes that one took.
func measureEach(b *testing.B, region demoRegionReport, operation func()) float64 {
	b.Helper()
	atOnce(times(2*clients), operation)
	return measure(b, region, func() { atOnce(b.Loop, operation) })
}

// clients is how many mail clients are at it at once.
const clients = 16

// atOnce does an operation as long as there are more, so many at a time.
func atOnce(more func() bool, operation func()) {
	var group errgroup.Group
	group.SetLimit(clients)
	for more() {
		group.Go(func() error { operation(); return nil })
	}
	_ = group.Wait() // operation has no error
}

// times is a loop's condition for so many rounds.
func times(n int) (more func() bool) {
	return func() bool { n--; return n >= 0 }
}

// measure runs b.N operations and reports what one took of the region's
// processes. It returns their CPU seconds.
func measure(b *testing.B, region demoRegionReport, run func()) float64 {
	b.Helper()
	return measureMany(b, region, 1, run)
}

// measureMany is measure for rounds of so many operations: b.N rounds are run, and what
// is reported is of one operation.
func measureMany(b *testing.B, region demoRegionReport, round int, run func()) float64 {
	b.Helper()
	watch := watch(b, region)
	before := spent(b, region)
	b.ResetTimer()
	run()
	b.StopTimer()
	after := spent(b, region)
	n := float64(b.N * round)
	watch.end(b, n)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/op")
	b.ReportMetric(n/b.Elapsed().Seconds(), "op/s")
	return after.since(before).report(b, n)
}

// since is what was spent after an earlier moment.
func (c cost) since(before cost) cost {
	for role := range c.user {
		c.user[role] -= before.user[role]
		c.system[role] -= before.system[role]
	}
	c.mallocs -= before.mallocs
	return c
}

// report says what one of n operations took, and returns its CPU seconds.
func (c cost) report(b *testing.B, n float64) (cpu float64) {
	for role := range c.user {
		b.ReportMetric(c.user[role]/n*1e3, role+"-user-ms/op")
		b.ReportMetric(c.system[role]/n*1e3, role+"-sys-ms/op")
		cpu += (c.user[role] + c.system[role]) / n
	}
	b.ReportMetric(cpu*1e3, "server-cpu-ms/op")
	if c.mallocs > 0 {
		b.ReportMetric(c.mallocs/n, "server-allocs/op")
	}
	return cpu
}

func spent(b *testing.B, region demoRegionReport) cost {
	b.Helper()
	c := cost{user: map[string]float64{}, system: map[string]float64{}}
	for _, process := range region.Processes {
		user, system := cpuSeconds(b, process.PID)
		c.user[process.Role] += user
		c.system[process.Role] += system
	}
	for _, address := range region.Metrics {
		c.mallocs += scraped(b, address, "go_memstats_mallocs_total")
	}
	return c
}

// cpuSeconds is what a process and all that it has started have spent in user
// code and in the kernel.
func cpuSeconds(b *testing.B, pid int) (user, system float64) {
	b.Helper()
	const ticksPerSecond = 100 // USER_HZ, fixed on Linux
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0 // it has ended; its parent has its time
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for i, field := range fields[11:15] { // utime, stime, and the same of children that have ended: proc(5)
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatal(err)
		}
		if i%2 == 0 {
			user += ticks / ticksPerSecond
		} else {
			system += ticks / ticksPerSecond
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return user, system
	}
	for _, child := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			u, s := cpuSeconds(b, id)
			user, system = user+u, system+s
		}
	}
	return user, system
}

func scraped(b *testing.B, address, metric string) float64 {
	b.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.Fatal(err)
			}
			return number
		}
	}
	b.Fatalf("%s has no %s", address, metric)
	return 0
}

// watching is perf, looking at the region's processes; its zero value is none.
type watching struct {
	recorders []*exec.Cmd
	counter   *exec.Cmd
	counts    bytes.Buffer
}

// watch starts perf where the environment asks for it.
func watch(b *testing.B, region demoRegionReport) *watching {
	b.Helper()
	w := &watching{}
	dir := os.Getenv(perfDir)
	if dir == "" {
		return w
	}
	var all []string
	byRole := map[string][]string{}
	for _, process := range region.Processes {
		pid := strconv.Itoa(process.PID)
		all, byRole[process.Role] = append(all, pid), append(byRole[process.Role], pid)
	}
	for role, pids := range byRole {
		file := filepath.Join(dir, strings.ReplaceAll(b.Name(), "/", "-")+"-"+role+".perf")
		w.recorders = append(w.recorders, exec.Command("perf", "record", "--quiet", "--call-graph=fp", "--event=cpu-clock",
			"--freq=997", "--output="+file, "--pid="+strings.Join(pids, ",")))
	}
	w.counter = exec.Command("perf", "stat", "--field-separator=,", "--event=raw_syscalls:sys_enter,context-switches",
		"--pid="+strings.Join(all, ","))
	w.counter.Stderr = &w.counts
	for _, cmd := range append(w.recorders, w.counter) {
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
	}
	sleep(b.Context(), pollEvery*10) // perf has nothing that says when it has begun
	return w
}

// end stops perf and reports what it counted, for each of n operations.
func (w *watching) end(b *testing.B, n float64) {
	b.Helper()
	if w.counter == nil {
		return
	}
	for _, cmd := range append(w.recorders, w.counter) {
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait() // an interrupted perf fails as it should
	}
	for line := range strings.Lines(w.counts.String()) {
		fields := strings.Split(line, ",")
		if len(fields) < 3 {
			continue
		}
		if count, err := strconv.ParseFloat(fields[0], 64); err == nil {
			_, event, _ := strings.Cut(":"+fields[2], ":")
			b.ReportMetric(count/n, event+"/op")
		}
	}
}
