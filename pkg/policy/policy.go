// Package policy decides who may fetch mail by POP, and which mail is kept for
// whom. It is pure: no clock, no I/O; the same question always has the same
// answer, so an administrator can be told in advance what a user will see.
//
// [Decide] is asked at login, the first match wins:
//
//	account disabled          refused   account-disabled
//	override block            refused   override-block
//	address deny              refused   address-denied (not when the override is allow)
//	send-only domain          refused   send-only
//	local domain              60 days
//	active continuity event    5 days   (with the continuity package, and in its scope)
//	legacy date not past       5 days
//	otherwise                 refused   no-event, event-group, legacy-ended or no-pop
//
// [Keep] is asked at delivery. [Permitted] is asked before either, of the
// client's network. [Explain] says in words what Decide looks at.
//
// # Decisions
//
//   - 2026-11-23: policy uses the nouns of package maildrop (Class, Reason,
//     AddressRecord) instead of twins of its own. Refused: importing nothing,
//     which would put the same enumeration into two packages and a conversion
//     into a third.
//   - 2026-11-23: fetching and keeping are two questions with one entitlement
//     behind them. The override, an address's rule and the permitted networks
//     are about fetching only; a message that came while the administrator had
//     fetching blocked is there when he lifts the block.
//   - 2026-11-23: a local time that a change of clocks skips or repeats is an
//     error that names the instants it could mean. Refused: to pick one, as
//     time.Date does, which starts an event an hour off in the one night that
//     nobody checks.
//   - 2026-11-23: validation asks of an event's zone only that it looks like a
//     name. Refused: to load it, for then a record that one machine wrote could be
//     garbage to another with older zone data. Zones are loaded where times are
//     read from people.
package policy

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Override is the account-wide switch, the POP Services Override.
type Override string

// What the override can be.
const (
	OverrideNone  Override = "none"  // the rules of the addresses decide
	OverrideAllow Override = "allow" // lifts each address's deny, and grants nothing else
	OverrideBlock Override = "block" // nobody of the account may use POP
)

// Account is one customer.
type Account struct {
	Name     string   `json:"name"`
	Region   string   `json:"region"` // home region
	Disabled bool     `json:"disabled,omitempty"`
	Override Override `json:"override,omitempty"` // empty means none
	// Continuity says that the customer has the continuity package: mail for its
	// domains is kept 5 days all the time, and can be fetched during an event.
	Continuity bool `json:"continuity,omitempty"`
	// LegacyUntil ends fetching that is a leftover of the past; zero: never had it.
	LegacyUntil time.Time `json:"legacy_until,omitzero"`
	// Networks are where the account's users may log in from; empty: anywhere.
	Networks []netip.Prefix `json:"networks,omitempty"`
	// Events are the account's continuity events, past ones included.
	Events []Event `json:"events,omitempty"`
	// LockoutTries is how many different wrong passwords within LockoutMinutes lock an
	// address out, for as many minutes; 0: DefaultLockoutTries, DefaultLockoutMinutes.
	LockoutTries   int `json:"lockout_tries,omitempty"`
	LockoutMinutes int `json:"lockout_minutes,omitempty"`
	// LoginDelaySeconds is the least time between two logins of one user (RFC 2449
	// section 6.5); 0: none.
	LoginDelaySeconds int `json:"login_delay_seconds,omitempty"`
	// Moves counts the account's moves between regions; it is the number of the latest.
	Moves uint64 `json:"moves,omitempty"`
	// Moving is the move that is under way; zero: none is.
	Moving Moving `json:"moving,omitzero"`
}

// Moving is a move of an account to another region, and how far it has come.
type Moving struct {
	From  string    `json:"from"`
	To    string    `json:"to"`
	Phase MovePhase `json:"phase"`
	Since time.Time `json:"since"`
	By    string    `json:"by"` // who began it
}

// MovePhase is how far a move has come. Each begins with this word in the account's
// record, and what it allows is done after that.
type MovePhase string

// The phases, in their order. A move can be given up in the first two.
const (
	MoveNone     MovePhase = ""         // no move is under way
	MoveCopying  MovePhase = "copying"  // served from where it is, while it is copied
	MoveSealed   MovePhase = "sealed"   // nobody is served: the last difference is copied
	MoveOpening  MovePhase = "opening"  // all is copied: the other region gets ready
	MovePurging  MovePhase = "purging"  // served from the other region; removed from this one
	MoveAborting MovePhase = "aborting" // given up: what was copied is removed
)

// MoveStep reports whether a phase may follow another one.
func MoveStep(from, to MovePhase) bool {
	switch from {
	case MoveNone:
		return to == MoveCopying
	case MoveCopying:
		return to == MoveSealed || to == MoveAborting
	case MoveSealed:
		return to == MoveOpening || to == MoveAborting
	case MoveOpening:
		return to == MovePurging
	case MovePurging, MoveAborting:
		return to == MoveNone
	}
	return false
}

// When an address is locked out, unless its account says otherwise.
const (
	DefaultLockoutTries   = 5
	DefaultLockoutMinutes = 15
)

// Lockout is when an address of the account is locked out, and for how long. What
// the account doesn't say is the default: also for the account of nobody.
func (a Account) Lockout() (tries int, window time.Duration) {
	minutes := cmp.Or(a.LockoutMinutes, DefaultLockoutMinutes)
	return cmp.Or(a.LockoutTries, DefaultLockoutTries), time.Duration(minutes) * time.Minute
}

// LoginDelay is the least time between two logins of one user; 0: none.
func (a Account) LoginDelay() time.Duration {
	return time.Duration(a.LoginDelaySeconds) * time.Second
}

// Event is one continuity event: from Start, up to but not including End.
type Event struct {
	ID    string    `json:"id"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`             // zero: until it is ended
	Zone  string    `json:"zone"`            // IANA name that the administrator's times were given in; for display
	Group string    `json:"group,omitempty"` // empty: everyone
	Note  string    `json:"note,omitempty"`
}

// DomainKind is what a domain is to the customer.
type DomainKind string

// What a domain can be.
const (
	DomainLocal    DomainKind = "local"     // POP is its users' only mailbox
	DomainHosted   DomainKind = "hosted"    // has a mail server of the customer's own
	DomainSendOnly DomainKind = "send-only" // takes no mail at all
)

// Domain is one of an account's domains.
type Domain struct {
	Name    string     `json:"name"`
	Account string     `json:"account"`
	Kind    DomainKind `json:"kind"`
}

// Decision is an answer: a class, or a refusal when Class is ClassNone.
type Decision struct {
	Class  maildrop.Class
	Reason maildrop.Reason // why not; ReasonNone with a class
	Text   string          // the same in words for the user: ASCII, one line, at most 200 octets
}

// Rules answers which account a domain belongs to. directory.View is one.
type Rules interface {
	// Domain returns the domain and its account; ok is false for a domain that
	// isn't ours.
	Domain(name string) (domain Domain, account Account, ok bool)
}
