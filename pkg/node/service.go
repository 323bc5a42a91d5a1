package node

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Node serves what its shards serve.
var _ maildrop.Service = (*Node)(nil)

// shard is the served shard of an address, or an error of Kind NotOwner.
func (n *Node) shard(ctx context.Context, op string, address maildrop.Address) (owned, error) {
	return n.holdings.find(ctx, op, address.Shard(n.config.Shards))
}

// Challenge implements [maildrop.Opener].
func (n *Node) Challenge(ctx context.Context, login maildrop.Login) (maildrop.Challenge, error) {
	s, err := n.shard(ctx, "node.challenge", login.Address)
	if err != nil {
		return maildrop.Challenge{}, err
	}
	return s.Challenge(ctx, login)
}

// Open implements [maildrop.Opener].
func (n *Node) Open(ctx context.Context, login maildrop.Login) (maildrop.Drop, error) {
	s, err := n.shard(ctx, "node.open", login.Address)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, login)
}

// Resume implements [maildrop.Resumer].
func (n *Node) Resume(ctx context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	s, err := n.shard(ctx, "node.resume", info.Address)
	if err != nil {
		return nil, err
	}
	return s.Resume(ctx, info, token)
}

// Accept implements [maildrop.Deliverer].
func (n *Node) Accept(ctx context.Context, to maildrop.Recipient) error {
	s, err := n.shard(ctx, "node.accept", to.Address)
	if err != nil {
		return err
	}
	return s.Accept(ctx, to)
}

// Deliver implements [maildrop.Deliverer].
func (n *Node) Deliver(ctx context.Context, envelope maildrop.Envelope, body maildrop.Body) error {
	s, err := n.shard(ctx, "node.deliver", envelope.To)
	if err != nil {
		return err
	}
	return s.Deliver(ctx, envelope, body)
}

// PutAddress implements [maildrop.Registrar].
func (n *Node) PutAddress(ctx context.Context, record maildrop.AddressRecord) error {
	s, err := n.shard(ctx, "node.put_address", record.Address)
	if err != nil {
		return err
	}
	return s.PutAddress(ctx, record)
}

// Address implements [maildrop.Registrar].
func (n *Node) Address(ctx context.Context, address maildrop.Address) (maildrop.AddressRecord, error) {
	s, err := n.shard(ctx, "node.address", address)
	if err != nil {
		return maildrop.AddressRecord{}, err
	}
	return s.Address(ctx, address)
}

// RemoveAddress implements [maildrop.Registrar].
func (n *Node) RemoveAddress(ctx context.Context, address maildrop.Address) error {
	s, err := n.shard(ctx, "node.remove_address", address)
	if err != nil {
		return err
	}
	return s.RemoveAddress(ctx, address)
}

// Addresses implements [maildrop.Registrar] for the shards that are this node's.
// One that is being opened is waited for: its claim says already that it is
// ours, and half a list would look like a whole one. One that is lost meanwhile
// is its new owner's to answer for.
func (n *Node) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	var records []maildrop.AddressRecord
	for _, number := range n.holdings.claims() {
		s, err := n.holdings.find(ctx, "node.addresses", number)
		if err == nil {
			var some []maildrop.AddressRecord
			some, err = s.Addresses(ctx, account)
			records = append(records, some...)
		}
		if err != nil && (maildrop.KindOf(err) != maildrop.NotOwner || n.holdings.has(number)) {
			return nil, err
		}
	}
	slices.SortFunc(records, func(a, b maildrop.AddressRecord) int {
		return strings.Compare(string(a.Address), string(b.Address))
	})
	return records, nil
}

// Explain implements [maildrop.Helpdesk].
func (n *Node) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	s, err := n.shard(ctx, "node.explain", q.Address)
	if err != nil {
		return maildrop.Explanation{}, err
	}
	return s.Explain(ctx, q)
}

// Tell implements [maildrop.Helpdesk].
func (n *Node) Tell(ctx context.Context, address maildrop.Address, refused []maildrop.Attempt) error {
	s, err := n.shard(ctx, "node.tell", address)
	if err != nil {
		return err
	}
	return s.Tell(ctx, address, refused)
}

// Unlock implements [maildrop.Helpdesk].
func (n *Node) Unlock(ctx context.Context, address maildrop.Address) (bool, error) {
	s, err := n.shard(ctx, "node.unlock", address)
	if err != nil {
		return false, err
	}
	return s.Unlock(ctx, address)
}
