package pop3

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// sink is a connection that keeps each write apart.
type sink struct {
	net.Conn
	writes [][]byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.writes = append(s.writes, bytes.Clone(p))
	return len(p), nil
}

// TestOutput: whatever the pieces, what is sent is what was written, no write is more
// than a record, and the last holds the whole end.
func TestOutput(t *testing.T) {
	pool := &sync.Pool{New: func() any { return new([recordSize]byte) }}
	rapid.Check(t, func(t *rapid.T) {
		conn := &sink{}
		out := &output{conn: conn, pool: pool, renew: func() {}}
		size := rapid.IntRange(0, 3*recordSize).Draw(t, "size")
		if rapid.Bool().Draw(t, "edge") {
			size = rapid.IntRange(1, 3).Draw(t, "records")*recordSize + rapid.IntRange(-8, 8).Draw(t, "off")
		}
		message := []byte(strings.Repeat("0123456789", size/10+1)[:size] + "\r\n.\r\n")
		for rest := message; len(rest) > 0; {
			n := min(len(rest), rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(1, 2*recordSize)).Draw(t, "piece"))
			if rapid.Bool().Draw(t, "apart") && len(rest) > endSize { // the end is written apart, as conn does
				n = min(n, len(rest)-3)
			}
			if _, err := out.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := out.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(conn.writes, nil); !bytes.Equal(got, message) {
			t.Fatalf("sent %d octets, want %d", len(got), len(message))
		}
		for _, w := range conn.writes {
			if len(w) > recordSize {
				t.Fatalf("a write of %d octets", len(w))
			}
		}
		if last := conn.writes[len(conn.writes)-1]; !bytes.HasSuffix(last, []byte("\r\n.\r\n")) {
			t.Fatalf("the last write is %q", last)
		}
		if out.buf != nil || out.octets != uint64(len(message)) {
			t.Fatal("a buffer is kept, or octets are counted wrong")
		}
	})
}
