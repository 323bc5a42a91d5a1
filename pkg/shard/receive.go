package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

var (
	errClass  = errors.New("a class of messages that doesn't exist")
	errFuture = errors.New("the unique-id has the form of this shard's own, and it hasn't come so far")
)

// receives is the first question of what another region pushes to a mailbox.
func (s *Shard) receives(ctx context.Context, op string, move maildrop.Move, address maildrop.Address) error {
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	if err := s.gates.at(move.Account).receives(op, move); err != nil {
		return err
	}
	if _, account, ok := s.config.Rules.Domain(address.Domain()); !ok || account.Name != move.Account {
		return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: fmt.Errorf("%s: %q isn't known here to be the account's", move, address.Domain())}
	}
	return nil
}

// received is what a request of such a call is held against when it is queued.
func (s *Shard) received(op string, move maildrop.Move) func() error {
	return func() error { return s.gates.at(move.Account).receives(op, move) }
}

// Inventory lists the messages that the mailbox has, in order of arrival.
func (s *Shard) Inventory(ctx context.Context, move maildrop.Move, address maildrop.Address) (*maildrop.Listing, error) {
	const op = "shard.inventory"
	if err := s.receives(ctx, op, move, address); err != nil {
		return nil, err
	}
	if err := s.confirm(ctx, op); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.list(s.state.snapshot(address, time.Now())), nil
}

// Receive stores a message that comes from another region.
func (s *Shard) Receive(ctx context.Context, move maildrop.Move, message maildrop.Arrival, body maildrop.Body) error {
	const op = "shard.receive"
	if err := s.receives(ctx, op, move, message.To); err != nil {
		return err
	}
	if err := s.checkArrival(message, body); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if !message.Received.Add(message.Class.Retention()).After(time.Now()) {
		return nil // nobody would ever see it
	}
	key := s.key(message.Envelope)
	key.moved = true
	if there, _ := s.known(key); there {
		return nil
	}
	err := s.store(ctx, &key, body, ledger.Delivery{
		Mailbox: string(message.To), UID: string(message.UID), ID: message.ID, Class: uint8(message.Class),
		Received: message.Received, Size: body.Size(), Wire: body.Wire(),
	}, s.received(op, move))
	return failed(op, err)
}

func (s *Shard) checkArrival(message maildrop.Arrival, body maildrop.Body) error {
	switch {
	case message.ID == maildrop.EnvelopeID{}:
		return errID
	case body.Wire() > maxWire || body.Size() > body.Wire():
		return errBody
	case !message.UID.Valid():
		return errForm
	case !kept(message.Class) || message.Received.IsZero():
		return errClass
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	// One of ours comes back under the UID that it was given here. We give it to no other
	// message, as long as the position is behind us.
	if position, ours := s.state.minted(message.UID); ours && position > s.state.last {
		return errFuture
	}
	return nil
}

// ReceiveAddress writes a record that comes from another region, as it is.
func (s *Shard) ReceiveAddress(ctx context.Context, move maildrop.Move, record maildrop.AddressRecord) error {
	const op = "shard.receive_address"
	if err := s.receives(ctx, op, move, record.Address); err != nil {
		return err
	}
	if record.Account == "" {
		if _, ok := s.record(record.Address); !ok {
			return nil
		}
		return failed(op, s.writeIf(ctx, &ledger.Address{Address: string(record.Address), Removed: true, Time: time.Now()}, 0, s.received(op, move)))
	}
	if record.Account != move.Account {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("%s: a record of account %q", move, record.Account)}
	}
	if err := checkRecord(record); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if r, ok := s.record(record.Address); ok && r.whole(record.Address).Same(record) {
		return nil
	}
	// What has no hash must not keep the one that is there: the record before goes first.
	if r, ok := s.record(record.Address); ok && record.Hash == "" && !r.credential().empty() {
		if err := s.writeIf(ctx, &ledger.Address{Address: string(record.Address), Removed: true, Time: time.Now()}, 0, s.received(op, move)); err != nil {
			return failed(op, err)
		}
	}
	return failed(op, s.writeIf(ctx, &ledger.Address{
		Address: string(record.Address), Account: record.Account, Primary: string(record.Primary), Hash: record.Hash, Scram: record.Scram,
		Access: uint8(record.Access), Groups: record.Groups, Time: record.Changed,
	}, 0, s.received(op, move)))
}

// Withdraw takes back messages that were received.
func (s *Shard) Withdraw(ctx context.Context, move maildrop.Move, address maildrop.Address, uids []maildrop.UID) error {
	const op = "shard.withdraw"
	if err := s.receives(ctx, op, move, address); err != nil {
		return err
	}
	named := make(map[maildrop.UID]bool, len(uids))
	for _, uid := range uids {
		named[uid] = true
	}
	positions := s.present(address, named)
	for len(positions) > 0 {
		n := min(len(positions), withdrawAtOnce)
		if err := s.withdraw(ctx, address, positions[:n], s.received(op, move)); err != nil {
			return failed(op, err)
		}
		positions = positions[n:]
	}
	return nil
}
