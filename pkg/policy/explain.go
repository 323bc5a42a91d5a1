package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Explain says what [Decide] looks at, in its order, and which of it refuses. The
// words are for who helps the user.
func Explain(account Account, domain Domain, address maildrop.AddressRecord, now time.Time) []maildrop.Finding {
	findings := []maildrop.Finding{
		account.explainState(), account.explainOverride(), account.explainAccess(address), domain.explain(),
		account.explainContinuity(address.Groups, now), account.explainLegacy(now),
	}
	decision := Decide(account, domain, address, now)
	for i := range findings {
		if findings[i].Subject == decidedBy[decision.Reason] {
			findings[i].Reason = decision.Reason
		}
	}
	return findings
}

// The subjects of findings.
const (
	subjectAccount    = "account"
	subjectOverride   = "override"
	subjectAccess     = "access"
	subjectDomain     = "domain"
	subjectContinuity = "continuity"
	subjectLegacy     = "legacy"
)

// decidedBy is whose finding a refusal is.
var decidedBy = map[maildrop.Reason]string{
	maildrop.ReasonDisabled: subjectAccount, maildrop.ReasonBlocked: subjectOverride, maildrop.ReasonAddress: subjectAccess,
	maildrop.ReasonSendOnly: subjectDomain, maildrop.ReasonNoEvent: subjectContinuity, maildrop.ReasonOtherGroup: subjectContinuity,
	maildrop.ReasonLegacyEnded: subjectLegacy, maildrop.ReasonNoPurpose: subjectLegacy,
}

func finding(subject, value, format string, args ...any) maildrop.Finding {
	return maildrop.Finding{Subject: subject, Value: value, Words: fmt.Sprintf(format, args...)}
}

func (a Account) explainState() maildrop.Finding {
	if a.Disabled {
		return finding(subjectAccount, "disabled", "%s is disabled: nobody of it may use POP", a.Name)
	}
	return finding(subjectAccount, "enabled", "%s is enabled", a.Name)
}

func (a Account) explainOverride() maildrop.Finding {
	switch a.Override {
	case OverrideBlock:
		return finding(subjectOverride, string(OverrideBlock), "nobody of the account may use POP")
	case OverrideAllow:
		return finding(subjectOverride, string(OverrideAllow), "an address's deny doesn't count")
	case OverrideNone:
	}
	return finding(subjectOverride, string(OverrideNone), "the rules of the addresses decide")
}

func (a Account) explainAccess(address maildrop.AddressRecord) maildrop.Finding {
	switch {
	case address.Access != maildrop.AccessDeny:
		return finding(subjectAccess, address.Access.String(), "nothing is said against this address")
	case a.Override == OverrideAllow:
		return finding(subjectAccess, "deny", "this address is denied, which the override lifts")
	}
	return finding(subjectAccess, "deny", "this address is denied")
}

func (d Domain) explain() maildrop.Finding {
	words := map[DomainKind]string{
		DomainLocal:    "POP is its users' only mailbox: mail of 60 days, always",
		DomainHosted:   "it has a mail server of its own: POP takes an event or a legacy date",
		DomainSendOnly: "it takes no mail",
	}[d.Kind]
	return finding(subjectDomain, string(d.Kind), "%s: %s", d.Name, words)
}

// explainContinuity is about the events that are on, or the lack of one.
func (a Account) explainContinuity(groups []string, now time.Time) maildrop.Finding {
	active := a.ActiveEvents(now)
	covering := slices.IndexFunc(active, func(e Event) bool { return e.Covers(groups) })
	switch {
	case !a.Continuity:
		return finding(subjectContinuity, "no-package", "the account has no continuity package")
	case covering >= 0:
		return finding(subjectContinuity, "on", "event %s covers this address: mail of 5 days", active[covering].explain())
	case len(active) > 0:
		var all []string
		for _, e := range active {
			all = append(all, e.explain())
		}
		return finding(subjectContinuity, "other-group", "no event covers this address, which is in groups %v; on are: %s", groups, strings.Join(all, ", "))
	}
	return finding(subjectContinuity, "off", "the account has the continuity package, and no event is on%s", a.explainNext(now))
}

func (a Account) explainNext(now time.Time) string {
	var next *Event
	for i, e := range a.Events {
		if e.Start.After(now) && (next == nil || e.Start.Before(next.Start)) {
			next = &a.Events[i]
		}
	}
	if next == nil {
		return ""
	}
	return "; next: " + next.explain()
}

func (e Event) explain() string {
	scope := "for everyone"
	if e.Group != "" {
		scope = "for group " + e.Group
	}
	end := "until it is ended"
	if !e.End.IsZero() {
		end = "until " + e.End.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s (%s, from %s %s)", e.ID, scope, e.Start.UTC().Format(time.RFC3339), end)
}

func (a Account) explainLegacy(now time.Time) maildrop.Finding {
	until := a.LegacyUntil.UTC().Format(time.RFC3339)
	switch {
	case a.LegacyUntil.IsZero():
		return finding(subjectLegacy, "never", "the account has no legacy date")
	case a.LegacyOn(now):
		return finding(subjectLegacy, "on", "fetching goes on until %s, mail of 5 days", until)
	}
	return finding(subjectLegacy, "ended", "fetching has ended at %s", until)
}
