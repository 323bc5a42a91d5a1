package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// shardCmd is "postern shard".
type shardCmd struct {
	List shardListCmd `cmd:"" help:"List a region's shards: owner, epoch, what is in them, how much they are asked of."`
	Move shardMoveCmd `cmd:"" help:"Move a shard to a node, where it stays while that takes shards; or let it go back."`
}

type shardListCmd struct{ ofRegion }

type shardMoveCmd struct {
	ofRegion

	Shard  uint32 `arg:"" help:"The shard's number."`
	To     string `placeholder:"NODE" help:"The node."`
	Back   bool   `help:"Take an earlier move back: the shard goes where it would by itself."`
	NoWait bool   `help:"Return at once, not when the shard is there."`
}

// shardView is a shard as it is shown.
type shardView struct {
	Shard     uint32     `json:"shard"`
	Owner     string     `json:"owner"`
	Epoch     uint64     `json:"epoch"`
	MovedTo   string     `json:"moved_to,omitempty"`
	Serving   bool       `json:"serving"`
	Since     *time.Time `json:"since,omitempty"`
	Addresses uint64     `json:"addresses"`
	Messages  uint64     `json:"messages"`
	Octets    uint64     `json:"octets"`
	Heat      float64    `json:"heat_calls_per_second"`
}

func viewShard(s *posternv1.ShardInfo) shardView {
	return shardView{Shard: s.GetShard(), Owner: s.GetOwner(), Epoch: s.GetEpoch(), MovedTo: s.GetMovedTo(), Serving: s.GetServing(),
		Since: moment(s.GetSinceMilli(), ""), Addresses: s.GetAddresses(), Messages: s.GetMessages(), Octets: s.GetOctets(), Heat: s.GetHeat()}
}

// Run lists a region's shards.
func (c *shardListCmd) Run(ctx context.Context, cl *client) error {
	views, err := cl.shards(ctx, c.Region)
	if err != nil {
		return err
	}
	return cl.reply(views, func(w io.Writer) {
		row(w, "SHARD", "OWNER", "EPOCH", "ADDRESSES", "MESSAGES", "OCTETS", "CALLS/S", "SINCE", "MOVED TO")
		for _, v := range views {
			if !v.Serving {
				row(w, number(v.Shard), orDash(v.Owner), number(v.Epoch), "-", "-", "-", "-", "not served now", orDash(v.MovedTo))
				continue
			}
			row(w, number(v.Shard), v.Owner, number(v.Epoch), number(v.Addresses), number(v.Messages), number(v.Octets),
				strconv.FormatFloat(v.Heat, 'f', 1, 64), shown(v.Since, "-"), orDash(v.MovedTo))
		}
	})
}

func number[N uint32 | uint64](n N) string { return strconv.FormatUint(uint64(n), 10) }

func (c *client) shards(ctx context.Context, region string) ([]shardView, error) {
	views := []shardView{}
	err := c.inRegion(ctx, region, false, func(ctx context.Context, admin posternv1.RegionClient) error {
		out, err := admin.ListShards(ctx, &posternv1.ListShardsRequest{Region: region})
		for _, s := range out.GetShards() {
			views = append(views, viewShard(s))
		}
		return err
	})
	return views, err
}

// Run moves a shard.
func (c *shardMoveCmd) Run(ctx context.Context, cl *client) error {
	if (c.To == "") != c.Back {
		return errors.New("where to? give --to NODE, or --back to take a move back")
	}
	err := cl.inRegion(ctx, c.Region, true, func(ctx context.Context, region posternv1.RegionClient) error {
		_, err := region.MoveShard(ctx, &posternv1.MoveShardRequest{Region: c.Region, Shard: c.Shard, Node: c.To})
		return err
	})
	if err != nil {
		return err
	}
	if c.Back || c.NoWait {
		return cl.say(map[string]any{"shard": c.Shard, "moved_to": c.To}, "ordered; see postern shard list")
	}
	return cl.moved(ctx, c.Region, c.Shard, c.To)
}

// moved waits until a shard is served where it was moved to.
func (c *client) moved(ctx context.Context, region string, shard uint32, to string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	for {
		views, err := c.shards(ctx, region)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case int(shard) < len(views) && views[shard].Owner == to && views[shard].Serving:
			return c.say(views[shard], "shard %d is at %s, epoch %d", shard, to, views[shard].Epoch)
		}
		if !sleep(ctx, settleEvery) {
			return fmt.Errorf("shard %d is ordered to %s and not served there after %v; see postern shard list", shard, to, c.Timeout)
		}
	}
}
