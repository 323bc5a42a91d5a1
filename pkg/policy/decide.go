package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// The words that gateways see: why, and what to do. Those that users see are
// maildrop's, by the reason.
const (
	textKeepDisabled  = "the account of this domain is disabled and takes no mail"
	textKeepSendOnly  = "this domain only sends mail and takes none"
	textKeepNoPurpose = "nothing entitles this domain to POP, so no mail is kept for it"
)

// MaxText is the longest text of a [Decision] in octets.
const MaxText = maildrop.MaxWords

// refuse refuses a user.
func refuse(reason maildrop.Reason) Decision {
	return Decision{Reason: reason, Text: reason.Words()}
}

// keepNot refuses mail.
func keepNot(reason maildrop.Reason, text string) Decision {
	return Decision{Reason: reason, Text: text}
}

// Decide says whether the mailbox may be fetched by POP at the given instant,
// and as what. The address is the primary one: aliases have no rules of their
// own.
func Decide(account Account, domain Domain, address maildrop.AddressRecord, now time.Time) Decision {
	switch {
	case account.Disabled:
		return refuse(maildrop.ReasonDisabled)
	case account.Override == OverrideBlock:
		return refuse(maildrop.ReasonBlocked)
	case address.Access == maildrop.AccessDeny && account.Override != OverrideAllow:
		return refuse(maildrop.ReasonAddress)
	case domain.Kind == DomainSendOnly:
		return refuse(maildrop.ReasonSendOnly)
	case domain.Kind == DomainLocal:
		return Decision{Class: maildrop.ClassLocal}
	case account.Continuity && account.covered(address.Groups, now):
		return Decision{Class: maildrop.ClassContinuity}
	case account.LegacyOn(now):
		return Decision{Class: maildrop.ClassContinuity}
	}
	return account.unentitled(now)
}

// unentitled explains why a mailbox of the customer's own mail server cannot be
// fetched now.
func (a Account) unentitled(now time.Time) Decision {
	switch {
	case a.Continuity && len(a.ActiveEvents(now)) > 0:
		return refuse(maildrop.ReasonOtherGroup)
	case a.Continuity:
		return refuse(maildrop.ReasonNoEvent)
	case !a.LegacyUntil.IsZero():
		return refuse(maildrop.ReasonLegacyEnded)
	}
	return refuse(maildrop.ReasonNoPurpose)
}

// Keep says whether mail for the address is taken at the given instant, and how
// long it is kept. Continuity mail is taken all the time, so that an event that
// starts now shows the last days at once. Nothing about the address itself
// matters today; it is asked for because delivery is to an address.
func Keep(account Account, domain Domain, _ maildrop.AddressRecord, now time.Time) Decision {
	switch {
	case account.Disabled:
		return keepNot(maildrop.ReasonDisabled, textKeepDisabled)
	case domain.Kind == DomainSendOnly:
		return keepNot(maildrop.ReasonSendOnly, textKeepSendOnly)
	case domain.Kind == DomainLocal:
		return Decision{Class: maildrop.ClassLocal}
	case account.Continuity, account.LegacyOn(now):
		return Decision{Class: maildrop.ClassContinuity}
	}
	return keepNot(maildrop.ReasonNoPurpose, textKeepNoPurpose)
}

// Permitted reports whether the account's users may log in from the address. An
// account without networks permits every address; one with networks permits no
// unknown (zero) address. An IPv4 address in IPv6 form is the IPv4 address.
func Permitted(account Account, remote netip.Addr) bool {
	if len(account.Networks) == 0 {
		return true
	}
	remote = remote.Unmap().WithZone("")
	return slices.ContainsFunc(account.Networks, func(network netip.Prefix) bool {
		return unmap(network).Contains(remote)
	})
}

// unmap brings a network of IPv4 addresses in IPv6 form (RFC 4291 section
// 2.5.5.2) into IPv4 form.
func unmap(network netip.Prefix) netip.Prefix {
	if network.Addr().Is4In6() && network.Bits() >= 96 {
		return netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network
}

// LegacyOn reports whether fetching that is a leftover of the past is still on.
func (a Account) LegacyOn(now time.Time) bool { return now.Before(a.LegacyUntil) }

// covered reports whether an event is on for an address of the given groups.
func (a Account) covered(groups []string, now time.Time) bool {
	return slices.ContainsFunc(a.Events, func(e Event) bool { return e.Active(now) && e.Covers(groups) })
}

// ActiveEvents are the events that are on at the given instant.
func (a Account) ActiveEvents(now time.Time) []Event {
	var active []Event
	for _, e := range a.Events {
		if e.Active(now) {
			active = append(active, e)
		}
	}
	return active
}

// Active reports whether the event is on: from Start, up to but not including
// End.
func (e Event) Active(now time.Time) bool { return !now.Before(e.Start) && !e.Ended(now) }

// Ended reports whether the event is over.
func (e Event) Ended(now time.Time) bool { return !e.End.IsZero() && !now.Before(e.End) }

// Covers reports whether an address of the given groups is in the event's scope.
func (e Event) Covers(groups []string) bool {
	return e.Group == "" || slices.Contains(groups, e.Group)
}
