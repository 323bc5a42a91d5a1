package router

import (
	"context"
	"fmt"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
)

// Transfer is both ends of a move between regions, as a mailbox node or a gateway has them.
type Transfer interface {
	maildrop.Mover
	maildrop.Receiver
}

// Transfers carries moves of accounts between regions to the owners of this region's
// shards, whichever region the account is at home in.
type Transfers struct {
	router  *Router
	dial    func(address string) Transfer
	gateway bool
}

var _ Transfer = (*Transfers)(nil)

// Transfers makes one. dial is of a node; it must not block.
func (r *Router) Transfers(dial func(address string) Transfer) *Transfers {
	return &Transfers{router: r, dial: dial}
}

// Gateway is what this region's gateway serves of it: mailboxes are taken only from the
// region that the account's record says it moves away from.
func (t *Transfers) Gateway() *Transfers {
	served := *t
	served.gateway = true
	return &served
}

// at makes a call at the owner of a shard.
func (t *Transfers) at(ctx context.Context, op string, shard int, bounded, changes bool, do func(context.Context, Transfer) error) error {
	if shard < 0 || shard >= t.router.config.Shards {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("region %s has shards 0 to %d, no %d", t.router.config.Region, t.router.config.Shards-1, shard)}
	}
	return t.router.repeat(ctx, &call{
		op: op, errand: record, bounded: bounded, changes: changes,
		home: func() (place, error) { return place{region: t.router.config.Region, shard: shard}, nil },
		do:   func(ctx context.Context, _ maildrop.Service, at string) error { return do(ctx, t.dial(at)) },
	})
}

// of makes a call about an address, at its shard's owner.
func (t *Transfers) of(ctx context.Context, op string, move maildrop.Move, address maildrop.Address, bounded, changes bool, do func(context.Context, Transfer) error) error {
	if t.gateway {
		if err := t.admit(ctx, op, move); err != nil {
			return err
		}
	}
	return t.at(ctx, op, address.Shard(t.router.config.Shards), bounded, changes, do)
}

// admit refuses whoever isn't of the region that the account leaves for ours.
func (t *Transfers) admit(ctx context.Context, op string, move maildrop.Move) error {
	account, ok := t.router.config.Directory.Account(move.Account)
	caller, known := rpc.PeerIdentity(ctx)
	m := account.Moving
	if ok && known && account.Moves == move.ID && m.To == t.router.config.Region && caller.Region == m.From {
		return nil
	}
	return &maildrop.Error{Op: op, Kind: maildrop.Transient,
		Err: fmt.Errorf("%s from region %q to %s isn't known here", move, caller.Region, t.router.config.Region)}
}

// Survey implements [maildrop.Mover].
func (t *Transfers) Survey(ctx context.Context, shard int, move maildrop.Move) (v maildrop.Survey, err error) {
	err = t.at(ctx, "router.survey", shard, true, false, func(ctx context.Context, owner Transfer) (err error) {
		v, err = owner.Survey(ctx, shard, move)
		return err
	})
	return v, err
}

// Push implements [maildrop.Mover].
func (t *Transfers) Push(ctx context.Context, shard int, move maildrop.Move, final bool, progress func(maildrop.Pushed)) (sum maildrop.Pushed, err error) {
	err = t.at(ctx, "router.push", shard, false, false, func(ctx context.Context, owner Transfer) (err error) {
		sum, err = owner.Push(ctx, shard, move, final, progress)
		return err
	})
	return sum, err
}

// Stage implements [maildrop.Mover].
func (t *Transfers) Stage(ctx context.Context, shard int, move maildrop.Move, stage maildrop.Stage) error {
	return t.at(ctx, "router.stage", shard, false, true, func(ctx context.Context, owner Transfer) error {
		return owner.Stage(ctx, shard, move, stage)
	})
}

// Inventory implements [maildrop.Receiver].
func (t *Transfers) Inventory(ctx context.Context, move maildrop.Move, address maildrop.Address) (entries *maildrop.Listing, err error) {
	err = t.of(ctx, "router.inventory", move, address, true, false, func(ctx context.Context, owner Transfer) (err error) {
		entries, err = owner.Inventory(ctx, move, address)
		return err
	})
	return entries, err
}

// Receive implements [maildrop.Receiver]. A body that can be read only once is tried
// once: the caller has it and can repeat.
func (t *Transfers) Receive(ctx context.Context, move maildrop.Move, message maildrop.Arrival, body maildrop.Body) error {
	watched := &watchedBody{Body: body}
	var last error
	return t.of(ctx, "router.receive", move, message.To, false, true, func(ctx context.Context, owner Transfer) error {
		err := owner.Receive(ctx, move, message, watched)
		if last != nil && watched.failed {
			return final{last}
		}
		last = err
		return err
	})
}

// ReceiveAddress implements [maildrop.Receiver].
func (t *Transfers) ReceiveAddress(ctx context.Context, move maildrop.Move, rec maildrop.AddressRecord) error {
	return t.of(ctx, "router.receive-address", move, rec.Address, true, true, func(ctx context.Context, owner Transfer) error {
		return owner.ReceiveAddress(ctx, move, rec)
	})
}

// Withdraw implements [maildrop.Receiver].
func (t *Transfers) Withdraw(ctx context.Context, move maildrop.Move, address maildrop.Address, uids []maildrop.UID) error {
	return t.of(ctx, "router.withdraw", move, address, true, true, func(ctx context.Context, owner Transfer) error {
		return owner.Withdraw(ctx, move, address, uids)
	})
}
