package shard

import (
	"encoding/binary"
	"iter"
	"slices"
	"sync"

	"github.com/postern-pop/postern/pkg/ledger"
)

// A checkpoint's part, version 1. Numbers are little-endian, a text is its
// length (2) and its octets.
//
//	┌─────────┬─────────┬─────────┬─────┐
//	│ version │ section │ section │  …  │   until the part's end
//	└─────────┴─────────┴─────────┴─────┘
//	 1         kind 1, content
//
//	h  head      position of the last entry that it covers 8
//	m  mailbox   local part, domain (texts), 0 or 1 and a record, or 2 and
//	             one with keys for SCRAM, count 4,
//	             count × message, then for each message in turn what its flags say:
//	             removed: position 8, time 4; object: its name; imported: its UID
//	   record    revision 8, credentials 8, changed 4, access 1, secret 48,
//	             account, hash, primary (texts), count of groups 2, groups (texts);
//	             keys: iterations 4, salt 16, stored 32, server 32
//	   message   position 8, repeat 8, size 4, wire 4, offset 4, received 4,
//	             pack 4, class 1, flags 1
//	e  epochs    count 4, count × (position 8, what UIDs say from there on 4); left out
//	             while they say nothing
//	i  imports   count 4, count × (hash 8, position 8, repeat 8)
//	v  moves     count 4, count × (account (text), number of the move 8, stage 1); left out
//	             while there are none
//	p  packs     next number 4, count 4, count × (number 4, class 1,
//	             messages 4, object's name)
//
// A mailbox of many messages is cut into several sections, in any parts; the
// first one has the record. A state takes its parts in any order.
//
// # Fuzzy, and why that does no harm
//
// The state goes on changing while it is written down, between two chunks.
// What is written is a mixture: each piece as it was at some moment after the head.
// All entries after the head's position are replayed over it, in their order:
//
//   - A message is appended once: a delivery up to the mailbox's last position is
//     skipped. A mailbox's pieces are written in order, and nothing is ever inserted
//     among its messages.
//   - The first removal of a message stands.
//   - A move's stages only go forward. A withdrawal forgets a UID only where it is still
//     that of the message that it names.
//   - Places, records and UIDs: whatever the piece had seen comes again, in order,
//     up to what it had seen last.
//   - The packs and the UIDs are written last: what a message names is there.
const checkpointVersion = 1

const (
	sectionHead    = 'h'
	sectionMailbox = 'm'
	sectionMints   = 'e'
	sectionImports = 'i'
	sectionMoves   = 'v'
	sectionPacks   = 'p'

	messageOctets = 38
	importOctets  = 24
	mintOctets    = 12
)

// chunks say how a state is cut.
type chunks struct {
	part    int // a part ends when it has so many octets
	segment int // messages of one mailbox at once
	extras  int // octets of what their flags say
	locked  int // messages, about, under one lock: below a millisecond
}

// usualChunks leave room in a part of ledger.MaxPart for the longest section.
var usualChunks = chunks{part: 5 << 20, segment: 16384, extras: 1 << 20, locked: 16384} //nolint:gochecknoglobals // a constant

// parts writes the state down for a checkpoint up to the position last, which was the
// state's a moment ago. lock guards the state; it is not held while a part is
// being yielded, nor for long at a time. A part may be reused after its yield.
func (s *state) parts(last ledger.Position, lock sync.Locker, cut chunks) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		lock.Lock()
		defer lock.Unlock()
		e := &encoder{state: s, lock: lock, cut: cut, yield: yield, part: []byte{checkpointVersion}, oldest: s.last}
		e.head(last)
		if e.mailboxes() && e.mints() && e.imports() && e.moves() && e.packs() {
			e.flush()
		}
	}
}

// encoder writes one checkpoint.
type encoder struct {
	state *state
	lock  sync.Locker
	cut   chunks
	yield func([]byte, error) bool
	part  []byte
	done  int // messages since the lock was taken, about

	oldest ledger.Position // of the messages that were written, and the state's last before
}

// rest lets others at the state when it is time, and hands a full part over. It
// reports whether to go on.
func (e *encoder) rest(messages int) bool {
	e.done += messages
	switch {
	case len(e.part) >= e.cut.part:
		return e.flush()
	case e.done >= e.cut.locked:
		e.lock.Unlock()
		e.lock.Lock()
		e.done = 0
	}
	return true
}

func (e *encoder) flush() bool {
	e.lock.Unlock()
	defer e.lock.Lock()
	more := e.yield(e.part, nil)
	e.part, e.done = append(e.part[:0], checkpointVersion), 0
	return more
}

func (e *encoder) head(last ledger.Position) {
	e.part = binary.LittleEndian.AppendUint64(append(e.part, sectionHead), uint64(last))
}

// mailboxes writes all that are there from now on to the end; a map may be
// changed between two steps through it.
func (e *encoder) mailboxes() bool {
	for n, box := range e.state.mailboxes {
		if !e.mailbox(n, box) {
			return false
		}
	}
	return true
}

func (e *encoder) mailbox(n name, box *mailbox) bool {
	for after := ledger.Position(0); box != nil; box = e.state.mailboxes[n] {
		from, _ := box.search(after + 1)
		count := e.fits(box.messages[from:])
		if after == 0 || count > 0 {
			e.segment(n, box.messages[from:from+count], box.record, after == 0)
		}
		if from+count == len(box.messages) {
			return e.rest(count + 8)
		}
		after = box.messages[from+count-1].position
		if !e.rest(count + 8) {
			return false
		}
	}
	return true
}

// fits is how many messages make the next section.
func (e *encoder) fits(messages []message) int {
	n, extras := min(len(messages), e.cut.segment), 0
	for i := range messages[:n] {
		if messages[i].flags != 0 {
			extras += extraOctets
		}
		if extras > e.cut.extras {
			return max(i, 1)
		}
	}
	return n
}

// extraOctets is the most that a message's flags add.
const extraOctets = 12 + 2 + 64 + 2 + 70

func (e *encoder) segment(n name, messages []message, r record, first bool) {
	local, domain := e.state.split(n)
	if len(messages) > 0 {
		e.oldest = min(e.oldest, messages[0].position)
	}
	e.part = append(e.part, sectionMailbox)
	b := appendText(appendText(e.part, local), domain)
	if first && r.exists() {
		b = appendRecord(b, &r)
	} else {
		b = append(b, 0)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(messages)))
	b = slices.Grow(b, len(messages)*messageOctets)
	for i := range messages {
		b = appendMessage(b, &messages[i])
	}
	for i := range messages {
		if messages[i].flags != 0 {
			b = e.state.appendExtras(b, &messages[i])
		}
	}
	e.part = b
}

func appendMessage(b []byte, m *message) []byte {
	var raw [messageOctets]byte
	binary.LittleEndian.PutUint64(raw[0:], uint64(m.position))
	binary.LittleEndian.PutUint64(raw[8:], m.repeat)
	binary.LittleEndian.PutUint32(raw[16:], m.size)
	binary.LittleEndian.PutUint32(raw[20:], m.wire)
	binary.LittleEndian.PutUint32(raw[24:], m.offset)
	binary.LittleEndian.PutUint32(raw[28:], m.received)
	binary.LittleEndian.PutUint32(raw[32:], m.pack)
	raw[36], raw[37] = byte(m.class), byte(m.flags)
	return append(b, raw[:]...)
}

func (s *state) appendExtras(b []byte, m *message) []byte {
	if m.flags&flagRemoved != 0 {
		r := s.removals[m.position]
		b = binary.LittleEndian.AppendUint64(b, uint64(r.at))
		b = binary.LittleEndian.AppendUint32(b, r.time)
	}
	if m.flags&flagObject != 0 {
		b = appendText(b, s.objects[m.position])
	}
	if m.flags&flagImported != 0 {
		b = appendText(b, string(s.uids[m.position]))
	}
	return b
}

func appendRecord(b []byte, r *record) []byte {
	keys, keyed := r.keys()
	if keyed {
		b = append(b, 2)
	} else {
		b = append(b, 1)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(r.revision))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.credentials))
	b = binary.LittleEndian.AppendUint32(b, r.changed)
	b = append(append(b, byte(r.access)), r.secret[:]...)
	b = appendText(appendText(b, r.common.account), r.common.hash)
	groups := r.groups()
	b = appendText(b, string(r.primary()))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(groups)))
	for _, group := range groups {
		b = appendText(b, group)
	}
	if keyed {
		b = binary.LittleEndian.AppendUint32(b, uint32(keys.Iterations))
		b = append(append(append(b, keys.Salt[:]...), keys.Stored[:]...), keys.Server[:]...)
	}
	return b
}

// appendText writes a text of at most ledger.MaxText octets, as all are that come
// out of a ledger.
func appendText(b []byte, text string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(text))), text...)
}

// mints writes the epochs that the messages there are have, now that those are written.
// The state keeps the others: it is being read, and they are few.
func (e *encoder) mints() bool {
	mints := e.state.mints.since(e.oldest)
	if len(mints) == 0 {
		return true
	}
	at := e.open(sectionMints)
	for _, one := range mints {
		e.part = binary.LittleEndian.AppendUint64(e.part, uint64(one.from))
		e.part = binary.LittleEndian.AppendUint32(e.part, one.mint)
	}
	e.close(at, uint32(len(mints)))
	return e.rest(len(mints))
}

// imports writes the UIDs in sections of so many as messages are.
func (e *encoder) imports() bool {
	at, count := e.open(sectionImports), uint32(0)
	for hash, one := range e.state.imports {
		b := binary.LittleEndian.AppendUint64(e.part, hash)
		b = binary.LittleEndian.AppendUint64(b, uint64(one.position))
		e.part = binary.LittleEndian.AppendUint64(b, one.repeat)
		if count++; int(count) == e.cut.segment {
			e.close(at, count)
			if !e.rest(int(count)) {
				return false
			}
			at, count = e.open(sectionImports), 0
		}
	}
	e.close(at, count)
	return e.rest(int(count))
}

// moves writes what is known of accounts that moved.
func (e *encoder) moves() bool {
	if len(e.state.moves) == 0 {
		return true
	}
	at := e.open(sectionMoves)
	for account, one := range e.state.moves {
		e.part = binary.LittleEndian.AppendUint64(appendText(e.part, account), one.id)
		e.part = append(e.part, byte(one.stage))
	}
	e.close(at, uint32(len(e.state.moves)))
	return e.rest(len(e.state.moves))
}

func (e *encoder) packs() bool {
	p := &e.state.packs
	e.part = binary.LittleEndian.AppendUint32(append(e.part, sectionPacks), p.next)
	at, count := len(e.part), uint32(0)
	e.part = append(e.part, 0, 0, 0, 0)
	for number, one := range p.table {
		b := binary.LittleEndian.AppendUint32(e.part, number)
		b = binary.LittleEndian.AppendUint32(append(b, byte(one.class)), one.messages)
		e.part = appendText(b, one.object)
		if count++; int(count) == e.cut.segment {
			e.close(at, count)
			if !e.rest(int(count)) {
				return false
			}
			e.part = binary.LittleEndian.AppendUint32(append(e.part, sectionPacks), p.next)
			at, count = len(e.part), 0
			e.part = append(e.part, 0, 0, 0, 0)
		}
	}
	e.close(at, count)
	return e.rest(int(count))
}

// open begins a section whose count is not known yet; close fills it in.
func (e *encoder) open(kind byte) (at int) {
	e.part = append(e.part, kind, 0, 0, 0, 0)
	return len(e.part) - 4
}

func (e *encoder) close(at int, count uint32) {
	binary.LittleEndian.PutUint32(e.part[at:], count)
}
