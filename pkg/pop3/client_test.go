package pop3

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// certificate makes a key and a certificate that is good in all years of all bubbles.
func certificate(t testing.TB) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"eu-pop.example.com"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func testServer(t testing.TB, b maildrop.Opener, change func(*Config)) *Server {
	t.Helper()
	cert := certificate(t)
	config := Config{
		Opener: b, Region: "eu", Hostname: "eu-pop.example.com",
		TLS: TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }),
	}
	if change != nil {
		change(&config)
	}
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client is the other end of a connection.
type client struct {
	t   testing.TB
	raw *stream
	*tls.Conn
	lines *bufio.Reader
}

// pipe connects a client to a server in memory.
func pipe(t testing.TB, s *Server) *client {
	t.Helper()
	return pipeFrom(t, s, netip.Addr{})
}

// pipeFrom is pipe for a client from an address.
func pipeFrom(t testing.TB, s *Server, remote netip.Addr) *client {
	t.Helper()
	near, far := net.Pipe()
	s.admit(from{far, remote})
	raw := &stream{Conn: near}
	c := &client{t: t, raw: raw, Conn: tls.Client(raw, &tls.Config{InsecureSkipVerify: true})}
	c.lines = bufio.NewReader(c.Conn)
	return c
}

// pipeCleartext is pipe without TLS.
func pipeCleartext(t testing.TB, s *Server) *client {
	t.Helper()
	near, far := net.Pipe()
	s.admitCleartext(far)
	raw := &stream{Conn: near}
	return &client{t: t, raw: raw, lines: bufio.NewReader(raw)}
}

// top is what the client talks POP3 on.
func (c *client) top() net.Conn {
	if c.Conn == nil {
		return c.raw
	}
	return c.Conn
}

// secure makes TLS of a connection that began without.
func (c *client) secure(config *tls.Config) {
	c.t.Helper()
	if n := c.lines.Buffered(); n > 0 {
		c.t.Fatalf("%d octets came before TLS", n)
	}
	config.InsecureSkipVerify = true
	c.Conn = tls.Client(c.raw, config)
	c.lines = bufio.NewReader(c.Conn)
	if err := c.Handshake(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.top(), text); err != nil {
		c.t.Fatalf("say %q: %v", text, err)
	}
}

func (c *client) expect(patterns ...string) {
	c.t.Helper()
	for _, pattern := range patterns {
		line, err := c.lines.ReadString('\n')
		if err != nil || !strings.HasSuffix(line, "\r\n") || !matches(pattern, line[:len(line)-2]) {
			c.t.Fatalf("got %q, %v; want %q", line, err, pattern)
		}
	}
}

// expectEnd expects a proper end of TLS, and nothing before it.
func (c *client) expectEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.lines); err != nil || len(rest) > 0 || c.Conn != nil && c.raw.fin {
		c.t.Fatalf("got %q, %v; want the end", rest, err)
	}
}

func (c *client) login() {
	c.t.Helper()
	c.expect("+OK *") // a net.Pipe has no buffer: who speaks must be listened to
	c.say("USER alice@example.com\r\nPASS secret\r\n")
	c.expect("+OK *", "+OK *")
}

// stop ends a server whose sessions have all ended.
func stop(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error("Shutdown:", err)
	}
}
