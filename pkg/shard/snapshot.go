package shard

import (
	"cmp"
	"encoding/base32"
	"encoding/binary"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// snapshot is what one session sees of a mailbox: the messages that stood at a
// position of the ledger and had not expired when it was opened. Whoever has
// the ledger can work it out again, so it outlives its shard's owner.
type snapshot struct {
	address  maildrop.Address
	position ledger.Position
	opened   int64 // Unix time in seconds
}

func (s *state) snapshot(address maildrop.Address, now time.Time) snapshot {
	return snapshot{address: address, position: s.last, opened: now.Unix()}
}

// holds reports whether the message is in the snapshot.
func (s *state) holds(snap snapshot, m *message) bool {
	if m.position > snap.position || m.expires() <= snap.opened {
		return false
	}
	return m.flags&flagRemoved == 0 || s.removals[m.position].at > snap.position
}

// each calls f with the snapshot's messages in order of arrival.
func (s *state) each(snap snapshot, f func(*message)) {
	box := s.box(snap.address)
	if box == nil {
		return
	}
	for i := range box.messages {
		if m := &box.messages[i]; s.holds(snap, m) {
			f(m)
		}
	}
}

// sum counts the snapshot's messages and their octets.
func (s *state) sum(snap snapshot) (count int, octets uint64) {
	s.each(snap, func(m *message) {
		count++
		octets += uint64(m.size)
	})
	return count, octets
}

// list is the snapshot's listing. The mailbox is looked through once.
func (s *state) list(snap snapshot) *maildrop.Listing {
	box := s.box(snap.address)
	if box == nil {
		return &maildrop.Listing{}
	}
	l := maildrop.NewListing(len(box.messages), len(box.messages)*mintedLength)
	var uid [mintedLength]byte
	s.each(snap, func(m *message) {
		if m.flags&flagImported != 0 {
			l.Append(s.uids[m.position], uint64(m.size))
			return
		}
		l.AppendOctets(s.appendMinted(uid[:0], m.position), uint64(m.size))
	})
	return l
}

// find finds the snapshot's message of a unique-id, or nil.
func (s *state) find(snap snapshot, uid maildrop.UID) *message {
	box := s.box(snap.address)
	if box == nil {
		return nil
	}
	if position, ok := s.minted(uid); ok {
		if m := box.message(position); m != nil && s.holds(snap, m) && s.uid(m) == uid {
			return m
		}
	}
	// Imported, or one of ours that another region had meanwhile.
	m := box.message(s.imports[s.uidHash(snap.address, uid)].position)
	if m == nil || !s.holds(snap, m) || s.uid(m) != uid {
		return nil
	}
	return m
}

// named are the positions where a message of the unique-id may be: where it was minted,
// and where it came in from elsewhere. A message that moved to another region and back has both.
func (s *state) named(address maildrop.Address, uid maildrop.UID) (positions []ledger.Position) {
	if position, ok := s.minted(uid); ok {
		positions = append(positions, position)
	}
	if one, ok := s.imports[s.uidHash(address, uid)]; ok {
		positions = append(positions, one.position)
	}
	return positions
}

// uid is the message's unique-id.
func (s *state) uid(m *message) maildrop.UID {
	if m.flags&flagImported != 0 {
		return s.uids[m.position]
	}
	return maildrop.UID(s.appendMinted(nil, m.position))
}

// mintedEncoding is what ledger.UID writes: RFC 4648 section 7 in lower case.
var mintedEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

const (
	mintedOctets = 4 + 5 + 2 + 4 // identity, sequence, index, epoch
	mintedLength = 24            // characters
	oldOctets    = 4 + 5 + 2     // of messages from objects of version 1: without the epoch
)

// appendMinted writes ledger.UID of a position.
func (s *state) appendMinted(b []byte, position ledger.Position) []byte {
	var raw [mintedOctets]byte
	binary.BigEndian.PutUint32(raw[:], s.identity)
	binary.BigEndian.PutUint64(raw[3:], uint64(position)) // 56 bits: the first octet is overwritten
	raw[3] = byte(s.identity)
	mint := s.mints.at(position)
	if mint == 0 {
		return mintedEncoding.AppendEncode(b, raw[:oldOctets])
	}
	binary.BigEndian.PutUint32(raw[oldOctets:], mint)
	return mintedEncoding.AppendEncode(b, raw[:])
}

// minted reads the position out of a unique-id of this ledger, of either form. Whether
// there is such a message, and of that epoch, is another question.
func (s *state) minted(uid maildrop.UID) (ledger.Position, bool) {
	raw, err := mintedEncoding.DecodeString(string(uid))
	if err != nil || len(raw) != mintedOctets && len(raw) != oldOctets || binary.BigEndian.Uint32(raw) != s.identity {
		return 0, false
	}
	sequence := uint64(raw[4])<<32 | uint64(binary.BigEndian.Uint32(raw[5:]))
	return ledger.At(sequence, binary.BigEndian.Uint16(raw[9:])), true
}

// mints say what unique-ids say of the epoch (ledger.Entry.Mint), from a position
// on: a few numbers for all messages, in the order of positions. Before the first it is 0.
type mints []mint

type mint struct {
	from ledger.Position
	mint uint32
}

func (m mints) at(position ledger.Position) uint32 {
	after, found := slices.BinarySearchFunc(m, position, func(one mint, p ledger.Position) int { return cmp.Compare(one.from, p) })
	switch {
	case found:
		return m[after].mint
	case after == 0:
		return 0
	}
	return m[after-1].mint
}

// note takes in what the entry at the position says. A checkpoint may have seen it.
func (m *mints) note(position ledger.Position, said uint32) {
	if m.at(position) != said {
		*m = append(*m, mint{position, said})
	}
}

// since leaves out what no message from the position on needs.
func (m mints) since(position ledger.Position) mints {
	for len(m) > 1 && m[1].from <= position {
		m = m[1:]
	}
	return m
}
