// Package embedetcd runs etcd inside a process: one member, for an
// installation that lives on one machine. A cluster has etcd of its own.
//
//	Start ── Server ── Close
//	           └─ Endpoint: clients, with mTLS, at one address
//
// # Decisions
//
//   - 2026-11-23: no door but the one for clients. A single member has no
//     peers, so it has no peer port; etcd's own metrics and profiles stay inside.
//   - 2026-11-23: clients show a certificate of the installation's authority,
//     on loopback too: whoever writes to etcd decides who may read mail, and a
//     machine may have more users than one.
//   - 2026-11-23: a short tick (20 ms, election after 200 ms). With nobody to
//     elect against it costs nothing, and the start takes a tenth of a second.
package embedetcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// Timing of the single member.
const (
	tickMillis     = 20
	electionMillis = 200
	readyTimeout   = 30 * time.Second
	compactAfter   = "1h" // of history; watches that lag further behind load anew
)

// noPeer stands where etcd wants its member's address as other members see it.
// Nothing listens there.
const noPeer = "127.0.0.1:1"

// Config is what an etcd is started with.
type Config struct {
	Dir           string // data directory, made when it isn't there
	Listen        string // host:port for clients; port 0: any
	CA, Cert, Key string // PEM files: who signed the clients, and the server's own pair, which is a client's too
	Log           *slog.Logger
}

// Server is a running etcd.
type Server struct {
	etcd *embed.Etcd
	log  *quietCore
}

// Start starts etcd and returns when it answers. An error of ctx ends the wait.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.CA == "" || cfg.Cert == "" || cfg.Key == "" {
		return nil, errors.New("etcd: a CA, a certificate and a key are needed")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	log := &quietCore{log: cfg.Log}
	etcd, err := embed.StartEtcd(settings(cfg, log))
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	s := &Server{etcd, log}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case <-etcd.Server.ReadyNotify():
		return s, nil
	case err = <-etcd.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	return nil, fmt.Errorf("etcd: not ready: %w", err)
}

func settings(cfg Config, log *quietCore) *embed.Config {
	client := url.URL{Scheme: "https", Host: cfg.Listen}
	peer := url.URL{Scheme: "http", Host: noPeer}
	s := embed.NewConfig()
	s.Dir = cfg.Dir
	s.ListenPeerUrls, s.AdvertisePeerUrls = nil, []url.URL{peer}
	s.ListenClientUrls, s.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	s.InitialCluster = s.InitialClusterFromName(s.Name)
	s.ClientTLSInfo = transport.TLSInfo{
		CertFile: cfg.Cert, KeyFile: cfg.Key, TrustedCAFile: cfg.CA, ClientCertAuth: true,
	}
	s.TickMs, s.ElectionMs = tickMillis, electionMillis
	s.AutoCompactionMode, s.AutoCompactionRetention = embed.CompactorModePeriodic, compactAfter
	s.EnableGRPCGateway = false
	s.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log.logger())
	return s
}

// Endpoint is where clients find it, host:port.
func (s *Server) Endpoint() string { return s.etcd.Clients[0].Addr().String() }

// Failed yields an error when etcd ends by itself.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Close ends it. Clients that still wait get an error.
func (s *Server) Close() {
	s.log.closing.Store(true)
	s.etcd.Close()
}
