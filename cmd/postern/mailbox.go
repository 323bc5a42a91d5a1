package main

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/lmtp"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/node"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/run"
	"github.com/postern-pop/postern/pkg/shard"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// mailbox wires a mailbox node: the store, the shards on it, and gRPC. The node
// gives its shards away before its door closes.
func mailbox(ctx context.Context, p *run.Process, h *host, cfg *config.Process) error {
	me, err := h.joinAs(ctx, p, cfg)
	if err != nil {
		return err
	}
	if _, err := h.openOwners(ctx, p, me, cfg); err != nil { // for neighbours that start without etcd
		return err
	}
	store, closer, err := awaitStore(ctx, cfg.Region.Storage, me.log, me.metrics)
	if err != nil {
		return err
	}
	p.OnStop("store", func(context.Context) error { return closer.Close() })
	if err := verified(ctx, p, store, me.log); err != nil {
		return err
	}
	sealing, err := seal(cfg.Region.Storage.Encryption, me.log)
	if err != nil {
		return err
	}
	if err := keyFits(ctx, store, &cfg.Region, me.log); err != nil {
		return err
	}
	verifier := auth.New(auth.Config{Registerer: me.metrics})
	p.OnStop("passwords", func(context.Context) error { verifier.Close(); return nil })

	address := cfg.Mailbox.GRPC.Advertise
	if address == "" {
		address = cfg.Mailbox.GRPC.Listen
	}
	cache := int64(cfg.Mailbox.CacheMiB) << 20
	plan, err := planMemory(h.memory, cache)
	if err != nil {
		me.log.Warn("too little memory: mail may be refused for now (452 4.3.1)", "err", err)
	}
	me.log.Info("memory", "limit_mib", plan.limit>>20, "cache_mib", cache>>20, "mail_mib", plan.waiting>>20)
	shards, err := node.New(node.Config{
		Name: string(cfg.Name), Region: string(cfg.Region.Name), Shards: cfg.Region.Shards,
		Store: store, Seal: sealing, Rules: h.view, Auth: verifier, Etcd: h.regional,
		Account: h.view.Account, Peers: me.peers(h.view), Identify: lmtp.Identify,
		Address: string(address), Zone: cfg.Mailbox.Zone, Gossip: me.gossip,
		CacheBytes: cache, BudgetBytes: plan.waiting,
		Prepare: func(ctx context.Context, address string, shard int) error {
			return me.pool.Client(address).Prepare(ctx, shard)
		},
		Log: me.log, Registerer: me.metrics,
	})
	if err != nil {
		return err
	}
	with, err := rpc.ServerTLS(me.files)
	if err != nil {
		return err
	}
	server := rpc.NewServer(rpc.ServerConfig{
		TLS: with, Service: shards, Allow: rpc.NodeAllow(string(cfg.Region.Name)), Snapshots: h.routes.tell,
		BodyBytes: plan.arriving,
		Mover:     shards, Receiver: shards,
		Holdings: func() []*posternv1.ShardInfo { return holdingsToWire(shards.Census()) },
		Prepare:  shards.Prepare,
		Log:      me.log, Registerer: me.metrics,
	})
	if err := serve(ctx, p, "grpc", string(cfg.Mailbox.GRPC.Listen), server.Serve, stopper(server.Stop)); err != nil {
		return err
	}
	p.Explain(shards.Waiting)
	p.Go(ctx, "node", shards.Run)
	if cfg.Mailbox.TurnSeconds > 0 {
		p.OnStop("turn", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.Mailbox.TurnSeconds)*time.Second)
			defer cancel()
			if err := shards.AwaitTurn(ctx); err != nil {
				me.log.Warn("leaving out of turn", "error", err)
			}
			return nil
		})
	}
	return nil
}

// peers reaches other regions by their gateways.
func (me *party) peers(view *directory.View) shard.Peers {
	return func(region string) (maildrop.Receiver, error) {
		known, ok := view.Region(region)
		if !ok || known.Gateway == "" {
			return nil, &maildrop.Error{Op: "mailbox.peers", Kind: maildrop.Transient, Err: fmt.Errorf("region %q isn't known here", region)}
		}
		return me.pool.Client(known.Gateway), nil
	}
}

func holdingsToWire(all []node.Holding) []*posternv1.ShardInfo {
	infos := make([]*posternv1.ShardInfo, len(all))
	for i, h := range all {
		infos[i] = &posternv1.ShardInfo{
			Shard: uint32(h.Shard), Epoch: h.Epoch, Serving: true, SinceMilli: h.Since.UnixMilli(), Heat: h.Heat,
			Addresses: uint64(h.Addresses), Messages: uint64(h.Messages), Octets: h.Octets,
		}
	}
	return infos
}
