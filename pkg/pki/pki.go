// Package pki is a small private certificate authority in a directory, for
// installations that live on one machine. A cluster brings certificates of its
// own.
//
//	DIR/ca.pem  ca.key              the authority, for ten years
//	DIR/front-1.pem  front-1.key    one pair for each name, for 90 days
//
// Open makes the authority or takes the one that is there; Issue makes a
// certificate, takes the one that is there if it says the same and has a third
// of its life left, or renews it. Keys are readable by their owner only.
//
// # Decisions
//
//   - 2026-11-23: ECDSA P-256 everywhere: mail clients that know neither
//     Ed25519 nor TLS 1.3 are still about, and one kind of key is one kind of
//     trouble.
//   - 2026-11-23: a certificate is replaced by rename, the key before it. A
//     process that reads between the two sees a pair that doesn't match, keeps
//     the one it has and looks again.
//   - 2026-11-23: the authority itself isn't renewed. In ten years an
//     installation that began as a trial on one machine has moved on, and to
//     change what clients trust behind their back would be worse.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// How long certificates live. One is renewed when less than a third is left.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 90 * 24 * time.Hour
	clockSkew       = time.Hour // certificates begin to be valid this long ago
)

// Authority signs certificates. Open makes one.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// Pair names the files of a certificate and its key.
type Pair struct{ Cert, Key string }

// Subject is what a certificate says.
type Subject struct {
	Name   string   // of the files and the common name; unique in the authority
	Hosts  []string // host names and IP addresses
	URI    *url.URL // identity; nil: none
	Server bool     // may be shown by a server
	Client bool     // may be shown by a client
}

// Open takes the authority in dir or makes one, called title.
func Open(dir, title string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, now: now}
	pair := a.pair("ca")
	if _, err := os.Stat(pair.Cert); errors.Is(err, os.ErrNotExist) {
		return a, a.create(pair, title)
	}
	cert, key, err := load(pair)
	switch {
	case err != nil:
		return nil, err
	case !cert.IsCA:
		return nil, fmt.Errorf("%s is no authority's certificate", pair.Cert)
	}
	a.cert, a.key = cert, key
	return a, nil
}

// CA is the path of the authority's certificate.
func (a *Authority) CA() string { return a.pair("ca").Cert }

// Issue makes sure that there is a certificate that says what subject says, and
// that it is good for a while.
func (a *Authority) Issue(subject Subject) (Pair, error) {
	pair := a.pair(subject.Name)
	if cert, _, err := load(pair); err == nil && a.good(cert, subject) {
		return pair, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template := a.template(subject.Name, certificateLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = subject.usages()
	template.DNSNames, template.IPAddresses = subject.hosts()
	if subject.URI != nil {
		template.URIs = []*url.URL{subject.URI}
	}
	return pair, a.sign(pair, template, a.cert, key, a.key)
}

// good reports whether a certificate need not be made anew.
func (a *Authority) good(cert *x509.Certificate, subject Subject) bool {
	names, addresses := subject.hosts()
	uri, has := "", ""
	if subject.URI != nil {
		uri = subject.URI.String()
	}
	if len(cert.URIs) > 0 {
		has = cert.URIs[0].String()
	}
	return cert.CheckSignatureFrom(a.cert) == nil &&
		cert.NotAfter.Sub(a.now()) > certificateLife/3 && !a.now().Before(cert.NotBefore) &&
		uri == has && slices.Equal(names, cert.DNSNames) && slices.Equal(subject.usages(), cert.ExtKeyUsage) &&
		slices.EqualFunc(addresses, cert.IPAddresses, net.IP.Equal)
}

func (s Subject) usages() []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	if s.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if s.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	return usages
}

func (s Subject) hosts() (names []string, addresses []net.IP) {
	for _, host := range s.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			addresses = append(addresses, ip)
		} else {
			names = append(names, host)
		}
	}
	return names, addresses
}

func (a *Authority) create(pair Pair, title string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := a.template(title, authorityLife)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if err := a.sign(pair, template, template, key, key); err != nil {
		return err
	}
	a.cert, a.key, err = load(pair)
	return err
}

func (a *Authority) template(name string, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Postern"}},
		NotBefore:    a.now().Add(-clockSkew),
		NotAfter:     a.now().Add(life),
	}
}

// sign writes a new pair of files, the key first.
func (a *Authority) sign(pair Pair, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := replace(pair.Key, "PRIVATE KEY", secret, 0o600); err != nil {
		return err
	}
	return replace(pair.Cert, "CERTIFICATE", der, 0o644)
}

func (a *Authority) pair(name string) Pair {
	return Pair{filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")}
}

// serial is 127 random bits: unique without a register of what was issued.
func serial() *big.Int {
	var octets [16]byte
	rand.Read(octets[:]) // never fails: crypto/rand ends the process instead
	octets[0] &= 0x7f
	octets[15] |= 1
	return new(big.Int).SetBytes(octets[:])
}

// load reads a pair and checks that key and certificate belong together.
func load(pair Pair) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	both, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, nil, err
	}
	key, ok := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%s: not a key of ours", pair.Key)
	}
	return both.Leaf, key, nil
}

// replace writes a PEM file so that a reader sees the old one or the new one.
func replace(file, kind string, der []byte, mode os.FileMode) error {
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	fresh := file + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(fresh, text.Bytes(), mode); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}
