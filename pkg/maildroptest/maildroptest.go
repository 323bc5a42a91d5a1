// Package maildroptest holds every implementation of maildrop.Service to what
// package maildrop promises: a shard, a node, the client of one, a router. It is
// for tests only.
//
//	Run ─▶ start(rules) ─▶ Harness{Service}
//	  │
//	  ├─ sessions    snapshots, listings, octets, removal, resuming
//	  ├─ deliveries  durability, repetition, refusals
//	  ├─ logins      credentials, policy, Check
//	  ├─ proofs      logins by SCRAM
//	  ├─ lockouts    guesses, delays, what is explained of them
//	  └─ registrar   records of addresses
//
// Each test of the suite has a domain and an account of its own, so one
// Service serves all of them and they run side by side.
//
// # Decisions
//
//   - 2026-11-23: the suite writes the rules that the Service reads, so a change
//     of policy is tested end to end and not against a copy of the policy. A
//     Service whose rules travel first must take them from the given policy.Rules.
//   - 2026-11-23: one Service for the whole suite. Refused: one for each test,
//     which costs a cluster's start for each.
//   - 2026-11-23: passwords have cheap, fixed hashes. An unknown user still costs
//     what the Service's verifier makes it cost.
package maildroptest

import (
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// Harness is one Service under test.
type Harness struct {
	Service maildrop.Service
	// ResolvesAliases: Open, Accept and Deliver go to the primary address
	// themselves, as a router does, instead of answering Alias.
	ResolvesAliases bool
	// TakeOver gives the mailboxes a new owner; sessions go on by Resume.
	// nil: there is no such thing.
	TakeOver func(t testing.TB)
}

// Passwords and hashes that a Service's verifier takes like any others, and that
// cost next to nothing.
const (
	Password      = "correct horse battery staple"
	Hash          = "$argon2id$v=19$m=64,t=1,p=1$oMAi9TozW3ImhXO9M7m1IA$NU4VnYEDbZspfY2nTjaHMZAuN+zR9CFyw0Lc5yfjmgs"
	OtherPassword = "another correct horse"
	OtherHash     = "$argon2id$v=19$m=64,t=1,p=1$gcaTizXRYFR85yBjstWFOQ$MwWKqSbJHpT8JGssCaHUpIHuVuuyQynm2qcID0l0orw"
)

// Run holds the Service that start makes to the whole suite. The Service
// decides by the given rules, which the suite changes as it goes; start ends what it
// started with t.Cleanup.
func Run(t *testing.T, start func(t testing.TB, rules policy.Rules) Harness) {
	t.Helper()
	run(t, start, sessions, deliveries, logins, proofs, lockouts, registrar)
}

// RunDeliveries is Run for what has to do with deliveries, where they go another way.
func RunDeliveries(t *testing.T, start func(t testing.TB, rules policy.Rules) Harness) {
	t.Helper()
	run(t, start, deliveries)
}

func run(t *testing.T, start func(t testing.TB, rules policy.Rules) Harness, groups ...[]test) {
	t.Helper()
	rules := NewRules()
	h := start(t, rules)
	for _, group := range groups {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				c.run(newScene(t, h, rules))
			})
		}
	}
}

type test struct {
	name string
	run  func(*scene)
}
