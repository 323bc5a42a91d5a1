package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Node moves accounts between regions, shard by shard.
var (
	_ maildrop.Mover    = (*Node)(nil)
	_ maildrop.Receiver = (*Node)(nil)
)

var errNoPeers = errors.New("this node reaches no other region")

// numbered is the served shard of a number that came from outside.
func (n *Node) numbered(ctx context.Context, op string, number int) (owned, error) {
	if number < 0 || number >= n.config.Shards {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("the region has shards 0 to %d, no %d", n.config.Shards-1, number)}
	}
	return n.holdings.find(ctx, op, number)
}

// Survey implements [maildrop.Mover].
func (n *Node) Survey(ctx context.Context, number int, move maildrop.Move) (maildrop.Survey, error) {
	s, err := n.numbered(ctx, "node.survey", number)
	if err != nil {
		return maildrop.Survey{}, err
	}
	return s.Survey(ctx, move)
}

// Push implements [maildrop.Mover].
func (n *Node) Push(ctx context.Context, number int, move maildrop.Move, final bool, progress func(maildrop.Pushed)) (maildrop.Pushed, error) {
	s, err := n.numbered(ctx, "node.push", number)
	if err != nil {
		return maildrop.Pushed{}, err
	}
	peers := n.config.Peers
	if peers == nil {
		return maildrop.Pushed{}, &maildrop.Error{Op: "node.push", Kind: maildrop.Internal, Err: errNoPeers}
	}
	return s.Push(ctx, move, final, peers, progress)
}

// Stage implements [maildrop.Mover].
func (n *Node) Stage(ctx context.Context, number int, move maildrop.Move, stage maildrop.Stage) error {
	s, err := n.numbered(ctx, "node.stage", number)
	if err != nil {
		return err
	}
	return s.Stage(ctx, move, stage)
}

// Inventory implements [maildrop.Receiver].
func (n *Node) Inventory(ctx context.Context, move maildrop.Move, address maildrop.Address) (*maildrop.Listing, error) {
	s, err := n.shard(ctx, "node.inventory", address)
	if err != nil {
		return nil, err
	}
	return s.Inventory(ctx, move, address)
}

// Receive implements [maildrop.Receiver].
func (n *Node) Receive(ctx context.Context, move maildrop.Move, message maildrop.Arrival, body maildrop.Body) error {
	s, err := n.shard(ctx, "node.receive", message.To)
	if err != nil {
		return err
	}
	return s.Receive(ctx, move, message, body)
}

// ReceiveAddress implements [maildrop.Receiver].
func (n *Node) ReceiveAddress(ctx context.Context, move maildrop.Move, record maildrop.AddressRecord) error {
	s, err := n.shard(ctx, "node.receive_address", record.Address)
	if err != nil {
		return err
	}
	return s.ReceiveAddress(ctx, move, record)
}

// Withdraw implements [maildrop.Receiver].
func (n *Node) Withdraw(ctx context.Context, move maildrop.Move, address maildrop.Address, uids []maildrop.UID) error {
	s, err := n.shard(ctx, "node.withdraw", address)
	if err != nil {
		return err
	}
	return s.Withdraw(ctx, move, address, uids)
}
