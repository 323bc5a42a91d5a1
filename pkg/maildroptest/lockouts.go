package maildroptest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

var lockouts = []test{
	{"wrong passwords lock out", wrongPasswordsLockOut},
	{"a name that doesn't exist locks out", nobodyLocksOut},
	{"many wrong passwords at once lock out", guessesAtOnce},
	{"the same wrong password counts once", sameWrongPassword},
	{"a login ends the count of wrong passwords", loginEndsCount},
	{"wrong proofs lock out", wrongProofsLockOut},
	{"an account's own lock-out", ownLockout},
	{"a lock-out is lifted", lockoutLifted},
	{"a new password ends a lock-out", newPasswordEndsLockout},
	{"an alias is locked out with its primary address", aliasLocksOut},
	{"what is no wrong password", noWrongPassword},
	{"networks that aren't permitted count nothing", networksCountNothing},
	{"logins too close together", loginDelay},
	{"logins are explained", explained},
	{"attempts are remembered", attempts},
	{"what fronts refused is remembered", toldAttempts},
	{"ended contexts of the help desk", endedHelpdeskContexts},
}

// guess tries n different wrong passwords, each of which is wrong credentials.
func (s *scene) guess(address maildrop.Address, n int) {
	s.Helper()
	for range n {
		s.ids++
		_, err := s.login(address, fmt.Sprintf("guess %d", s.ids))
		s.denied(err, maildrop.ReasonCredentials)
	}
}

// lockedOut wants whatever is tried to be refused, for so long at most.
func (s *scene) lockedOut(address maildrop.Address, most time.Duration) {
	s.Helper()
	for _, password := range []string{Password, "wrong", ""} {
		_, err := s.login(address, password)
		s.denied(err, maildrop.ReasonLockout)
		if wait := maildrop.WaitOf(err); wait > most || wait < most-time.Minute {
			s.Fatalf("locked out for %v more, want nearly %v", wait, most)
		}
	}
}

func wrongPasswordsLockOut(s *scene) {
	anna, ben := s.user("anna"), s.user("ben")
	s.guess(anna, policy.DefaultLockoutTries)
	s.lockedOut(anna, policy.DefaultLockoutMinutes*time.Minute)
	s.open(ben)
}

// nobodyLocksOut: else a lock-out would tell which addresses there are.
func nobodyLocksOut(s *scene) {
	s.put(maildrop.AddressRecord{Address: s.address("nologin")})
	nobodys := maildrop.Address("nobody@unknown-" + s.domain)
	for _, address := range []maildrop.Address{s.address("nobody"), s.address("nologin"), nobodys} {
		s.guess(address, policy.DefaultLockoutTries)
		s.lockedOut(address, policy.DefaultLockoutMinutes*time.Minute)
	}
}

// guessesAtOnce: no more passwords are looked at because they come at the same time.
func guessesAtOnce(s *scene) {
	anna := s.user("anna")
	const many = 40
	errs := make(chan error, many)
	for i := range many {
		go func() {
			_, err := s.login(anna, fmt.Sprintf("guess %d", i))
			errs <- err
		}()
	}
	verified := 0
	for range many {
		err := <-errs
		if maildrop.ReasonOf(err) == maildrop.ReasonCredentials {
			verified++
		} else if maildrop.ReasonOf(err) != maildrop.ReasonLockout {
			s.fails(err, maildrop.Busy)
		}
	}
	if verified > policy.DefaultLockoutTries {
		s.Errorf("%d passwords were looked at", verified)
	}
	s.guess(anna, policy.DefaultLockoutTries-verified)
	s.lockedOut(anna, policy.DefaultLockoutMinutes*time.Minute)
}

// wrongProofsLockOut: proofs and passwords are counted in one place.
func wrongProofsLockOut(s *scene) {
	for _, address := range []maildrop.Address{s.user("anna"), s.prover("ben"), s.address("nobody")} {
		s.guess(address, 2)
		for range policy.DefaultLockoutTries - 2 {
			_, err := s.Service.Open(s.Context(), s.prove(address, "wrong").login)
			s.denied(err, maildrop.ReasonCredentials)
		}
		s.lockedOut(address, policy.DefaultLockoutMinutes*time.Minute)
		_, err := s.Service.Open(s.Context(), s.prove(address, Password).login)
		s.denied(err, maildrop.ReasonLockout)
	}
}

func sameWrongPassword(s *scene) {
	anna := s.user("anna")
	for range 3 * policy.DefaultLockoutTries {
		_, err := s.login(anna, "the old password")
		s.denied(err, maildrop.ReasonCredentials)
	}
	s.guess(anna, policy.DefaultLockoutTries-2)
	_, err := s.login(anna, "the old password")
	s.denied(err, maildrop.ReasonCredentials)
	s.open(anna)
}

func loginEndsCount(s *scene) {
	anna := s.user("anna")
	for range 3 {
		s.guess(anna, policy.DefaultLockoutTries-1)
		s.open(anna)
	}
}

func ownLockout(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.LockoutTries, a.LockoutMinutes = 3, 60 })
	for _, address := range []maildrop.Address{anna, s.address("nobody")} {
		s.guess(address, 3)
		s.lockedOut(address, time.Hour)
	}
	ben := s.user("ben")
	s.change(func(a *policy.Account) { a.LockoutTries = 9 })
	s.guess(ben, 8)
	s.open(ben)
	// Fewer than were tried already.
	s.guess(ben, 4)
	s.change(func(a *policy.Account) { a.LockoutTries = 4 })
	s.lockedOut(ben, time.Hour)
}

func lockoutLifted(s *scene) {
	anna := s.user("anna")
	s.guess(anna, policy.DefaultLockoutTries)
	s.lockedOut(anna, policy.DefaultLockoutMinutes*time.Minute)
	for _, want := range []bool{true, false} {
		if was, err := s.Service.Unlock(s.Context(), anna); err != nil || was != want {
			s.Fatalf("Unlock: %t, %v", was, err)
		}
	}
	s.guess(anna, policy.DefaultLockoutTries-1)
	s.open(anna)
}

func newPasswordEndsLockout(s *scene) {
	anna := s.user("anna")
	s.guess(anna, policy.DefaultLockoutTries)
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessAllow})
	s.lockedOut(anna, policy.DefaultLockoutMinutes*time.Minute)
	s.put(maildrop.AddressRecord{Address: anna, Hash: OtherHash})
	d, err := s.login(anna, OtherPassword)
	s.ok(err)
	s.closes(d)
}

func aliasLocksOut(s *scene) {
	anna, info := s.user("anna"), s.address("info")
	s.put(maildrop.AddressRecord{Address: info, Primary: anna})
	if !s.ResolvesAliases {
		_, err := s.Service.Unlock(s.Context(), info)
		s.alias(err, anna)
		return
	}
	s.guess(anna, 2)
	s.guess(info, policy.DefaultLockoutTries-2)
	for _, address := range []maildrop.Address{anna, info} {
		s.lockedOut(address, policy.DefaultLockoutMinutes*time.Minute)
	}
	was, err := s.Service.Unlock(s.Context(), info)
	s.ok(err)
	if !was {
		s.Error("nothing was unlocked")
	}
	s.open(anna)
}

// noWrongPassword: a hang-up and a policy's refusal are no guesses.
func noWrongPassword(s *scene) {
	anna := s.user("anna")
	s.guess(anna, policy.DefaultLockoutTries-1)
	for i := range 2 * policy.DefaultLockoutTries {
		_, err := s.Service.Open(ended(), maildrop.Login{Address: anna, Password: fmt.Sprint("gone ", i), Remote: remote})
		s.fails(err, maildrop.Canceled)
	}
	s.change(func(a *policy.Account) { a.Override = policy.OverrideBlock })
	for range 2 * policy.DefaultLockoutTries {
		_, err := s.login(anna, Password)
		s.denied(err, maildrop.ReasonBlocked)
	}
	s.change(func(a *policy.Account) { a.Override = policy.OverrideNone })
	s.open(anna)
}

// networksCountNothing: from elsewhere nobody learns whether a password is right,
// or an address exists, and nobody is locked out.
func networksCountNothing(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.Networks = []netip.Prefix{netip.PrefixFrom(remote, remote.BitLen())} })
	elsewhere := func(address maildrop.Address, password string) error {
		_, err := s.Service.Open(s.Context(), maildrop.Login{Address: address, Password: password, Remote: netip.MustParseAddr("203.0.113.1")})
		return err
	}
	for i := range 2 * policy.DefaultLockoutTries {
		s.denied(elsewhere(anna, fmt.Sprint("guess ", i)), maildrop.ReasonNetwork)
		s.denied(elsewhere(s.address("nobody"), fmt.Sprint("guess ", i)), maildrop.ReasonNetwork)
	}
	s.denied(elsewhere(anna, Password), maildrop.ReasonNetwork)
	s.open(anna)
	s.guess(anna, policy.DefaultLockoutTries)
	s.denied(elsewhere(anna, Password), maildrop.ReasonNetwork)
	s.lockedOut(anna, policy.DefaultLockoutMinutes*time.Minute)
}

func loginDelay(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.LoginDelaySeconds = 3600 })
	login := func(session, password string) (maildrop.Drop, error) {
		return s.Service.Open(s.Context(), maildrop.Login{Address: anna, Password: password, Remote: remote, Session: session})
	}
	d, err := login("one", Password)
	s.ok(err)
	s.closes(d)
	if got := d.Info().LoginDelay; got != time.Hour {
		s.Errorf("LoginDelay %v", got)
	}
	_, err = login("two", Password)
	s.denied(err, maildrop.ReasonLoginDelay)
	if wait := maildrop.WaitOf(err); wait > time.Hour || wait < 59*time.Minute {
		s.Errorf("%v more", wait)
	}
	_, err = login("two", "wrong")
	s.denied(err, maildrop.ReasonCredentials)
	again, err := login("one", Password) // its answer was lost
	s.ok(err)
	s.closes(again)
	s.ok(d.Check(s.Context()))
	s.change(func(a *policy.Account) { a.LoginDelaySeconds = 0 })
	if got := s.open(anna).Info().LoginDelay; got != 0 {
		s.Errorf("LoginDelay %v", got)
	}
}

func (s *scene) explain(address maildrop.Address, from netip.Addr) maildrop.Explanation {
	s.Helper()
	e, err := s.Service.Explain(s.Context(), maildrop.Question{Address: address, Remote: from})
	s.ok(err)
	return e
}

// explainedAsOpened wants the verdict to be what the right password gets.
func (s *scene) explainedAsOpened(address maildrop.Address) maildrop.Explanation {
	s.Helper()
	e := s.explain(address, remote)
	d, err := s.login(address, Password)
	reason, class := maildrop.ReasonNone, maildrop.ClassNone
	if err == nil {
		class = d.Info().Class
		s.closes(d)
	} else {
		s.fails(err, maildrop.Denied)
		reason = maildrop.ReasonOf(err)
	}
	if e.Reason != reason || e.Class != class || e.Address != address {
		s.Fatalf("explained as %v %q of %s, and it is %v %q", e.Class, e.Reason, e.Address, class, reason)
	}
	i := slices.IndexFunc(e.Findings, func(f maildrop.Finding) bool { return f.Reason != "" })
	if (i < 0) != (reason == "") || i >= 0 && (e.Findings[i].Reason != reason || e.Findings[i].Words == "") {
		s.Fatalf("for %q the findings are %+v", reason, e.Findings)
	}
	return e
}

func explained(s *scene) {
	anna := s.user("anna")
	if e := s.explainedAsOpened(anna); !e.Known || e.Epoch == 0 || e.Node == "" || e.Since.IsZero() || e.Class != maildrop.ClassLocal {
		s.Errorf("%+v", e)
	}
	if e := s.explainedAsOpened(s.address("nobody")); e.Known || e.Reason != maildrop.ReasonCredentials {
		s.Errorf("%+v", e)
	}
	s.explainedAsOpened("anna@unknown-" + maildrop.Address(s.domain))
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessDeny})
	s.explainedAsOpened(anna)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideBlock })
	s.explainedAsOpened(anna)
	s.change(func(a *policy.Account) { a.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} })
	s.explainedAsOpened(anna)
	// Where the user is wasn't said: then it isn't his network.
	if e := s.explain(anna, netip.Addr{}); e.Reason != maildrop.ReasonBlocked {
		s.Errorf("%+v", e)
	}
	s.change(func(a *policy.Account) { a.Networks, a.Override = nil, policy.OverrideAllow })
	s.explainedAsOpened(anna)
	s.guess(anna, policy.DefaultLockoutTries)
	if e := s.explainedAsOpened(anna); e.Wait <= 0 || e.Wait > policy.DefaultLockoutMinutes*time.Minute {
		s.Errorf("%v more", e.Wait)
	}
}

func attempts(s *scene) {
	anna := s.user("anna")
	before := time.Now().Add(-time.Second)
	login := func(session, password, mechanism string, from netip.Addr) {
		d, err := s.Service.Open(s.Context(), maildrop.Login{Address: anna, Password: password, Remote: from, Session: session, Mechanism: mechanism, Language: "de"})
		if err == nil {
			s.ok(d.Close())
		}
	}
	phone := netip.MustParseAddr("2001:db8::7")
	s.message(anna)
	login("a", "wrong", "PLAIN", remote)
	login("b", Password, "USER", phone)
	login("c", "wrong", "PLAIN", remote)
	got := s.explain(anna, remote).Attempts
	if len(got) != 2 {
		s.Fatalf("%d rows: %+v", len(got), got)
	}
	first, second := got[0], got[1]
	if first.Times != 2 || first.Reason != maildrop.ReasonCredentials || first.Remote != remote || first.Mechanism != "PLAIN" || first.Session != "c" || first.Language != "de" {
		s.Errorf("the latest is %+v", first)
	}
	if second.Times != 1 || second.Reason != "" || second.Remote != phone || second.Mechanism != "USER" ||
		second.Class != maildrop.ClassLocal || second.Count != 1 || second.Octets == 0 {
		s.Errorf("the other is %+v", second)
	}
	if first.First.Before(before) || first.First.After(second.Time) || second.Time.After(first.Time) {
		s.Errorf("times: %v to %v, and %v", first.First, first.Time, second.Time)
	}
	if s.TakeOver == nil {
		return
	}
	since := s.explain(anna, remote).Since
	s.TakeOver(s)
	if e := s.explain(anna, remote); len(e.Attempts) > 0 && !e.Since.Equal(since) || e.Since.Before(since) {
		s.Errorf("since %v there are %+v; it was %v", e.Since, e.Attempts, since)
	}
}

// toldAttempts: each reason that a front has comes back as it was told, of an alias at
// its primary address.
func toldAttempts(s *scene) {
	anna := s.user("anna")
	for i, m := range maildrop.Meanings() {
		now := time.Now()
		a := maildrop.Attempt{
			Time: now, First: now.Add(-time.Minute), Times: 2, Remote: remote, Mechanism: "PLAIN", Language: "de",
			Session: fmt.Sprint("told", i), Reason: m.Reason, Wait: time.Minute, Text: "pop.example.com, port 995",
		}
		s.ok(s.Service.Tell(s.Context(), anna, []maildrop.Attempt{a}))
		got := s.explain(anna, remote).Attempts[0]
		if !got.Time.Equal(a.Time) || !got.First.Equal(a.First) {
			s.Errorf("told of %v to %v, remembered is %v to %v", a.First, a.Time, got.First, got.Time)
		}
		got.Time, got.First = a.Time, a.First
		if got != a {
			s.Errorf("told %+v, remembered is %+v", a, got)
		}
	}
	ahead := time.Now().Add(time.Hour)
	s.ok(s.Service.Tell(s.Context(), "nobody@local.example", []maildrop.Attempt{{Time: ahead, First: ahead, Times: 1, Reason: maildrop.ReasonSlowDown}}))
	if got := s.explain("nobody@local.example", remote).Attempts; len(got) != 1 || got[0].Time.After(time.Now()) {
		s.Errorf("of a front whose clock is ahead: %+v", got)
	}
}

func endedHelpdeskContexts(s *scene) {
	anna := s.user("anna")
	_, err := s.Service.Explain(ended(), maildrop.Question{Address: anna})
	s.fails(err, maildrop.Canceled)
	s.fails(s.Service.Tell(ended(), anna, nil), maildrop.Canceled)
	_, err = s.Service.Unlock(ended(), anna)
	s.fails(err, maildrop.Canceled, maildrop.Maybe)
}
