package main

import (
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// These benchmarks send real clients through a running demo's processes and
// report what all of the region's processes spent (bench_cost_test.go). Compare
// ratios, and CPU rather than rates: machines are noisy, and the client runs on
// the same one.

// benchTLS is what a client offers: X25519, as most do today, so that figures can be
// compared with servers that know nothing newer.
func benchTLS(d *running, cache tls.ClientSessionCache) *tls.Config {
	config := d.tls(d.region("eu")).Clone()
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	config.ClientSessionCache = cache
	return config
}

// benchDemo is a demo on a processor of its own.
func benchDemo(b *testing.B) (d *running) {
	b.Helper()
	apart(b, func() { d = startDemo(b, b.TempDir(), freePorts(b), "--no-limits") })
	return d
}

func BenchmarkShortSession(b *testing.B) {
	others := rivals{}
	others.run(b, "floor", func(b *testing.B) float64 {
		region := startFloor(b, "front")
		return measureEach(b, region, func() { shortSession(b, region, peerUser, anyTLS()) })
	})
	others.run(b, "dovecot", func(b *testing.B) float64 {
		region := startDovecot(b)
		return measureEach(b, region, func() { shortSession(b, region, peerUser, anyTLS()) })
	})
	others.run(b, "postern", func(b *testing.B) float64 {
		d := benchDemo(b)
		user, region, config := d.user("eu", kindLocal), d.region("eu"), benchTLS(d, nil)
		return measureEach(b, region, func() { shortSession(b, region, user, config) })
	})
}

func BenchmarkShortSessionResumed(b *testing.B) {
	d := benchDemo(b)
	user := d.user("eu", kindLocal)
	region, config := d.region("eu"), benchTLS(d, tls.NewLRUClientSessionCache(1))
	measureEach(b, region, func() { shortSession(b, region, user, config) })
}

// BenchmarkShortSessionSCRAM is BenchmarkShortSession with a login by SCRAM-SHA-256, of a
// client that has its keys already.
func BenchmarkShortSessionSCRAM(b *testing.B) {
	d := benchDemo(b)
	region, config := d.region("eu"), benchTLS(d, nil)
	client := prover(b, d.user("eu", kindLocal))
	measureEach(b, region, func() {
		pop, err := mailclient.DialPOP(b.Context(), region.POP3S, config)
		if err == nil {
			err = prove(pop, client)
		}
		if err == nil {
			_, _, err = pop.Stat()
		}
		if err != nil {
			b.Fatal(err)
		}
		benchQuit(b, pop)
	})
}

// peerUser is one that peers know.
var peerUser = demoUser{Address: "u0@example.net", Password: "p"}

// rivals are what others took for the same, in the same run.
type rivals map[string]float64 // CPU seconds by name

// run measures one of them, and compares it with those before it.
func (r rivals) run(b *testing.B, name string, cpu func(*testing.B) float64) {
	b.Run(name, func(b *testing.B) {
		took := cpu(b)
		for other, its := range r {
			b.ReportMetric(took/its, "x-"+other)
		}
		r[name] = took
	})
}

func shortSession(b *testing.B, region demoRegionReport, user demoUser, config *tls.Config) {
	pop := benchLogin(b, region, user, config)
	if _, _, err := pop.Stat(); err != nil {
		b.Fatal(err)
	}
	benchQuit(b, pop)
}

// BenchmarkPoll is what a mail client does each few minutes when it finds one
// new message of about 80 KB.
func BenchmarkPoll(b *testing.B) {
	others, text := rivals{}, letterOf("poll", 80<<10)
	others.run(b, "dovecot", func(b *testing.B) float64 {
		region := startDovecot(b)
		send(b, region.LMTP, 1, times(1), func(int) (string, []byte) { return peerUser.Address, text })
		return measureEach(b, region, func() { poll(b, region, peerUser, anyTLS()) })
	})
	others.run(b, "postern", func(b *testing.B) float64 {
		d := benchDemo(b)
		user := d.makeUsers("eu", 1)[0]
		d.deliverText(b, user, text)
		region, config := d.region("eu"), benchTLS(d, nil)
		return measureEach(b, region, func() { poll(b, region, user, config) })
	})
}

func poll(b *testing.B, region demoRegionReport, user demoUser, config *tls.Config) {
	pop := benchLogin(b, region, user, config)
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
}

// BenchmarkDownload fetches a message of 8 MB; its unit is what a GB costs.
func BenchmarkDownload(b *testing.B) {
	const size = 8 << 20
	d := benchDemo(b)
	user := d.makeUsers("eu", 1)[0]
	d.deliverText(b, user, letterOf("download", size))
	pop := benchLogin(b, d.region("eu"), user, benchTLS(d, nil))
	defer pop.Close()
	fetch := func() {
		if _, err := pop.Retr(1, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	fetch() // for warmth
	cpu := measure(b, d.region("eu"), func() {
		for b.Loop() {
			fetch()
		}
	})
	b.ReportMetric(cpu*1e9/size, "server-cpu-s/GB")
}

// BenchmarkIdleSession holds logged-in sessions open; its figure is what each
// adds to the memory of all of the region's processes (PSS and page tables). It
// is taken between two numbers of open sessions, so that what the first ones
// bring with them, and the garbage that they clear away, don't count.
func BenchmarkIdleSession(b *testing.B) {
	const first, more = 1000, 3000
	d := benchDemo(b)
	user := d.user("eu", kindLocal)
	config := benchTLS(d, nil)
	open := make([]*mailclient.POP, 0, first+more)
	hold := func(n int) int64 {
		for range n {
			open = append(open, benchLogin(b, d.region("eu"), user, config))
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

func benchLogin(b *testing.B, region demoRegionReport, user demoUser, config *tls.Config) *mailclient.POP {
	pop, err := mailclient.DialPOP(b.Context(), region.POP3S, config)
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
