package pop3

import (
	"hash/fnv"
	"math"
	"math/bits"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// listing is a snapshot's unique-ids and sizes in columns: for ids of 18 octets,
// 22 octets a message and three allocations, however many messages there are.
type listing struct {
	uids  string   // all unique-ids, one after another
	width int      // of each of them; 0: they differ, see ends
	ends  []uint32 // where each ends in uids
	sizes []uint32 // math.MaxUint32: see large
	large map[int]uint64
}

// newListing refuses a listing that isn't the one Open spoke of: STAT, and the
// numbers a client was told, would be wrong.
func newListing(info maildrop.Info, entries []maildrop.Entry) (*listing, error) {
	if len(entries) != info.Count {
		return nil, errListing("the listing has another length than Open said")
	}
	l := &listing{sizes: make([]uint32, len(entries))}
	var octets uint64
	for i, e := range entries {
		if !e.UID.Valid() {
			return nil, errListing("the listing has a unique-id that isn't one")
		}
		l.setSize(i, e.Size)
		octets += e.Size
	}
	if octets != info.Octets {
		return nil, errListing("the listing has another sum of sizes than Open said")
	}
	l.setUIDs(entries)
	return l, nil
}

func (l *listing) setSize(i int, size uint64) {
	if size < math.MaxUint32 {
		l.sizes[i] = uint32(size)
		return
	}
	if l.large == nil {
		l.large = make(map[int]uint64)
	}
	l.sizes[i], l.large[i] = math.MaxUint32, size
}

func (l *listing) setUIDs(entries []maildrop.Entry) {
	total, same := 0, true
	for _, e := range entries {
		total += len(e.UID)
		same = same && len(e.UID) == len(entries[0].UID)
	}
	if same && len(entries) > 0 {
		l.width = len(entries[0].UID)
	} else {
		l.ends = make([]uint32, 0, len(entries))
	}
	text := make([]byte, 0, total)
	for _, e := range entries {
		text = append(text, e.UID...)
		if !same {
			l.ends = append(l.ends, uint32(len(text)))
		}
	}
	l.uids = string(text)
}

func (l *listing) uid(i int) maildrop.UID {
	if l.width > 0 {
		return maildrop.UID(l.uids[i*l.width : (i+1)*l.width])
	}
	begin := uint32(0)
	if i > 0 {
		begin = l.ends[i-1]
	}
	return maildrop.UID(l.uids[begin:l.ends[i]])
}

func (l *listing) size(i int) uint64 {
	if l.sizes[i] == math.MaxUint32 {
		return l.large[i]
	}
	return uint64(l.sizes[i])
}

// octets is the sum of the sizes of the marked messages.
func (l *listing) octets(m *marks) (sum uint64) {
	m.each(func(i int) { sum += l.size(i) })
	return sum
}

// marked is the unique-ids of the marked messages, in order.
func (l *listing) marked(m *marks) []maildrop.UID {
	uids := make([]maildrop.UID, 0, m.count)
	m.each(func(i int) { uids = append(uids, l.uid(i)) })
	return uids
}

// hash is FNV-1a of the unique-ids in order, each with a NUL behind it, without
// those that are marked.
func (l *listing) hash(without *marks) uint64 {
	h := fnv.New64a()
	var line [71]byte
	for i := range l.sizes {
		if without != nil && without.has(i) {
			continue
		}
		n := copy(line[:], l.uid(i))
		line[n] = 0
		h.Write(line[:n+1])
	}
	return h.Sum64()
}

// marks is the set of messages that are marked as deleted, by index.
type marks struct {
	words []uint64
	count int
}

func (m *marks) has(i int) bool {
	return i>>6 < len(m.words) && m.words[i>>6]&(1<<(i&63)) != 0
}

func (m *marks) add(i int) {
	if m.has(i) {
		return
	}
	for i>>6 >= len(m.words) {
		m.words = append(m.words, 0)
	}
	m.words[i>>6] |= 1 << (i & 63)
	m.count++
}

// each calls f for each index of the set, in order.
func (m *marks) each(f func(i int)) {
	for w, word := range m.words {
		for ; word != 0; word &= word - 1 {
			f(w<<6 + bits.TrailingZeros64(word))
		}
	}
}
