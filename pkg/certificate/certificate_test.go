package certificate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// made is a certificate and its key, PEM.
type made struct{ cert, key []byte }

// rsaKey is made once: it is slow to make.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func ecdsaKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for some names, valid from and to these times.
func issue(t *testing.T, key crypto.Signer, from, to time.Time, names ...string) made {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, DNSNames: names, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

func good(t *testing.T, names ...string) made {
	t.Helper()
	return issue(t, ecdsaKey(t), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), names...)
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func store(t *testing.T, m made) Files {
	t.Helper()
	dir := t.TempDir()
	files := Files{filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key")}
	write(t, files.Cert, m.cert)
	write(t, files.Key, m.key)
	return files
}

func open(t *testing.T, config Config) *Set {
	t.Helper()
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake is the leaf that a client sees that asks for a name.
func handshake(t *testing.T, s *Set, name string, change func(*tls.Config)) *x509.Certificate {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		server := tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.Certificate})
		server.Handshake()
		far.Close()
	}()
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true}
	if change != nil {
		change(config)
	}
	client := tls.Client(near, config)
	if err := client.Handshake(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return client.ConnectionState().PeerCertificates[0]
}

// TestNames is TLS-07 to TLS-09 (RFC 6066 section 3): each of the server's names
// gets a certificate that verifies for it; any other name, and none, the default's.
func TestNames(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	s := open(t, Config{Hostname: "eu-pop.example.com", Registerer: registry, Files: []Files{
		store(t, good(t, "pop.customer.example")),
		store(t, good(t, "eu-pop.example.com", "EU-pop.example.net")),
		store(t, good(t, "*.wild.example")),
	}})
	for name, verifies := range map[string]string{
		"eu-pop.example.com":   "eu-pop.example.com",
		"eu-pop.example.net":   "eu-pop.example.net",
		"EU-POP.EXAMPLE.COM.":  "eu-pop.example.com",
		"pop.customer.example": "pop.customer.example",
		"a.wild.example":       "a.wild.example",
		"a.b.wild.example":     "eu-pop.example.com", // RFC 9525 section 6.3: one label
		"wild.example":         "eu-pop.example.com",
		"nobody.example.org":   "eu-pop.example.com",
		"localhost":            "eu-pop.example.com",
		"":                     "eu-pop.example.com",
	} {
		if err := handshake(t, s, name, nil).VerifyHostname(verifies); err != nil {
			t.Errorf("SNI %q: %v", name, err)
		}
	}
	want := `
# HELP postern_certificate_default_shown_total Handshakes that got the default certificate, by the name asked for: none, or unknown.
# TYPE postern_certificate_default_shown_total counter
postern_certificate_default_shown_total{sni="none"} 1
postern_certificate_default_shown_total{sni="unknown"} 4
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "postern_certificate_default_shown_total"); err != nil {
		t.Error(err)
	}
}

// TestBothKinds: RSA for those who can't verify ECDSA, whatever the order of the
// configuration.
func TestBothKinds(t *testing.T) {
	const name = "eu-pop.example.com"
	slow := issue(t, rsaKey(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), name)
	s := open(t, Config{Hostname: name, Files: []Files{store(t, slow), store(t, good(t, name))}})
	old := func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	}
	for _, sni := range []string{name, "nobody.example", ""} {
		if leaf := handshake(t, s, sni, nil); leaf.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("SNI %q: %v for a client of today", sni, leaf.PublicKeyAlgorithm)
		}
		if leaf := handshake(t, s, sni, old); leaf.PublicKeyAlgorithm != x509.RSA {
			t.Errorf("SNI %q: %v for a client that knows RSA only", sni, leaf.PublicKeyAlgorithm)
		}
	}
}

// TestStart: what can't be used is refused in words that say what to do.
func TestStart(t *testing.T) {
	const name = "eu-pop.example.com"
	now := time.Now()
	expired := issue(t, ecdsaKey(t), now.Add(-2*time.Hour), now.Add(-time.Hour), name)
	future := issue(t, ecdsaKey(t), now.Add(time.Hour), now.Add(2*time.Hour), name)
	one, other := good(t, name), good(t, name)
	cut := good(t, name)
	cut.cert = append(bytes.Clone(cut.cert), other.cert[:len(other.cert)/2]...)
	for want, m := range map[string]made{
		"expired on " + now.Add(-time.Hour).UTC().Format("2006-01-02") + " ": expired,
		": renew it (this machine's clock says ":                             expired,
		"is not valid before ":                                               future,
		"private key does not match public key":                              {one.cert, other.key},
		"cut off, or damaged":                                                cut,
		"failed to find any PEM data":                                        {nil, one.key},
	} {
		_, err := Open(Config{Hostname: name, Files: []Files{store(t, m)}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tls.pem") {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
	if _, err := Open(Config{Files: []Files{{"/nowhere/tls.pem", "/nowhere/tls.key"}}}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("a Set without a certificate")
	}

	// Another's that has expired is shown, and said.
	var log bytes.Buffer
	theirs := issue(t, ecdsaKey(t), now.Add(-2*time.Hour), now.Add(-time.Hour), "pop.customer.example")
	s := open(t, Config{Hostname: name, Files: []Files{store(t, one), store(t, theirs)}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := handshake(t, s, "pop.customer.example", nil).VerifyHostname("pop.customer.example"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "pop.customer.example expired on") {
		t.Errorf("log %q", log.String())
	}
	log.Reset()
	open(t, Config{Hostname: "us-pop.example.com", Files: []Files{store(t, one)}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "us-pop.example.com") {
		t.Errorf("log %q", log.String())
	}
}

// TestReload: new files are shown once they are whole, fit, and are valid; until
// then the old ones are, and it is said once.
func TestReload(t *testing.T) {
	const name = "eu-pop.example.com"
	var log bytes.Buffer
	registry := prometheus.NewPedanticRegistry()
	first, second := good(t, name), good(t, name)
	files := store(t, first)
	s := open(t, Config{Hostname: name, Files: []Files{files}, Log: slog.New(slog.NewTextHandler(&log, nil)), Registerer: registry})
	shows := func(want made, when string) {
		t.Helper()
		block, _ := pem.Decode(want.cert)
		if !bytes.Equal(handshake(t, s, name, nil).Raw, block.Bytes) {
			t.Errorf("%s: another certificate is shown", when)
		}
	}
	looks := func(n int) {
		for range n {
			s.look(time.Now())
		}
	}
	refused := func(when, words string) {
		t.Helper()
		log.Reset()
		looks(5)
		shows(first, when)
		if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), words) || !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("%s: log %q, want …%s… once", when, log.String(), words)
		}
		if got := testutil.ToFloat64(s.metrics.refused); got != 1 {
			t.Errorf("%s: refused is %v", when, got)
		}
	}
	looks(3)
	write(t, files.Key, second.key)
	refused("only the key is new", "private key does not match")
	write(t, files.Cert, second.cert[:100])
	refused("half of the certificate", "cut off")
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	refused("no certificate", "no such file")
	expired := issue(t, ecdsaKey(t), time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), name)
	write(t, files.Key, expired.key)
	write(t, files.Cert, expired.cert)
	refused("expired", "expired on")
	elsewhere := good(t, "us-pop.example.com")
	write(t, files.Key, elsewhere.key)
	write(t, files.Cert, elsewhere.cert)
	refused("another region's", "no longer for "+name)

	write(t, files.Key, first.key)
	write(t, files.Cert, first.cert)
	looks(1)
	if got := testutil.ToFloat64(s.metrics.refused); got != 0 {
		t.Errorf("as before: refused is %v", got)
	}
	write(t, files.Key, second.key)
	write(t, files.Cert, second.cert)
	looks(1)
	shows(first, "at the first sight of a change")
	log.Reset()
	looks(1)
	shows(second, "at the second")
	if !strings.Contains(log.String(), "certificate replaced") || strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("log %q", log.String())
	}
	want := `
# HELP postern_certificate_reloads_total Changes of a certificate's files by result.
# TYPE postern_certificate_reloads_total counter
postern_certificate_reloads_total{file="` + files.Cert + `",result="ok"} 1
postern_certificate_reloads_total{file="` + files.Cert + `",result="refused"} 5
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "postern_certificate_reloads_total"); err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(s.metrics.notAfter); got != float64(s.pairs[0].kept.Leaf.NotAfter.Unix()) {
		t.Errorf("not_after is %v", got)
	}
}

// TestReloadUnderLoad: while files are replaced all the time, in the worst order,
// no handshake fails and no session is dropped.
func TestReloadUnderLoad(t *testing.T) {
	const name = "eu-pop.example.com"
	files := store(t, good(t, name))
	s := open(t, Config{Hostname: name, Files: []Files{files}})
	near, far := net.Pipe()
	session := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	go func() {
		server := tls.Server(far, &tls.Config{GetCertificate: s.Certificate})
		io.Copy(server, server)
	}()
	if err := session.Handshake(); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var handshakes atomic.Int32
	for range 4 {
		work.Go(func() {
			for ctx.Err() == nil {
				handshake(t, s, name, nil)
				handshakes.Add(1)
			}
		})
	}
	const replacements = 20
	for range replacements {
		next := good(t, name)
		write(t, files.Cert, next.cert[:len(next.cert)/2])
		s.look(time.Now())
		write(t, files.Cert, next.cert)
		s.look(time.Now())
		write(t, files.Key, next.key)
		s.look(time.Now())
		s.look(time.Now())
	}
	stop()
	work.Wait()
	if got := testutil.ToFloat64(s.metrics.reloads.WithLabelValues(files.Cert, "ok")); got != replacements || handshakes.Load() < replacements {
		t.Errorf("%v replacements, %d handshakes", got, handshakes.Load())
	}
	if _, err := io.WriteString(session, "still here"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(session, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	near.Close()
	far.Close()
}
