package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// These benchmarks measure how long users wait, not what it costs: make
// bench-failover. Each prints the median, the 99th percentile and the maximum of its
// repetitions in milliseconds.

// waits are the longest waits of the repetitions.
type waits []time.Duration

func (w waits) report(b *testing.B, what string) {
	b.Helper()
	slices.Sort(w)
	for name, i := range map[string]int{"p50": len(w) / 2, "p99": (len(w)*99+99)/100 - 1, "max": len(w) - 1} {
		b.ReportMetric(float64(w[i].Microseconds())/1000, what+"-"+name+"-ms")
	}
	b.ReportMetric(0, "ns/op") // the repetitions' preparations
}

// prober asks for something again and again and knows the longest wait.
type prober struct {
	ask     func() error
	mu      sync.Mutex
	longest time.Duration
	asked   int
	failed  []error
	stop    chan struct{}
	done    chan struct{}
}

// probe asks every 10 ms, or as soon as it has been answered.
func probe(ask func() error) *prober {
	p := &prober{ask: ask, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				p.once()
			}
		}
	}()
	return p
}

func (p *prober) once() {
	began := time.Now()
	err := p.ask()
	took := time.Since(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	p.longest = max(p.longest, took)
	if err != nil {
		p.failed = append(p.failed, err)
	}
}

// begin forgets what was before.
func (p *prober) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.asked = 0, 0
}

// waited is the longest wait since begin, once so many more questions were answered.
func (p *prober) waited(b *testing.B, answered int) time.Duration {
	b.Helper()
	p.mu.Lock()
	until := p.asked + answered
	p.mu.Unlock()
	for ; ; sleep(b.Context(), 5*time.Millisecond) {
		p.mu.Lock()
		longest, asked, failed := p.longest, p.asked, len(p.failed)
		p.mu.Unlock()
		if asked >= until || failed > 0 {
			return longest
		}
	}
}

// end stops asking and reports how many answers were wrong.
func (p *prober) end(b *testing.B) {
	b.Helper()
	close(p.stop)
	<-p.done
	if len(p.failed) > 0 {
		b.Fatalf("%d errors, the first: %v", len(p.failed), p.failed[0])
	}
	b.ReportMetric(0, "errors")
}

func (r *running) shards(b testing.TB, region string) (views []shardView) {
	b.Helper()
	if err := json.Unmarshal([]byte(r.postern("shard", "list", "-r", region, "-o", "json")), &views); err != nil {
		b.Fatal(err)
	}
	return views
}

// settled waits until each node of the region has its share, and all shards are served.
func (r *running) settled(b testing.TB, region string, nodes int) {
	b.Helper()
	for until := time.Now().Add(2 * time.Minute); ; sleep(b.Context(), 500*time.Millisecond) {
		owners, serving, views := map[string]int{}, 0, r.shards(b, region)
		for _, v := range views {
			owners[v.Owner]++
			if v.Serving {
				serving++
			}
		}
		least := len(views)
		for _, n := range owners {
			least = min(least, n)
		}
		if serving == len(views) && len(owners) == nodes && least >= len(views)/nodes-1 {
			return
		}
		if time.Now().After(until) {
			b.Fatalf("not settled: %v, %d of %d served", owners, serving, len(views))
		}
	}
}

func (r *running) kill(b testing.TB, region, name string) {
	b.Helper()
	r.reread()
	for _, process := range r.region(region).Processes {
		if process.Name == name {
			if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			return
		}
	}
	b.Fatalf("no process %s", name)
}

// retriever is a session that fetches its first message again and again.
func (r *running) retriever(b *testing.B, user demoUser) func() error {
	b.Helper()
	pop := r.login("eu", user)
	return func() error {
		_, err := pop.Retr(1, io.Discard)
		return err
	}
}

// BenchmarkOwnerKilled kills the owner of an open session's shard, and measures the
// session's longest wait for a message.
func BenchmarkOwnerKilled(b *testing.B) {
	d := startEU(b, 16, "--nodes", "3")
	user := d.makeUsers("eu", 1)[0]
	d.deliverText(b, user, letterOf("failover", 20<<10))
	shard := maildrop.Address(user.Address).Shard(16)
	d.settled(b, "eu", 3)
	p := probe(d.retriever(b, user))
	var all waits
	for b.Loop() {
		owner := d.shards(b, "eu")[shard].Owner
		p.waited(b, 5)
		p.begin()
		d.kill(b, "eu", owner)
		for d.shards(b, "eu")[shard].Owner == owner && len(p.failed) == 0 {
		}
		all = append(all, p.waited(b, 5))
		d.settled(b, "eu", 3)
	}
	p.end(b)
	all.report(b, "pause")
}

// BenchmarkHandOver moves a shard with 100,000 messages from node to node, and measures
// an open session's longest wait for a message at each.
func BenchmarkHandOver(b *testing.B) {
	const messages = 100_000
	d := startEU(b, 2)
	user := d.makeUsers("eu", 1)[0]
	fillMailbox(b, d, user, messages)
	shard := maildrop.Address(user.Address).Shard(2)
	p := probe(d.retriever(b, user))
	var all waits
	for i := 0; b.Loop(); i++ {
		p.waited(b, 5)
		p.begin()
		d.postern("shard", "move", "-r", "eu", strconv.Itoa(shard), "--to", fmt.Sprintf("mailbox-%d", 1+i%2))
		all = append(all, p.waited(b, 5))
	}
	p.end(b)
	if v := d.shards(b, "eu")[shard]; v.Messages < messages || v.Epoch < uint64(b.N) {
		b.Fatalf("%+v", v)
	}
	all.report(b, "command")
}

// BenchmarkRegionServes kills one of three nodes of a region of 256 shards, and measures
// the time until all are served again.
func BenchmarkRegionServes(b *testing.B) {
	d := startEU(b, 256, "--nodes", "3")
	d.settled(b, "eu", 3)
	var all waits
	for i := 0; b.Loop(); i++ {
		victim := fmt.Sprintf("mailbox-%d", 1+i%3)
		before := map[uint32]uint64{}
		for _, v := range d.shards(b, "eu") {
			if v.Owner == victim {
				before[v.Shard] = v.Epoch
			}
		}
		began := time.Now()
		d.kill(b, "eu", victim)
		for slices.ContainsFunc(d.shards(b, "eu"), func(v shardView) bool { return !v.Serving || v.Epoch <= before[v.Shard] }) {
			if time.Since(began) > time.Minute {
				b.Fatal("not served again")
			}
		}
		all = append(all, time.Since(began))
		d.settled(b, "eu", 3)
	}
	all.report(b, "served")
}

// fillMailbox gives a user so many messages, by an import.
func fillMailbox(b *testing.B, d *running, user demoUser, messages int) {
	b.Helper()
	file := b.TempDir() + "/mbox"
	var text strings.Builder
	for n := range messages {
		fmt.Fprintf(&text, "From s@example.net Mon Nov 23 10:00:00 2026\nReceived: from a by b with ESMTP id f%d; %s\nSubject: %d\n\nx\n\n",
			n, time.Now().Format(time.RFC1123Z), n)
	}
	if err := writeFile(file, []byte(text.String())); err != nil {
		b.Fatal(err)
	}
	d.postern("import", "--mbox", file, user.Address, "--timeout", "30m")
}
