package main

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/gossip"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/run"
	"github.com/postern-pop/postern/pkg/snapshot"
)

const (
	routesMeta      = "routes"        // of a gossip member: host:port where it tells what it knows
	askedPeers      = 4               // of those are asked at once
	publishPatience = 3 * time.Second // for etcd, at a front's start
	publishAgain    = 5 * time.Second
)

// routes are the views of etcd that this process has: kept for a start without
// etcd, and told to those that start without it.
type routes struct {
	dir snapshot.Dir // empty: nothing is kept

	mu    sync.Mutex
	views map[string]snapshot.View
}

// add keeps a view from now on.
func (r *routes) add(ctx context.Context, p *run.Process, me *party, name string, view snapshot.View) {
	r.mu.Lock()
	r.views[name] = view
	r.mu.Unlock()
	if r.dir != "" {
		p.Go(ctx, "snapshots of "+name, func(ctx context.Context) error { snapshot.Keep(ctx, r.dir, view, me.log); return nil })
	}
}

// tell is rpc.Snapshots.
func (r *routes) tell(name string, newerThan int64) ([]byte, error) {
	r.mu.Lock()
	view := r.views[name]
	r.mu.Unlock()
	if view == nil {
		return nil, nil
	}
	s, ok := view.Snapshot()
	if !ok || s.Revision <= newerThan {
		return nil, nil
	}
	return snapshot.Encode(s)
}

// sources are where a view comes from while etcd doesn't answer.
func (r *routes) sources(me *party) []snapshot.Source {
	from := []snapshot.Source{me.askPeers}
	if r.dir != "" {
		from = append(from, r.dir.Load)
	}
	return from
}

// askPeers asks a few of the region's other processes.
func (me *party) askPeers(ctx context.Context, view string, newerThan int64) (snapshot.Snapshot, error) {
	var peers []snapshot.Source
	for _, peer := range me.gossip.Members() {
		if address, ok := routesOf(peer); ok && peer.Instance != me.gossip.Self().Instance {
			peers = append(peers, me.asks(address))
		}
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] }) //nolint:gosec // chance, no secret
	return snapshot.Newest(ctx, peers[:min(len(peers), askedPeers)], view, newerThan)
}

func (me *party) asks(address string) snapshot.Source {
	return func(ctx context.Context, view string, newerThan int64) (snapshot.Snapshot, error) {
		octets, err := me.pool.Client(address).Snapshot(ctx, view, newerThan)
		switch {
		case err != nil:
			return snapshot.Snapshot{}, err
		case len(octets) == 0:
			return snapshot.Snapshot{}, snapshot.ErrNone
		}
		return snapshot.Decode(view, octets)
	}
}

// routesOf is where a member tells what it knows. A host that it doesn't say is
// that of its gossip.
func routesOf(peer gossip.Peer) (address string, ok bool) {
	host, port, err := net.SplitHostPort(peer.Meta[routesMeta])
	if err != nil {
		return "", false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, _, err = net.SplitHostPort(peer.Address); err != nil {
			return "", false
		}
	}
	return net.JoinHostPort(host, port), true
}

// metaOf is what a role tells the others of itself. An intake has no door to tell
// routes at.
func metaOf(cfg *config.Process) map[string]string {
	meta := map[string]string{"version": thisBuild().version}
	switch {
	case cfg.Mailbox != nil:
		meta["zone"] = cfg.Mailbox.Zone
		meta[routesMeta] = string(cmp.Or(cfg.Mailbox.GRPC.Advertise, cfg.Mailbox.GRPC.Listen))
	case cfg.Front != nil:
		meta[routesMeta] = string(cfg.Front.Gateway.Listen)
	}
	return meta
}

// openDirectory opens the view of accounts and domains, once for all roles of a
// process: without etcd, as the first of them or one of its neighbours knew it.
func (h *host) openDirectory(ctx context.Context, p *run.Process, me *party) error {
	if h.view != nil {
		return nil
	}
	var err error
	if h.view, err = directory.Open(ctx, h.global, h.log, h.routes.sources(me)...); err != nil {
		return err
	}
	p.OnStop("directory", func(context.Context) error { h.view.Close(); return nil })
	h.routes.add(ctx, p, me, directory.SnapshotView, h.view)
	return h.metrics.Register(h.view)
}

// openOwners opens the view of a region's nodes and shards, likewise.
func (h *host) openOwners(ctx context.Context, p *run.Process, me *party, cfg *config.Process) (*placement.Watcher, error) {
	if h.owners != nil {
		return h.owners, nil
	}
	region := string(cfg.Region.Name)
	owners, err := placement.Watch(ctx, h.regional, region, cfg.Region.Shards, me.log, h.routes.sources(me)...)
	if err != nil {
		return nil, err
	}
	h.owners = owners
	p.OnStop("owners", func(context.Context) error { owners.Close(); return nil })
	h.routes.add(ctx, p, me, placement.SnapshotView(region), owners)
	return owners, nil
}

// publish makes the region known to the others. While etcd is away that has time:
// it knows the region already, unless this is its first day.
func (h *host) publish(ctx context.Context, p *run.Process, me *party, region directory.Region) error {
	store := directory.NewStore(h.global)
	once := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, publishPatience)
		defer cancel()
		return store.PublishRegion(ctx, region)
	}
	err := once(ctx)
	if err == nil || !maildrop.KindOf(err).Temporary() || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	me.log.Warn("the region isn't published yet", "error", err)
	p.Go(ctx, "publishing", func(ctx context.Context) error {
		for ctx.Err() == nil {
			err := once(ctx)
			if err == nil {
				me.log.Info("the region is published")
				break
			}
			if ctx.Err() == nil && !maildrop.KindOf(err).Temporary() {
				return err
			}
			sleep(ctx, publishAgain)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}
