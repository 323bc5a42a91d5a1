package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/placement"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	censusTimeout = 2 * time.Second // for a node to say what it serves
	censusAtOnce  = 16              // nodes asked at once
)

// Region is the service for one region's nodes and shards, next to Admin.
type Region struct {
	posternv1.UnimplementedRegionServer
	admin    *Server
	name     string
	orders   *placement.Orders
	holdings func(ctx context.Context, address string) ([]*posternv1.ShardInfo, error)
}

// NewRegion makes the service of the region that a front is of. holdings asks a node, by
// the address of its gRPC, what it serves.
func NewRegion(admin *Server, name string, orders *placement.Orders, holdings func(ctx context.Context, address string) ([]*posternv1.ShardInfo, error)) *Region {
	return &Region{admin: admin, name: name, orders: orders, holdings: holdings}
}

// Register makes a gRPC server serve it.
func (r *Region) Register(registrar grpc.ServiceRegistrar) {
	posternv1.RegisterRegionServer(registrar, r)
}

// here refuses what is meant for another region: its etcd is out of our reach.
func (r *Region) here(op, region string) error {
	if region == r.name {
		return nil
	}
	return refused(op, fmt.Sprintf("this gateway is region %s's, not %.60q's: ask one of that region", r.name, region))
}

// ListNodes lists those that are there, those that own shards, and those that an
// operator drained.
func (r *Region) ListNodes(ctx context.Context, in *posternv1.ListNodesRequest) (*posternv1.ListNodesResponse, error) {
	var out posternv1.ListNodesResponse
	return &out, r.admin.known(ctx, func() error {
		view, err := r.view(ctx, "region.nodes", in.GetRegion())
		if err == nil {
			out.Nodes = nodesOf(view)
		}
		return err
	})
}

func (r *Region) view(ctx context.Context, op, region string) (placement.View, error) {
	if err := r.here(op, region); err != nil {
		return placement.View{}, err
	}
	return r.orders.View(ctx)
}

func nodesOf(view placement.View) []*posternv1.NodeInfo {
	all := map[string]*posternv1.NodeInfo{}
	node := func(name string) *posternv1.NodeInfo {
		if all[name] == nil {
			all[name] = &posternv1.NodeInfo{Name: name}
		}
		return all[name]
	}
	for name, n := range view.Nodes {
		info := node(name)
		info.Address, info.Zone, info.Weight = n.Address, n.Zone, uint32(max(n.Weight, 1))
		info.Present, info.Leaving = true, n.Draining
	}
	for name, order := range view.Drains {
		info := node(name)
		info.Drained, info.DrainedBy, info.DrainedAtMilli = true, order.By, order.At.UnixMilli()
	}
	for _, claim := range view.Claims {
		if claim.Owner != "" {
			node(claim.Owner).Shards++
		}
	}
	infos := make([]*posternv1.NodeInfo, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		infos = append(infos, all[name])
	}
	return infos
}

// DrainNode orders that a node of the region shall have no shards.
func (r *Region) DrainNode(ctx context.Context, in *posternv1.DrainNodeRequest) (*posternv1.DrainNodeResponse, error) {
	return r.order(ctx, "node.drain", in, func(who string) error { return r.orders.Drain(ctx, in.GetNode(), who) })
}

// UndrainNode takes that back.
func (r *Region) UndrainNode(ctx context.Context, in *posternv1.DrainNodeRequest) (*posternv1.DrainNodeResponse, error) {
	return r.order(ctx, "node.undrain", in, func(string) error { return r.orders.Undrain(ctx, in.GetNode()) })
}

func (r *Region) order(ctx context.Context, action string, in *posternv1.DrainNodeRequest, give func(who string) error) (*posternv1.DrainNodeResponse, error) {
	return audited(ctx, r.admin, action, func(c *change) (*posternv1.DrainNodeResponse, error) {
		who, err := r.admin.caller(ctx)
		if err != nil {
			return nil, err
		}
		before, err := r.node(ctx, action, in)
		if err != nil {
			return nil, err
		}
		c.target = r.name + "/" + in.GetNode()
		c.before = fmt.Sprintf("drained=%t shards=%d", before.GetDrained(), before.GetShards())
		c.after = fmt.Sprintf("drained=%t", action == "node.drain")
		if err := give(who); err != nil {
			return nil, err
		}
		after, err := r.node(ctx, action, in)
		if err != nil { // it was drained, and known by nothing else
			after = &posternv1.NodeInfo{Name: in.GetNode()}
		}
		return &posternv1.DrainNodeResponse{Node: after}, nil
	})
}

// node finds a node that anything is known of.
func (r *Region) node(ctx context.Context, op string, in *posternv1.DrainNodeRequest) (*posternv1.NodeInfo, error) {
	view, err := r.view(ctx, op, in.GetRegion())
	if err != nil {
		return nil, err
	}
	for _, info := range nodesOf(view) {
		if info.GetName() == in.GetNode() {
			return info, nil
		}
	}
	return nil, refused(op, fmt.Sprintf("region %s has no node %.60q: see postern node list", r.name, in.GetNode()))
}

// ListShards lists all shards, with what their owners say of them. One that doesn't
// answer leaves its shards without.
func (r *Region) ListShards(ctx context.Context, in *posternv1.ListShardsRequest) (*posternv1.ListShardsResponse, error) {
	var out posternv1.ListShardsResponse
	return &out, r.admin.known(ctx, func() error {
		view, err := r.view(ctx, "region.shards", in.GetRegion())
		if err != nil {
			return err
		}
		out.Shards = shardsOf(view)
		for _, said := range r.census(ctx, view) {
			for _, s := range said.shards {
				if n := s.GetShard(); int(n) < len(out.Shards) && out.Shards[n].GetOwner() == said.node {
					s.Owner, s.MovedTo, s.Serving = said.node, out.Shards[n].GetMovedTo(), true
					out.Shards[n] = s
				}
			}
		}
		return nil
	})
}

func shardsOf(view placement.View) []*posternv1.ShardInfo {
	infos := make([]*posternv1.ShardInfo, len(view.Claims))
	for i, claim := range view.Claims {
		infos[i] = &posternv1.ShardInfo{
			Shard: uint32(i), Owner: claim.Owner, Epoch: claim.Epoch, MovedTo: view.Moves[i].Node,
		}
	}
	return infos
}

// answer is what one node said of its shards.
type answer struct {
	node   string
	shards []*posternv1.ShardInfo
}

// census asks all nodes.
func (r *Region) census(ctx context.Context, view placement.View) []answer {
	var mu sync.Mutex
	var all []answer
	var asking sync.WaitGroup
	places := make(chan struct{}, censusAtOnce)
	for name, node := range view.Nodes {
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, censusTimeout)
			defer cancel()
			shards, err := r.holdings(ctx, node.Address)
			if err != nil {
				r.admin.log.WarnContext(ctx, "a node doesn't say what it serves", "node", name, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, answer{name, shards})
		})
	}
	asking.Wait()
	return all
}

// MoveShard orders that a shard shall be a node's, or takes that back.
func (r *Region) MoveShard(ctx context.Context, in *posternv1.MoveShardRequest) (*posternv1.MoveShardResponse, error) {
	const op = "shard.move"
	return audited(ctx, r.admin, op, func(c *change) (*posternv1.MoveShardResponse, error) {
		who, err := r.admin.caller(ctx)
		if err != nil {
			return nil, err
		}
		view, err := r.view(ctx, op, in.GetRegion())
		if err != nil {
			return nil, err
		}
		shard := int(in.GetShard())
		if shard >= len(view.Claims) {
			return nil, refused(op, fmt.Sprintf("region %s has shards 0 to %d, no %d", r.name, len(view.Claims)-1, shard))
		}
		c.target = fmt.Sprintf("%s/%d", r.name, shard)
		c.before = fmt.Sprintf("owner=%s moved_to=%s", view.Claims[shard].Owner, view.Moves[shard].Node)
		c.after = "moved_to=" + in.GetNode()
		if in.GetNode() == "" {
			return &posternv1.MoveShardResponse{}, r.orders.Unmove(ctx, shard)
		}
		if _, present := view.Nodes[in.GetNode()]; !present {
			return nil, refused(op, fmt.Sprintf("region %s has no node %.60q that is there: see postern node list", r.name, in.GetNode()))
		}
		if view.Draining(in.GetNode()) {
			return nil, refused(op, fmt.Sprintf("node %s drains and takes no shards: undrain it first", in.GetNode()))
		}
		return &posternv1.MoveShardResponse{}, r.orders.Move(ctx, shard, in.GetNode(), who)
	})
}
