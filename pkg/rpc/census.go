package rpc

import (
	"context"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// censusServer tells the region's fronts what a node serves.
type censusServer struct {
	posternv1.UnimplementedCensusServer
	holdings func() []*posternv1.ShardInfo
}

func (s *censusServer) Holdings(context.Context, *posternv1.HoldingsRequest) (*posternv1.HoldingsResponse, error) {
	return &posternv1.HoldingsResponse{Shards: s.holdings()}, nil
}

// Holdings asks a mailbox node which shards it serves.
func (c *Client) Holdings(ctx context.Context) ([]*posternv1.ShardInfo, error) {
	var out posternv1.HoldingsResponse
	if err := c.call(ctx, "rpc.holdings", posternv1.Census_Holdings_FullMethodName, &posternv1.HoldingsRequest{}, &out, false); err != nil {
		return nil, err
	}
	return out.GetShards(), nil
}
