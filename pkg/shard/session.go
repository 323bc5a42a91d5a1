package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/guard"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

var (
	errUID    = errors.New("the unique-id isn't in the snapshot")
	errBehind = errors.New("the session is newer than what is known here")
	errMany   = errors.New("more messages than one removal can name")
)

// Open verifies the user and takes a snapshot of his maildrop.
func (s *Shard) Open(ctx context.Context, login maildrop.Login) (maildrop.Drop, error) {
	const op = "shard.open"
	if err := s.owned(ctx, op); err != nil {
		return nil, err
	}
	if err := s.confirm(ctx, op); err != nil {
		return nil, err
	}
	if err := s.here(op, login.Address); err != nil {
		return nil, err
	}
	t, err := s.try(login)
	var d *drop
	if err == nil {
		d, err = s.enter(ctx, login, t)
	}
	s.remember(login, t.Known, d, err)
	if err != nil {
		return nil, failed(op, err)
	}
	return d, nil
}

// enter lets a user in whose network is permitted.
func (s *Shard) enter(ctx context.Context, login maildrop.Login, t guard.Try) (*drop, error) {
	r, err := s.guarded(ctx, login, t)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	class, err := s.admit(login, r, now)
	if err != nil {
		return nil, err
	}
	if err := s.owned(ctx, "shard.enter"); err != nil { // verifying takes a while
		return nil, err
	}
	if err := s.here("shard.enter", login.Address); err != nil {
		return nil, err
	}
	if err := s.guard.Admit(t, now); err != nil {
		return nil, err
	}
	d := s.snapshot(login, r, class, now)
	d.info.LoginDelay = t.Rules.Delay
	return d, nil
}

// verify checks the password, or the proof of it. Whatever is missing (address,
// credentials, domain), the same work is done for nobody's password.
func (s *Shard) verify(ctx context.Context, login maildrop.Login) (record, error) {
	r, exists := s.record(login.Address)
	hash := ""
	if exists {
		if _, _, ok := s.customer(login.Address, r); ok {
			hash = r.credential().hash()
		}
	}
	if err := s.checkSecret(ctx, login, hash, r); err != nil {
		return r, err
	}
	// The record may have changed meanwhile; what was verified must still stand.
	now, exists := s.record(login.Address)
	if hash == "" || !exists || now.credentials != r.credentials {
		return r, &maildrop.Error{Op: "shard.verify", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	return now, nil
}

// customer is whose rules decide for an address: its domain's account. It is
// nobody when the record was made for another account: then the domain has
// changed hands, and its former owner's users have no business there.
func (s *Shard) customer(address maildrop.Address, r record) (policy.Domain, policy.Account, bool) {
	domain, account, ok := s.config.Rules.Domain(address.Domain())
	return domain, account, ok && account.Name == r.account()
}

// admit asks the policy about a user whose password was right.
func (s *Shard) admit(login maildrop.Login, r record, now time.Time) (maildrop.Class, error) {
	domain, account, ok := s.customer(login.Address, r)
	if !ok {
		return 0, &maildrop.Error{Op: "shard.admit", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	if !policy.Permitted(account, login.Remote) {
		return 0, denied("shard.admit", maildrop.ReasonNetwork)
	}
	decision := policy.Decide(account, domain, r.full(login.Address), now)
	if decision.Class == maildrop.ClassNone {
		return 0, denied("shard.admit", decision.Reason)
	}
	return decision.Class, nil
}

func (s *Shard) snapshot(login maildrop.Login, r record, class maildrop.Class, now time.Time) *drop {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := &drop{shard: s, claims: claims{
		snapshot: s.state.snapshot(login.Address, now), credentials: r.credentials, remote: login.Remote.Unmap().WithZone(""),
	}.renewed(now)}
	d.info = maildrop.Info{Address: login.Address, Class: class, Region: s.config.Region, Node: s.config.Node}
	d.info.Count, d.info.Octets = s.state.sum(d.claims.snapshot)
	d.info.Signature = s.signature(login, r)
	return d
}

// Resume goes on with a session of this shard's ledger, whoever owned it then.
func (s *Shard) Resume(ctx context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	const op = "shard.resume"
	if err := s.owned(ctx, op); err != nil {
		return nil, err
	}
	c, err := parseToken(s.ledger.Secret(), token)
	if err == nil && c.address != info.Address {
		err = errToken
	}
	if err != nil && s.arrived(info.Address) {
		return nil, denied(op, maildrop.ReasonMoved) // the session began in the region that it was moved from
	}
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if c.position > s.position() {
		s.commits.stop() // a newer owner opened the session
		return nil, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errBehind}
	}
	info.Region, info.Node = s.config.Region, s.config.Node
	return &drop{shard: s, claims: c, info: info}, nil
}

// drop is one session's view: claims, and the shard that they are held against.
type drop struct {
	shard  *Shard
	claims claims
	info   maildrop.Info
}

// Info is what Open answered with.
func (d *drop) Info() maildrop.Info { return d.info }

// Token is what Resume needs.
func (d *drop) Token() []byte { return d.claims.token(d.shard.ledger.Secret()) }

// Close ends the use of the drop. It holds nothing.
func (d *drop) Close() error { return nil }

// usable is the first question of every call: does the shard still own the
// mailbox, and do the claims still count.
func (d *drop) usable(ctx context.Context, op string) error {
	if err := d.shard.owned(ctx, op); err != nil {
		return err
	}
	if !d.claims.valid(time.Now()) {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: errExpired}
	}
	return nil
}

// List returns the snapshot's messages in order of arrival.
func (d *drop) List(ctx context.Context) (*maildrop.Listing, error) {
	if err := d.usable(ctx, "shard.list"); err != nil {
		return nil, err
	}
	d.shard.mu.RLock()
	defer d.shard.mu.RUnlock()
	return d.shard.state.list(d.claims.snapshot), nil
}

// Check asks whether the session may go on, and renews its token. The password
// isn't asked for again: that the credentials are still those of the login is.
func (d *drop) Check(ctx context.Context) error {
	const op = "shard.check"
	if err := d.usable(ctx, op); err != nil {
		return err
	}
	if err := d.shard.confirm(ctx, op); err != nil {
		return err
	}
	if err := d.shard.here(op, d.claims.address); err != nil {
		return err
	}
	now := time.Now()
	r, exists := d.shard.record(d.claims.address)
	if !exists || r.credentials != d.claims.credentials {
		return denied(op, maildrop.ReasonChanged)
	}
	domain, account, ok := d.shard.customer(d.claims.address, r)
	if !ok {
		return denied(op, maildrop.ReasonChanged)
	}
	if !policy.Permitted(account, d.claims.remote) {
		return denied(op, maildrop.ReasonNetwork)
	}
	if decision := policy.Decide(account, domain, r.full(d.claims.address), now); decision.Class == maildrop.ClassNone {
		return denied(op, decision.Reason)
	}
	d.claims = d.claims.renewed(now)
	return nil
}

// Remove removes messages of the snapshot: all of them, or none.
func (d *drop) Remove(ctx context.Context, uids []maildrop.UID) error {
	const op = "shard.remove"
	if err := d.usable(ctx, op); err != nil {
		return err
	}
	if err := d.shard.here(op, d.claims.address); err != nil {
		return err
	}
	positions, err := d.toRemove(uids)
	if err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if len(positions) == 0 {
		return nil
	}
	return failed(op, d.shard.writeIf(ctx, &ledger.Removal{
		Mailbox: string(d.claims.address), Messages: positions, Time: time.Now(),
	}, 8*int64(len(positions)), d.shard.guardedBy(op, d.claims.address)))
}

// toRemove finds the messages' positions. Those that are gone already are left
// out.
func (d *drop) toRemove(uids []maildrop.UID) ([]ledger.Position, error) {
	s := d.shard
	s.mu.RLock()
	defer s.mu.RUnlock()
	positions := make([]ledger.Position, 0, len(uids))
	for _, uid := range uids {
		m := s.state.find(d.claims.snapshot, uid)
		if m == nil {
			return nil, errUID
		}
		if m.flags&flagRemoved == 0 {
			positions = append(positions, m.position)
		}
	}
	slices.Sort(positions)
	positions = slices.Compact(positions)
	if len(positions) > ledger.MaxMessages {
		return nil, errMany
	}
	return positions, nil
}
