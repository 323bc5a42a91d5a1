package maildrop

import (
	"context"
	"math"
)

// Listing is a snapshot's messages in order of arrival, in columns: 28 octets a message
// for unique-ids of 24, in a few allocations without a pointer in them, however many messages
// there are. nil is an empty one. Whoever was handed a Listing doesn't change it.
type Listing struct {
	uids  []byte   // all unique-ids, one behind another
	width int      // of each of them, while there are no ends
	ends  []uint32 // where each ends in uids, once they differ in width
	sizes []uint32 // math.MaxUint32: see large
	large map[int]uint64
}

// NewListing is an empty listing with room for so many messages, and so many octets of
// unique-ids.
func NewListing(messages, octets int) *Listing {
	return &Listing{uids: make([]byte, 0, octets), sizes: make([]uint32, 0, messages)}
}

// ListingOf is the listing of entries.
func ListingOf(entries ...Entry) *Listing {
	l := NewListing(len(entries), 0)
	for _, e := range entries {
		l.Append(e.UID, e.Size)
	}
	return l
}

// Append adds a message behind the others.
func (l *Listing) Append(uid UID, size uint64) { add(l, uid, size) }

// AppendOctets is Append of a unique-id that isn't a string yet.
func (l *Listing) AppendOctets(uid []byte, size uint64) { add(l, uid, size) }

func add[T UID | []byte](l *Listing, uid T, size uint64) {
	l.measure(len(uid))
	l.uids = append(l.uids, uid...)
	if size < math.MaxUint32 {
		l.sizes = append(l.sizes, uint32(size))
		return
	}
	if l.large == nil {
		l.large = make(map[int]uint64)
	}
	l.large[len(l.sizes)] = size
	l.sizes = append(l.sizes, math.MaxUint32)
}

// measure takes note of the next unique-id's width.
func (l *Listing) measure(width int) {
	switch {
	case len(l.sizes) == 0:
		l.width = width
	case l.ends == nil && width != l.width:
		l.ends = make([]uint32, len(l.sizes), max(cap(l.sizes), len(l.sizes)+1))
		for i := range l.ends {
			l.ends[i] = uint32((i + 1) * l.width)
		}
	}
	if l.ends != nil {
		l.ends = append(l.ends, uint32(len(l.uids)+width))
	}
}

// Len is the number of messages.
func (l *Listing) Len() int {
	if l == nil {
		return 0
	}
	return len(l.sizes)
}

// UID is a message's unique-id, by its index.
func (l *Listing) UID(i int) UID { return UID(l.Octets(i, i+1)) }

// Octets are the unique-ids of the messages from one index to before another, one
// behind another. They aren't the caller's to change.
func (l *Listing) Octets(from, to int) []byte {
	begin, end := l.begin(from), l.begin(to)
	return l.uids[begin:end:end]
}

// begin is where a message's unique-id begins, and the one before it ends.
func (l *Listing) begin(i int) int {
	switch {
	case i == 0:
		return 0
	case l.ends == nil:
		return i * l.width
	}
	return int(l.ends[i-1])
}

// Width is how many octets each unique-id has; 0: they differ, or there are none.
func (l *Listing) Width() int {
	if l.Len() == 0 || l.ends != nil {
		return 0
	}
	return l.width
}

// Size is a message's, by its index.
func (l *Listing) Size(i int) uint64 {
	if l.sizes[i] == math.MaxUint32 {
		return l.large[i]
	}
	return uint64(l.sizes[i])
}

// Sum is the sum of all sizes.
func (l *Listing) Sum() (octets uint64) {
	for i := range l.Len() {
		octets += l.Size(i)
	}
	return octets
}

// Valid reports whether each unique-id is a valid one.
func (l *Listing) Valid() bool {
	if l.Len() == 0 {
		return true
	}
	if l.ends == nil {
		return validWidth(l.width) && printable(l.uids)
	}
	for i := range l.sizes {
		if !validWidth(l.begin(i+1) - l.begin(i)) {
			return false
		}
	}
	return printable(l.uids)
}

// Entries are the listing's messages one by one.
func (l *Listing) Entries() []Entry {
	entries := make([]Entry, l.Len())
	for i := range entries {
		entries[i] = Entry{l.UID(i), l.Size(i)}
	}
	return entries
}

// Entries are what a Drop lists, one by one.
func Entries(ctx context.Context, drop Drop) ([]Entry, error) {
	l, err := drop.List(ctx)
	if err != nil {
		return nil, err
	}
	return l.Entries(), nil
}
