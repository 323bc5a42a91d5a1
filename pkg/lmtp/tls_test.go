package lmtp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bufio"
)

var (
	zeroPrefix netip.Prefix
	elsewhere  = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
)

// pki is a CA with the certificates of a server and of a gateway.
type pki struct {
	roots         *x509.CertPool
	host, gateway tls.Certificate
}

func newPKI(t *testing.T) pki {
	t.Helper()
	caKey, ca := issue(t, "ca", nil, nil)
	p := pki{roots: x509.NewCertPool()}
	p.roots.AddCert(ca)
	for name, to := range map[string]*tls.Certificate{"lmtp.test": &p.host, "gateway.test": &p.gateway} {
		key, cert := issue(t, name, ca, caKey)
		*to = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	return p
}

// issue makes a certificate, signed by parent or, if that is nil, by itself. It
// is valid both now and when bubbles' clocks begin.
func issue(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: parent == nil,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func (p pki) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.host}, ClientCAs: p.roots, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
}

func (p pki) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: p.roots, ServerName: "lmtp.test", Certificates: certs}
}

// upgrade says STARTTLS and shakes hands.
func (c *client) upgrade(config *tls.Config, behind string) error {
	c.t.Helper()
	c.send("STARTTLS\r\n" + behind)
	c.expect("220 2.0.0 ")
	secured := tls.Client(c.Conn, config)
	c.Conn, c.r = secured, bufio.NewReader(secured)
	return secured.Handshake()
}

func TestStartTLS(t *testing.T) {
	p := newPKI(t)
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room, TLS: p.server(), Networks: elsewhere})
	c := greeted(t, address)
	c.send("LHLO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n")
	if lines := c.reply("250 "); lines[len(lines)-1] != "250 STARTTLS" {
		t.Errorf("STARTTLS is not offered: %q", lines)
	}
	for range 3 {
		c.expect("530 5.7.0 ")
	}
	if err := c.upgrade(p.client(p.gateway), ""); err != nil {
		t.Fatal(err)
	}
	c.send("MAIL FROM:<>\r\n")
	c.expect("503 5.5.1 LHLO first")
	c.send("STARTTLS\r\n")
	c.expect("503 5.5.1 ")
	c.send("LHLO client.test\r\n")
	for _, line := range c.reply("250 ") {
		if strings.Contains(line, "STARTTLS") {
			t.Error("STARTTLS is offered within TLS")
		}
	}
	c.envelope("s@example.test", "a@example.test")
	c.send("x\r\n.\r\n")
	c.expect("250 2.1.5 ")
	if got := room.take(); len(got) != 1 || !strings.Contains(string(got[0].wire), " with LMTPS id ") {
		t.Errorf("%d deliveries, or no LMTPS in the trace header", len(got))
	}
	c.send("QUIT\r\n")
	c.expect("221 ")
	if _, err := c.r.ReadByte(); err == nil || err.Error() != "EOF" {
		t.Errorf("no close_notify at the end: %v", err)
	}
}

// TestStartTLSInjection: what comes in clear behind STARTTLS is never run.
func TestStartTLSInjection(t *testing.T) {
	p := newPKI(t)
	_, address := start(t, Config{Deliverer: &mailroom{}, TLS: p.server(), Networks: loopback})
	c := greeted(t, address)
	c.send("MAIL FROM:<>\r\n")
	c.expect("250 ")
	if err := c.upgrade(p.client(), "RSET\r\nVRFY injected\r\n"); err != nil {
		t.Fatal(err)
	}
	c.send("LHLO client.test\r\nRCPT TO:<a@example.test>\r\n")
	c.reply("250 ")
	c.expect("503 5.5.1 MAIL first") // the transaction is forgotten, the network still permits
	c.send("QUIT\r\n")
	c.expect("221 ")
}

// TestOnlyGateways: TLS alone is not enough, nor is another CA's certificate.
func TestOnlyGateways(t *testing.T) {
	p, other := newPKI(t), newPKI(t)
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room, TLS: p.server()})
	c := greeted(t, address)
	if err := c.upgrade(p.client(), ""); err != nil {
		t.Fatal(err)
	}
	c.send("LHLO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n")
	c.reply("250 ")
	for range 3 {
		c.expect("554 5.7.1 ")
	}
	c = greeted(t, address)
	if err := c.upgrade(p.client(other.gateway), ""); err == nil { // with TLS 1.3 the client hears of it later
		if line := c.line(); line != "EOF" {
			t.Errorf("another CA's certificate got %q", line)
		}
	}
	unverified := p.server()
	unverified.ClientAuth = tls.RequestClientCert
	if err := (&Config{Deliverer: room, TLS: unverified, Log: nil}).Validate(); err == nil {
		t.Error("a configuration that verifies nobody was taken")
	}
	if len(room.asked) != 0 {
		t.Errorf("strangers learned of %v", room.asked)
	}
}

// TestResumedGateway: a resumed TLS session is still a gateway's.
func TestResumedGateway(t *testing.T) {
	p := newPKI(t)
	_, address := start(t, Config{Deliverer: &mailroom{}, TLS: p.server()})
	config := p.client(p.gateway)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 3 {
		c := greeted(t, address)
		if err := c.upgrade(config, ""); err != nil {
			t.Fatal(err)
		}
		c.send("LHLO client.test\r\nMAIL FROM:<>\r\nQUIT\r\n")
		c.reply("250 ")
		c.expect("250 ")
		c.expect("221 ")
		c.expect("EOF")
		if resumed := c.Conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i > 0) {
			t.Errorf("connection %d: resumed %v", i, resumed)
		}
	}
}

// TestHandshakeNever: who says STARTTLS and then nothing is cut off.
func TestHandshakeNever(t *testing.T) {
	p := newPKI(t)
	inBubble(t, Config{Deliverer: &mailroom{}, TLS: p.server(), Networks: loopback}, func(t *testing.T, _ *Server, c *client) {
		c.send("STARTTLS\r\n")
		c.expect("220 ")
		begin := time.Now()
		c.expect("EOF")
		if d := time.Since(begin); d != handshakeTime {
			t.Errorf("closed after %v, want %v", d, handshakeTime)
		}
	})
}
