package shard

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// keepRemoved is how long a removed or expired message stays in the index. It
// is longer than any session lives, so a snapshot never loses a message.
const keepRemoved = 24 * time.Hour

// state is a shard's index: all that the ledger says, worked out. It is pure:
// no clock, no I/O, no lock. The same entries make the same state wherever they are
// replayed.
type state struct {
	identity  uint32          // of the ledger; UIDs are made of it
	epoch     uint64          // of the last fence
	last      ledger.Position // of the last entry: a session opened now sees what stands up to here
	mailboxes map[maildrop.Address]*mailbox
	addresses int // mailboxes that have a record
	messages  int // in all mailboxes

	removals map[ledger.Position]removal // of messages marked removed, for keepRemoved
	objects  map[ledger.Position]string  // of messages whose body is an object of its own
	uids     map[ledger.Position]maildrop.UID
	imported map[importedUID]ledger.Position // uids the other way round
	repeats  repeats
	texts    map[string]*string // one copy of texts that many records share
}

// mailbox is what is known of one address.
type mailbox struct {
	record   *record   // nil: no such address, or not any more; never changed, only replaced
	messages []message // in order of arrival, which is the order of positions
}

// message is one message of a mailbox: 32 octets, for there are many.
type message struct {
	position ledger.Position
	size     uint32 // octets without dot-stuffing: what LIST says
	wire     uint32 // octets of the body
	offset   uint32 // of an inline body in its object
	checksum uint32 // of an inline body
	received uint32 // Unix time in seconds
	class    maildrop.Class
	flags    flags
}

type flags uint8

const (
	flagRemoved  flags = 1 << iota // removals has the rest
	flagObject                     // objects names the body
	flagImported                   // uids has the unique-id
)

// removal says since when a message is gone.
type removal struct {
	at   ledger.Position
	time uint32 // Unix time in seconds
}

type importedUID struct {
	mailbox maildrop.Address
	uid     maildrop.UID
}

// maxWire is the largest body that the index has room for.
const maxWire = math.MaxUint32

var (
	errOrder  = errors.New("the entry is not newer than the one before")
	errRecord = errors.New("the record makes no sense")
)

func newState() *state {
	return &state{
		mailboxes: make(map[maildrop.Address]*mailbox),
		removals:  make(map[ledger.Position]removal),
		objects:   make(map[ledger.Position]string),
		uids:      make(map[ledger.Position]maildrop.UID),
		imported:  make(map[importedUID]ledger.Position),
		texts:     make(map[string]*string),
	}
}

// apply takes the ledger's next entry in. An error means that the ledger
// and this program don't fit together; the state is then as it was.
func (s *state) apply(e ledger.Entry) error {
	if e.Position <= s.last {
		return fmt.Errorf("%s after %s: %w", e.Position, s.last, errOrder)
	}
	var err error
	switch r := e.Record.(type) {
	case *ledger.Fence:
		s.identity, s.epoch = r.Ledger, r.Epoch
	case *ledger.Delivery:
		err = s.deliver(e, r)
	case *ledger.Removal:
		s.remove(e.Position, r)
	case *ledger.Address:
		s.put(e.Position, r)
	default:
		err = fmt.Errorf("%T: %w", e.Record, errRecord)
	}
	if err == nil {
		s.last = e.Position
	}
	return err
}

func (s *state) deliver(e ledger.Entry, d *ledger.Delivery) error {
	m := message{
		position: e.Position, size: uint32(d.Size), wire: uint32(d.Wire), offset: e.Offset,
		checksum: d.Checksum, received: seconds(d.Received), class: maildrop.Class(d.Class),
	}
	if d.Wire > maxWire || d.Size > maxWire || int(m.class) >= len(retention) || m.class == maildrop.ClassNone {
		return fmt.Errorf("%s: delivery of %d octets, %s: %w", e.Position, d.Wire, m.class, errRecord)
	}
	address := maildrop.Address(d.Mailbox)
	if d.Object != "" {
		m.flags |= flagObject
		s.objects[e.Position] = d.Object
	}
	if d.UID != "" {
		m.flags |= flagImported
		s.uids[e.Position] = maildrop.UID(d.UID)
		s.imported[importedUID{address, maildrop.UID(d.UID)}] = e.Position
	}
	box := s.mailbox(address)
	box.add(m)
	s.messages++
	s.repeats.add(repeatKey(address, d.ID), m.received)
	return nil
}

// mailbox finds an address's mailbox, or begins one.
func (s *state) mailbox(address maildrop.Address) *mailbox {
	box := s.mailboxes[address]
	if box == nil {
		box = &mailbox{}
		s.mailboxes[address] = box
	}
	return box
}

// add appends a message. Room grows by an eighth and not by half or more, for
// memory is what a node runs out of first.
func (b *mailbox) add(m message) {
	if n := len(b.messages); n == cap(b.messages) {
		b.messages = append(make([]message, 0, n+n/8+1), b.messages...)
	}
	b.messages = append(b.messages, m)
}

// remove marks messages. One that is gone already keeps its first removal; one
// that isn't known any more was removed long ago.
func (s *state) remove(at ledger.Position, r *ledger.Removal) {
	box := s.mailboxes[maildrop.Address(r.Mailbox)]
	if box == nil {
		return
	}
	for _, position := range r.Messages {
		if m := box.message(position); m != nil && m.flags&flagRemoved == 0 {
			m.flags |= flagRemoved
			s.removals[position] = removal{at: at, time: seconds(r.Time)}
		}
	}
}

// message finds the message at a position, or nil.
func (b *mailbox) message(position ledger.Position) *message {
	i, found := slices.BinarySearchFunc(b.messages, position, func(m message, p ledger.Position) int {
		switch {
		case m.position < p:
			return -1
		case m.position > p:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &b.messages[i]
}

// purge forgets what no session can hold any more: messages that were removed
// or have expired before now less keepRemoved. It returns how many.
func (s *state) purge(address maildrop.Address, now time.Time) int {
	box := s.mailboxes[address]
	if box == nil {
		return 0
	}
	before := now.Add(-keepRemoved).Unix()
	dead := 0
	for i := range box.messages {
		if s.dead(&box.messages[i], before) {
			dead++
		}
	}
	s.messages -= dead
	if dead > 0 {
		s.drop(address, box, before, len(box.messages)-dead)
	}
	if len(box.messages) == 0 && box.record == nil {
		delete(s.mailboxes, address)
	}
	return dead
}

func (s *state) dead(m *message, before int64) bool {
	if m.flags&flagRemoved != 0 && int64(s.removals[m.position].time) <= before {
		return true
	}
	return m.expires() <= before
}

// drop rebuilds a mailbox's messages at their right size.
func (s *state) drop(address maildrop.Address, box *mailbox, before int64, left int) {
	kept := make([]message, 0, left)
	for i := range box.messages {
		m := &box.messages[i]
		if !s.dead(m, before) {
			kept = append(kept, *m)
			continue
		}
		if m.flags&flagImported != 0 {
			delete(s.imported, importedUID{address, s.uids[m.position]})
			delete(s.uids, m.position)
		}
		delete(s.objects, m.position)
		delete(s.removals, m.position)
	}
	box.messages = slices.Clip(kept)
}

// expires is the Unix time in seconds from which on the message is not shown
// any more.
func (m *message) expires() int64 {
	return int64(m.received) + retention[m.class]
}

// retention is each class's in seconds; deliver takes no other class.
var retention = [...]int64{
	maildrop.ClassLocal:      int64(maildrop.LocalRetention / time.Second),
	maildrop.ClassContinuity: int64(maildrop.ContinuityRetention / time.Second),
}

// seconds is a Unix time that fits 32 bits until the year 2106.
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}
