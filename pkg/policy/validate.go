package policy

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits on what an account may hold. Together they keep a record well under
// etcd's limit on a request (1.5 MiB).
const (
	MaxName     = 63  // octets of an account's, region's, event's or group's name
	MaxNetworks = 256 // permitted networks of an account
	MaxEvents   = 128 // continuity events of an account, past ones included
	MaxNote     = 200 // octets of an event's note
	MaxZone     = 64  // octets of a time zone's name
	MaxGroups   = 32  // groups that one address is in

	MinLockoutTries   = 3       // fewer, and a typing error locks out
	MaxLockoutTries   = 100     // the owner of a shard remembers as many for each address
	MaxLockoutMinutes = 24 * 60 //
	MaxLoginDelay     = 3600    // seconds
)

// CheckName says whether a name has the form that accounts, regions, events and
// groups share: 1 to 63 of a-z, 0-9 and "-", which neither begins nor ends it
// (a leading one would read as a flag). what names the thing in the error.
func CheckName(what, name string) error {
	bad := len(name) < 1 || len(name) > MaxName || name[0] == '-' || name[len(name)-1] == '-'
	for i := range len(name) {
		c := name[i]
		bad = bad || (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}
	if bad {
		return fmt.Errorf("%s %s: expected 1 to %d of a-z, 0-9 and \"-\" in between", what, quote(name), MaxName)
	}
	return nil
}

// quote makes a name that failed a check fit to be shown: bounded, one line.
func quote(name string) string {
	if len(name) > MaxName {
		return fmt.Sprintf("%+q...", name[:MaxName])
	}
	return fmt.Sprintf("%+q", name)
}

// Validate reports everything that is wrong with the account, or nil.
func (a Account) Validate() error {
	errs := []error{CheckName("account", a.Name), CheckName("region", a.Region), a.Override.Validate()}
	if len(a.Networks) > MaxNetworks {
		errs = append(errs, fmt.Errorf("%d networks: at most %d", len(a.Networks), MaxNetworks))
	}
	for i, network := range a.Networks {
		errs = append(errs, checkNetwork(i, network))
	}
	if len(a.Events) > MaxEvents {
		errs = append(errs, fmt.Errorf("%d continuity events: at most %d", len(a.Events), MaxEvents))
	}
	errs = append(errs, checkSetting("lockout_tries", a.LockoutTries, MinLockoutTries, MaxLockoutTries),
		checkSetting("lockout_minutes", a.LockoutMinutes, 1, MaxLockoutMinutes),
		checkSetting("login_delay_seconds", a.LoginDelaySeconds, 1, MaxLoginDelay), a.checkMoving())
	seen := make(map[string]bool, len(a.Events))
	for _, e := range a.Events {
		errs = append(errs, e.Validate())
		if seen[e.ID] {
			errs = append(errs, fmt.Errorf("event %s: there are two of that id", quote(e.ID)))
		}
		seen[e.ID] = true
	}
	return errors.Join(errs...)
}

// checkSetting takes a number between two others, or 0 for the default.
func checkSetting(what string, n, least, most int) error {
	if n != 0 && (n < least || n > most) {
		return fmt.Errorf("%s %d: expected %d to %d, or 0 for the default", what, n, least, most)
	}
	return nil
}

// checkMoving holds the home region against the move that is under way.
func (a Account) checkMoving() error {
	m := a.Moving
	if m == (Moving{}) {
		return nil
	}
	home := m.From
	if m.Phase == MovePurging {
		home = m.To
	}
	switch {
	case MoveStep(MoveNone, m.Phase), MoveStep(MoveCopying, m.Phase), MoveStep(MoveSealed, m.Phase), MoveStep(MoveOpening, m.Phase):
	default:
		return fmt.Errorf("a move in phase %s: there is no such phase", quote(string(m.Phase)))
	}
	if a.Moves == 0 || m.From == m.To || home != a.Region || len(m.By) > maxMover {
		return fmt.Errorf("a move from %s to %s in phase %s doesn't fit an account whose home is %s", quote(m.From), quote(m.To), m.Phase, quote(a.Region))
	}
	return errors.Join(CheckName("region", m.From), CheckName("region", m.To))
}

// maxMover is the longest identity of an operator, in octets.
const maxMover = 255

func checkNetwork(i int, network netip.Prefix) error {
	switch {
	case !network.IsValid():
		return fmt.Errorf("network %d: expected an address and a prefix length such as 192.0.2.0/24", i+1)
	case network != network.Masked():
		return fmt.Errorf("network %s has bits behind its prefix: did you mean %s?", network, network.Masked())
	}
	return nil
}

// Validate reports whether the override is one of ours; empty means none.
func (o Override) Validate() error {
	switch o {
	case "", OverrideNone, OverrideAllow, OverrideBlock:
		return nil
	}
	return fmt.Errorf("override %s: expected none, allow or block", quote(string(o)))
}

// Validate reports whether the kind is one of ours.
func (k DomainKind) Validate() error {
	switch k {
	case DomainLocal, DomainHosted, DomainSendOnly:
		return nil
	}
	return fmt.Errorf("kind %s: expected local, hosted or send-only", quote(string(k)))
}

// Validate reports everything that is wrong with the domain, or nil.
func (d Domain) Validate() error {
	var nameErr error
	if canonical, err := maildrop.ParseDomain(d.Name); err != nil {
		nameErr = fmt.Errorf("domain %s: %w", quote(d.Name), err)
	} else if canonical != d.Name {
		nameErr = fmt.Errorf("domain %s is written %s", quote(d.Name), canonical)
	}
	return errors.Join(nameErr, CheckName("account", d.Account), d.Kind.Validate())
}

// Validate reports everything that is wrong with the event, or nil. It doesn't
// ask whether the zone exists: see the package's decisions.
func (e Event) Validate() error {
	errs := []error{CheckName("event", e.ID)}
	if e.Start.IsZero() {
		errs = append(errs, fmt.Errorf("event %s has no start", quote(e.ID)))
	}
	if !e.End.IsZero() && !e.End.After(e.Start) {
		errs = append(errs, fmt.Errorf("event %s: its end must come after its start", quote(e.ID)))
	}
	if e.Zone == "" || len(e.Zone) > MaxZone || !printable(e.Zone) {
		errs = append(errs, fmt.Errorf("event %s: zone %s: expected a name such as Europe/London or UTC", quote(e.ID), quote(e.Zone)))
	}
	if e.Group != "" {
		errs = append(errs, CheckName("group", e.Group))
	}
	if len(e.Note) > MaxNote || !oneLine(e.Note) {
		errs = append(errs, fmt.Errorf("event %s: the note must be one line of at most %d octets", quote(e.ID), MaxNote))
	}
	return errors.Join(errs...)
}
