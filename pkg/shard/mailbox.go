package shard

import (
	"math"
	"slices"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// mailbox is what is known of one address: 112 octets, a size that the
// allocator has.
type mailbox struct {
	messages []message // in order of arrival, which is the order of positions
	record   record
}

// message is one message of a mailbox: 40 octets, for there are many.
type message struct {
	position ledger.Position
	repeat   uint64 // hash of the delivery's ID, to know a repetition by
	size     uint32 // octets without dot-stuffing: what LIST says
	wire     uint32 // octets of the body
	offset   uint32 // of an inline body in its ledger object or pack
	received uint32 // Unix time in seconds
	pack     uint32 // number of the pack that an inline body is in; 0: the position's own ledger object
	class    maildrop.Class
	flags    flags
}

type flags uint8

const (
	flagRemoved  flags = 1 << iota // removals has the rest
	flagObject                     // objects names the body
	flagImported                   // uids has the unique-id; received says when it arrived elsewhere
	allFlags     = flagRemoved | flagObject | flagImported
)

// maxWire is the largest body that the index has room for.
const maxWire = math.MaxUint32

// add appends a message. Room grows by a sixteenth, and what the allocator gives
// beyond that, and not by a quarter or more: memory is what a node runs out of
// first.
func (b *mailbox) add(m message) {
	if n := len(b.messages); n == cap(b.messages) {
		grown := append([]message(nil), make([]message, n+n/16+1)...) // rounds up to a size of the allocator's
		b.messages = grown[:copy(grown, b.messages)]
	}
	b.messages = append(b.messages, m)
}

// message finds the message at a position, or nil.
func (b *mailbox) message(position ledger.Position) *message {
	i, found := b.search(position)
	if !found {
		return nil
	}
	return &b.messages[i]
}

// search finds where the message at a position is, or would be.
func (b *mailbox) search(position ledger.Position) (int, bool) {
	return slices.BinarySearchFunc(b.messages, position, func(m message, p ledger.Position) int {
		switch {
		case m.position < p:
			return -1
		case m.position > p:
			return 1
		}
		return 0
	})
}

// expires is the Unix time in seconds from which on the message is not shown
// any more.
func (m *message) expires() int64 {
	return int64(m.received) + retention[m.class]
}

// inline reports whether the body is in a ledger object or a pack.
func (m *message) inline() bool { return m.flags&flagObject == 0 && m.wire > 0 }
