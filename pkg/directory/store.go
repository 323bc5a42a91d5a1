package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

const (
	maxTries       = 16 // of a change that others keep overtaking
	requestTimeout = 10 * time.Second
)

// Store reads and writes the directory in etcd itself. Its answers are current,
// each is a round trip or more: for administration, not for logins. Errors are
// *maildrop.Error with words for the operator: Invalid and NotFound say what is
// wrong with the request, Transient that etcd doesn't answer, Maybe that the
// outcome of a write is unknown, Busy that others kept changing the record.
type Store struct{ client *clientv3.Client }

// NewStore makes a Store of a client, which stays the caller's.
func NewStore(client *clientv3.Client) *Store { return &Store{client: client} }

// PublishRegion makes the region known as it is given. It writes only when
// something differs. The number of shards of a published region cannot change.
func (s *Store) PublishRegion(ctx context.Context, region Region) error {
	const op = "directory.region"
	for range maxTries {
		before, revision, err := lookup(ctx, s, op, regionPrefix, region.Name, regionName, false)
		if err != nil {
			return err
		}
		if revision != 0 && before == region {
			return nil
		}
		if revision != 0 && before.Shards != region.Shards {
			return invalid(op, fmt.Sprintf("region %s has %d shards and cannot have %d: its mail is stored by that number",
				region.Name, before.Shards, region.Shards))
		}
		done, err := s.swap(ctx, op, regionPrefix+region.Name, revision, region)
		if done || err != nil {
			return err
		}
	}
	return overtaken(op)
}

// CreateAccount makes a new account, whose region must be known.
func (s *Store) CreateAccount(ctx context.Context, account policy.Account) error {
	const op = "directory.account.create"
	value, err := encode(account)
	if err != nil {
		return invalid(op, oneLine(err))
	}
	key, region := accountPrefix+account.Name, regionPrefix+account.Region
	return s.create(ctx, op, key, value, region,
		fmt.Sprintf("region %s is not known here", account.Region),
		func([]byte) string { return fmt.Sprintf("account %s exists already", account.Name) })
}

// CreateDomain makes a new domain, whose account must exist and which must be
// nobody's, both in one step.
func (s *Store) CreateDomain(ctx context.Context, domain policy.Domain) error {
	const op = "directory.domain.create"
	value, err := encode(domain)
	if err != nil {
		return invalid(op, oneLine(err))
	}
	key, account := domainPrefix+domain.Name, accountPrefix+domain.Account
	return s.create(ctx, op, key, value, account,
		"there is no account "+domain.Account,
		func(taken []byte) string {
			if other, err := decode(taken, domain.Name, domainName, false); err == nil {
				return fmt.Sprintf("domain %s is account %s's already", domain.Name, other.Account)
			}
			return fmt.Sprintf("domain %s is taken, and its record cannot be read", domain.Name)
		})
}

// create puts a key that isn't there if another is.
func (s *Store) create(ctx context.Context, op, key, value, needs, missing string, taken func([]byte) string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(key), "=", 0), clientv3.Compare(clientv3.Version(needs), ">", 0)).
		Then(clientv3.OpPut(key, value)).
		Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return writeError(op, err)
	case answer.Succeeded:
		return nil
	}
	if there := answer.Responses[0].GetResponseRange().GetKvs(); len(there) > 0 {
		return invalid(op, taken(there[0].Value))
	}
	return notFound(op, missing)
}

// UpdateAccount changes an account: change is given a copy of the newest record
// and may be called several times. Its error ends the update and is returned as
// it is. Name and region cannot change.
func (s *Store) UpdateAccount(ctx context.Context, name string, change func(*policy.Account) error) error {
	const op = "directory.account.update"
	return update(ctx, s, op, "account", accountPrefix, name, accountName, func(a *policy.Account) error {
		region, moves, moving := a.Region, a.Moves, a.Moving
		if err := change(a); err != nil {
			return err
		}
		if a.Region != region || a.Moves != moves || a.Moving != moving {
			return invalid(op, "an account's region cannot be changed: its mail is there, and has to be moved")
		}
		return nil
	})
}

// BeginMove begins a move of an account to another region, which must be known. One that
// is under way is Invalid. It answers with the account as it is then.
func (s *Store) BeginMove(ctx context.Context, name, to, by string, now time.Time) (policy.Account, error) {
	const op = "directory.account.move"
	if _, revision, err := lookup(ctx, s, op, regionPrefix, to, regionName, false); err != nil {
		return policy.Account{}, err
	} else if revision == 0 {
		return policy.Account{}, notFound(op, fmt.Sprintf("region %s is not known here", to))
	}
	return s.move(ctx, op, name, func(a *policy.Account) error {
		switch {
		case a.Moving.Phase != policy.MoveNone:
			return invalid(op, fmt.Sprintf("account %s is being moved to %s already", name, a.Moving.To))
		case a.Region == to:
			return invalid(op, fmt.Sprintf("account %s is at home in %s", name, to))
		}
		a.Moves++
		a.Moving = policy.Moving{From: a.Region, To: to, Phase: policy.MoveCopying, Since: now.UTC().Truncate(time.Second), By: by}
		return nil
	})
}

// AdvanceMove brings a move from one phase to the next. To purging is the change of the
// account's home. If the move has left the phase already, or is another one, nothing is
// changed. It answers with the account as it is then.
func (s *Store) AdvanceMove(ctx context.Context, name string, id uint64, from, to policy.MovePhase) (policy.Account, error) {
	const op = "directory.account.move"
	if !policy.MoveStep(from, to) || from == policy.MoveNone {
		return policy.Account{}, invalid(op, fmt.Sprintf("a move doesn't go from %q to %q", from, to))
	}
	return s.move(ctx, op, name, func(a *policy.Account) error {
		switch {
		case a.Moves != id || a.Moving.Phase != from:
		case to == policy.MoveNone:
			a.Moving = policy.Moving{}
		default:
			if a.Moving.Phase = to; to == policy.MovePurging {
				a.Region = a.Moving.To
			}
		}
		return nil
	})
}

// RetreatMove takes a cut-over back: a move that is sealed or opening becomes one that
// copies, under the next number, so that nothing which is under way for it counts any more.
// If the move has left these phases, or is another one, nothing is changed.
func (s *Store) RetreatMove(ctx context.Context, name string, id uint64) (policy.Account, error) {
	return s.move(ctx, "directory.account.move", name, func(a *policy.Account) error {
		if a.Moves == id && (a.Moving.Phase == policy.MoveSealed || a.Moving.Phase == policy.MoveOpening) {
			a.Moves++
			a.Moving.Phase = policy.MoveCopying
		}
		return nil
	})
}

// move changes an account, its region too.
func (s *Store) move(ctx context.Context, op, name string, change func(*policy.Account) error) (after policy.Account, err error) {
	err = update(ctx, s, op, "account", accountPrefix, name, accountName, func(a *policy.Account) error {
		err := change(a)
		after = *a
		return err
	})
	return after, err
}

// UpdateDomain changes a domain, as UpdateAccount does. Name and account cannot
// change.
func (s *Store) UpdateDomain(ctx context.Context, name string, change func(*policy.Domain) error) error {
	const op = "directory.domain.update"
	return update(ctx, s, op, "domain", domainPrefix, name, domainName, func(d *policy.Domain) error {
		account := d.Account
		if err := change(d); err != nil {
			return err
		}
		if d.Account != account {
			return invalid(op, "a domain's account cannot be changed: remove the domain first")
		}
		return nil
	})
}

// RemoveDomain ends a domain: mail for it is refused from then on.
func (s *Store) RemoveDomain(ctx context.Context, name string) error {
	const op = "directory.domain.remove"
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.client.Delete(ctx, domainPrefix+name)
	if err != nil {
		return writeError(op, err)
	}
	if answer.Deleted == 0 {
		return notFound(op, "there is no domain "+name)
	}
	return nil
}

// update reads a record, changes it and writes it if nobody else did meanwhile.
func update[T validator](ctx context.Context, s *Store, op, what, prefix, name string, nameOf func(T) string, change func(*T) error) error {
	for range maxTries {
		record, revision, err := lookup(ctx, s, op, prefix, name, nameOf, true)
		if err != nil {
			return err
		}
		if revision == 0 {
			return notFound(op, fmt.Sprintf("there is no %s %s", what, name))
		}
		if err := change(&record); err != nil {
			return err
		}
		if nameOf(record) != name {
			return invalid(op, fmt.Sprintf("the name of %s %s cannot be changed", what, name))
		}
		done, err := s.swap(ctx, op, prefix+name, revision, record)
		if done || err != nil {
			return err
		}
	}
	return overtaken(op)
}

// swap writes the record if the key's newest revision is still the given one, 0
// for a key that isn't there.
func (s *Store) swap(ctx context.Context, op, key string, revision int64, record validator) (bool, error) {
	value, err := encode(record)
	if err != nil {
		return false, invalid(op, oneLine(err))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		return false, writeError(op, err)
	}
	return answer.Succeeded, nil
}

// lookup reads a record and its revision, which is 0 when there is none.
func lookup[T validator](ctx context.Context, s *Store, op, prefix, name string, nameOf func(T) string, strict bool) (record T, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.client.Get(ctx, prefix+name)
	if err != nil {
		return record, 0, readError(op, err)
	}
	if len(answer.Kvs) == 0 {
		return record, 0, nil
	}
	record, err = decode(answer.Kvs[0].Value, name, nameOf, strict)
	if err != nil {
		return record, 0, &maildrop.Error{Op: op, Kind: maildrop.Corrupt, Err: err,
			Text: fmt.Sprintf("the record %s cannot be used: %s; a newer version may have written it", prefix+name, oneLine(err))}
	}
	return record, answer.Kvs[0].ModRevision, nil
}

func overtaken(op string) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Busy, Text: "others keep changing this record; nothing was changed, try again",
		Err: errors.New("too many conflicts")}
}

// oneLine is an error's text without line ends: errors.Join has them.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
