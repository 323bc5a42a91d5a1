package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// settleEvery is how often a command that waits looks again.
const settleEvery = 250 * time.Millisecond

// ofRegion is for commands about one region's nodes and shards.
type ofRegion struct {
	operator

	Region string `short:"r" required:"" placeholder:"REGION" help:"The region."`
}

// nodeCmd is "postern node".
type nodeCmd struct {
	List    nodeListCmd    `cmd:"" help:"List a region's mailbox nodes."`
	Drain   nodeDrainCmd   `cmd:"" help:"Hand all of a node's shards over, and keep them away until it is undrained."`
	Undrain nodeUndrainCmd `cmd:"" help:"Let a node have shards again."`
}

type nodeListCmd struct{ ofRegion }

type nodeDrainCmd struct {
	ofRegion

	Node   string `arg:"" help:"The node's name."`
	NoWait bool   `help:"Return at once, not when its last shard is another's."`
}

type nodeUndrainCmd struct {
	ofRegion

	Node string `arg:"" help:"The node's name."`
}

// nodeView is a node as it is shown.
type nodeView struct {
	Name      string     `json:"name"`
	State     string     `json:"state"` // present, leaving, drained, absent
	Shards    uint32     `json:"shards"`
	Zone      string     `json:"zone,omitempty"`
	Address   string     `json:"address,omitempty"`
	Weight    uint32     `json:"weight,omitempty"`
	DrainedBy string     `json:"drained_by,omitempty"`
	DrainedAt *time.Time `json:"drained_at,omitempty"`
}

func viewNode(n *posternv1.NodeInfo) nodeView {
	v := nodeView{Name: n.GetName(), State: "present", Shards: n.GetShards(), Zone: n.GetZone(), Address: n.GetAddress(),
		Weight: n.GetWeight(), DrainedBy: n.GetDrainedBy(), DrainedAt: moment(n.GetDrainedAtMilli(), "")}
	switch {
	case !n.GetPresent():
		v.State = "absent"
	case n.GetLeaving():
		v.State = "leaving"
	}
	if n.GetDrained() {
		v.State = strings.TrimPrefix(v.State+", drained", "present, ")
	}
	return v
}

// Run lists a region's nodes.
func (c *nodeListCmd) Run(ctx context.Context, cl *client) error {
	views := []nodeView{}
	err := cl.inRegion(ctx, c.Region, false, func(ctx context.Context, region posternv1.RegionClient) error {
		out, err := region.ListNodes(ctx, &posternv1.ListNodesRequest{Region: c.Region})
		for _, node := range out.GetNodes() {
			views = append(views, viewNode(node))
		}
		return err
	})
	if err != nil {
		return err
	}
	return cl.reply(views, func(w io.Writer) {
		row(w, "NODE", "STATE", "SHARDS", "ZONE", "ADDRESS", "DRAINED BY")
		for _, v := range views {
			row(w, v.Name, v.State, strconv.Itoa(int(v.Shards)), orDash(v.Zone), orDash(v.Address), orDash(v.DrainedBy))
		}
	})
}

// Run drains a node.
func (c *nodeDrainCmd) Run(ctx context.Context, cl *client) error {
	var view nodeView
	err := cl.inRegion(ctx, c.Region, true, func(ctx context.Context, region posternv1.RegionClient) error {
		out, err := region.DrainNode(ctx, &posternv1.DrainNodeRequest{Region: c.Region, Node: c.Node})
		view = viewNode(out.GetNode())
		return err
	})
	if err != nil {
		return err
	}
	if !c.NoWait {
		if view, err = cl.drained(ctx, c.Region, c.Node, view); err != nil {
			return err
		}
	}
	return cl.say(view, "node %s: %s, %d shards left", view.Name, view.State, view.Shards)
}

// drained waits until a node has no shard any more.
func (c *client) drained(ctx context.Context, region, node string, view nodeView) (nodeView, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	for view.Shards > 0 {
		if !sleep(ctx, settleEvery) {
			return view, fmt.Errorf("node %s is ordered to drain and still has %d shards after %v: is another node there to take them? see postern node list", node, view.Shards, c.Timeout)
		}
		err := c.inRegion(ctx, region, false, func(ctx context.Context, admin posternv1.RegionClient) error {
			out, err := admin.ListNodes(ctx, &posternv1.ListNodesRequest{Region: region})
			view = nodeView{Name: node, State: "absent, drained"}
			for _, info := range out.GetNodes() {
				if info.GetName() == node {
					view = viewNode(info)
				}
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			return view, err
		}
	}
	return view, nil
}

// Run takes a node's drain back.
func (c *nodeUndrainCmd) Run(ctx context.Context, cl *client) error {
	var view nodeView
	err := cl.inRegion(ctx, c.Region, true, func(ctx context.Context, region posternv1.RegionClient) error {
		out, err := region.UndrainNode(ctx, &posternv1.DrainNodeRequest{Region: c.Region, Node: c.Node})
		view = viewNode(out.GetNode())
		return err
	})
	if err != nil {
		return err
	}
	return cl.say(view, "node %s: %s; its shards come back when the region's membership has been stable for a while", view.Name, view.State)
}

// inRegion makes one call at a gateway of the region: the first one that is its, of
// those that answer. Nothing is asked of the others.
func (c *client) inRegion(ctx context.Context, region string, changes bool, ask func(context.Context, posternv1.RegionClient) error) error {
	config, err := readContext(c.Context)
	if err != nil {
		return err
	}
	transport, err := config.transport()
	if err != nil {
		return fmt.Errorf("%s: %w", c.Context, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	server, err := config.gatewayOf(ctx, transport, region)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(credentials.NewTLS(transport)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return err
	}
	defer conn.Close()
	return inWords(server, rpc.FromStatus("operator", ask(ctx, posternv1.NewRegionClient(conn)), changes))
}
