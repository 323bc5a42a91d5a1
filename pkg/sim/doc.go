// Package sim is a region's mailbox shard in a world that means it harm: thousands of
// seeded runs of the real Shard over the real ledger, and a checker that holds
// the invariants. It has tests only.
//
//	gateways ─┐                    ┌─ owner a1 ─ door ─┐
//	users ────┼─▶ route (stale at ─┼─ owner b1 ─ door ─┼─▶ one store
//	          │    times)          └─ owner a2 ─ door ─┘
//	          └──▶ checker ◀── what was acknowledged, listed, read
//	director ────▶ crash, sleep, cut-off, full store, usurpers, races, idle hours
//
// # What a run does
//
//   - Each run is a bubble of fake time (testing/synctest): hours cost nothing.
//   - Owners come and go: one is usurped while it thinks that it owns the shard,
//     two race for it, one crashes at its k-th call of the store (ahead of the effect,
//     behind it, or with the effect hours later), one sleeps between deciding and
//     writing, one is cut off from the store, one hands over in good order.
//   - The store does what package blob allows and nothing else: errors ahead of
//     the effect and behind it, lost answers, creates that land hours later, no
//     room, lists that show only some of what was written meanwhile.
//   - Gateways repeat a delivery until it is acknowledged, and at times once
//     more. Users open sessions, list, read in parts, remove, and go on with all of it
//     at whoever owns the shard, or owned it once.
//
// TestLedger is the same for bare ledgers, whose appends have no deadline: an owner that
// wakes up after hours goes on, as it may where timers don't count the time that a
// machine sleeps. Facts stand for mail: what was acknowledged at a position is known
// there by every later owner.
//
// # What the checker holds (README, What is promised)
//
//   - Invariant 1: what was acknowledged is in every session that opens later,
//     once, octet for octet, until its user removes it or it expires. What was not
//     acknowledged is there once or not at all.
//   - Invariant 2: what was removed, and acknowledged as such, never comes back;
//     nothing goes that nobody asked to remove. A session's listing stays what it was.
//   - Invariant 3: a unique-id names one content, and a content has one.
//   - Invariant 4: damage is found by nobody, for nothing here does any.
//   - Invariant 5: an owner behind a newer one's fence acknowledges nothing that
//     the newer one doesn't have.
//   - An owner that was replaced answers Open from its past for a second at most,
//     where it can ask the store.
//   - Invariant 9: every call gets an answer of a kind that fits, and when the
//     trouble is over each succeeds.
//
// # A seed that fails
//
// It prints what was violated, the history of what concerns it, and the command
// that runs it alone. Every decision of the world is a hash of the seed and of
// what is asked (which owner, which call, which attempt), never of the order in which
// goroutines happen to run. That order, and the jitter of the code's own retries, are
// not the seed's, so a failing seed mostly fails again but need not: the command
// repeats it.
//
// # Mutants
//
// TestMutants breaks the real code, one promise at a time, and wants the checker
// to notice: a simulation that finds nothing must be one that could.
//
//	POSTERN_SIM_SEED=n    run this seed alone, 20 times
//	POSTERN_SIM_SEEDS=n   run so many, or for so long:
//	POSTERN_SIM_SECONDS=n
//	POSTERN_SIM_FROM=n    the first of them
//	POSTERN_SIM=full      thousands of seeds, all mutants (make sim)
//
// # Decisions
//
//   - 2026-11-23: a sleeping owner is one whose calls of the store, and whose answers
//     to clients, are held back, ahead of the effect or behind it. All goroutines of a
//     bubble share one clock, so an owner's own timers go on; what a ledger can see of a
//     pause is when it writes. Refused: an owner in a process of its own, stopped by
//     signals (ten seeds a minute instead of a hundred a second).
//   - 2026-11-23: crashes leave goroutines behind that go on in memory; their door is shut for
//     good and their answers reach nobody, which is all that others could know of them.
//   - 2026-11-23: mutants are switches in one build, not a build each: what
//     TestMutants replaces is guarded by the environment, so all of them cost one
//     compilation.
package sim
