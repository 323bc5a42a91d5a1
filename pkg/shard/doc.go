// Package shard is one shard of a region's mailboxes: the index in memory, the
// ledger that it is worked out of, and the few goroutines that write there.
//
//	Open, Resume ─▶ snapshot ─▶ Drop: List, Check ──▶ state (memory)
//	                               Read ───────────▶ cache ─▶ ledger (object store)
//	Deliver, Remove, PutAddress ─▶ queue ─▶ committer ─▶ ledger.Append ─▶ state.Apply ─▶ answer
//	                                  (up to four at once, applied in order)
//
//	              ┌── every 500 objects, and every hour ── checkpoint ◀── state
//	the store ◀───┤
//	              └── every 10 minutes ── space: move what lives, delete what is dead
//
// A Shard implements maildrop.Service for the addresses whose hash names it;
// that an address is one of them is its caller's to know.
//
// # Contract
//
//   - State changes only by ledger entries that are durable, in their order. A
//     call that changes something returns nil after its entry was applied, so
//     the next Open sees it.
//   - Done is closed when a newer owner has begun, when it is not known whether
//     an append was written, and after Close: from then on every call is
//     NotOwner. Open the shard anew.
//   - A session is a snapshot: a position of the ledger and an instant. Its token
//     carries both under the ledger's secret, and counts for the shard's next owner
//     as well. It lives 6 hours from its last Check, and never more than 20.
//   - An owner that was replaced without its knowledge answers from its old state
//     for a second at most: see confirm.
//   - A message is not in a session that was opened after its retention had ended.
//   - A take-over replays at most 1,000 ledger objects: beyond that, appends wait
//     for a checkpoint.
//   - Octets of removed and expired messages are gone from the store within 24
//     hours, as long as the shard is owned and the store answers. What is stored is in the
//     long run at most twice what lives.
//   - Damage ends nothing: a body that fails its checksum is Corrupt, logged once
//     for each object, counted, and all else goes on.
//   - Memory: at most 48 octets a message and 200 a mailbox, 296 one with keys for
//     SCRAM; bodies that wait to
//     be written, at most 64 MiB, and of all shards together what Config.Budget
//     has (beyond it Busy); the cache of bodies, Config.CacheBytes; two packs of
//     16 MiB while one shard of the node repacks.
//   - Every password and every proof is verified inside guarded, which counts and locks
//     out: see package guard. What it counts, and the latest attempts, are in memory, and
//     begin anew with each owner. Explain's verdict is what Open would say.
//   - While its account moves between regions a mailbox is as far as the last stage's
//     entry in the ledger says: see maildrop.Stage. What was acknowledged before an account was
//     sealed is in the state when Stage returns, and nothing is acknowledged afterwards.
//   - No lock is held while a password is verified or storage is waited for.
//
// # The life of a body
//
//	delivery ─ up to 1 MiB ─▶ ledger object ─ covered by two checkpoints, an hour ago ─▶ retired:
//	    │                                                                                  │
//	    │                           dead: deleted with its ledger object ◀────────────────┤
//	    │                           alive: copied into a pack of its class ◀──────────────┘
//	    │                                        │  dead outweighs alive, or is 12 hours old
//	    │                                        ├──▶ what lives is copied into another pack
//	    └─ larger ─▶ object of its own           └──▶ nothing lives: deleted
//	                     └─ dead: deleted
//
// A copy counts by its Pack record; an object is deleted only after that is durable.
//
// # Decisions
//
//   - 2026-11-25: a move between regions is driven by stages that each shard writes into
//     its ledger, numbered by the move, and that only go forward. So calls that come late, from a
//     front that was stopped or a second command, change nothing, whatever is known of etcd there. A
//     stage also has to be what the account's record in the directory says, as this node knows
//     it: a front alone can neither seal, discard nor purge anything. Refused: a seal in etcd,
//     which an owner hears of some time later; and leases.
//   - 2026-11-25: a stage's entry is written when all that was queued before it has landed.
//     Appends under way at once may get their sequences in another order: two deliveries in a
//     thousand tries were behind a seal that they had been queued before.
//   - 2026-11-25: a mailbox's owner pushes it to the other region, with the addresses' hashes
//     and keys. Refused: a front that reads it, for nobody reads a mailbox without its user; and
//     copying objects from store to store, which would need the one region's credentials in the
//     other, and would bring other accounts' mail along.
//   - 2026-11-25: what is to be sent is worked out anew in each pass, from the other region's
//     listing, which is asked for before our own is looked at: so whatever is there alone was
//     removed here. Refused: a log of changes to follow, which a new owner wouldn't have.
//   - 2026-11-25: a message keeps its UID in the other region as an import does, and one that
//     comes back to the ledger that minted its UID is stored under it again, at another position. A
//     UID of ours from a position that we haven't come to is refused.
//   - 2026-11-25: the ID that a message was delivered with is worked out again from its trace
//     header and octets when it moves, for the index has only a hash under this ledger's key. So a
//     gateway's repetition is known in the other region, too. It isn't for a message without a
//     Received field, whose ID was random, nor for one that its user had removed before it
//     was ever copied.
//   - 2026-11-25: a session that is open at the cut-over ends: its token names a position of
//     another ledger. Its user logs in again and finds the same unique-ids.
//   - 2026-11-25: from networks that an account doesn't permit no password is looked at:
//     ReasonNetwork for every name of its domains and every password. Before, a right
//     password was told apart from a wrong one there, and wrong ones couldn't count, for
//     then anybody could lock out users whose network keeps him off. What a stranger learns
//     is that the domain has permitted networks.
//   - 2026-11-25: LOGIN-DELAY is asked last, when a login has come through everything else:
//     told earlier it would say that the user exists (RFC 2449 section 8.1.1). The same
//     session is let in again, for the router repeats a login whose answer was lost.
//   - 2026-11-25: keys for SCRAM stand in the address's record, beside the hash of the
//     same password, and are kept, replaced and lost with it. A record from before has
//     none, until its password is set again: its user can't log in by SCRAM, and is refused
//     like one who doesn't exist. Refused: to make them of the next password that is right, in
//     its login; a login would write then, and who fails by SCRAM doesn't try another way.
//   - 2026-11-25: the nonce of a challenge is a token under the ledger's secret, for one
//     address and two minutes, so the shard's next owner knows it as well, and a front can
//     repeat a login that it carried for no longer than that. The salt of an address without
//     keys is made with the same secret: it stays, like a real one.
//   - 2026-11-23: a snapshot is worked out (position, removals, instant) and not
//     copied: an open session costs the shard nothing, and a token of about 100
//     octets survives the shard's owner. Refused: a listing kept for each session.
//   - 2026-11-23: the index keeps removed and expired messages for 24 hours, and no
//     session lives that long. Refused: counting sessions, which a stateless
//     session has nobody for.
//   - 2026-11-23: a delivery's ID is remembered in its message, as 64 bits of a hash
//     under a key of the ledger's, and looked for backwards from the mailbox's end.
//     Who doesn't know the key can't make two IDs meet. Refused: maps of the last two
//     days, 40 octets a message and nothing that a checkpoint could leave out.
//   - 2026-11-25: a mailbox that got 256 messages or more within a day has a table of
//     them (recent.go). Each delivery asks twice, once under the committer's lock: 0.08 µs
//     whatever came that day, where the look at all of them took 1 ns for each. It is made by
//     the next delivery and is in no checkpoint. Refused: a table for every mailbox; it would
//     take 16 octets of each, the next size that the allocator has, and save nothing.
//   - 2026-11-23: the hash of an imported message's UID, with that of its ID, is
//     remembered for ever: no UID is used twice. 40 octets each; imports happen
//     once in a mailbox's life.
//   - 2026-11-23: an imported message with a date and without a UID gets one made of
//     its ID: it is known again by it as long as any import. Its date says nothing about when
//     it came, so the rule of 24 hours can't be asked.
//   - 2026-11-23: an empty hash in an address's entry means "as it was" and is
//     resolved in the ledger's order, so a new password and a new access rule that
//     are set at the same time cannot undo each other. "set", as Address tells
//     of a hash, means the same: a record that was read may be put back.
//   - 2026-11-23: a caller who leaves while its record waits takes it back and gets
//     Canceled; Maybe is only for what is being written.
//   - 2026-11-23: while an append is under way no other is begun for a little mail.
//     An object costs 0.3 to 1.2 ms of processor in a directory, whatever is in it: with
//     64 clients at one shard, an object had 14 deliveries so, and 6 to 7 when another
//     append was begun after a quarter of the usual time. The price is to wait for half an append
//     more, on average, when there is company. Refused: waiting for company when
//     nothing is under way.
//   - 2026-11-25: before a batch is taken off the queue, all goroutines that could
//     run get their turn, once. A submit wakes the committer, which the runtime runs next,
//     ahead of deliveries that were ready as well: it took one at a time. With 64
//     clients in the process itself, on one processor, an object now has 54 deliveries
//     instead of 31 (one shard) and 2.7 instead of 2.1 (16 shards), for 22 and 18 % less
//     processor time; through LMTP, where clients come back one after the other, the
//     difference is lost in the noise (28 to 31, and 2.1). Refused: to wait a time for
//     company, which a lone delivery would pay for too; and to yield four times, which
//     brought little more than one. Refused too: to remember Accept's answers at
//     the intake for a second. It helps a benchmark with few mailboxes, and almost no mail.
//   - 2026-11-23: after ErrFenced the callers of that batch get NotOwner, for the
//     ledger knows that nothing was written; after ErrBroken they get Maybe.
//   - 2026-11-23: a read from storage does not fill the cache: mail is mostly
//     fetched once. Fresh mail is there from its delivery on, until it is removed.
//   - 2026-11-23: an owner that has proved nothing for a second asks the store, at
//     Open, Check, Accept and Deliver, whether a fence stands behind its last object. Refused: asking
//     etcd, which a region must do without for half an hour; and leases, which
//     depend on clocks.
//   - 2026-11-23: a changed password ends sessions at their next Check and not
//     before; so does a changed primary address or a removed one.
//   - 2026-11-23: checkpoints are fuzzy: written from the living state in chunks of
//     less than a millisecond, and made right by replaying what came after their
//     sequence. Refused: a copy of the index (twice the memory), or a stop.
//   - 2026-11-23: an expired message counts as dead an hour after its expiry, for
//     clocks differ, and its octets go when it suits. A session that is still
//     open then gets NotFound for it, as for one that another session removed.
//   - 2026-11-23: what is to be moved and deleted is worked out anew from the index
//     each time, in one pass, instead of being kept up to date by each entry:
//     a pass over a million messages takes a few milliseconds, and counters that drift
//     would delete mail.
package shard
