package shard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
)

// drawAccount draws all that an administrator can say of an account.
func drawAccount(t *rapid.T, now time.Time) policy.Account {
	a := policy.Account{
		Name: "customer", Region: "eu", Disabled: rapid.IntRange(0, 9).Draw(t, "disabled") == 0,
		Override:   rapid.SampledFrom([]policy.Override{"", policy.OverrideNone, policy.OverrideAllow, policy.OverrideBlock}).Draw(t, "override"),
		Continuity: rapid.Bool().Draw(t, "package"),
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "events") {
		start := now.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, "start")) * time.Hour)
		e := policy.Event{ID: fmt.Sprint("e", i), Start: start, Zone: "UTC", Group: rapid.SampledFrom([]string{"", "sales", "board"}).Draw(t, "group")}
		if rapid.Bool().Draw(t, "ends") {
			e.End = start.Add(time.Duration(rapid.IntRange(1, 96).Draw(t, "hours")) * time.Hour)
		}
		a.Events = append(a.Events, e)
	}
	if rapid.Bool().Draw(t, "legacy") {
		a.LegacyUntil = now.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, "until")) * time.Hour)
	}
	if rapid.IntRange(0, 2).Draw(t, "restricted") == 0 {
		a.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/32")}
	}
	if rapid.IntRange(0, 3).Draw(t, "delays") == 0 {
		a.LoginDelaySeconds = 3600
	}
	a.LockoutTries = rapid.SampledFrom([]int{0, 3, 9}).Draw(t, "tries")
	return a
}

// TestExplainSaysWhatOpenDoes: over all rules, events, networks, lock-outs and
// delays the verdict is what a login with the right password comes to.
func TestExplainSaysWhatOpenDoes(t *testing.T) {
	config := testConfig(blobtest.NewMemory())
	rules := maildroptest.NewRules()
	config.Rules = rules
	s := open(t, config)
	serial, verdicts := 0, map[maildrop.Reason]int{}
	check := func(rt *rapid.T) {
		serial++
		account := drawAccount(rt, time.Now())
		rules.PutAccount(account)
		kind := rapid.SampledFrom([]policy.DomainKind{policy.DomainLocal, policy.DomainHosted, policy.DomainHosted, policy.DomainSendOnly}).Draw(rt, "kind")
		rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: kind})
		address := maildrop.Address(fmt.Sprintf("user%d@%s", serial, rapid.SampledFrom([]string{"local.example", "local.example", "local.example", "elsewhere.example"}).Draw(rt, "domain")))
		if rapid.IntRange(0, 9).Draw(rt, "exists") > 0 {
			ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{
				Address: address, Account: rapid.SampledFrom([]string{"customer", "customer", "customer", "customer", "former"}).Draw(rt, "account"),
				Hash:   rapid.SampledFrom([]string{plainHash(password), plainHash(password), plainHash(password), ""}).Draw(rt, "hash"),
				Access: rapid.SampledFrom([]maildrop.Access{maildrop.AccessInherit, maildrop.AccessAllow, maildrop.AccessDeny}).Draw(rt, "access"),
				Groups: rapid.SampledFrom([][]string{nil, {"sales"}, {"it", "sales"}}).Draw(rt, "groups"),
			}))
		}
		remote := netip.MustParseAddr(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.200", "2001:db8::1", "::ffff:192.0.2.1"}).Draw(rt, "remote"))
		login := func(session, password string) (maildrop.Drop, error) {
			return s.Open(t.Context(), maildrop.Login{Address: address, Password: password, Remote: remote, Session: session, Mechanism: "USER"})
		}
		for i := range rapid.SampledFrom([]int{0, 0, 0, 1, 3, 6}).Draw(rt, "guesses") {
			_, err := login("guess", fmt.Sprint(i))
			wants(t, err, maildrop.Denied)
		}
		for round := range 2 { // the second one may be too early
			e, err := s.Explain(t.Context(), maildrop.Question{Address: address, Remote: remote})
			ok(t, err)
			d, err := login(fmt.Sprint("session", round), password)
			class, reason := maildrop.ClassNone, maildrop.ReasonOf(err)
			if err == nil {
				class = d.Info().Class
			}
			if e.Class != class || e.Reason != reason || reason != "" && !nearly(e.Wait, maildrop.WaitOf(err)) {
				rt.Fatalf("explained as %v %q %v, and it is %v %v: %+v", e.Class, e.Reason, e.Wait, class, err, e.Findings)
			}
			first := slices.IndexFunc(e.Findings, func(f maildrop.Finding) bool { return f.Reason != "" })
			if (first >= 0) != (reason != "") || first >= 0 && e.Findings[first].Reason != reason {
				rt.Fatalf("%q: %+v", reason, e.Findings)
			}
			if after := s.journal.Of(address); len(after) == 0 || after[0].Reason != reason || after[0].Class != class {
				rt.Fatalf("%q is remembered as %+v", reason, after)
			}
			verdicts[reason]++
		}
	}
	missing := func() []maildrop.Reason {
		return slices.DeleteFunc([]maildrop.Reason{"", "network", "lockout", "credentials", "login-delay", "override-block", "no-event", "send-only"},
			func(reason maildrop.Reason) bool { return verdicts[reason] > 0 })
	}
	// Some verdicts are rare: chance alone says when each has come up.
	for round := 0; round < 10 || round < 1000 && len(missing()) > 0; round++ {
		rapid.Check(t, check)
	}
	if never := missing(); len(never) > 0 {
		t.Errorf("%q never came up: %v", never, verdicts)
	}
}

func nearly(a, b time.Duration) bool { return (a - b).Abs() < time.Minute }

// TestExplainLockout: an account with a window of one minute reads as one.
func TestExplainLockout(t *testing.T) {
	a := policy.Account{LockoutTries: 3, LockoutMinutes: 1}
	if got := explainLockout(a, 1, 0).Words; got != "1 of 3 wrong passwords in the last minute" {
		t.Error(got)
	}
	if got := explainLockout(a, 3, 40*time.Second).Words; got != "locked out after 3 wrong passwords, for 40s more" {
		t.Error(got)
	}
}
