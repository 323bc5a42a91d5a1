// Package fsck verifies what a region has in its store, every octet of it that
// anything names, and takes nothing over: it reads only, beside owners who go on.
//
// # What Run promises
//
//   - Every manifest, part, ledger object, pack and body object is read whole, and
//     each checksum in it verified; every message that its user could fetch has its
//     body where the index says.
//   - What it reports is damage: it was seen in two looks, the second one with a
//     view of the shard that was made after the first. A body that an owner moved, or
//     an object that he deleted meanwhile, is looked for again where it is now.
//   - It never writes to the store.
//   - Memory: one shard's index, the names of its objects, and Parallel objects, of
//     at most 32 MiB each.
//   - Interrupted, it goes on from its state file, and ends with the same report.
//
// # A shard
//
//	list all objects ─▶ view (shard.Read) ─▶ sums, and what to check ─┐
//	                                                                 ▼
//	         ┌──── batches of objects, several read at once ◀── not in the state file
//	         ▼                                                       ▲
//	  all sound? ─ no ─▶ a fresh view: gone or moved ▶ look there    │
//	         │                         still so ▶ damage             │
//	         └────────────────▶ the state file ──────────────────────┘
//
// An object that is in the list, and not in the view that was made after it, is
// garbage, or on its way: owners delete it if nobody names it soon.
//
// # What can't be seen
//
//   - That the last few objects of a ledger are lost: it is what a crash leaves.
//   - That a checkpoint's manifest is lost, as long as an older one and the ledger do;
//     its parts count as garbage then.
//   - Damage in octets of a pack whose messages the index has forgotten. Nobody
//     reads these again.
//
// # Decisions
//
//   - 2026-11-23: an object is damaged, or missing, for certain when a view that is
//     newer than the failed read still has a message there: no body comes back to where it
//     was moved from, and nothing is deleted before the record of it is durable.
//     Refused: waiting and trying again, which proves nothing.
//   - 2026-11-23: the state file names the objects that were checked, of the shard
//     at work. Refused: how far the order of names was gone through; names are
//     random, and what an owner writes meanwhile would be skipped.
//   - 2026-11-23: objects are read whole. Refused: bodies one by one, many small
//     reads of the same octets; a header's octets would be read twice besides.
//   - 2026-11-23: damaged octets of removed messages are reported too, as what they
//     are: the store changed what it was given.
package fsck
