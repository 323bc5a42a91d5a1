package shard

import (
	"crypto/sha256"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// repeatWindow is how long a delivery's ID is remembered.
const repeatWindow = 24 * time.Hour

// delivery names a delivery to a mailbox by 128 bits.
type delivery [16]byte

// repeatKey hashes mailbox and ID: an ID counts for one mailbox only, and a
// caller that chooses IDs can't reach another one's.
func repeatKey(mailbox maildrop.Address, id [16]byte) (key delivery) {
	sum := sha256.Sum256(append(append(make([]byte, 0, 128), id[:]...), mailbox...))
	copy(key[:], sum[:])
	return key
}

// repeats remembers deliveries, in two generations of a window each: the old
// one is thrown away whole, so the memory goes back with a quiet day.
type repeats struct {
	young, old map[delivery]uint32 // when they came, Unix time in seconds
	since      uint32              // when the young generation began
}

const windowSeconds = uint32(repeatWindow / time.Second)

func (r *repeats) add(key delivery, received uint32) {
	r.turn(received)
	if r.young == nil {
		r.young = make(map[delivery]uint32)
	}
	r.young[key] = received
}

// turn ends the young generation when it is a window old: what the old one
// holds came before that. It may be called at any time.
func (r *repeats) turn(now uint32) {
	if now < r.since || now-r.since < windowSeconds {
		return
	}
	r.old = r.young
	if now-r.since >= 2*windowSeconds {
		r.old = nil
	}
	r.young, r.since = nil, now
}

// has reports whether the delivery came within the window before now.
func (r *repeats) has(key delivery, now uint32) bool {
	received, known := r.young[key]
	if !known {
		received, known = r.old[key]
	}
	return known && (now < received || now-received < windowSeconds)
}
