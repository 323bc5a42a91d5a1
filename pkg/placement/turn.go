package placement

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Times of turns.
const (
	turnLease = 90 * time.Second       // for whoever left to come back: a restart, and an image's download
	turnPause = 500 * time.Millisecond // until the next look
)

// turn is who left last.
type turn struct {
	Node     string `json:"node"`
	Instance string `json:"instance"`
}

// AwaitTurn returns when a registered node may leave: when whoever left before it is back, as
// another instance, or has been away for 90 s. Who is told to leave together with all
// others then finds heirs for its shards. From then on the next one waits for this node.
// The error is Transient when ctx ends before; it is safe to leave all the same.
func AwaitTurn(ctx context.Context, client *clientv3.Client, region string, node Node) error {
	return awaitTurn(ctx, client, region, node, turnLease)
}

func awaitTurn(ctx context.Context, client *clientv3.Client, region string, node Node, lease time.Duration) error {
	const op = "placement.turn"
	below, err := spaceOf(op, region)
	if err != nil {
		return err
	}
	key := path.Join("/postern/v1/turns", region)
	pause := time.NewTicker(turnPause)
	defer pause.Stop()
	for {
		mine, err := takeTurn(ctx, client, key, below, turn{node.Name, node.Instance}, lease)
		if mine {
			return nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			if err == nil {
				err = errors.New("others have left and aren't back yet")
			}
			return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
		}
	}
}

// takeTurn takes the turn if it can be had now.
func takeTurn(ctx context.Context, client *clientv3.Client, key string, below space, me turn, lease time.Duration) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	revision := int64(0) // of a key that isn't there
	if len(resp.Kvs) > 0 {
		revision = resp.Kvs[0].ModRevision
		var last turn
		if err := json.Unmarshal(resp.Kvs[0].Value, &last); err == nil && last.Node != me.Node {
			if back, err := isBack(ctx, client, below, last); err != nil || !back {
				return false, err
			}
		}
	}
	granted, err := client.Grant(ctx, int64(lease/time.Second))
	if err != nil {
		return false, err
	}
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, encode(me), clientv3.WithLease(granted.ID))).Commit()
	if err != nil {
		return false, err // if it was taken after all, the next look finds it ours
	}
	return done.Succeeded, nil
}

// isBack reports whether a node that left is there again.
func isBack(ctx context.Context, client *clientv3.Client, below space, last turn) (bool, error) {
	resp, err := client.Get(ctx, below.node(last.Node))
	if err != nil || len(resp.Kvs) == 0 {
		return false, err
	}
	var node Node
	err = json.Unmarshal(resp.Kvs[0].Value, &node)
	return err == nil && node.Instance != last.Instance && !node.Draining, err
}
