package rpc_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
)

// What a process knows of a view comes whole, however large it is.
func TestSnapshot(t *testing.T) {
	a, known := newAuthority(t), random(3<<20+1)
	_, address := serve(t, rpc.ServerConfig{
		TLS: a.server(node), Service: always(nil), Allow: rpc.NodeAllow("eu"),
		Snapshots: func(view string, newerThan int64) ([]byte, error) {
			switch {
			case view == "broken":
				return nil, errors.New("broken")
			case view == "directory" && newerThan < 7:
				return known, nil
			}
			return nil, nil
		},
	})
	pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front)})
	defer pool.Close()
	client := pool.Client(address)
	if got, err := client.Snapshot(t.Context(), "directory", 6); err != nil || !bytes.Equal(got, known) {
		t.Fatalf("%d octets, %v", len(got), err)
	}
	for _, c := range []struct {
		view      string
		newerThan int64
	}{{"directory", 7}, {"other", 0}} {
		if got, err := client.Snapshot(t.Context(), c.view, c.newerThan); err != nil || len(got) != 0 {
			t.Errorf("%v: %d octets, %v", c, len(got), err)
		}
	}
	if _, err := client.Snapshot(t.Context(), "broken", 0); maildrop.KindOf(err) != maildrop.Internal {
		t.Errorf("broken: %v", err)
	}
}
