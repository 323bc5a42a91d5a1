package shard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// Limits of an address's record.
const (
	maxName   = 255 // octets of an account's or a group's name
	maxGroups = 256
	maxHash   = 256       // octets
	hashForm  = "$argon2" // every hash begins so
)

// PutAddress writes a record whole. No hash, or "set" as Address tells of it,
// keeps the one that is there, and the keys for SCRAM with it.
func (s *Shard) PutAddress(ctx context.Context, record maildrop.AddressRecord) error {
	const op = "shard.put_address"
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	if record.Hash == hashSet {
		record.Hash = ""
	}
	if record.Scram == hashSet {
		record.Scram = ""
	}
	if err := checkRecord(record); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	passes := func() error {
		if err := s.gates.at(record.Account).user(op); err != nil {
			return err
		}
		return s.here(op, record.Address)
	}
	err := s.writeIf(ctx, &ledger.Address{
		Address: string(record.Address), Account: record.Account, Primary: string(record.Primary), Hash: record.Hash, Scram: record.Scram,
		Access: uint8(record.Access), Groups: record.Groups, Time: time.Now(),
	}, 0, passes)
	if err == nil && record.Hash != "" {
		s.guard.Unlock(record.Address, time.Now()) // what was wrong before says nothing of a new password
	}
	return failed(op, err)
}

func checkRecord(r maildrop.AddressRecord) error {
	switch {
	case !canonical(r.Address):
		return fmt.Errorf("address: %w", maildrop.ErrAddress)
	case r.Primary != "" && (!canonical(r.Primary) || r.Primary == r.Address):
		return errors.New("the primary address is no other address")
	case r.Primary != "" && r.Hash != "":
		return errors.New("an alias has no password of its own")
	case r.Account == "" || len(r.Account) > maxName:
		return errors.New("an account's name is missing or too long")
	case r.Access > maildrop.AccessDeny:
		return errors.New("an access rule that doesn't exist")
	case r.Hash != "" && (!strings.HasPrefix(r.Hash, hashForm) || len(r.Hash) > maxHash):
		return errors.New("the hash is not in PHC string format")
	case r.Scram != "" && r.Hash == "":
		return errors.New("keys for SCRAM without a hash of the same password")
	case len(r.Groups) > maxGroups:
		return fmt.Errorf("more than %d groups", maxGroups)
	}
	if r.Scram != "" {
		if _, err := scram.ParseKeys(r.Scram); err != nil {
			return err
		}
	}
	for _, group := range r.Groups {
		if group == "" || len(group) > maxName {
			return errors.New("a group's name is missing or too long")
		}
	}
	return nil
}

func canonical(address maildrop.Address) bool {
	parsed, err := maildrop.ParseAddress(string(address))
	return err == nil && parsed == address
}

// Address reads a record.
func (s *Shard) Address(ctx context.Context, address maildrop.Address) (maildrop.AddressRecord, error) {
	const op = "shard.address"
	if err := s.owned(ctx, op); err != nil {
		return maildrop.AddressRecord{}, err
	}
	if err := s.here(op, address); err != nil {
		return maildrop.AddressRecord{}, err
	}
	r, ok := s.record(address)
	if !ok {
		return maildrop.AddressRecord{}, &maildrop.Error{Op: op, Kind: maildrop.NotFound}
	}
	return r.full(address), nil
}

// RemoveAddress ends an address. Its mail stays until its retention ends.
func (s *Shard) RemoveAddress(ctx context.Context, address maildrop.Address) error {
	const op = "shard.remove_address"
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	if err := s.here(op, address); err != nil {
		return err
	}
	if _, ok := s.record(address); !ok {
		return nil
	}
	return failed(op, s.writeIf(ctx, &ledger.Address{Address: string(address), Removed: true, Time: time.Now()}, 0, s.guardedBy(op, address)))
}

// Addresses lists the account's records in this shard, sorted.
func (s *Shard) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	if err := s.owned(ctx, "shard.addresses"); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.records(account), nil
}

// write commits a record without a body. octets is its size, about, beyond
// that of any request.
func (s *Shard) write(ctx context.Context, record ledger.Record, octets int64) error {
	return s.writeIf(ctx, record, octets, nil)
}

// writeIf is write for what has to pass when it is queued.
func (s *Shard) writeIf(ctx context.Context, record ledger.Record, octets int64, passes func() error) error {
	octets += requestOverhead
	if err := s.commits.reserve(octets); err != nil {
		return err
	}
	return s.commits.commit(ctx, &request{draft: ledger.Draft{Record: record}, octets: octets, passes: passes})
}
