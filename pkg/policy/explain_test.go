package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestExplainEverySituation: what refuses is what Decide refuses for, it is marked
// once, and every finding has words of one line.
func TestExplainEverySituation(t *testing.T) {
	for _, s := range everySituation() {
		decision := Decide(s.account, s.domain, s.address, noon)
		findings := Explain(s.account, s.domain, s.address, noon)
		var refusing []maildrop.Reason
		for _, f := range findings {
			if f.Reason != maildrop.ReasonNone {
				refusing = append(refusing, f.Reason)
			}
			if f.Subject == "" || f.Value == "" || f.Words == "" || strings.ContainsAny(f.Words, "\r\n") {
				t.Fatalf("%v: %+v", s, f)
			}
		}
		want := []maildrop.Reason{decision.Reason}
		if decision.Class != maildrop.ClassNone {
			want = nil
		}
		if !slices.Equal(refusing, want) {
			t.Fatalf("%v: refused for %v, want %v", s, refusing, want)
		}
	}
}

// TestExplainEvents: who helps a user sees which event is on, for whom, or comes next.
func TestExplainEvents(t *testing.T) {
	for name, want := range map[string]string{
		"none": "no event is on", "to come": "next: a (for everyone, from 2026-11-23T12:00:01Z until it is ended)",
		"group": "event a (for group sales, from 2026-11-23T11:00:00Z until it is ended) covers", "other": "in groups [sales]; on are: a (for group board",
	} {
		account := Account{Name: "acme", Continuity: true, Events: events[name]}
		f := Explain(account, Domain{Kind: DomainHosted}, maildrop.AddressRecord{Groups: []string{"sales"}}, noon)
		i := slices.IndexFunc(f, func(f maildrop.Finding) bool { return f.Subject == "continuity" })
		if !strings.Contains(f[i].Words, want) {
			t.Errorf("%s: %q, want %q", name, f[i].Words, want)
		}
	}
}
