package pop3

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

// transcript sends pieces, each a write and so a TLS record of its own, and returns all
// that the server says until it closes.
func transcript(t *testing.T, pieces ...string) (text string) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t, newBox("five"), nil)
		c := pipe(t, server)
		go func() {
			for _, piece := range pieces {
				io.WriteString(c.Conn, piece)
			}
		}()
		all, err := io.ReadAll(c.lines)
		if err != nil {
			t.Error(err)
		}
		text = string(all)
		c.raw.Close()
		stop(t, server)
	})
	return text
}

// TestEverySplit is PIPE-06 (RFC 1939 section 3): wherever the border of two TLS records
// lies in what a client says, the server says the same.
func TestEverySplit(t *testing.T) {
	said := "CAPA\r\nLANG fr\r\nAUTH PLAIN\r\nAGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==\r\nUTF8\r\nSTAT\r\n\r\nLIST\r\nUIDL 2\r\n" +
		"RETR 2\r\nTOP 3 1\r\nDELE 1\r\nNOOP\nFOO \x00\r\n" + strings.Repeat("x", 300) + "\r\nRSET\r\nDELE 5\r\nQUIT\r\n"
	whole := transcript(t, said)
	if !strings.HasSuffix(whole, "suppression de 1 message\r\n") || strings.Count(whole, "-ERR") != 2 {
		t.Fatalf("%q", whole)
	}
	for i := range said {
		if got := transcript(t, said[:i], said[i:]); got != whole {
			t.Fatalf("split at octet %d (%q): %q, want %q", i, said[max(0, i-5):i], got, whole)
		}
	}
}

// TestBeforeGreeting is PIPE-01 and PIPE-02 (RFC 1939 section 4, RFC 2449 section 6.6):
// everything in one write, before the greeting was read.
func TestBeforeGreeting(t *testing.T) {
	c := mustDial(t, listen(t, newBox("five"), nil), &tls.Config{})
	c.say("USER alice@example.com\r\nPASS secret\r\nSTAT\r\nLIST 1\r\nUIDL 1\r\nNOOP\r\nQUIT\r\n")
	c.expect("+OK *", "+OK send PASS", "+OK 5 *", "+OK 5 86", "+OK 1 17", "+OK 1 u0001", "+OK still here", "+OK goodbye*")
	c.expectEnd()
}

// TestFetchAllInOneWrite is PIPE-04 (RFC 2449 section 6.6): RETR and DELE of 50 messages and
// QUIT in one write.
func TestFetchAllInOneWrite(t *testing.T) {
	b := newBox("many")
	var said strings.Builder
	for i := range 50 {
		b.uids = append(b.uids, maildrop.UID(fmt.Sprintf("u%04d", i)))
		b.wire = append(b.wire, fmt.Sprintf("Subject: %d\r\n\r\n..%s\r\n", i, strings.Repeat("x", i*400)))
		fmt.Fprintf(&said, "RETR %d\r\nDELE %d\r\n", i+1, i+1)
	}
	c := mustDial(t, listen(t, b, nil), &tls.Config{})
	c.login()
	c.say(said.String() + "QUIT\r\n")
	for i, wire := range b.wire {
		c.expect(fmt.Sprintf("+OK %d octets", unstuffed(wire)), fmt.Sprintf("Subject: %d", i), "", "..*", ".", "+OK marked as deleted")
	}
	c.expect("+OK goodbye, 50 messages removed")
	c.expectEnd()
	if !slices.Equal(b.gone(), b.uids) {
		t.Errorf("removed %v", b.gone())
	}
}

// farewells are ways in which a client goes without QUIT.
var farewells = map[string]func(*client){
	"FIN":          func(c *client) { c.raw.Close() },
	"RST":          func(c *client) { c.raw.Conn.(*net.TCPConn).SetLinger(0); c.raw.Close() },
	"close_notify": func(c *client) { c.Conn.Close() },
	"half-close": func(c *client) { // the client has finished sending, and still reads
		c.CloseWrite()
		io.Copy(io.Discard, c.lines)
		c.raw.Close()
	},
	"half-close of TCP": func(c *client) {
		c.raw.Conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c.lines)
		c.raw.Close()
	},
}

// TestCutInEveryState is UPD-02 to UPD-05, UPD-09 and RFC 1939 section 6: whatever a client
// was doing, without the QUIT with its line end nothing is removed, and the server is rid
// of the session at once.
func TestCutInEveryState(t *testing.T) {
	const marked = "USER alice@example.com\r\nPASS secret\r\nDELE 1\r\nDELE 3\r\n"
	for name, said := range map[string]string{
		"greeting":              "",
		"USER":                  "USER alice@example.com\r\n",
		"a wrong password":      "USER alice@example.com\r\nPASS wrong\r\n",
		"a challenge":           "AUTH PLAIN\r\n",
		"a proof":               "AUTH SCRAM-SHA-256 " + scramFirst + "\r\n",
		"login":                 "USER alice@example.com\r\nPASS secret\r\n",
		"marked":                marked,
		"listed":                marked + "LIST\r\nUIDL\r\n",
		"a message":             marked + "RETR 2\r\n",
		"a message, not read":   marked + strings.Repeat("RETR 2\r\n", 2000),
		"QUI":                   marked + "QUI",
		"QUIT":                  marked + "QUIT",
		"QUIT and CR":           marked + "QUIT\r",
		"QUIT with an argument": marked + "QUIT 1\r\n",
		"an overlong line":      marked + strings.Repeat("x", 5000) + " QUIT",
	} {
		for how, leave := range farewells {
			t.Run(name+", "+how, func(t *testing.T) {
				b := newBox("five")
				b.wire[1] = "Subject: 2\r\n\r\n" + strings.Repeat("0123456789\r\n", 500)
				server := testServer(t, b, func(c *Config) { c.PreLogin = time.Hour })
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan error, 1)
				go func() { served <- server.Serve(l) }()
				c := mustDial(t, l.Addr().String(), &tls.Config{})
				c.expect("+OK *")
				io.WriteString(c.Conn, said)
				leave(c)
				server.done.Wait() // by itself: else it would take ten minutes at least
				stop(t, server)
				<-served
				if gone := b.gone(); len(gone) > 0 {
					t.Errorf("removed %v", gone)
				}
			})
		}
	}
}

// TestQuitThenGone is PIPE-08 and UPD-13 (RFC 1939 section 6): a QUIT that was said counts,
// though its client has gone: all that is marked is removed, once, and no other.
func TestQuitThenGone(t *testing.T) {
	for how, leave := range farewells {
		if how == "RST" { // may overtake the QUIT
			continue
		}
		t.Run(how, func(t *testing.T) {
			b := newBox("five")
			c := mustDial(t, listen(t, b, nil), &tls.Config{})
			c.login()
			c.say("DELE 2\r\nDELE 4\r\nQUIT\r\n")
			leave(c)
			t.Cleanup(func() { // after the server's end
				if len(b.gone()) != 0 && !slices.Equal(b.gone(), []maildrop.UID{"u0002", "u0004"}) {
					t.Errorf("removed %v", b.gone())
				}
			})
			if strings.HasPrefix(how, "half") && len(b.gone()) != 2 {
				t.Errorf("answered, and removed %v", b.gone())
			}
		})
	}
}

// TestCutRetrieval is ROB-02 (RFC 1939 section 6): cut in the middle of a message of 8 MiB,
// five times; the next session has it whole.
func TestCutRetrieval(t *testing.T) {
	b := newBox("five")
	b.wire[0] = "Subject: 1\r\n\r\n" + strings.Repeat("..23456789abcd\r\n", 8<<16)
	address := listen(t, b, nil)
	for i := range 5 {
		c := mustDial(t, address, &tls.Config{})
		c.login()
		c.say("DELE 2\r\nRETR 1\r\n")
		if _, err := io.CopyN(io.Discard, c.lines, int64(i)<<20+100); err != nil {
			t.Fatal(err)
		}
		farewells[[]string{"FIN", "RST"}[i%2]](c)
	}
	c := mustDial(t, address, &tls.Config{})
	c.login()
	c.say("RETR 1\r\nQUIT\r\n")
	c.expect(fmt.Sprintf("+OK %d octets", unstuffed(b.wire[0])))
	got := make([]byte, len(b.wire[0]))
	if _, err := io.ReadFull(c.lines, got); err != nil || string(got) != b.wire[0] {
		t.Errorf("another message: %v", err)
	}
	c.expect(".", "+OK goodbye, nothing was removed")
}

// TestVisitors is ROB-03 and ROB-04: monitors that only connect, and users that only log in,
// disturb nobody.
func TestVisitors(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for range 100 {
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		raw.Close()
	}
	for range 20 {
		c := mustDial(t, address, &tls.Config{})
		c.login()
		c.say("QUIT\r\n")
		c.expect("+OK *")
		c.expectEnd()
	}
}

// TestGreetingAtOnce is TLS-16: whoever else is connected, in any state, the greeting
// waits for no timer.
func TestGreetingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t, newBox("five"), nil)
		began := time.Now()
		for range 50 {
			silent, gone, c := pipe(t, server), pipe(t, server), pipe(t, server)
			defer silent.raw.Close()
			gone.raw.Close()
			c.expect("+OK *")
			defer c.raw.Close()
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the greetings came after %v", took)
		}
	})
}

// TestNoWaiting is ROB-05 and ROB-06: no algorithm of TCP holds small replies up (they would
// wait for a delayed acknowledgement), nor a message behind its first line: each reply is
// one write.
func TestNoWaiting(t *testing.T) {
	sent := &counted{}
	b := newBox("five")
	server := testServer(t, b, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(counting{l, sent}) }()
	c := mustDial(t, l.Addr().String(), &tls.Config{})
	c.login()
	for said, replies := range map[string][]string{"NOOP\r\n": {"+OK *"}, "RETR 4\r\n": {"+OK 12 octets", "Subject: 4", "."}} {
		before := sent.writes.Load()
		for range 20 {
			c.say(said)
			c.expect(replies...)
		}
		if writes := sent.writes.Load() - before; writes != 20 {
			t.Errorf("%q: 20 replies in %d writes", said, writes)
		}
	}
	if sent.delays.Load() {
		t.Error("TCP_NODELAY is off")
	}
	c.raw.Close()
	stop(t, server)
	<-served
}

// counting is a listener whose connections count what is written to them.
type counting struct {
	net.Listener
	counted *counted
}

func (l counting) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, _ := raw.(*net.TCPConn)
	return &countedConn{conn, l.counted}, nil
}

// counted is what happened to the connections.
type counted struct {
	writes atomic.Int64
	delays atomic.Bool // small writes may wait for acknowledgements
}

type countedConn struct {
	*net.TCPConn
	counted *counted
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.counted.writes.Add(1)
	if socket, err := c.SyscallConn(); err == nil {
		_ = socket.Control(func(fd uintptr) {
			if on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY); err == nil && on == 0 {
				c.counted.delays.Store(true)
			}
		})
	}
	return c.TCPConn.Write(p)
}

// TestManyAtOnce is ROB-09 and UPD-06 (RFC 1939 section 4): sessions don't wait for each
// other, and each of one maildrop has marks of its own.
func TestManyAtOnce(t *testing.T) {
	b := newBox("five")
	b.wire[1] = "Subject: 2\r\n\r\n" + strings.Repeat("0123456789\r\n", 1<<17)
	address := listen(t, b, nil)
	clients := make([]*client, 10)
	for i := range clients {
		clients[i] = mustDial(t, address, &tls.Config{})
		clients[i].login()
		clients[i].say(fmt.Sprintf("DELE %d\r\n", 1+2*(i%2)))
		clients[i].expect("+OK *")
	}
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			io.WriteString(c.Conn, "RETR 2\r\n")
			got := make([]byte, len(b.wire[1]))
			if _, err := c.lines.ReadString('\n'); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c.lines, got); err != nil || string(got) != b.wire[1] {
				t.Errorf("another message: %v", err)
			}
		})
	}
	all.Wait()
	for i, c := range clients {
		c.say("LIST 3\r\nLIST 1\r\n")
		c.expect(".", map[bool]string{true: "+OK 3 26", false: "-ERR*"}[i%2 == 0], map[bool]string{true: "+OK 1 17", false: "-ERR*"}[i%2 == 1])
	}
	clients[0].say("QUIT\r\n")
	clients[0].expect("+OK goodbye, 1 message removed")
	if gone := b.gone(); !slices.Equal(gone, []maildrop.UID{"u0001"}) {
		t.Errorf("removed %v", gone)
	}
}

// top is TOP as RFC 1939 section 7 says it, the slow way.
func top(wire string, lines int) string {
	header, body, found := strings.Cut("\r\n"+wire, "\r\n\r\n")
	if !found {
		return wire
	}
	all := strings.SplitAfter(body, "\r\n")
	return strings.TrimPrefix(header, "\r\n") + map[bool]string{true: "\r\n", false: ""}[len(header) > 2] + "\r\n" + strings.Join(all[:min(lines, len(all))], "")
}

// TestTopOfAwkwardMessages is TXN-12 and TXN-13 (RFC 1939 section 7) with every message of
// the corpus: no end of the header, no header, no octet, lines of a megabyte.
func TestTopOfAwkwardMessages(t *testing.T) {
	b := newBox("many")
	for i, m := range append(corpus.All(), corpus.Loose()...) {
		b.wire = append(b.wire, m.Stored)
		b.uids = append(b.uids, maildrop.UID(fmt.Sprintf("u%04d", i)))
	}
	d := newDriver(b)
	d.line([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
	for i, wire := range b.wire {
		for _, lines := range []int{0, 1, 2, 1 << 30} {
			d.sent.Reset()
			d.line(fmt.Appendf(nil, "TOP %d %d", i+1, lines))
			_, got, _ := bytes.Cut(d.sent.Bytes(), []byte("\r\n"))
			if want := top(wire, lines) + ".\r\n"; string(got) != want {
				t.Errorf("TOP %d %d: %d octets, %.60q…; want %d, %.60q…", i+1, lines, len(got), got, len(want), want)
			}
		}
	}
}

// TestAMillionMessages is SCL-01 (RFC 1939 section 5): any number of messages is listed
// whole, the last can be marked, and QUIT removes it alone.
func TestAMillionMessages(t *testing.T) {
	const messages = 1_000_000
	b := newBox("many")
	b.wire, b.uids = slices.Repeat([]string{"x\r\n"}, messages), make([]maildrop.UID, messages)
	for i := range b.uids {
		b.uids[i] = maildrop.UID(fmt.Sprintf("%018d", i))
	}
	d := newDriver(b)
	for _, test := range []struct{ line, begin, end string }{
		{"AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==", "+OK 1000000 messages, 3000000 octets", ""},
		{"STAT", "+OK 1000000 3000000\r\n", ""},
		{"LIST", "+OK 1000000 messages\r\n1 3\r\n2 3\r\n", "\r\n999999 3\r\n1000000 3\r\n.\r\n"},
		{"UIDL", "+OK 1000000 messages\r\n1 000000000000000000\r\n", "\r\n1000000 000000000000999999\r\n.\r\n"},
		{"RETR 1000000", "+OK 3 octets\r\nx\r\n.\r\n", ""},
		{"RETR 1000001", "-ERR no such message; the maildrop has 1000000 messages\r\n", ""},
		{"DELE 1000000", "+OK", ""},
		{"STAT", "+OK 999999 2999997\r\n", ""},
		{"QUIT", "+OK goodbye, 1 message removed\r\n", ""},
	} {
		d.sent.Reset()
		d.line([]byte(test.line))
		if got := d.sent.Bytes(); !bytes.HasPrefix(got, []byte(test.begin)) || !bytes.HasSuffix(got, []byte(test.end)) {
			t.Errorf("%s: %d octets, %.80q", test.line, len(got), got)
		}
		if lines := bytes.Count(d.sent.Bytes(), []byte("\n")); test.end != "" && lines != messages+2 {
			t.Errorf("%s: %d lines", test.line, lines)
		}
	}
	if !slices.Equal(b.gone(), b.uids[messages-1:]) {
		t.Errorf("removed %v", b.gone())
	}
}
