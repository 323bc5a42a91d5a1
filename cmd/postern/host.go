package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/gossip"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/run"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// Times of the connection to etcd.
const (
	etcdDial      = 5 * time.Second
	etcdKeepalive = 10 * time.Second // without it an endpoint that swallows packets hangs a watch
	etcdSilence   = 5 * time.Second
	etcdReconnect = time.Second // at most, between attempts: a node's lease must not end while etcd is back already
)

// farewell is how long a process tries to tell the others that it leaves. When
// all leave at once nobody is there to hear it.
const farewell = 500 * time.Millisecond

// host is what the roles of one process share.
type host struct {
	log      *slog.Logger
	metrics  prometheus.Registerer
	global   *clientv3.Client
	regional *clientv3.Client
	view     *directory.View    // from the first role on that joined: who has no etcd asks its neighbours
	owners   *placement.Watcher // likewise
	routes   routes
	memory   int64 // octets that the process may use; 0: no limit is known

	// metricsOf is where a role's metrics go: two roles of one process may have
	// metrics of one name.
	metricsOf func(role string) prometheus.Registerer
}

// openHost opens the health port and etcd, in this order.
func openHost(ctx context.Context, p *run.Process, cfg *config.Process, log *slog.Logger) (*host, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", string(cfg.HTTP.Listen))
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	p.Health(listener, registry)

	h := &host{log: log, metrics: registry, memory: limitMemory(log), routes: routes{dir: snapshot.Dir(cfg.StateDir), views: map[string]snapshot.View{}}}
	h.metricsOf = func(string) prometheus.Registerer { return h.metrics }
	if h.global, err = etcdClient(ctx, p, log, "global etcd", cfg.Etcd.Global); err != nil {
		return nil, err
	}
	if h.regional, err = etcdClient(ctx, p, log, "regional etcd", cfg.Etcd.Regional); err != nil {
		return nil, err
	}
	return h, nil
}

func buildInfo() prometheus.Collector {
	b := thisBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postern_build_info", Help: "Always 1; identifies the running build.",
		ConstLabels: prometheus.Labels{"version": b.version, "revision": b.revision, "goversion": b.goVersion},
	})
	info.Set(1)
	return info
}

// etcdClient makes a client that connects when it is first used.
func etcdClient(ctx context.Context, p *run.Process, log *slog.Logger, name string, cfg config.Etcd) (*clientv3.Client, error) {
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = etcdReconnect
	settings := clientv3.Config{
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: etcdDial})},
		DialTimeout: etcdDial, DialKeepAliveTime: etcdKeepalive, DialKeepAliveTimeout: etcdSilence,
		Logger: zap.NewNop(), // its users log what matters
	}
	for _, endpoint := range cfg.Endpoints {
		settings.Endpoints = append(settings.Endpoints, string(endpoint))
	}
	var err error
	if cfg.TLS != nil {
		if settings.TLS, err = etcdTLS(ctx, p, log, *cfg.TLS); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	client, err := clientv3.New(settings)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.OnStop(name, func(context.Context) error { return client.Close() })
	return client, nil
}

// etcdTLS shows our certificate and verifies the server's name: etcd isn't one
// of ours and has no identity.
func etcdTLS(ctx context.Context, p *run.Process, log *slog.Logger, files config.TLS) (*tls.Config, error) {
	roots, err := readPool(string(files.CA))
	if err != nil {
		return nil, err
	}
	own, err := certificates(ctx, p, []config.Pair{{Cert: files.Cert, Key: files.Key}}, "", log, nil)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: own.Own}, nil
}

func readPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return pool, nil
}

// party is what one role has of its own: its identity towards other processes.
type party struct {
	identity rpc.Identity
	files    rpc.TLSFiles
	pool     *rpc.Pool
	gossip   *gossip.Member
	log      *slog.Logger
	metrics  prometheus.Registerer
}

func identityOf(cfg *config.Process) rpc.Identity {
	return rpc.Identity{Region: string(cfg.Region.Name), Role: cfg.Role, Name: string(cfg.Name)}
}

// joinAs makes a role a party of its region, and opens the directory.
func (h *host) joinAs(ctx context.Context, p *run.Process, cfg *config.Process) (*party, error) {
	me := &party{
		identity: identityOf(cfg),
		files:    tlsFiles(cfg.TLS, h.log),
		log:      h.log.With("role", cfg.Role, "name", string(cfg.Name)),
		metrics:  h.metricsOf(cfg.Role),
	}
	var err error
	if me.pool, err = newPool(p, me.files, me.identity.Role == rpc.RoleIntake, me.log); err != nil {
		return nil, err
	}
	keys, err := readGossipKeys(string(cfg.Gossip.KeyFile))
	if err != nil {
		return nil, err
	}
	seeds := make([]string, len(cfg.Gossip.Seeds))
	for i, seed := range cfg.Gossip.Seeds {
		seeds[i] = string(seed)
	}
	me.gossip, err = gossip.Join(gossip.Config{ //nolint:contextcheck // it lives until its stop, not until the start's context ends
		Name: string(cfg.Name), Region: string(cfg.Region.Name), Role: cfg.Role,
		Bind: string(cfg.Gossip.Bind), Advertise: string(cfg.Gossip.Advertise),
		Keys: keys, Seeds: seeds, Meta: metaOf(cfg), Log: me.log,
	})
	if err != nil {
		return nil, err
	}
	p.OnStop("gossip", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, farewell)
		defer cancel()
		if err := me.gossip.Leave(ctx); err != nil {
			me.log.Info("left without a word", "error", err)
		}
		return nil
	})
	p.Go(ctx, "gossip keys", func(ctx context.Context) error { return me.followKeys(ctx, string(cfg.Gossip.KeyFile), keys) })
	return me, h.openDirectory(ctx, p, me)
}

func tlsFiles(files config.TLS, log *slog.Logger) rpc.TLSFiles {
	return rpc.TLSFiles{CA: string(files.CA), Cert: string(files.Cert), Key: string(files.Key), Log: log}
}

func newPool(p *run.Process, files rpc.TLSFiles, feeds bool, log *slog.Logger) (*rpc.Pool, error) {
	with, err := rpc.ClientTLS(files)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	pool := rpc.NewPool(rpc.PoolConfig{TLS: with, Feeds: feeds, Log: log})
	p.OnStop("connections", func(context.Context) error { pool.Close(); return nil })
	return pool, nil
}
