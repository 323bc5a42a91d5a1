package shard

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// Explain says what Open would say to the right password.
func (s *Shard) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	const op = "shard.explain"
	if err := s.owned(ctx, op); err != nil {
		return maildrop.Explanation{}, err
	}
	if err := s.confirm(ctx, op); err != nil {
		return maildrop.Explanation{}, err
	}
	if err := s.here(op, q.Address); err != nil {
		return maildrop.Explanation{}, err
	}
	r, _ := s.record(q.Address)
	if primary := r.primary(); primary != "" {
		return maildrop.Explanation{}, &maildrop.Error{Op: op, Kind: maildrop.Alias, Primary: primary}
	}
	e := s.explain(q, time.Now())
	e.Node, e.Shard, e.Epoch, e.Since = s.config.Node, s.config.Number, s.Epoch(), s.born
	e.Attempts = s.journal.Of(q.Address)
	return e, nil
}

// explain finds what a login asks for, in the same order.
func (s *Shard) explain(q maildrop.Question, now time.Time) maildrop.Explanation {
	e := maildrop.Explanation{Address: q.Address}
	r, exists := s.record(q.Address)
	domain, account, served := s.config.Rules.Domain(q.Address.Domain())
	e.Known = exists && served && account.Name == r.account()
	rules := guardRules(account)
	standing := s.guard.Standing(q.Address, rules, now)

	e.Findings = append(e.Findings, explainNetworks(account, q.Remote),
		explainLockout(account, standing.Wrong, standing.Lockout), explainAddress(q.Address, r, exists, served, e.Known))
	if e.Known {
		e.Findings = append(e.Findings, policy.Explain(account, domain, r.full(q.Address), now)...)
		e.Class = policy.Decide(account, domain, r.full(q.Address), now).Class
	}
	e.Findings = append(e.Findings, explainDelay(account, standing.Delay))
	s.conclude(&e, standing.Lockout, standing.Delay)
	return e
}

// conclude takes the verdict from the first finding that refuses.
func (s *Shard) conclude(e *maildrop.Explanation, lockout, delay time.Duration) {
	for _, f := range e.Findings {
		if f.Reason == maildrop.ReasonNone {
			continue
		}
		e.Class, e.Reason = maildrop.ClassNone, f.Reason
		switch f.Reason {
		case maildrop.ReasonLockout:
			e.Wait = lockout
		case maildrop.ReasonLoginDelay:
			e.Wait = delay
		}
		return
	}
}

func explainNetworks(account policy.Account, remote netip.Addr) maildrop.Finding {
	f := maildrop.Finding{Subject: "networks", Value: "any", Words: "the account permits every network"}
	if len(account.Networks) == 0 {
		return f
	}
	f.Value = "permitted"
	switch {
	case !remote.IsValid():
		f.Value, f.Words = "not-asked", fmt.Sprintf("permitted are %v; where the user is wasn't said", account.Networks)
	case policy.Permitted(account, remote):
		f.Words = fmt.Sprintf("%s is in %v", remote, account.Networks)
	default:
		f.Value, f.Reason = "outside", maildrop.ReasonNetwork
		f.Words = fmt.Sprintf("%s is in none of %v", remote, account.Networks)
	}
	return f
}

func explainLockout(account policy.Account, wrong int, left time.Duration) maildrop.Finding {
	tries, window := account.Lockout()
	f := maildrop.Finding{Subject: "lockout", Value: "none"}
	f.Words = fmt.Sprintf("%d of %s in the last %s", wrong, maildrop.Counted(tries, "wrong password"), strings.TrimPrefix(maildrop.Counted(int(window.Minutes()), "minute"), "1 "))
	if left > 0 {
		f.Value, f.Reason = "locked-out", maildrop.ReasonLockout
		f.Words = fmt.Sprintf("locked out after %s, for %s more", maildrop.Counted(tries, "wrong password"), left.Round(time.Second))
	}
	return f
}

// explainAddress says what the client never hears.
func explainAddress(address maildrop.Address, r record, exists, served, known bool) maildrop.Finding {
	f := maildrop.Finding{Subject: "address", Value: "unknown", Reason: maildrop.ReasonCredentials}
	switch {
	case !served:
		f.Words = address.Domain() + " isn't a domain of ours"
	case !exists:
		f.Words = "there is no such address"
	case !known:
		f.Words = fmt.Sprintf("account %s made it, whose domain %s isn't any more", r.account(), address.Domain())
	case r.credential().empty():
		f.Value, f.Words = "no-password", "it has no password"
	default:
		f.Value, f.Words, f.Reason = "known", "it is known, changed last at "+r.full(address).Changed.Format(time.RFC3339), ""
		if _, ok := r.keys(); !ok {
			f.Words += "; it has no keys for SCRAM, by which its user is refused until his password is set anew"
		}
	}
	return f
}

func explainDelay(account policy.Account, left time.Duration) maildrop.Finding {
	f := maildrop.Finding{Subject: "login-delay", Value: "none", Words: "the account lets its users log in as often as they like"}
	if delay := account.LoginDelay(); delay > 0 {
		f.Value, f.Words = "passed", fmt.Sprintf("one login in %s", delay)
		if left > 0 {
			f.Value, f.Reason = "too-early", maildrop.ReasonLoginDelay
			f.Words = fmt.Sprintf("one login in %s, and the last one is too recent for %s more", delay, left.Round(time.Second))
		}
	}
	return f
}
