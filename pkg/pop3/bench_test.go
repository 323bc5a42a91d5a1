package pop3

import (
	"crypto/tls"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// BenchmarkRETR is a message of 4 KB and one of 1 MiB through TLS over loopback, both ends
// counted.
func BenchmarkRETR(b *testing.B) {
	for name, size := range map[string]int{"4KB": 4 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			drop := newBox("five")
			drop.wire[0] = strings.Repeat("0123456789abcde\r\n", size/17)
			c := mustDial(b, listen(b, drop, nil), &tls.Config{})
			c.SetDeadline(time.Now().Add(time.Hour))
			c.login()
			b.SetBytes(int64(len(drop.wire[0])))
			b.ReportAllocs()
			for b.Loop() {
				c.say("RETR 1\r\n")
				c.expect("+OK *")
				if _, err := io.CopyN(io.Discard, c.lines, int64(len(drop.wire[0]))+3); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkListing is what a Session alone takes for a listing, from its fetch or again.
func BenchmarkListing(b *testing.B) {
	for _, messages := range []int{1000, 50_000} {
		drop := newBox("many")
		for i := range messages {
			drop.uids, drop.wire = append(drop.uids, maildrop.UID(fmt.Sprintf("%018d", i))), append(drop.wire, "x\r\n")
		}
		for _, verb := range []string{"LIST", "UIDL"} {
			b.Run(fmt.Sprintf("%s/%d", verb, messages), func(b *testing.B) {
				d := newDriver(drop)
				d.line([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
				line := []byte(verb)
				b.ReportAllocs()
				for b.Loop() {
					d.sent.Reset()
					d.line(line)
				}
				b.ReportMetric(float64(d.sent.Len()), "octets")
			})
		}
	}
}

// BenchmarkIdle says how much memory an idle session that has listed a small maildrop
// holds, the test's client included.
func BenchmarkIdle(b *testing.B) {
	address := listen(b, newBox("five"), nil)
	for b.Loop() {
		const sessions = 200
		clients := make([]*client, sessions)
		before := memory()
		for i := range clients {
			clients[i] = mustDial(b, address, &tls.Config{})
			clients[i].login()
			clients[i].say("UIDL\r\nRETR 1\r\n")
			clients[i].records(".\r\n")
		}
		after := memory()
		b.ReportMetric(float64(after-before)/sessions, "B/session")
		for _, c := range clients {
			c.raw.Close()
		}
	}
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkSession is a short session: full handshake, login, STAT, QUIT.
func BenchmarkSession(b *testing.B) {
	address := listen(b, newBox("five"), nil)
	b.ReportAllocs()
	for b.Loop() {
		c := mustDial(b, address, &tls.Config{})
		c.login()
		c.say("STAT\r\nQUIT\r\n")
		c.expect("+OK 5 86", "+OK *")
		c.raw.Close()
	}
}

func BenchmarkSTAT(b *testing.B) {
	d := newDriver(newBox("five"))
	d.line([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
	line := []byte("STAT")
	b.ReportAllocs()
	for b.Loop() {
		d.sent.Reset()
		d.line(line)
	}
}
