// Package history is what mail clients and gateways did to a cluster and were told by it, and
// the check of that against what Postern promises (README, What is promised).
//
//	clients, gateways ──Note──▶ History ──Events──▶ Check ──▶ Findings
//	      ▲                        └──Write──▶ JSON lines ──Read──┘
//	   Letters: messages that say who they are
//
// The order of events wrongs nobody: what is asked for is noted before it is sent, what is
// answered after it has come. So an event that precedes another in a history, of which one is
// an answer and the other a question, preceded it in the world.
//
// # What Check holds
//
//   - Kept (invariant 1): what was acknowledged is in the listing of every session that is opened
//     later, until its removal is asked for; and the last session fetches it.
//   - Once (1): no message is there under two unique-ids, at the same time or one after the other.
//   - Gone (2): a removal that was answered +OK stays, and so does one that wasn't answered but
//     has been seen to be made.
//   - Named (3): a unique-id names one message, forever.
//   - Exact (4): what was fetched is what was sent, and nothing is there that nobody sent.
//
// Invariant 5 shows in these: two writers of a shard that both acknowledge lose one's mail,
// double it, or bring back what was removed.
//
// What is not wrong: a message without an acknowledgement, there or not; a removal without an answer,
// made or not; a session that was opened before a fact and doesn't know of it; and a session that
// an owner has opened which was replaced without its knowledge, as long as it may (package shard):
// that is what stale is for.
//
// # Decisions
//
//   - 2026-11-25: a checker of our own, that walks along one list of events. Refused: a general checker of
//     linearizability (porcupine), whose verdict is that a history is wrong, and not which
//     message was lost; and whose time grows with how much was under way at once.
//   - 2026-11-25: letters are made from a run's name, the mailbox and a number, so that none is kept
//     in memory to be compared, and each says by itself which it is.
//   - 2026-11-25: one finding for each message and invariant, the first: a message that is lost is lost
//     in every listing after.
package history
