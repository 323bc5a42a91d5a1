package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// events are the situations that a mailbox of group "sales" can be in.
var events = map[string][]Event{
	"none":       nil,
	"ended":      {{ID: "a", Start: noon.Add(-2 * time.Hour), End: noon, Zone: "UTC"}},
	"to come":    {{ID: "a", Start: noon.Add(time.Second), Zone: "UTC"}},
	"on":         {{ID: "a", Start: noon, End: noon.Add(time.Second), Zone: "UTC"}},
	"on, open":   {{ID: "a", Start: noon.Add(-time.Hour), Zone: "UTC"}},
	"group":      {{ID: "a", Start: noon.Add(-time.Hour), Zone: "UTC", Group: "sales"}},
	"other":      {{ID: "a", Start: noon.Add(-time.Hour), Zone: "UTC", Group: "board"}},
	"other + on": {{ID: "a", Start: noon.Add(-time.Hour), Zone: "UTC", Group: "board"}, {ID: "b", Start: noon, Zone: "UTC"}},
}

var covering = map[string]bool{"on": true, "on, open": true, "group": true, "other + on": true}

var legacies = map[string]time.Time{
	"never": {}, "past": noon.Add(-time.Nanosecond), "just over": noon, "still on": noon.Add(time.Nanosecond),
}

type situation struct {
	account Account
	domain  Domain
	address maildrop.AddressRecord
	events  string
	legacy  string
}

func (s situation) String() string {
	return fmt.Sprintf("disabled=%t override=%q access=%v kind=%s package=%t events=%q legacy=%q",
		s.account.Disabled, s.account.Override, s.address.Access, s.domain.Kind, s.account.Continuity, s.events, s.legacy)
}

// everySituation is the cross product of all that a decision looks at.
func everySituation() []situation {
	var all []situation
	for _, disabled := range []bool{false, true} {
		for _, override := range []Override{"", OverrideNone, OverrideAllow, OverrideBlock} {
			for _, access := range []maildrop.Access{maildrop.AccessInherit, maildrop.AccessAllow, maildrop.AccessDeny} {
				for _, kind := range []DomainKind{DomainLocal, DomainHosted, DomainSendOnly} {
					for _, continuity := range []bool{false, true} {
						for eventsName, list := range events {
							for legacyName, until := range legacies {
								all = append(all, situation{
									account: Account{Name: "acme", Region: "eu", Disabled: disabled, Override: override,
										Continuity: continuity, Events: list, LegacyUntil: until},
									domain:  Domain{Name: "acme.example", Account: "acme", Kind: kind},
									address: maildrop.AddressRecord{Address: "ann@acme.example", Account: "acme", Access: access, Groups: []string{"it", "sales"}},
									events:  eventsName, legacy: legacyName,
								})
							}
						}
					}
				}
			}
		}
	}
	return all
}

// rule is one line of the table in the package comment.
type rule struct {
	name    string
	matches func(situation) bool
	class   maildrop.Class
	reason  maildrop.Reason
}

var fetching = []rule{
	{"disabled", func(s situation) bool { return s.account.Disabled }, 0, "account-disabled"},
	{"block", func(s situation) bool { return s.account.Override == "block" }, 0, "override-block"},
	{"deny", func(s situation) bool {
		return s.address.Access == maildrop.AccessDeny && s.account.Override != "allow"
	}, 0, "address-denied"},
	{"send-only", func(s situation) bool { return s.domain.Kind == "send-only" }, 0, "send-only"},
	{"local", func(s situation) bool { return s.domain.Kind == "local" }, maildrop.ClassLocal, ""},
	{"event", func(s situation) bool { return s.account.Continuity && covering[s.events] }, maildrop.ClassContinuity, ""},
	{"legacy", func(s situation) bool { return s.legacy == "still on" }, maildrop.ClassContinuity, ""},
	{"other group", func(s situation) bool { return s.account.Continuity && s.events == "other" }, 0, "event-group"},
	{"no event", func(s situation) bool { return s.account.Continuity }, 0, "no-event"},
	{"legacy ended", func(s situation) bool { return s.legacy != "never" }, 0, "legacy-ended"},
	{"nothing", func(situation) bool { return true }, 0, "no-pop"},
}

var keeping = []rule{
	{"disabled", func(s situation) bool { return s.account.Disabled }, 0, "account-disabled"},
	{"send-only", func(s situation) bool { return s.domain.Kind == "send-only" }, 0, "send-only"},
	{"local", func(s situation) bool { return s.domain.Kind == "local" }, maildrop.ClassLocal, ""},
	{"package", func(s situation) bool { return s.account.Continuity }, maildrop.ClassContinuity, ""},
	{"legacy", func(s situation) bool { return s.legacy == "still on" }, maildrop.ClassContinuity, ""},
	{"nothing", func(situation) bool { return true }, 0, "no-pop"},
}

func TestEverySituation(t *testing.T) {
	for name, question := range map[string]struct {
		ask   func(Account, Domain, maildrop.AddressRecord, time.Time) Decision
		rules []rule
	}{"fetching": {Decide, fetching}, "keeping": {Keep, keeping}} {
		hits := make(map[string]int)
		for _, s := range everySituation() {
			got := question.ask(s.account, s.domain, s.address, noon)
			for _, r := range question.rules {
				if !r.matches(s) {
					continue
				}
				hits[r.name]++
				if got.Class != r.class || got.Reason != r.reason {
					t.Fatalf("%s, %v: got %v %q, want %v %q", name, s, got.Class, got.Reason, r.class, r.reason)
				}
				break
			}
			checkWords(t, got)
		}
		for _, r := range question.rules {
			if hits[r.name] == 0 {
				t.Errorf("%s: no situation reaches the rule %q", name, r.name)
			}
		}
	}
}

func checkWords(t *testing.T, d Decision) {
	t.Helper()
	if (d.Class == maildrop.ClassNone) != (d.Reason != maildrop.ReasonNone) || (d.Text == "") != (d.Reason == maildrop.ReasonNone) {
		t.Fatalf("class, reason and text contradict each other: %+v", d)
	}
	if len(d.Text) > MaxText {
		t.Fatalf("%d octets: %s", len(d.Text), d.Text)
	}
	for i := range len(d.Text) {
		if d.Text[i] < 0x20 || d.Text[i] > 0x7E {
			t.Fatalf("not ASCII on one line: %q", d.Text)
		}
	}
}

// TestWordsTellWhatIsOn: with an event on for others, "no event is on" would
// send the user's administrator looking in the wrong place.
func TestWordsTellWhatIsOn(t *testing.T) {
	account := Account{Continuity: true, Events: events["other"]}
	got := Decide(account, Domain{Kind: DomainHosted}, maildrop.AddressRecord{}, noon)
	if got.Reason != maildrop.ReasonOtherGroup || !strings.Contains(got.Text, "does not cover this mailbox") {
		t.Fatalf("got %+v", got)
	}
}

// TestRelations holds what must be true between situations, whatever they are.
func TestRelations(t *testing.T) {
	all := everySituation()
	rapid.Check(t, func(t *rapid.T) {
		s := all[rapid.IntRange(0, len(all)-1).Draw(t, "situation")]
		now := noon.Add(time.Duration(rapid.Int64Range(-int64(3*time.Hour), int64(3*time.Hour)).Draw(t, "offset")))
		decide := func(change func(*situation)) Decision {
			other := s
			change(&other)
			return Decide(other.account, other.domain, other.address, now)
		}
		allow := decide(func(s *situation) { s.account.Override = OverrideAllow })
		entitled := decide(func(s *situation) {
			s.account.Override, s.address.Access = OverrideNone, maildrop.AccessInherit
		})
		if allow != entitled {
			t.Fatalf("%v: override allow says %+v, the bare entitlement %+v", s, allow, entitled)
		}
		if said := decide(func(s *situation) { s.account.Override, s.address.Access = OverrideNone, maildrop.AccessAllow }); said != entitled {
			t.Fatalf("%v: an address's allow says %+v, the bare entitlement %+v", s, said, entitled)
		}
		block := decide(func(s *situation) { s.account.Override, s.account.Disabled = OverrideBlock, false })
		if block.Reason != maildrop.ReasonBlocked {
			t.Fatalf("%v: block says %+v", s, block)
		}
		if disabled := decide(func(s *situation) { s.account.Disabled = true }); disabled.Reason != maildrop.ReasonDisabled {
			t.Fatalf("%v: disabled says %+v", s, disabled)
		}
		if got := Decide(s.account, s.domain, s.address, now); got.Class != maildrop.ClassNone {
			if kept := Keep(s.account, s.domain, s.address, now); kept != got {
				t.Fatalf("%v: can be fetched as %+v and is kept as %+v", s, got, kept)
			}
		}
	})
}

func TestPermitted(t *testing.T) {
	for _, c := range []struct {
		networks string
		remote   string
		want     bool
	}{
		{"", "192.0.2.1", true},
		{"", "", true},
		{"192.0.2.0/24", "192.0.2.255", true},
		{"192.0.2.0/24", "192.0.3.0", false},
		{"192.0.2.0/24", "::ffff:192.0.2.9", true},
		{"::ffff:192.0.2.0/120", "192.0.2.9", true},
		{"::ffff:192.0.2.0/120", "::ffff:192.0.2.9", true},
		{"::ffff:192.0.2.0/120", "192.0.3.9", false},
		{"2001:db8::/32", "2001:db8::1", true},
		{"2001:db8::/32", "2001:db8::1%eth0", true},
		{"2001:db8::/32", "2001:db9::1", false},
		{"::/0", "192.0.2.1", false},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"192.0.2.0/24", "", false},
		{"0.0.0.0/0", "", false},
		{"::/0", "", false},
	} {
		var account Account
		if c.networks != "" {
			account.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix(c.networks)}
		}
		var remote netip.Addr
		if c.remote != "" {
			remote = netip.MustParseAddr(c.remote)
		}
		if got := Permitted(account, remote); got != c.want {
			t.Errorf("%s in %s: got %t, want %t", c.remote, c.networks, got, c.want)
		}
	}
}
