package shard

import (
	"context"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/guard"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// try is what is asked before a password is looked at: where the address's mailbox
// is, and whether the client's network is permitted. From elsewhere nobody learns
// anything of passwords, and nobody is locked out.
func (s *Shard) try(login maildrop.Login) (guard.Try, error) {
	r, exists := s.record(login.Address)
	if primary := r.primary(); primary != "" {
		return guard.Try{}, &maildrop.Error{Op: "shard.try", Kind: maildrop.Alias, Primary: primary}
	}
	_, account, served := s.config.Rules.Domain(login.Address.Domain())
	t := guard.Try{
		Address: login.Address, Known: exists && served && account.Name == r.account(),
		Secret: secretOf(login), Session: login.Session, Rules: guardRules(account),
	}
	if served && !policy.Permitted(account, login.Remote) {
		return t, denied("shard.try", maildrop.ReasonNetwork)
	}
	return t, nil
}

// secretOf is what a login shows. A proof is another each time, also of the same wrong
// password.
func secretOf(login maildrop.Login) string {
	if p := login.Proof; p != nil {
		return p.Nonce + " " + string(p.Proof)
	}
	return login.Password
}

// guardRules are an account's; those of a domain that isn't ours are the defaults.
func guardRules(account policy.Account) (rules guard.Rules) {
	rules.Tries, rules.Window = account.Lockout()
	rules.Delay = account.LoginDelay()
	return rules
}

func denied(op string, reason maildrop.Reason) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Denied, Reason: reason}
}

// guarded verifies a login, unless its address is locked out. Nothing else verifies
// anything.
func (s *Shard) guarded(ctx context.Context, login maildrop.Login, t guard.Try) (r record, err error) {
	lockedOut, err := s.guard.Around(t, func() (err error) {
		r, err = s.verify(ctx, login)
		return err
	})
	if lockedOut {
		s.config.Metrics.lockedOut()
		// Who it was is in the front's line of the session, in the form that is configured there.
		s.log.Info("locked out", "session", login.Session, "remote", login.Remote.String(), "known", t.Known, "minutes", t.Rules.Window.Minutes())
	}
	return r, err
}

// remember keeps an attempt for those who help the user. What the user never hears
// of (the router goes elsewhere, or he has hung up) isn't one.
func (s *Shard) remember(login maildrop.Login, known bool, d *drop, err error) {
	a := maildrop.Attempt{
		Time: time.Now(), Remote: login.Remote.Unmap(), Session: login.Session,
		Mechanism: login.Mechanism, Language: login.Language, Wait: maildrop.WaitOf(err),
	}
	switch {
	case err == nil:
		a.Class, a.Count, a.Octets = d.info.Class, d.info.Count, d.info.Octets
	case maildrop.KindOf(err) == maildrop.Denied:
		a.Reason = maildrop.ReasonOf(err)
	case !heard(maildrop.KindOf(err)):
		return
	default:
		a.Reason = maildrop.ReasonUnavailable
	}
	s.journal.Note(login.Address, known, a)
}

// heard reports whether an error of the kind may reach the user.
func heard(kind maildrop.Kind) bool {
	switch kind {
	case maildrop.Alias, maildrop.NotOwner, maildrop.Canceled, maildrop.Invalid:
		return false
	}
	return true
}

// Tell remembers what a front refused. Nobody is asked for it, and a replaced owner
// may remember it in vain.
func (s *Shard) Tell(ctx context.Context, address maildrop.Address, refused []maildrop.Attempt) error {
	const op = "shard.tell"
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	t, err := s.try(maildrop.Login{Address: address})
	if maildrop.KindOf(err) == maildrop.Alias {
		return failed(op, err)
	}
	now := time.Now()
	for _, a := range slices.Backward(refused) { // the latest is the first
		a.Time, a.First = earlier(a.Time, now), earlier(a.First, now) // clocks differ
		s.journal.Tell(address, t.Known, a)
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Unlock ends an address's lock-out.
func (s *Shard) Unlock(ctx context.Context, address maildrop.Address) (was bool, err error) {
	const op = "shard.unlock"
	if err := s.owned(ctx, op); err != nil {
		return false, err
	}
	if r, _ := s.record(address); r.primary() != "" {
		return false, &maildrop.Error{Op: op, Kind: maildrop.Alias, Primary: r.primary()}
	}
	return s.guard.Unlock(address, time.Now()), nil
}
