package maildroptest

import (
	"errors"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

var logins = []test{
	{"wrong credentials are one error", wrongCredentials},
	{"refusals at login", refusedLogins},
	{"the policy is told to the right user only", policyIsNotTold},
	{"permitted networks", permittedNetworks},
	{"continuity", continuity},
	{"an alias logs in", aliasLogin},
	{"access that ends", accessEnds},
	{"credentials that change", credentialsChange},
	{"a record that changes without its credentials", recordChanges},
	{"an address that is removed", addressRemoved},
	{"a domain that changes hands", domainChangesHands},
}

// wrongCredentials: nobody learns which addresses there are.
func wrongCredentials(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.LockoutTries = policy.MaxLockoutTries })
	s.put(maildrop.AddressRecord{Address: s.address("nologin")})
	_, reference := s.login(anna, "wrong")
	s.denied(reference, maildrop.ReasonCredentials)
	for _, c := range []struct {
		address  maildrop.Address
		password string
	}{
		{anna, ""}, {anna, Password + " "}, {anna, Hash}, {anna, OtherPassword},
		{s.address("nobody"), Password}, {s.address("nobody"), ""},
		{s.address("nologin"), ""}, {s.address("nologin"), Password},
		{"anna@nobodys-domain.example", Password},
	} {
		_, err := s.login(c.address, c.password)
		s.denied(err, maildrop.ReasonCredentials)
		if maildrop.TextOf(err) != maildrop.TextOf(reference) {
			s.Errorf("%s is told apart: %q and %q", c.address, maildrop.TextOf(err), maildrop.TextOf(reference))
		}
	}
	s.open(anna)
}

// domainChangesHands: the former owner's users have no business in the
// domain of the new one, and its mail does not reach their mailboxes.
func domainChangesHands(s *scene) {
	anna := s.user("anna")
	session := s.open(anna)
	heir := policy.Account{Name: s.account.Name + "-heir", Region: s.account.Region}
	s.rules.PutAccount(heir)
	s.rules.PutDomain(policy.Domain{Name: s.domain, Account: heir.Name, Kind: policy.DomainLocal})
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonCredentials)
	s.fails(session.Check(s.Context()), maildrop.Denied)
	s.fails(s.Service.Accept(s.Context(), maildrop.Recipient{Address: anna}), maildrop.NotFound)
	s.kind(policy.DomainLocal)
	s.open(anna)
	s.ok(s.Service.Accept(s.Context(), maildrop.Recipient{Address: anna}))
}

func refusedLogins(s *scene) {
	anna := s.user("anna")
	wants := func(reason maildrop.Reason) {
		s.Helper()
		_, err := s.login(anna, Password)
		s.denied(err, reason)
	}
	s.change(func(a *policy.Account) { a.Disabled = true })
	wants(maildrop.ReasonDisabled)
	s.change(func(a *policy.Account) { a.Disabled, a.Override = false, policy.OverrideBlock })
	wants(maildrop.ReasonBlocked)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideNone })
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessDeny})
	wants(maildrop.ReasonAddress)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideAllow })
	s.open(anna)
	s.kind(policy.DomainSendOnly)
	wants(maildrop.ReasonSendOnly)
	s.kind(policy.DomainHosted)
	wants(maildrop.ReasonNoPurpose)
	s.change(func(a *policy.Account) { a.LegacyUntil = time.Now().Add(-time.Hour) })
	wants(maildrop.ReasonLegacyEnded)
	s.change(func(a *policy.Account) { a.LegacyUntil = time.Now().Add(time.Hour) })
	if class := s.open(anna).Info().Class; class != maildrop.ClassContinuity {
		s.Errorf("class %v", class)
	}
}

func policyIsNotTold(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.Override, a.LoginDelaySeconds = policy.OverrideBlock, 60 })
	for _, address := range []maildrop.Address{anna, s.address("nobody")} {
		_, err := s.login(address, "wrong")
		s.denied(err, maildrop.ReasonCredentials)
	}
}

func permittedNetworks(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} })
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonNetwork)
	d, err := s.Service.Open(s.Context(), maildrop.Login{Address: anna, Password: Password, Remote: netip.MustParseAddr("198.51.100.9")})
	s.ok(err)
	s.ok(d.Check(s.Context()))
	s.change(func(a *policy.Account) { a.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} })
	s.denied(d.Check(s.Context()), maildrop.ReasonNetwork)
	s.closes(d)
}

// continuity: mail that came before an event is there when it starts.
func continuity(s *scene) {
	anna := s.user("anna")
	s.kind(policy.DomainHosted)
	s.change(func(a *policy.Account) { a.Continuity = true })
	body := s.message(anna)
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonNoEvent)
	s.change(func(a *policy.Account) { a.Events = []policy.Event{{ID: "e1", Start: time.Now().Add(-time.Minute)}} })
	d := s.open(anna)
	if info := d.Info(); info.Class != maildrop.ClassContinuity || info.Count != 1 {
		s.Errorf("Info is %+v", info)
	}
	s.same(s.read(d, s.uids(d)[0], 0), body.Octets())
	s.change(func(a *policy.Account) {
		a.Events = []policy.Event{{ID: "e1", Start: time.Now().Add(-time.Minute), End: time.Now()}}
	})
	s.denied(d.Check(s.Context()), maildrop.ReasonNoEvent)
	_, err = s.login(anna, Password)
	s.denied(err, maildrop.ReasonNoEvent)
}

func aliasLogin(s *scene) {
	anna, info := s.user("anna"), s.address("info")
	s.put(maildrop.AddressRecord{Address: info, Primary: anna})
	s.message(anna)
	d, err := s.login(info, Password)
	if !s.ResolvesAliases {
		s.alias(err, anna)
		return
	}
	s.ok(err)
	s.closes(d)
	if got := d.Info(); got.Address != anna || got.Count != 1 {
		s.Errorf("Info is %+v", got)
	}
	_, err = s.login(info, "wrong")
	s.denied(err, maildrop.ReasonCredentials)
}

func primaryOf(err error) maildrop.Address {
	var e *maildrop.Error
	if errors.As(err, &e) {
		return e.Primary
	}
	return ""
}

// accessEnds: a running session hears of it at its next Check, with the reason.
func accessEnds(s *scene) {
	anna := s.user("anna")
	d := s.open(anna)
	s.ok(d.Check(s.Context()))
	s.change(func(a *policy.Account) { a.Override = policy.OverrideBlock })
	s.denied(d.Check(s.Context()), maildrop.ReasonBlocked)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideNone })
	s.ok(d.Check(s.Context()))
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessDeny})
	s.denied(d.Check(s.Context()), maildrop.ReasonAddress)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideAllow })
	s.ok(d.Check(s.Context()))
	s.change(func(a *policy.Account) { a.Disabled = true })
	s.denied(d.Check(s.Context()), maildrop.ReasonDisabled)
}

func credentialsChange(s *scene) {
	anna := s.user("anna")
	s.message(anna)
	d := s.open(anna)
	s.put(maildrop.AddressRecord{Address: anna, Hash: OtherHash})
	s.denied(d.Check(s.Context()), maildrop.ReasonChanged)
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonCredentials)
	again, err := s.login(anna, OtherPassword)
	s.ok(err)
	s.closes(again)
	if again.Info().Count != 1 {
		s.Error("the mail is gone with the password")
	}
	s.ok(again.Check(s.Context()))
	// Back to the first password: the first session still doesn't go on.
	s.put(maildrop.AddressRecord{Address: anna, Hash: Hash})
	s.denied(d.Check(s.Context()), maildrop.ReasonChanged)
}

func recordChanges(s *scene) {
	anna := s.user("anna")
	d := s.open(anna)
	for _, record := range []maildrop.AddressRecord{
		{Address: anna, Access: maildrop.AccessAllow},
		{Address: anna, Hash: Hash, Groups: []string{"sales"}},
		{Address: anna},
	} {
		s.put(record)
		s.ok(d.Check(s.Context()))
	}
	s.open(anna) // the password is still there
}

func addressRemoved(s *scene) {
	anna := s.user("anna")
	s.message(anna)
	d := s.open(anna)
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
	s.denied(d.Check(s.Context()), maildrop.ReasonChanged)
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonCredentials)
	s.user("anna")
	s.denied(d.Check(s.Context()), maildrop.ReasonChanged)
	if got := s.count(anna); got != 1 {
		s.Errorf("made again it has %d messages, want 1", got)
	}
}
