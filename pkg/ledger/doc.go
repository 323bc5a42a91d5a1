// Package ledger keeps one shard's history: numbered objects in a blob store,
// each created once and never changed. Who creates the next number has said the next
// thing; that is all the locking there is.
//
//   - Append returns when its object is durable. An older owner can never
//     append after a newer one opened: at any time at most one Ledger can.
//   - Open works out every append that was ever acknowledged, once, in order:
//     from a checkpoint, and what came after it.
//   - Octets that storage changed are never returned: each header, record,
//     body, block, part and manifest has a CRC-32C, which covers its place too.
//   - Nothing is deleted that a take-over needs, and no sequence that was freed
//     is ever taken for a new one.
//
// # Keys
//
//	<prefix>/ledger/<sequence, 20 digits>                     from 1
//	<prefix>/body/<epoch, 16 hex digits>-<random, 26>         bodies over MaxInline
//	<prefix>/pack/<epoch>-<random>                            bodies moved together
//	<prefix>/checkpoint/<epoch>-<random>/<number, 6 digits>   parts
//	<prefix>/manifest/<sequence>-<epoch>-<random>             makes its parts a checkpoint
//	<prefix>/forgotten/<sequence, 20 digits>                  gone on without: see Forget
//
// # A ledger object, version 2 (fixed numbers are little-endian)
//
//	┌────────┬────────┬─────┬────────┬────────┬────────┬─────┬────────┬──────────┬────────┐
//	│ header │ rec. 0 │  …  │ rec. n │ body 0 │ body 3 │  …  │ gap, 0 │ rec. 0…n │ header │
//	└────────┴────────┴─────┴────────┴────────┴────────┴─────┴────────┴──────────┴────────┘
//	 72       └─ count records ───┘   └─ inline bodies ────┘  16       └─ the mirror: the
//	              in `headers` octets    in the order of                  same octets again
//	                                     their records, `bodies` octets
//
// Version 1 ends with the bodies.
//
//	header                                  record
//	  0  8 "PSTNLEDG"                         length of the payload (uvarint)
//	  8  2 version                            kind (1)
//	 10  2 flags, 0                           payload
//	 12  4 identity of the ledger             CRC-32C (4) of all records so far,
//	 16  8 epoch of the writer                   begun with octets 12 to 55 of the
//	 24  8 sequence                              header: records can't be swapped
//	 32  8 durable                            payloads are in codec.go: uvarints in
//	 40 16 nonce                              their shortest form, texts with their
//	 56  4 count of records                   length, times in nanoseconds
//	 60  4 headers, octets
//	 64  4 bodies, octets                   body
//	 68  4 CRC-32C of octets 0 to 67          wire form; if not empty, CRC-32C (4) of
//	                                          identity, position (8) and body
//
// `durable` is the highest sequence that the writer knew to be durable, with all
// before it, when it made the object. It tells a hole that a crash left from a
// lost object.
//
// # Damage
//
//	in a body             costs that message
//	in header or records  costs nothing: the mirror has them; it is counted and logged
//	in both               LostError: no owner opens the ledger
//	the object is gone    LostError, if anything says that it was durable
//
// A take-over reads the mirror only where the beginning is damaged. A LostError ends
// with the object put back, or with Forget, which writes down that the ledger goes on
// without it: what the object said is undone then, and its sequence is never used again.
//
// A UID is made of the identity, the position and the epoch of its object. So where a
// ledger has lost its last objects, and later ones take their sequences, no UID is given twice:
// an epoch is begun once. Messages from objects of version 1 keep UIDs without the epoch.
//
// A body object is blocks of 256 KiB, the last one shorter, each followed by
// its CRC-32C (which covers the object's name and the block's number as well).
//
// # The other objects
//
// All begin with magic (8), version (2), flags (2), identity (4), epoch (8), as
// above. Their CRC-32C covers the name in the key as well.
//
//	pack "PSTNPACK"             part "PSTNPART"           manifest "PSTNMANI"
//	 24 4 count of bodies        24 4 number, from 0       24  8 sequence
//	 28 4 octets of the frames   28 4 octets of payload    32  8 time, ns since 1970
//	 32 1 class, 3 zero          32 4 CRC of all but       40 32 secret
//	 36 4 CRC of 0 to 35              this field           72  8 octets of all payloads
//	 40   frames: each a body    36   payload: State's     80  4 count of parts
//	      and its CRC-32C, as                              84  4 CRC of all but this field
//	      in a ledger object                               88    per part: 4 octets of
//	                                                             payload, 4 its CRC
//
// # Append
//
// Up to MaxInFlight appends are written at once. They get their sequences in the
// order of the calls, and are answered in this order: n+1 when n is durable.
//
//	in flight   n      n+1    n+2
//	            ok     ok     ok       all are answered
//	            clean  clean  clean    sequences n to n+2 are free again
//	            clean  written         BROKEN: the hole at n stays
//	            doubt  any             BROKEN
//	            a newer owner's        FENCED: nobody replays what is behind a fence
//
// What becomes of one create until its outcome is known:
//
//	create ─ nil ────▶ durable
//	  ▲ │ ├─ exists ─▶ read its header: ours ▶ durable, an older epoch's ▶ skipped,
//	  │ │ │                             a newer one's ▶ fenced,
//	  │ │ │                             gone ▶ broken (never created again)
//	  │ │ ├─ full ───▶ clean failure, unless an earlier try is in doubt
//	  │ │ ├─ maybe ──▶ in doubt ┐
//	  │ │ └─ other ─────────────┤
//	  └─┴───── wait, repeat ◀───┘      context ends: in doubt ▶ broken, else clean
//
// # Take-over
//
//	list manifests ─▶ load the newest checkpoint, 16 parts at once
//	                    │ damaged: the one before it; none: from sequence 1
//	                    ▼
//	list what is behind it ─▶ read headers, 64 at once ─▶ replay in order ─┐
//	                                                     ▼                 │ hole
//	               ┌────────────── create a fence at the first free sequence
//	               │ taken: read    epoch = max(asked for, last fence's + 1)
//	               └─ it, replay ◀──────┤
//	                                    ▼ created
//	                     does a checkpoint cover the fence? yes: start over
//	                                    ▼ no
//	                       own the ledger: Append at the next sequence
//	                         │                          │
//	          somebody else's object is there     outcome unknown until
//	                         ▼                     the context ended
//	                       FENCED                       BROKEN
//
// Prepare does what is above the fence, beside an owner at work, up to the first hole.
// An Open that is given the result lists what is behind it and goes on from there; within ten
// minutes nothing of that was deleted. Damage that it meets makes it start over.
//
// The old owner's next append goes to the sequence that the fence has, or to one
// before it, which the newcomer then reads: nothing acknowledged is missed and
// nothing is acknowledged later. An object whose epoch is below a fence before it
// is skipped and counted.
//
// A hole at n is what a crash of a pipelining owner leaves, if no later object
// says durable ≥ n: the fence goes into it, and what is behind it is skipped by
// all. Otherwise n was acknowledged and is lost: that is damage, and refused.
// An owner writes less than MaxInFlight objects behind its first hole, so for so
// many sequences behind our fence a dead owner's object may turn up late. There
// Append goes one by one, and skips what it finds.
//
// # Checkpoints and space
//
// A checkpoint of sequence S is fuzzy: it holds the effects of all up to S, and
// perhaps of durable entries behind it. Replaying the tail over it converges
// because applying is idempotent, which is State's to see to.
//
// Horizon says what Trim may delete: what a checkpoint covers that was known for
// an hour, and that the older of the two newest covers too. Whose bodies are
// still alive there is for the caller to say, who moves them to packs before.
//
// # The writer that stalls
//
// A writer may sleep for hours between deciding to create sequence n and doing
// it. Meanwhile another one's fence may have come to n, been covered by a checkpoint, and
// been deleted; then the create succeeds, in a past that nobody reads. So:
//
//	a created object at n counts only if no checkpoint covers n
//	a ledger object is deleted no earlier than 1 h after a checkpoint covers it
//	an owner proven less than 30 min ago needs no further proof;
//	  else it lists the manifests: one with a sequence ≥ n ▶ FENCED
//
// Proofs are a fence that counts, an append that counts and a Confirm, each as of
// its beginning; age is read after the create has returned, on a clock that goes on
// while the machine sleeps. Why it holds: at the moment of the proof the sequences from n on were
// free. Any other's object there came later, was covered later still, and was deleted an
// hour after that.
//
// # Decisions
//
//   - 2026-11-23: the rule for writers that stall goes by the manifests, in the
//     store that it is about. Refused: asking etcd for the ownership every 30
//     minutes, which ends service half an hour after etcd, and trusts a second system;
//     and a deadline by the wall clock, which can be set.
//   - 2026-11-23: the rule asks for 30 minutes where deletion gives 60: clocks
//     of two machines may run at different speeds, and a list takes time.
//   - 2026-11-23: appends are pipelined, and an owner that leaves a hole behind
//     which something is written stops, though it lives. Refused: filling the hole
//     with an empty object, one more case for every reader, for a rare event.
//   - 2026-11-23: a missing sequence that was known to be durable is damage.
//     Refused: going on after it, which would hide a lost object. What can't be told from a
//     crash is the loss of the last few objects, as it ever was.
//   - 2026-11-23: `durable` is in each object, so that a hole is judged by what
//     is in the ledger. Refused: taking any hole near the end for a crash's.
//   - 2026-11-23: an append that failed cleanly until its context ended leaves
//     the ledger usable, since the Store promised that nothing was written. Refused:
//     broken in this case too, which would make a take-over of every shard out of
//     a minute's trouble of the store.
//   - 2026-11-25: a store that is full or read-only is taken at its word at the first
//     clean refusal, in a kind of its own that nobody repeats. Refused: to go on until the
//     context ends, for senders waited 20 s to hear what was known at once. A create that
//     is in doubt is repeated until its time is up, whatever the store says meanwhile.
//   - 2026-11-23: a commit that finds its sequence taken and then nothing there
//     to read is broken for good and doesn't create again. Somebody has deleted what
//     a checkpoint covers, and an object there would be read by nobody.
//   - 2026-11-23: records are chained by their checksums, instead of each alone,
//     so a mixture of two objects is seen too. One more octet of state, no time.
//   - 2026-11-23: a body's checksum is beside it and covers identity and
//     position. Refused: in the record, which costs the index 4 octets a message and
//     doesn't notice a body in another's place.
//   - 2026-11-23: names begin with their writer's epoch, so that garbage of a
//     dead epoch is told without clocks, and a fenced owner deletes nothing of a newer
//     one. They are made anew for each try, so that an unknown outcome needs no resolving.
//   - 2026-11-23: a manifest carries identity, secret and epoch, and State is
//     told of them as of a fence, before the tail. So ledger objects may all go.
//   - 2026-11-23: identity and secret are made by the fence of sequence 1, by
//     whoever creates it, and each later fence carries them. Refused: an object of
//     their own, a second thing that must be there.
//   - 2026-11-23: the checkpoints to keep are the two newest that this process
//     found sound or wrote, and "known for an hour" counts from then. Refused: times in
//     the manifests, which are another machine's wall clock.
//   - 2026-11-25: headers twice in one object. Refused: an object of their own for the
//     copies, twice the calls for each append; parity, which mends one place of many octets at a
//     cost in code that only damage ever runs; reading both each time.
//   - 2026-11-25: what is beyond repair stops the shard until a person decides. Refused:
//     going on by itself, since removals in a lost object come back and rules of access are
//     undone. The note of the decision is an object that its name alone makes valid, so that it
//     can't be damaged away, and it stands also when the lost object turns up again:
//     what was answered since rests on its absence.
//   - 2026-11-25: the epoch in the UID. Refused: leaving sequences out after each take-over, which
//     only helps as far as the gap is wide; a random number in the fence, which lists as well.
//   - 2026-11-23: Open repeats what the store refuses, call by call. Refused:
//     failing at once, which reads a large checkpoint again for one lost packet.
package ledger
