package rpc

import (
	"context"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// heirServer takes the word of a shard's owner that this node will have it.
type heirServer struct {
	posternv1.UnimplementedHeirServer
	prepare func(ctx context.Context, shard int) error
}

func (s *heirServer) Prepare(ctx context.Context, in *posternv1.PrepareRequest) (*posternv1.PrepareResponse, error) {
	return &posternv1.PrepareResponse{}, s.prepare(ctx, int(in.GetShard()))
}

// Prepare asks a mailbox node to make itself ready for a shard, and returns when it is.
func (c *Client) Prepare(ctx context.Context, shard int) error {
	in := &posternv1.PrepareRequest{Shard: uint32(shard)}
	return c.call(ctx, "rpc.prepare", posternv1.Heir_Prepare_FullMethodName, in, &posternv1.PrepareResponse{}, false)
}
