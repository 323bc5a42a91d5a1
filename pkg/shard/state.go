package shard

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// keepRemoved is how long a removed or expired message stays in the index. It
// is longer than any session lives, so a snapshot never loses a message.
const keepRemoved = 24 * time.Hour

// state is a shard's index: all that the ledger says, worked out. It is pure:
// no clock and no I/O. The same entries make the same state wherever they are
// replayed, also over a checkpoint that has seen some of them before: each
// application is idempotent (see checkpoint.go).
type state struct {
	identity  uint32          // of the ledger; UIDs are made of it
	key       [32]byte        // of the hashes below: made of the ledger's secret
	last      ledger.Position // of the last entry: a session opened now sees what stands up to here
	mints     mints           // the epochs of positions; UIDs are made of these, too
	mailboxes map[name]*mailbox
	addresses int    // mailboxes that have a record
	messages  int    // in all mailboxes
	octets    uint64 // of their wire forms

	removals map[ledger.Position]removal // of messages marked removed, for keepRemoved
	objects  map[ledger.Position]string  // of messages whose body is an object of its own
	uids     map[ledger.Position]maildrop.UID
	imports  map[uint64]imported  // by hash of mailbox and UID, for ever: no UID is used twice
	recents  map[*mailbox]*recent // of busy mailboxes
	packs    packs
	domains  domains
	commons  map[common]*common // one copy of what many records share
	moves    map[string]moved   // the latest move between regions of each account that had one

	loading sync.Mutex // held where Load, of several goroutines, changes the state
}

// removal says since when a message is gone.
type removal struct {
	at   ledger.Position
	time uint32 // Unix time in seconds
}

// imported is what is remembered of a unique-id that came with its message.
type imported struct {
	position ledger.Position
	repeat   uint64 // hash of the delivery's ID
}

var (
	errOrder  = errors.New("the entry is not newer than the one before")
	errRecord = errors.New("the record makes no sense")
)

func newState() *state {
	return &state{
		mailboxes: make(map[name]*mailbox),
		removals:  make(map[ledger.Position]removal),
		objects:   make(map[ledger.Position]string),
		uids:      make(map[ledger.Position]maildrop.UID),
		imports:   make(map[uint64]imported),
		recents:   make(map[*mailbox]*recent),
		packs:     newPacks(),
		domains:   domains{numbers: make(map[string]uint32)},
		commons:   make(map[common]*common),
		moves:     make(map[string]moved),
	}
}

// Apply takes the ledger's next entry in. An error means that the ledger
// and this program don't fit together; the state is then as it was.
func (s *state) Apply(e ledger.Entry) error {
	if fence, ok := e.Record.(*ledger.Fence); ok && e.Position == 0 { // the one in force at a checkpoint
		s.fence(fence)
		return nil
	}
	if e.Position <= s.last {
		return fmt.Errorf("%s after %s: %w", e.Position, s.last, errOrder)
	}
	var err error
	switch r := e.Record.(type) {
	case *ledger.Fence:
		s.fence(r)
	case *ledger.Delivery:
		err = s.deliver(e, r)
	case *ledger.Removal:
		s.remove(e.Position, r)
	case *ledger.Address:
		s.put(e.Position, r)
	case *ledger.Pack:
		err = s.pack(r)
	case *ledger.Withdrawal:
		s.withdraw(e.Position, r)
	case *ledger.Move:
		err = s.move(r)
	default:
		err = fmt.Errorf("%T: %w", e.Record, errRecord)
	}
	if err == nil {
		s.last = e.Position
		s.mints.note(e.Position, e.Mint)
	}
	return err
}

func (s *state) fence(f *ledger.Fence) { s.identity, s.key = f.Ledger, hashKey(f.Secret) }

// hashKey keeps the secret's other uses apart from the index's hashes.
func hashKey(secret [32]byte) [32]byte {
	return sha256.Sum256(append([]byte("postern index hashes\x00"), secret[:]...))
}

func (s *state) deliver(e ledger.Entry, d *ledger.Delivery) error {
	m := message{
		position: e.Position, size: uint32(d.Size), wire: uint32(d.Wire), offset: e.Offset,
		received: seconds(d.Received), class: maildrop.Class(d.Class),
	}
	address := maildrop.Address(d.Mailbox)
	if d.Wire > maxWire || d.Size > maxWire || !kept(m.class) {
		return fmt.Errorf("%s: delivery of %d octets, %s: %w", e.Position, d.Wire, m.class, errRecord)
	}
	box := s.mailbox(address)
	if n := len(box.messages); n > 0 && box.messages[n-1].position >= e.Position {
		return nil // the checkpoint has it
	}
	m.repeat = s.repeat(address, d.ID)
	if d.Object != "" {
		m.flags |= flagObject
		s.objects[e.Position] = strings.Clone(d.Object)
	}
	if d.UID != "" {
		m.flags |= flagImported
		s.uids[e.Position] = maildrop.UID(strings.Clone(d.UID))
		s.imports[s.uidHash(address, maildrop.UID(d.UID))] = imported{position: e.Position, repeat: m.repeat}
	}
	box.add(m)
	s.noteRecent(box)
	s.messages++
	s.octets += uint64(m.wire)
	return nil
}

// kept reports whether there is such a class of messages.
func kept(class maildrop.Class) bool {
	return int(class) < len(retention) && class != maildrop.ClassNone
}

// remove marks messages. One that is gone already keeps its first removal; one
// that isn't known any more was removed long ago.
func (s *state) remove(at ledger.Position, r *ledger.Removal) {
	box := s.box(maildrop.Address(r.Mailbox))
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

// purge forgets what no session can hold any more: messages that were removed
// or have expired before now less keepRemoved. It returns how many.
func (s *state) purge(n name, now time.Time) int {
	box := s.mailboxes[n]
	if box == nil {
		return 0
	}
	before := now.Add(-keepRemoved).Unix()
	dead := 0
	for i := range box.messages {
		if s.dead(&box.messages[i], before) {
			dead++
			s.octets -= uint64(box.messages[i].wire)
		}
	}
	s.messages -= dead
	if dead > 0 {
		s.drop(box, before, len(box.messages)-dead)
	}
	s.tidy(n, box)
	return dead
}

// tidy ends a mailbox that has nothing in it.
func (s *state) tidy(n name, box *mailbox) {
	if len(box.messages) == 0 && !box.record.exists() {
		delete(s.mailboxes, n)
	}
}

func (s *state) dead(m *message, before int64) bool {
	if m.flags&flagRemoved != 0 && int64(s.removals[m.position].time) <= before {
		return true
	}
	return m.expires() <= before
}

// drop rebuilds a mailbox's messages at their right size.
func (s *state) drop(box *mailbox, before int64, left int) {
	kept := make([]message, 0, left)
	for i := range box.messages {
		m := &box.messages[i]
		if !s.dead(m, before) {
			kept = append(kept, *m)
			continue
		}
		if m.flags != 0 { // most have none: no maps are asked
			delete(s.uids, m.position)
			delete(s.objects, m.position)
			delete(s.removals, m.position)
		}
	}
	box.messages = kept
	delete(s.recents, box) // its indexes were those of before
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
