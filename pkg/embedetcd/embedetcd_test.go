package embedetcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/postern-pop/postern/pkg/pki"
)

// fixture is a configuration, and the TLS of a client that it lets in.
func fixture(t *testing.T) (Config, *tls.Config) {
	t.Helper()
	authority, err := pki.Open(t.TempDir(), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Subject{Name: "etcd", Hosts: []string{"127.0.0.1"}, Server: true, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	both, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := os.ReadFile(authority.CA())
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return Config{
		Dir: filepath.Join(t.TempDir(), "etcd"), Listen: "127.0.0.1:0",
		CA: authority.CA(), Cert: pair.Cert, Key: pair.Key, Log: slog.New(slog.DiscardHandler),
	}, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{both}}
}

func client(t *testing.T, s *Server, with *tls.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, TLS: with, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestKeepsDataAndLetsOnlyClientsIn(t *testing.T) {
	cfg, with := fixture(t)
	first, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.etcd.Peers) != 0 {
		t.Errorf("%d peer listeners", len(first.etcd.Peers))
	}
	if _, err := client(t, first, with).Put(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	stranger := &tls.Config{RootCAs: with.RootCAs}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client(t, first, stranger).Get(ctx, "/a"); err == nil {
		t.Error("a client without a certificate was let in")
	}
	first.Close()

	second, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	got, err := client(t, second, with).Get(t.Context(), "/a")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("%v %v after the second start", got, err)
	}
}

func TestPortTaken(t *testing.T) {
	cfg, _ := fixture(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg.Listen = taken.Addr().String()
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

func TestNoTLSNoStart(t *testing.T) {
	if _, err := Start(t.Context(), Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}); err == nil {
		t.Error("started without certificates")
	}
}
