package lmtp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// octets is n octets that differ from block to block.
func octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>12)
	}
	return b
}

func TestSpool(t *testing.T) {
	const memory = messageBlocks * blockSize
	dir := t.TempDir()
	from := newSpooler(dir)
	for _, n := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, memory - 1, memory, memory + 1, 3*memory + 5} {
		for _, piece := range []int{1 << 30, 4096, 1000} {
			want := octets(n)
			s := &spool{from: from}
			for p := want; len(p) > 0; p = p[min(piece, len(p)):] {
				s.Write(p[:min(piece, len(p))])
			}
			s.seal()
			if s.err != nil || s.wire != uint64(n) || (s.file != nil) != (n > memory) {
				t.Fatalf("%d octets: %v, wire %d, file %v", n, s.err, s.wire, s.file != nil)
			}
			for range 2 {
				r, err := s.open()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d octets in pieces of %d: read %d, %v", n, piece, len(got), err)
				}
				r.Close()
				r.Close()
			}
			s.Close()
			s.Close()
		}
	}
	if used := from.used.Load(); used != 0 {
		t.Errorf("%d blocks are missing", used)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestSpoolProperty(t *testing.T) {
	from := newSpooler(t.TempDir())
	rapid.Check(t, func(rt *rapid.T) {
		from.used.Store(rapid.SampledFrom([]int64{0, serverBlocks - 2, serverBlocks}).Draw(rt, "used"))
		before := from.used.Load()
		s, want := &spool{from: from}, []byte(nil)
		for range rapid.IntRange(0, 6).Draw(rt, "writes") {
			p := octets(rapid.IntRange(0, 3*blockSize).Draw(rt, "n"))
			s.Write(p)
			want = append(want, p...)
		}
		s.seal()
		r, err := s.open()
		if err != nil {
			rt.Fatal(err)
		}
		s.Close() // a reader may outlive it
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			rt.Fatalf("read %d of %d octets, %v", len(got), len(want), err)
		}
		if _, err := s.open(); !errors.Is(err, errSpoolClosed) {
			rt.Fatalf("opened after Close: %v", err)
		}
		r.Close()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errSpoolClosed) {
			rt.Fatalf("read after Close: %v", err)
		}
		if from.used.Load() != before {
			rt.Fatalf("%d blocks are missing", from.used.Load()-before)
		}
	})
}

// TestSpoolTrouble: what a disk's trouble is answered with, and that the
// session goes on behind it.
func TestSpoolTrouble(t *testing.T) {
	for want, dir := range map[string]string{
		"451 4.3.0 ": "/nonexistent",
		"452 4.3.1 ": "",
	} {
		room := &mailroom{}
		s, address := start(t, Config{Deliverer: room, Spool: dir})
		if dir == "" {
			fillUp(t, s)
		}
		c := greeted(t, address)
		c.envelope("", "a@example.test", "b@example.test")
		go io.WriteString(c.Conn, strings.Repeat("0123456789\r\n", 200000)+".\r\nNOOP\r\n")
		c.expect(want)
		c.expect(want)
		c.expect("250 2.0.0 OK")
		c.envelope("", "a@example.test")
		c.send("small\r\n.\r\n")
		c.expect("250 2.1.5 ")
		if got := room.take(); len(got) != 1 || s.spooler.used.Load() > 1 {
			t.Errorf("%d deliveries, %d blocks", len(got), s.spooler.used.Load())
		}
	}
}

// fillUp takes all room from the server's spool.
func fillUp(t *testing.T, s *Server) {
	t.Helper()
	s.spooler.create = func() (*os.File, error) { return os.OpenFile("/dev/full", os.O_RDWR, 0) }
}

func TestSpoolFull(t *testing.T) {
	for err, want := range map[error]bool{syscall.ENOSPC: true, syscall.EDQUOT: true, syscall.EIO: false} {
		s := &spool{err: &os.PathError{Op: "write", Path: "x", Err: err}}
		if s.full() != want {
			t.Errorf("%v: %v, want %v", err, s.full(), want)
		}
	}
}

// hashing is a Deliverer that keeps nothing.
type hashing struct {
	mailroom
	sums   sync.Map
	octets atomic.Int64
}

func (h *hashing) Deliver(_ context.Context, e maildrop.Envelope, b maildrop.Body) error {
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, make([]byte, 32<<10))
	h.octets.Add(n)
	h.sums.Store(e.To, sum)
	return err
}

// TestLargeMessage is SCL-03 on its way in (RFC 1939 section 5): 64 MiB to three recipients, exact, and in bounded memory.
func TestLargeMessage(t *testing.T) {
	const size = 64 << 20
	room := &hashing{}
	_, address := start(t, Config{Deliverer: room})
	c := greeted(t, address)
	to := []string{"a@example.test", "b@example.test", "c@example.test"}
	c.envelope("", to...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	line := []byte(strings.Repeat("x", 1022) + "\r\n")
	for range size / len(line) {
		if _, err := c.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	c.send(".\r\n")
	for range to {
		c.expect("250 2.1.5 ")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d octets were allocated for a message of %d", grown, size)
	}
	if n := room.octets.Load(); n < 3*size || n > 3*size+3000 {
		t.Errorf("%d octets were delivered", n)
	}
	room.sums.Range(func(to, sum any) bool {
		if len(sum.(hash.Hash).Sum(nil)) != sha256.Size {
			t.Errorf("%v got nothing", to)
		}
		return true
	})
}

// TestTooLargeIsSwallowed: the limit is exact, memory is bounded beyond it, and
// the session goes on.
func TestTooLargeIsSwallowed(t *testing.T) {
	const limit = 3 << 20
	room := &hashing{}
	s, address := start(t, Config{Deliverer: room, MaxSize: limit})
	c := greeted(t, address)
	at := strings.Repeat(".123456789abcd\r\n", limit/16) // a dot more on the wire for each line: they don't count
	for _, over := range []string{"", "\r\n"} {
		want := "250 2.1.5 "
		if over != "" {
			want = "552 5.3.4 "
		}
		c.envelope("", "a@example.test", "b@example.test")
		go io.WriteString(c.Conn, stuffed(at+over)+".\r\nNOOP\r\n")
		c.expect(want)
		c.expect(want)
		c.expect("250 2.0.0 OK")
	}
	c.envelope("", "a@example.test")
	for range 4 {
		c.send(at)
	}
	if used := s.spooler.used.Load(); used > messageBlocks {
		t.Errorf("%d blocks in use", used)
	}
	c.send(".\r\n")
	c.expect("552 5.3.4 ")
}

// TestSwallowEnds: a refused message without an end is not read for ever.
func TestSwallowEnds(t *testing.T) {
	in := &intake{spool: &spool{from: newSpooler(t.TempDir())}, limit: 100, swallow: 1000}
	defer in.spool.Close()
	in.data = wire.NewReader(strings.NewReader(strings.Repeat("x", 2000)), 16).Data()
	if err := in.read(); !errors.Is(err, errSwallowed) || in.data.Wire() > 1100 || in.spool.wire > 112 && in.spool.blocks != nil {
		t.Errorf("%v after %d octets", err, in.data.Wire())
	}
}
