package main

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/postern-pop/postern/pkg/admin"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/guard"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/pop3"
	"github.com/postern-pop/postern/pkg/router"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/run"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// front wires a front: the router of its region, the gateway on it, and POP3S.
func front(ctx context.Context, p *run.Process, h *host, cfg *config.Process) error {
	me, err := h.joinAs(ctx, p, cfg)
	if err != nil {
		return err
	}
	// Whoever starts a front with a region's file makes the region known.
	if err := h.publish(ctx, p, me, published(cfg.Region)); err != nil {
		return err
	}
	route, err := h.router(ctx, p, me, cfg)
	if err != nil {
		return err
	}
	shown, err := certificates(ctx, p, cfg.Front.Certificates, cfg.Region.Hostname, me.log, me.metrics)
	if err != nil {
		return err
	}
	with := pop3.TLSConfig(shown.Certificate)
	if err := h.shareTickets(ctx, p, me, cfg, with); err != nil {
		return err
	}
	names, err := addressesOf(cfg.Log)
	if err != nil {
		return err
	}
	teller := guard.NewTeller(route.Tell, me.metrics)
	p.Go(ctx, "refusals", func(ctx context.Context) error { teller.Run(ctx); return nil })
	server, err := pop3.NewServer(pop3.Config{
		Opener: route, TLS: with, Region: string(cfg.Region.Name), Hostname: cfg.Region.Hostname,
		Mechanisms: cfg.Front.SASL, Anonymous: cfg.Front.Anonymous, Limits: limitsOf(cfg.Front.Limits), LoginDelay: h.view.LoginDelay,
		Refused: teller.Note, Addresses: names, Log: me.log, Registerer: me.metrics,
	})
	if err != nil {
		return err
	}
	me.gossip.Share(server.Gate())
	if err := h.gateway(ctx, p, me, cfg, route, server); err != nil {
		return err
	}
	return doors(ctx, p, cfg.Front, server, me.metrics)
}

// connectionsFor is how many of the connections wanted fit into a quarter of the
// process's limit on open files. The rest is for the other door of a standalone
// and for everything else: strangers must not be able to take the descriptors
// that the store and etcd need.
func connectionsFor(wanted int) int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur/4 > uint64(wanted) {
		return wanted
	}
	return max(1, int(files.Cur/4))
}

// published is what other regions know of a region.
func published(r config.Region) directory.Region {
	return directory.Region{
		Name: string(r.Name), Title: r.Title, Hostname: r.Hostname, Shards: r.Shards,
		Gateway: string(r.Gateway), CrossRegion: r.CrossRegion,
	}
}

// router makes the way from an address to its maildrop, wherever that is.
func (h *host) router(ctx context.Context, p *run.Process, me *party, cfg *config.Process) (*router.Router, error) {
	owners, err := h.openOwners(ctx, p, me, cfg)
	if err != nil {
		return nil, err
	}
	return router.New(router.Config{
		Region: string(cfg.Region.Name), Shards: cfg.Region.Shards,
		Directory: h.view, Owners: owners,
		Dial: func(address string) maildrop.Service { return me.pool.Client(address) },
		Log:  me.log, Registerer: me.metrics,
	}), nil
}

// gateway serves the region to other regions and to operators.
func (h *host) gateway(ctx context.Context, p *run.Process, me *party, cfg *config.Process, route *router.Router, users *pop3.Server) error {
	with, err := rpc.ServerTLS(me.files)
	if err != nil {
		return err
	}
	transfers := route.Transfers(func(address string) router.Transfer { return me.pool.Client(address) })
	server := rpc.NewServer(rpc.ServerConfig{
		TLS: with, Service: route.Local(), Mover: transfers, Receiver: transfers.Gateway(), Allow: rpc.GatewayAllow(string(cfg.Region.Name)), Snapshots: h.routes.tell,
		Log: me.log, Registerer: me.metrics,
	})
	// An operator reaches every region's addresses and mailboxes by any gateway.
	operators := admin.New(admin.Config{
		Store: directory.NewStore(h.global), Registrar: route, Deliverer: route, Helpdesk: route, Standing: users.Standing, Places: h.view,
		Reply: pop3.LoginReply, Log: me.log,
		Region: string(cfg.Region.Name), Mover: transfers,
		Gateway: func(address string) maildrop.Mover { return me.pool.Client(address) },
	})
	operators.Register(server.GRPC())
	region := string(cfg.Region.Name)
	orders, err := placement.NewOrders(h.regional, region, cfg.Region.Shards)
	if err != nil {
		return err
	}
	admin.NewRegion(operators, region, orders, func(ctx context.Context, address string) ([]*posternv1.ShardInfo, error) {
		return me.pool.Client(address).Holdings(ctx)
	}).Register(server.GRPC())
	return serve(ctx, p, "gateway", string(cfg.Front.Gateway.Listen), server.Serve, stopper(server.Stop))
}

// serve listens and serves until the process stops.
func serve(ctx context.Context, p *run.Process, name, address string, serve func(net.Listener) error, stop func(context.Context) error) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.Serve(name, func() error { return serve(listener) }, stop)
	return nil
}

// stopper is a stop that has no error to tell.
func stopper(stop func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error { stop(ctx); return nil }
}
