package lmtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// delivered is one message that the mailroom took.
type delivered struct {
	envelope maildrop.Envelope
	wire     []byte
	size     uint64
}

// mailroom is a Deliverer that keeps what it takes. A recipient's local part
// says what happens to it: "no-busy" is refused by Accept with Busy, "late-full"
// by Deliver with Full, "twice" has an unknown outcome once.
type mailroom struct {
	deliver func(context.Context, maildrop.Envelope, maildrop.Body) error // instead, if set

	mu    sync.Mutex
	got   []delivered
	asked []maildrop.Address
	tried map[maildrop.EnvelopeID]int
}

// fault is the error whose kind ends the local part, if it begins with prefix.
func fault(a maildrop.Address, prefix string) error {
	name, ok := strings.CutPrefix(a.Local(), prefix)
	if !ok {
		return nil
	}
	for k := maildrop.Internal; int(k) < maildrop.Kinds; k++ {
		if k.String() == name {
			e := &maildrop.Error{Op: "test", Kind: k, Err: errors.New("an internal name")}
			if k == maildrop.Denied {
				e.Text = "example.test does not take mail by POP\r\n250 injected"
			}
			return fmt.Errorf("wrapped: %w", e)
		}
	}
	return errors.New("nobody classified this")
}

func (m *mailroom) Accept(ctx context.Context, to maildrop.Recipient) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, to.Address)
	return fault(to.Address, "no-")
}

func (m *mailroom) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	if m.deliver != nil {
		return m.deliver(ctx, e, b)
	}
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	octets, err := io.ReadAll(r)
	if err != nil || uint64(len(octets)) != b.Wire() {
		return fmt.Errorf("Wire says %d, read %d octets, %w", b.Wire(), len(octets), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tried == nil {
		m.tried = map[maildrop.EnvelopeID]int{}
	}
	m.tried[e.ID]++
	if e.To.Local() == "twice" && m.tried[e.ID] == 1 {
		return &maildrop.Error{Op: "test", Kind: maildrop.Maybe}
	}
	if err := fault(e.To, "late-"); err != nil {
		return err
	}
	m.got = append(m.got, delivered{e, octets, b.Size()})
	return nil
}

// take returns what came since the last call, sorted by recipient.
func (m *mailroom) take() []delivered {
	m.mu.Lock()
	defer m.mu.Unlock()
	got := m.got
	m.got = nil
	slices.SortStableFunc(got, func(a, b delivered) int { return strings.Compare(string(a.envelope.To), string(b.envelope.To)) })
	return got
}

// logged is a log that tests can read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// start serves the configuration, with what it leaves out filled in, on a
// loopback address, until the test ends.
func start(t testing.TB, config Config) (*Server, string) {
	t.Helper()
	s := server(t, config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

func server(t testing.TB, config Config) *Server {
	t.Helper()
	if config.Networks == nil && config.TLS == nil {
		config.Networks = loopback
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Hostname == "" {
		config.Hostname, config.Region = "lmtp.test", "eu"
	}
	if config.Spool == "" {
		config.Spool = t.TempDir()
	}
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client is the other end: what a gateway does.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return newClient(t, nc)
}

func newClient(t testing.TB, nc net.Conn) *client {
	return &client{t: t, Conn: nc, r: bufio.NewReader(nc)}
}

// greeted dials and says LHLO.
func greeted(t testing.TB, address string) *client {
	t.Helper()
	c := dial(t, address)
	c.expect("220 ")
	c.send("LHLO client.test\r\n")
	c.reply("250 ")
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// line reads one line of a reply; "EOF" when there is none.
func (c *client) line() string {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "EOF"
	}
	if !strings.HasSuffix(line, "\r\n") || len(line) > 512 {
		c.t.Errorf("not a reply line: %q", line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

// expect reads a line and wants it to begin like that.
func (c *client) expect(prefix string) string {
	c.t.Helper()
	line := c.line()
	if !strings.HasPrefix(line, prefix) {
		c.t.Fatalf("got %q, want %q…", line, prefix)
	}
	return line
}

// reply reads a whole reply, of several lines or one.
func (c *client) reply(prefix string) (lines []string) {
	c.t.Helper()
	for {
		line := c.line()
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			if !strings.HasPrefix(line, prefix) {
				c.t.Fatalf("got %q, want %q…", lines, prefix)
			}
			return lines
		}
	}
}

// envelope opens a transaction and goes as far as 354.
func (c *client) envelope(sender string, to ...string) {
	c.t.Helper()
	c.send("MAIL FROM:<" + sender + ">\r\n")
	c.expect("250 ")
	for _, a := range to {
		c.send("RCPT TO:<" + a + ">\r\n")
		c.expect("250 ")
	}
	c.send("DATA\r\n")
	c.expect("354 ")
}
