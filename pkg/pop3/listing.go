package pop3

import (
	"hash/fnv"
	"math/bits"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// checkListing refuses a listing that isn't the one Open spoke of: STAT, and the
// numbers a client was told, would be wrong.
func checkListing(info maildrop.Info, l *maildrop.Listing) error {
	switch {
	case l.Len() != info.Count:
		return errListing("the listing has another length than Open said")
	case !l.Valid():
		return errListing("the listing has a unique-id that isn't one")
	case l.Sum() != info.Octets:
		return errListing("the listing has another sum of sizes than Open said")
	}
	return nil
}

// uidHash is FNV-1a of the unique-ids in order, each with a NUL behind it, without
// those that are marked.
func uidHash(l *maildrop.Listing, without *marks) uint64 {
	h := fnv.New64a()
	var line [71]byte
	for i := range l.Len() {
		if without != nil && without.has(i) {
			continue
		}
		n := copy(line[:], l.Octets(i, i+1))
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

// octets is the sum of the sizes of the messages in the set.
func (m *marks) octets(l *maildrop.Listing) (sum uint64) {
	m.each(func(i int) { sum += l.Size(i) })
	return sum
}

// uids is the unique-ids of the messages in the set, in order.
func (m *marks) uids(l *maildrop.Listing) []maildrop.UID {
	uids := make([]maildrop.UID, 0, m.count)
	m.each(func(i int) { uids = append(uids, l.UID(i)) })
	return uids
}
