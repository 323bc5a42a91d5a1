package shard

import "math/bits"

// A mailbox with so many messages of a day is busy: they are looked for in a table,
// and not one by one. In others the look at all of them takes no longer than that
// into a table.
const busyDay = 256

// recent finds a busy mailbox's messages of the last day by the hashes of their
// deliveries' IDs. It is a table of open addressing whose slots hold a message's
// index and octet 0 of its hash, in 4 octets: at most 5.4 a message, of which a
// message and its share of a mailbox leave 7 of the 48 that there are.
//
// It knows all messages from some index on; those before it are too old to be a repetition.
type recent struct {
	slots []uint32 // hash<<24 | index+1; 0: free
	used  int
}

// maxRecent is the greatest index+1 that a slot has room for. A mailbox with more
// messages has no table.
const maxRecent = 1<<24 - 1

// newRecent makes a table for n messages, with room for a sixth more.
func newRecent(n int) *recent { return &recent{slots: make([]uint32, max(n, busyDay)*4/3)} }

// full reports whether one more would make its ways too long.
func (r *recent) full() bool { return r.used+1 > len(r.slots)-len(r.slots)/8 }

// home is where the search for a hash begins.
func (r *recent) home(hash uint64) int {
	at, _ := bits.Mul64(hash, uint64(len(r.slots)))
	return int(at)
}

// note takes in the message at an index.
func (r *recent) note(hash uint64, index int) {
	at := r.home(hash)
	for r.slots[at] != 0 {
		at = r.next(at)
	}
	r.slots[at] = uint32(hash)<<24 | uint32(index+1)
	r.used++
}

func (r *recent) next(at int) int {
	if at++; at < len(r.slots) {
		return at
	}
	return 0
}

// any reports whether is holds for the index of a message whose hash may be this one.
func (r *recent) any(hash uint64, is func(index int) bool) bool {
	for at := r.home(hash); r.slots[at] != 0; at = r.next(at) {
		if slot := r.slots[at]; byte(slot>>24) == byte(hash) && is(int(slot&maxRecent)-1) {
			return true
		}
	}
	return false
}

// noteRecent keeps the table of a mailbox that just got its last message, makes one
// where it has become busy, and another, without what has grown old, where it is full.
func (s *state) noteRecent(box *mailbox) {
	last, table := len(box.messages)-1, s.recents[box]
	switch {
	case table != nil && !table.full() && last < maxRecent:
		table.note(box.messages[last].repeat, last)
	case box.busy() && last < maxRecent:
		s.recents[box] = box.recent()
	case table != nil:
		delete(s.recents, box)
	}
}

// busy reports whether a delivery may be a repetition of any of the last messages,
// busyDay of them.
func (b *mailbox) busy() bool {
	n := len(b.messages)
	return n >= busyDay && b.messages[n-busyDay].repeatable(b.messages[n-1].received)
}

// recent makes the table of what is there.
func (b *mailbox) recent() *recent {
	from, now := len(b.messages)-1, b.messages[len(b.messages)-1].received
	for from > 0 && b.messages[from-1].repeatable(now) {
		from--
	}
	table := newRecent(len(b.messages) - from)
	for i := from; i < len(b.messages); i++ {
		table.note(b.messages[i].repeat, i)
	}
	return table
}
