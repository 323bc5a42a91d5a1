// Package etcdtest starts a real etcd inside a test: one member on loopback,
// with its data in the test's own folder, gone when the test ends. It is for
// tests only.
//
//	Start ── New ── Server ── Stop ── Restart (same data, same port)
//	                   └── Client (any number, each closed with the test)
//
// # Decisions
//
//   - 2026-11-23: ports are chosen by the kernel and kept over a restart, so
//     tests run side by side and a client finds a restarted server again.
//     Refused: unix sockets, whose path limit of 108 octets a test's folder can
//     exceed.
//   - 2026-11-23: fsync stays off (UnsafeNoFsync). A test ends with its process,
//     and what a power cut does to etcd is etcd's own business.
package etcdtest

import (
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	startTimeout = 30 * time.Second // a loaded machine is slow, not broken
	dialTimeout  = 10 * time.Second
)

// Server is one running etcd.
type Server struct {
	t        testing.TB
	dir      string
	endpoint string // host:port, fixed after the first start
	running  *embed.Etcd
}

// Start starts an etcd and returns a client of it and its endpoints. Both end
// with the test.
func Start(t testing.TB) (client *clientv3.Client, endpoints []string) {
	t.Helper()
	s := New(t)
	return s.Client(), s.Endpoints()
}

// New starts an etcd that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), endpoint: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

// Endpoints are the addresses to give to a client.
func (s *Server) Endpoints() []string { return []string{s.endpoint} }

// Client returns a new client, closed when the test ends.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   s.Endpoints(),
		DialTimeout: dialTimeout,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		s.t.Fatalf("etcd client: %v", err)
	}
	s.t.Cleanup(func() { client.Close() })
	return client
}

// Stop stops the server and keeps its data. Stopping a stopped one does nothing.
func (s *Server) Stop() {
	if s.running != nil {
		s.running.Close()
		s.running = nil
	}
}

// Restart stops the server if it runs and starts it again, with the same data
// at the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

func (s *Server) start() {
	s.t.Helper()
	etcd, err := embed.StartEtcd(s.config())
	if err != nil {
		s.t.Fatalf("etcd: %v", err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(startTimeout):
		etcd.Close()
		s.t.Fatalf("etcd isn't ready after %v", startTimeout)
	}
	s.running = etcd
	s.endpoint = etcd.Clients[0].Addr().String()
}

func (s *Server) config() *embed.Config {
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	client := url.URL{Scheme: "http", Host: s.endpoint}
	cfg := embed.NewConfig()
	cfg.Dir = s.dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg
}
