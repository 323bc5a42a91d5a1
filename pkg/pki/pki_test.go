package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func subject() Subject {
	return Subject{
		Name: "front-1", Hosts: []string{"eu-pop.postern.example", "localhost", "127.0.0.1"},
		URI: &url.URL{Scheme: "postern", Host: "eu", Path: "/front/front-1"}, Server: true, Client: true,
	}
}

func open(t *testing.T, dir string, c *clock) *Authority {
	t.Helper()
	a, err := Open(dir, "Postern test", c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, s Subject) *x509.Certificate {
	t.Helper()
	pair, err := a.Issue(s)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := load(pair)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestHandshake(t *testing.T) {
	a := open(t, t.TempDir(), &clock{time.Now()})
	pair, err := a.Issue(subject())
	if err != nil {
		t.Fatal(err)
	}
	both, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool, ca := x509.NewCertPool(), must(os.ReadFile(a.CA()))
	pool.AppendCertsFromPEM(ca)
	for _, name := range []string{"eu-pop.postern.example", "localhost", "127.0.0.1"} {
		near, far := net.Pipe()
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{both}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
		go server.Handshake()
		client := tls.Client(near, &tls.Config{RootCAs: pool, ServerName: name, Certificates: []tls.Certificate{both}})
		if err := client.Handshake(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := client.ConnectionState().PeerCertificates[0].URIs[0].String(); got != "postern://eu/front/front-1" {
			t.Errorf("identity %s", got)
		}
		near.Close()
		far.Close()
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func TestKeptAndRenewed(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	a := open(t, dir, c)
	first := issue(t, a, subject())

	again := open(t, dir, c)
	if !again.cert.Equal(a.cert) {
		t.Fatal("a second start made another authority")
	}
	if !issue(t, again, subject()).Equal(first) {
		t.Error("a second start made another certificate")
	}

	c.Time = c.Add(certificateLife*2/3 - time.Hour)
	if !issue(t, again, subject()).Equal(first) {
		t.Error("renewed with more than a third of its life left")
	}
	c.Time = c.Add(2 * time.Hour)
	renewed := issue(t, again, subject())
	if renewed.Equal(first) {
		t.Error("not renewed with less than a third of its life left")
	}
	if renewed.CheckSignatureFrom(a.cert) != nil {
		t.Error("renewed by another authority")
	}
}

func TestAnotherSubjectAnotherCertificate(t *testing.T) {
	for name, change := range map[string]func(*Subject){
		"host":  func(s *Subject) { s.Hosts = append(s.Hosts, "127.0.0.2") },
		"name":  func(s *Subject) { s.Hosts[0] = "us-pop.postern.example" },
		"URI":   func(s *Subject) { s.URI = nil },
		"usage": func(s *Subject) { s.Client = false },
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, t.TempDir(), &clock{time.Now()})
			first, other := issue(t, a, subject()), subject()
			change(&other)
			if issue(t, a, other).Equal(first) {
				t.Error("the old certificate was kept")
			}
		})
	}
}

func TestForeignCertificateIsReplaced(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	issue(t, open(t, dir, c), subject())
	os.Remove(filepath.Join(dir, "ca.pem"))
	os.Remove(filepath.Join(dir, "ca.key"))
	a := open(t, dir, c)
	if issue(t, a, subject()).CheckSignatureFrom(a.cert) != nil {
		t.Error("kept the certificate of an authority that is gone")
	}
}

func TestServersCertificateIsNoClients(t *testing.T) {
	a := open(t, t.TempDir(), &clock{time.Now()})
	s := subject()
	s.Client = false
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	_, err := issue(t, a, s).Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil {
		t.Error("a server's certificate passes for a client's")
	}
}

func TestKeysAreSecret(t *testing.T) {
	dir := t.TempDir()
	issue(t, open(t, dir, &clock{time.Now()}), subject())
	files, _ := filepath.Glob(filepath.Join(dir, "*.key"))
	if len(files) != 2 {
		t.Fatalf("keys: %v", files)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
}

func TestBrokenAuthorityIsNotReplaced(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	open(t, dir, c)
	os.WriteFile(filepath.Join(dir, "ca.key"), []byte("?"), 0o600)
	if _, err := Open(dir, "Postern test", c.now); err == nil {
		t.Error("a broken authority was silently replaced: nobody would trust its successor")
	}
}
