package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// These benchmarks send real clients through a running demo's processes and
// report what all of the region's processes spent: CPU time (user and system)
// and heap allocations an operation. Compare ratios, and CPU rather than rates:
// machines are noisy, and the client runs on the same one.

// benchTLS is what a client offers: X25519, as most do today, so that figures can be
// compared with servers that know nothing newer.
func benchTLS(d *running, cache tls.ClientSessionCache) *tls.Config {
	config := d.tls(d.region("eu")).Clone()
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	config.ClientSessionCache = cache
	return config
}

func BenchmarkShortSession(b *testing.B) {
	d := startDemo(b, b.TempDir(), freePorts(b))
	user := d.user("eu", kindLocal)
	d.measure(b, func() { shortSession(b, d, user, benchTLS(d, nil)) })
}

func BenchmarkShortSessionResumed(b *testing.B) {
	d := startDemo(b, b.TempDir(), freePorts(b))
	user := d.user("eu", kindLocal)
	config := benchTLS(d, tls.NewLRUClientSessionCache(1))
	d.measure(b, func() { shortSession(b, d, user, config) })
}

func shortSession(b *testing.B, d *running, user demoUser, config *tls.Config) {
	pop := benchLogin(b, d, user, config)
	if _, _, err := pop.Stat(); err != nil {
		b.Fatal(err)
	}
	benchQuit(b, pop)
}

// BenchmarkPoll is what a mail client does each few minutes when it finds one
// new message of about 80 KB.
func BenchmarkPoll(b *testing.B) {
	d := startDemo(b, b.TempDir(), freePorts(b))
	user := d.makeUsers("eu", 1)[0]
	d.deliverText(b, user, letterOf("poll", 80<<10))
	config := benchTLS(d, nil)
	d.measure(b, func() {
		pop := benchLogin(b, d, user, config)
		if _, _, err := pop.Stat(); err != nil {
			b.Fatal(err)
		}
		if _, err := pop.UIDs(); err != nil {
			b.Fatal(err)
		}
		if _, err := pop.Sizes(); err != nil {
			b.Fatal(err)
		}
		if _, err := pop.Retr(1, io.Discard); err != nil {
			b.Fatal(err)
		}
		benchQuit(b, pop)
	})
}

// BenchmarkDownload fetches a message of 8 MB; its unit is what a GB costs.
func BenchmarkDownload(b *testing.B) {
	const size = 8 << 20
	d := startDemo(b, b.TempDir(), freePorts(b))
	user := d.makeUsers("eu", 1)[0]
	d.deliverText(b, user, letterOf("download", size))
	pop := benchLogin(b, d, user, benchTLS(d, nil))
	defer pop.Close()
	cpu := d.measure(b, func() {
		if _, err := pop.Retr(1, io.Discard); err != nil {
			b.Fatal(err)
		}
	})
	b.ReportMetric(cpu*1e9/size, "server-cpu-s/GB")
}

// BenchmarkDelivery delivers messages of 90 KB from 32 connections.
func BenchmarkDelivery(b *testing.B) {
	d := startDemo(b, b.TempDir(), freePorts(b))
	region := d.region("eu")
	users := d.makeUsers("eu", 8)
	text := string(letterOf("delivery", 90<<10))
	b.SetParallelism(32)
	before := d.spent(b)
	b.RunParallel(func(pb *testing.PB) {
		l, err := mailclient.DialLMTP(b.Context(), region.LMTP, nil)
		if err != nil {
			b.Error(err)
			return
		}
		defer l.Quit()
		for n := 0; pb.Next(); n++ {
			verdicts, err := l.Deliver("s@example.net", []string{users[n%len(users)].Address}, []byte(text))
			if err != nil || verdicts[0] != nil {
				b.Error(err, verdicts[0])
				return
			}
		}
	})
	d.spent(b).report(b, before)
}

// BenchmarkIdleSession holds logged-in sessions open; its figure is what each
// adds to the memory of all of the region's processes (PSS and page tables). It
// is taken between two numbers of open sessions, so that what the first ones
// bring with them, and the garbage that they clear away, don't count.
func BenchmarkIdleSession(b *testing.B) {
	const first, more = 1000, 3000
	d := startDemo(b, b.TempDir(), freePorts(b))
	user := d.user("eu", kindLocal)
	config := benchTLS(d, nil)
	open := make([]*mailclient.POP, 0, first+more)
	hold := func(n int) int64 {
		for range n {
			open = append(open, benchLogin(b, d, user, config))
		}
		return d.settledMemory(b)
	}
	before := hold(first)
	b.ReportMetric(float64(hold(more)-before)/more/1024, "KiB/session")
	b.ReportMetric(0, "ns/op")
	for _, pop := range open {
		benchQuit(b, pop)
	}
}

func benchLogin(b *testing.B, d *running, user demoUser, config *tls.Config) *mailclient.POP {
	pop, err := mailclient.DialPOP(b.Context(), d.region("eu").POP3S, config)
	if err != nil {
		b.Fatal(err)
	}
	if err := pop.Login(user.Address, user.Password); err != nil {
		b.Fatal(err)
	}
	return pop
}

func benchQuit(b *testing.B, pop *mailclient.POP) {
	if err := pop.Quit(); err != nil {
		b.Fatal(err)
	}
}

func letterOf(subject string, size int) []byte {
	line := strings.Repeat("0123456789abcdef", 4) + "\r\n"
	return []byte("From: s@example.net\r\nSubject: " + subject + "\r\n\r\n" + strings.Repeat(line, size/len(line)))
}

func (d *running) deliverText(b *testing.B, user demoUser, text []byte) {
	if err := deliverOnce(b.Context(), d.region(user.Region).LMTP, user.Address, text); err != nil {
		b.Fatal(err)
	}
}

// cost is what the processes of a region have spent since their start.
type cost struct {
	cpuTicks, mallocs float64
	byRole            map[string]float64 // CPU ticks
}

// measure runs the operation once for warmth and then b.N times, and returns the
// CPU seconds of all of the region's processes that one took.
func (d *running) measure(b *testing.B, operation func()) float64 {
	operation()
	before := d.spent(b)
	for b.Loop() {
		operation()
	}
	return d.spent(b).report(b, before)
}

func (c cost) report(b *testing.B, before cost) float64 {
	const ticksPerSecond = 100 // USER_HZ, fixed on Linux
	cpu := (c.cpuTicks - before.cpuTicks) / ticksPerSecond / float64(b.N)
	b.ReportMetric(cpu*1e3, "server-cpu-ms/op")
	for role, ticks := range c.byRole {
		b.ReportMetric((ticks-before.byRole[role])/ticksPerSecond/float64(b.N)*1e3, role+"-cpu-ms/op")
	}
	b.ReportMetric((c.mallocs-before.mallocs)/float64(b.N), "server-allocs/op")
	return cpu
}

func (d *running) spent(b *testing.B) (c cost) {
	region := d.region("eu")
	c.byRole = map[string]float64{}
	for _, process := range region.Processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.PID))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, field := range fields[11:13] { // utime and stime: proc(5)
			ticks, err := strconv.ParseFloat(field, 64)
			if err != nil {
				b.Fatal(err)
			}
			c.cpuTicks += ticks
			c.byRole[process.Role] += ticks
		}
	}
	for _, address := range region.Metrics {
		c.mallocs += scraped(b, address, "go_memstats_mallocs_total")
	}
	return c
}

func scraped(b *testing.B, address, metric string) float64 {
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

// settledMemory is proportionalMemory once it has stopped shrinking. A checked
// password leaves 64 MiB of garbage behind, and a process with nothing to do
// collects it, and returns it, every two minutes only.
func (d *running) settledMemory(b *testing.B) int64 {
	least := d.proportionalMemory(b)
	for calm := 0; calm < 130; calm++ {
		sleep(b.Context(), time.Second)
		if now := d.proportionalMemory(b); now < least-least/500 {
			least, calm = now, 0
		}
	}
	return least
}

// proportionalMemory is the PSS and the page tables of the region's processes in octets.
func (d *running) proportionalMemory(b *testing.B) (octets int64) {
	for _, process := range d.region("eu").Processes {
		octets += procOctets(b, process.PID, "smaps_rollup", "Pss:") + procOctets(b, process.PID, "status", "VmPTE:")
	}
	return octets
}
