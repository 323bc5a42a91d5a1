// Package ledger keeps one shard's history: numbered objects in a blob store,
// each created once and never changed. Who creates the next number has said the next
// thing; that is all the locking there is.
//
//   - Append returns when its object is durable. An older owner can never
//     append after a newer one opened: at any time at most one Ledger can.
//   - Open replays every append that was ever acknowledged, once, in order.
//   - Octets that storage changed are never returned: each header, record,
//     inline body and block has a CRC-32C.
//
// # Keys
//
//	<prefix>/ledger/<sequence, 20 digits>            from 1, without gaps
//	<prefix>/body/<epoch, 16 hex digits>-<random>    bodies over MaxInline
//
// # A ledger object, version 1 (fixed numbers are little-endian)
//
//	┌────────┬────────┬────────┬─────┬────────┬────────┬────────┬─────┐
//	│ header │ rec. 0 │ rec. 1 │  …  │ rec. n │ body 0 │ body 3 │  …  │
//	└────────┴────────┴────────┴─────┴────────┴────────┴────────┴─────┘
//	 68       └─ count records ────────────┘   └─ inline bodies in the
//	              in `headers` octets             order of their records,
//	                                              `bodies` octets
//	header                                  record
//	  0  8 "PSTNLEDG"                         length of the payload (uvarint)
//	  8  2 version                            kind (1)
//	 10  2 flags, 0                           payload
//	 12  4 identity of the ledger             CRC-32C (4) of all records so far,
//	 16  8 epoch of the writer                   begun with octets 12 to 47 of the
//	 24  8 sequence                              header: records can't be swapped
//	 32 16 nonce                              payloads are in codec.go: uvarints in
//	 48  4 count of records                   their shortest form, texts with their
//	 52  4 headers, octets                    length, times in nanoseconds
//	 56  4 bodies, octets
//	 60  4 zero                             body
//	 64  4 CRC-32C of octets 0 to 63          wire form; CRC-32C in its record
//
// A body object is blocks of 256 KiB, the last one shorter, each followed by
// its CRC-32C (which covers the object's name and the block's number as well).
//
// # Take-over
//
//	list ─▶ read headers, 64 at once ─▶ replay in order ─┐
//	                                                     ▼
//	               ┌────────────── create a fence at the first free sequence
//	               │ taken: read    epoch = max(asked for, last fence's + 1)
//	               └─ it, replay ◀──────┤
//	                                    ▼ created
//	                       own the ledger: Append at the next sequence
//	                         │                          │
//	          somebody else's object is there     outcome unknown until
//	                         ▼                     the context ended
//	                       FENCED                       BROKEN
//
// The old owner's next append goes to the sequence that the fence has, or to one
// before it, which the newcomer then reads: nothing acknowledged is missed and
// nothing is acknowledged later. An object whose epoch is below a fence before it
// is skipped and counted.
//
// # An append whose outcome is unknown
//
//	create ─ nil ────▶ durable
//	  ▲ │ ├─ exists ─▶ read its header: ours ▶ durable, another's ▶ fenced,
//	  │ │ │                             gone ▶ broken (never created again)
//	  │ │ ├─ full ───▶ clean failure, unless an earlier try is in doubt
//	  │ │ ├─ maybe ──▶ in doubt ┐
//	  │ │ └─ other ─────────────┤
//	  └─┴───── wait, repeat ◀───┘      context ends: in doubt ▶ broken, else clean
//
// # Decisions
//
//   - 2026-11-23: an append that failed cleanly until its context ended leaves
//     the ledger usable, since the Store promised that nothing was written. Refused:
//     broken in this case too, which would make a take-over of every shard out of
//     a minute's trouble of the store.
//   - 2026-11-23: a commit that finds its sequence taken and then nothing there
//     to read is broken for good and doesn't create again. Somebody has deleted what
//     a checkpoint covers, and an object there would be read by nobody.
//   - 2026-11-23: a missing sequence with later ones behind it is damage.
//     Appends aren't pipelined, so a gap can't come from a crash. Refused: going on
//     after it, which would hide a lost object.
//   - 2026-11-23: records are chained by their checksums, instead of each alone,
//     so a mixture of two objects is seen too. One more octet of state, no time.
//   - 2026-11-23: a body object's name begins with its writer's epoch, so that
//     garbage of a dead epoch is told without clocks; and it is made anew for each try,
//     so that a body's unknown outcome needs no resolving.
//   - 2026-11-23: identity and secret are made by the fence of sequence 1, by
//     whoever creates it, and each later fence carries them. Refused: an object of
//     their own, a second thing that must be there.
//   - 2026-11-23: checkpoints will be objects of their own beside the ledger
//     (the first sequence to read is then theirs to say); version 1 needs no change.
package ledger
