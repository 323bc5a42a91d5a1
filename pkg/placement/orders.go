package placement

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Orders is where an operator says what shall be. The nodes follow within seconds;
// the View tells when they have.
type Orders struct {
	client *clientv3.Client
	space  space
	shards int
}

// NewOrders makes the Orders of a region. The client stays the caller's. Errors are
// Invalid for arguments that can't be right.
func NewOrders(client *clientv3.Client, region string, shards int) (*Orders, error) {
	space, err := spaceOf("placement.orders", region)
	if err != nil {
		return nil, err
	}
	return &Orders{client: client, space: space, shards: shards}, nil
}

// View is what etcd says now, for an operator who must not be told old news.
func (o *Orders) View(ctx context.Context) (View, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := o.client.Get(ctx, string(o.space), clientv3.WithPrefix())
	if err != nil {
		return View{}, &maildrop.Error{Op: "placement.view", Kind: maildrop.Transient, Text: "the region's etcd does not answer; try again", Err: err}
	}
	view := emptyView(o.shards)
	view.take(o.space, resp.Kvs, func(error) {})
	view.Revision = resp.Header.Revision
	return view, nil
}

// Drain orders that a node shall have no shards, until Undrain. The node needn't be
// there.
func (o *Orders) Drain(ctx context.Context, node, by string) error {
	const op = "placement.drain"
	if !nameForm.MatchString(node) {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Text: fmt.Sprintf("node %+.60q: %v", node, errName), Err: errName}
	}
	order := Order{Node: node, By: by, At: time.Now().UTC()}
	return o.do(ctx, op, clientv3.OpPut(o.space.drain(node), encode(order)))
}

// Undrain takes that back. Where nothing was ordered it changes nothing.
func (o *Orders) Undrain(ctx context.Context, node string) error {
	return o.do(ctx, "placement.undrain", clientv3.OpDelete(o.space.drain(node)))
}

// Move orders that a shard shall be a node's, as long as it is there and takes
// shards.
func (o *Orders) Move(ctx context.Context, shard int, node, by string) error {
	const op = "placement.move"
	if shard < 0 || shard >= o.shards {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Text: fmt.Sprintf("there is no shard %d: expected 0 to %d", shard, o.shards-1)}
	}
	order := Order{Node: node, By: by, At: time.Now().UTC()}
	return o.do(ctx, op, clientv3.OpPut(o.space.move(shard), encode(order)))
}

// Unmove takes that back: the shard goes where it would by itself.
func (o *Orders) Unmove(ctx context.Context, shard int) error {
	return o.do(ctx, "placement.unmove", clientv3.OpDelete(o.space.move(shard)))
}

func (o *Orders) do(ctx context.Context, op string, what clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := o.client.Do(ctx, what); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Maybe,
			Text: "the region's etcd did not answer, so it is not known whether the order was given; look, then try again", Err: err}
	}
	return nil
}
