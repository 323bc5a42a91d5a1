package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// BenchmarkDelivery delivers messages of 90 KB from 32 connections.
func BenchmarkDelivery(b *testing.B) {
	others, text := rivals{}, letterOf("delivery", 90<<10)
	toPeer := func(n int) (string, []byte) { return fmt.Sprintf("u%d@example.net", n%8), text }
	others.run(b, "floor", func(b *testing.B) float64 { return measureSent(b, startFloor(b, "store", "intake"), 32, toPeer) })
	others.run(b, "dovecot", func(b *testing.B) float64 {
		dovecot := startDovecot(b)
		for n := range 8 { // it makes a mailbox at its first message, and one at a time only
			if to, text := toPeer(n); deliverOnce(b.Context(), dovecot.LMTP, to, text) != nil {
				b.Fatalf("no mailbox for %s", to)
			}
		}
		return measureSent(b, dovecot, 32, toPeer)
	})
	others.run(b, "postern", func(b *testing.B) float64 {
		d := benchDemo(b)
		users := d.makeUsers("eu", 8)
		return measureSent(b, d.region("eu"), 32, func(n int) (string, []byte) { return users[n%len(users)].Address, text })
	})
}

// BenchmarkDurable delivers messages of 4 KB from 64 connections, to one shard and
// to all of a region's, and compares the rate with that of appends to a file on the
// same disk in the same minute: one fsync for each message, and one for each as many as
// a ledger object had. How much processor time there is no way round shows the floor. A shard has a ledger of its own, so what comes for many
// shards shares no object: the more clients there are for a shard, the more share one.
func BenchmarkDurable(b *testing.B) {
	others, text := rivals{}, letterOf("durable", durableSize)
	others.run(b, "floor", func(b *testing.B) float64 {
		return measureRounds(b, startFloor(b, "store", "intake"), 64, durableRound, func(int) (string, []byte) { return "u@example.net", text })
	})
	d := benchDemo(b)
	for name, users := range map[string][]demoUser{"shard": d.makeUsers("eu", 1), "region": d.makeUsers("eu", 64)} {
		others.run(b, name, func(b *testing.B) float64 { return d.measureDurable(b, users, text) })
	}
}

// BenchmarkDurable's messages have durableSize octets each, and come in rounds of
// durableRound: 300 messages among 64 clients would be over before the clients are out
// of step.
const (
	durableSize  = 4 << 10
	durableRound = 32
)

func (d *running) measureDurable(b *testing.B, users []demoUser, text []byte) (cpu float64) {
	b.Helper()
	before := d.committed(b)
	cpu = measureRounds(b, d.region("eu"), 64, durableRound, func(n int) (string, []byte) { return users[n%len(users)].Address, text })
	batch := d.committed(b).since(before)
	rate := float64(b.N*durableRound) / b.Elapsed().Seconds()
	single, batched := appends(b, d.dir, durableSize), appends(b, d.dir, int(batch*durableSize))*batch
	b.ReportMetric(float64(shardsOf(users)), "shards")
	b.ReportMetric(batch, "records/object")
	b.ReportMetric(single, "appends/s")
	b.ReportMetric(batched, "batched-appends/s")
	b.ReportMetric(100*rate/batched, "%-of-batched")
	b.ReportMetric(rate/single, "times-single")
	return cpu
}

// shardsOf is how many of a demo region's shards have one of the users.
func shardsOf(users []demoUser) int {
	shards := map[int]bool{}
	for _, user := range users {
		shards[maildrop.Address(user.Address).Shard(16)] = true
	}
	return len(shards)
}

// commits are the objects that a region's nodes have appended to ledgers, and the
// records in them.
type commits struct{ objects, records float64 }

func (d *running) committed(b *testing.B) (c commits) {
	b.Helper()
	region := d.region("eu")
	for i, process := range region.Processes {
		if process.Role == "mailbox" {
			c.objects += scraped(b, region.Metrics[i], "postern_node_commit_records_count")
			c.records += scraped(b, region.Metrics[i], "postern_node_commit_records_sum")
		}
	}
	return c
}

// since is how many records an object had, on average, after an earlier moment.
func (c commits) since(before commits) float64 {
	return (c.records - before.records) / max(1, c.objects-before.objects)
}

// appends is how many times a second size octets can be appended to a file and
// brought to disk.
func appends(b *testing.B, dir string, size int) float64 {
	b.Helper()
	file, err := os.Create(filepath.Join(dir, "appends"))
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	octets := bytes.Repeat([]byte("x"), size)
	n, began := 0, time.Now()
	for time.Since(began) < 2*time.Second {
		if _, err := file.Write(octets); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds()
}

// measureSent measures deliveries from a number of connections.
func measureSent(b *testing.B, region demoRegionReport, connections int, letter func(n int) (to string, text []byte)) float64 {
	b.Helper()
	return measureRounds(b, region, connections, 1, letter)
}

// measureRounds is measureSent for rounds of so many deliveries each.
func measureRounds(b *testing.B, region demoRegionReport, connections, round int, letter func(n int) (to string, text []byte)) float64 {
	b.Helper()
	send(b, region.LMTP, connections, times(2*connections), letter) // for warmth
	return measureMany(b, region, round, func() { send(b, region.LMTP, connections, rounds(b.Loop, round), letter) })
}

// rounds is the condition of a loop that has so many rounds for each of another's.
func rounds(more func() bool, each int) func() bool {
	left := 0
	return func() bool {
		if left == 0 {
			if !more() {
				return false
			}
			left = each
		}
		left--
		return true
	}
}

// send delivers messages from a number of connections, as long as there are
// more, and returns when all are acknowledged. letter is the recipient and the
// text of the nth one.
func send(b *testing.B, address string, connections int, more func() bool, letter func(n int) (to string, text []byte)) {
	b.Helper()
	numbers := make(chan int)
	group, ctx := errgroup.WithContext(b.Context())
	for range connections {
		group.Go(func() error {
			g, err := dialGateway(ctx, address)
			if err != nil {
				return err
			}
			defer g.conn.Close()
			for n := range numbers {
				if err := g.deliver(letter(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for n := 0; more(); n++ {
		select {
		case numbers <- n:
		case <-ctx.Done():
			b.Fatal(group.Wait())
		}
	}
	close(numbers)
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// gateway delivers as mail gateways do: it says MAIL, RCPT and DATA in one
// packet (RFC 2920).
type gateway struct {
	conn    net.Conn
	replies *bufio.Reader
}

func dialGateway(ctx context.Context, address string) (*gateway, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	g := &gateway{conn: conn, replies: bufio.NewReader(conn)}
	if err := g.expect("220"); err != nil {
		return nil, err
	}
	fmt.Fprint(conn, "LHLO localhost\r\n")
	return g, g.expect("250")
}

// deliver delivers one message. No line of the text begins with a dot.
func (g *gateway) deliver(to string, text []byte) error {
	fmt.Fprintf(g.conn, "MAIL FROM:<s@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\n", to)
	for _, code := range []string{"250", "250", "354"} {
		if err := g.expect(code); err != nil {
			return err
		}
	}
	parts := net.Buffers{text, []byte(".\r\n")}
	if _, err := parts.WriteTo(g.conn); err != nil {
		return err
	}
	return g.expect("250")
}

// expect reads a reply to its last line.
func (g *gateway) expect(code string) error {
	for {
		line, err := g.replies.ReadString('\n')
		switch {
		case err != nil:
			return err
		case !strings.HasPrefix(line, code):
			return fmt.Errorf("%q, expected %s", line, code)
		case line[3] == ' ':
			return nil
		}
	}
}
