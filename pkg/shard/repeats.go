package shard

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// repeatWindow is how long a delivery's ID is remembered, and repeatSlack how much
// the clocks of one mailbox's owners may differ.
const (
	repeatWindow  = 24 * time.Hour
	repeatSlack   = time.Hour
	windowSeconds = uint32(repeatWindow / time.Second)
	slackSeconds  = uint32(repeatSlack / time.Second)
)

// errUsed: no UID names two messages, ever.
var errUsed = errors.New("the mailbox has or had another message of this unique-id")

// delivery names a delivery while it is on its way.
type delivery struct {
	mailbox maildrop.Address
	repeat  uint64       // hash of its ID
	uid     maildrop.UID // that an imported message keeps
	moved   bool         // it comes from another region: known while the mailbox has its UID
}

// slot is what no two deliveries on their way may share: one ID, or one UID.
func (d delivery) slot() delivery {
	if d.uid != "" {
		d.repeat = 0
	}
	return d
}

// repeat hashes a delivery's ID: an ID counts for one mailbox only, and a caller
// that chooses IDs can't reach another one's, since he doesn't know the key.
func (s *state) repeat(mailbox maildrop.Address, id [16]byte) uint64 {
	return s.hash('i', id[:], mailbox)
}

func (s *state) uidHash(mailbox maildrop.Address, uid maildrop.UID) uint64 {
	var b [72]byte
	return s.hash('u', append(append(b[:0], byte(len(uid))), uid...), mailbox)
}

func (s *state) hash(what byte, text []byte, mailbox maildrop.Address) uint64 {
	b := make([]byte, 0, len(s.key)+1+72+maildrop.MaxAddress)
	b = append(append(append(append(b, s.key[:]...), what), text...), mailbox...)
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:])
}

// repeated reports whether the delivery is a repetition of one that is
// stored, or was within the window. An imported message is known by its UID for
// ever; errUsed: by another ID.
func (s *state) repeated(d delivery, now uint32) (bool, error) {
	if d.moved {
		return s.has(d.mailbox, d.uid), nil
	}
	if d.uid != "" {
		before, used := s.imports[s.uidHash(d.mailbox, d.uid)]
		if used && before.repeat != d.repeat {
			return false, errUsed
		}
		return used, nil
	}
	box := s.box(d.mailbox)
	if box == nil {
		return false, nil
	}
	is := func(i int) bool {
		m := &box.messages[i]
		return m.repeat == d.repeat && (m.flags&flagImported != 0 || within(m.received, now, windowSeconds))
	}
	if table := s.recents[box]; table != nil {
		return table.any(d.repeat, is), nil
	}
	for i := len(box.messages) - 1; i >= 0; i-- {
		if is(i) {
			return true, nil
		}
		if !box.messages[i].repeatable(now) {
			break
		}
	}
	return false, nil
}

// repeatable reports whether a delivery may be a repetition of the message, or of one
// before it. Dates of imported messages tell nothing about when they came, so these count
// as long as they are there, and end no search.
func (m *message) repeatable(now uint32) bool {
	return m.flags&flagImported != 0 || within(m.received, now, windowSeconds+slackSeconds)
}

// has reports whether the mailbox has a message of the unique-id that isn't removed.
func (s *state) has(mailbox maildrop.Address, uid maildrop.UID) bool {
	box := s.box(mailbox)
	if box == nil {
		return false
	}
	for _, position := range s.named(mailbox, uid) {
		if m := box.message(position); m != nil && m.flags&flagRemoved == 0 && s.uid(m) == uid {
			return true
		}
	}
	return false
}

func within(received, now, window uint32) bool { return now < received || now-received < window }
