// Package drill proves on a running cluster what Postern promises: it puts test users'
// load on a region, does it harm, and holds what was answered against the invariants.
//
//	Scenario ──▶ Plan ──▶ Run ── load: deliver · visit · stay, for each user ──▶ history ──▶ Report
//	               │       └──── acts: harm, wait, take back ──▶ Cluster
//	               └─ Print: what would be done
//
// A scenario orders harm of a Cluster and waits until that has recovered. How a cluster is
// run, and how its processes are killed and its links are cut, is the Cluster's to know.
//
// The load is three workers a user. One delivers numbered letters until each is
// acknowledged, as a gateway does; one visits: it fetches what is new, and removes half of
// it; one stays in a session and fetches the same letter again and again. Package history says
// what is held of it.
//
// # Decisions
//
//   - 2026-11-25: a plan is made before anything is done, with the words of each act, and a dry run prints
//     the very list that is played: nobody has to trust two texts.
//   - 2026-11-25: an act that has to be taken back is noted before it is begun, and taken back whatever comes:
//     a failure, a signal, an act that failed half-way. What could not be taken back is said
//     with its words, for a person to do.
//   - 2026-11-25: mail that was there before is neither read nor judged: its user may have
//     programs of his own, and it may be much. The drill removes its own mail at the end,
//     unless an invariant is broken: then it is evidence.
//   - 2026-11-25: pauses are measured as a user feels them: repetitions and new connections
//     are within, and the drill's own rests between two of its questions aren't.
//   - 2026-11-25: a temporary answer breaks no invariant in any scenario (README, What is promised, 9); it is counted
//     by its text, for the reader to judge. A connection may break where the harm is to the process
//     that it ends at, and nowhere else.
package drill
