package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Snapshots answers with what a process knows of a view of etcd, encoded, when that
// is newer than a revision; with nothing when it is not, or it knows no such view.
type Snapshots func(view string, newerThan int64) ([]byte, error)

// routesServer tells other processes what this one knows.
type routesServer struct {
	posternv1.UnimplementedRoutesServer
	snapshots Snapshots
}

func (s *routesServer) Snapshot(in *posternv1.SnapshotRequest, stream grpc.ServerStreamingServer[posternv1.SnapshotChunk]) error {
	if len(in.GetView()) > maxName {
		return invalid("rpc.snapshot", "view's name too long")
	}
	octets, err := s.snapshots(in.GetView(), in.GetNewerThan())
	if err != nil {
		return &maildrop.Error{Op: "rpc.snapshot", Kind: maildrop.Internal, Err: err}
	}
	for len(octets) > 0 {
		n := min(len(octets), chunkOctets)
		if err := stream.Send(&posternv1.SnapshotChunk{Data: octets[:n]}); err != nil {
			return err
		}
		octets = octets[n:]
	}
	return nil
}

// Snapshot asks what the server knows of a view of etcd that is newer than a
// revision. The answer is encoded; empty: nothing.
func (c *Client) Snapshot(ctx context.Context, view string, newerThan int64) (octets []byte, err error) {
	const op = "rpc.snapshot"
	in := &posternv1.SnapshotRequest{View: view, NewerThan: newerThan}
	err = c.answers(ctx, op, posternv1.Routes_Snapshot_FullMethodName, in, func(stream grpc.ClientStream) error {
		var out posternv1.SnapshotChunk
		if err := stream.RecvMsg(&out); err != nil {
			return err
		}
		if octets = append(octets, out.GetData()...); len(octets) > maxSnapshot {
			return &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: fmt.Errorf("a snapshot of more than %d octets", maxSnapshot)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return octets, nil
}
