package shard

import (
	"fmt"
	"strings"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// pack is an object with bodies that were moved out of ledger objects.
type pack struct {
	object   string
	class    maildrop.Class
	messages uint32 // that its record named
}

// packs is the table of packs: a message names its by number. Numbers are the
// memory's and the checkpoints' only, and none is used twice.
type packs struct {
	table   map[uint32]pack
	numbers map[string]uint32 // of objects
	next    uint32
}

func newPacks() packs {
	return packs{table: make(map[uint32]pack), numbers: make(map[string]uint32), next: 1}
}

// number is the pack's, a new one unless it has one.
func (p *packs) number(what pack) uint32 {
	if number, known := p.numbers[what.object]; known {
		return number
	}
	number := p.next
	p.next++
	p.put(number, what)
	return number
}

func (p *packs) put(number uint32, what pack) {
	what.object = strings.Clone(what.object)
	p.table[number], p.numbers[what.object] = what, number
	p.next = max(p.next, number+1)
}

func (p *packs) forget(number uint32) {
	delete(p.numbers, p.table[number].object)
	delete(p.table, number)
}

// pack takes the new places of bodies in. It may come over a checkpoint that
// has them already, or later ones: then the later records come again, too.
func (s *state) pack(r *ledger.Pack) error {
	if r.Object == "" || !kept(maildrop.Class(r.Class)) {
		return fmt.Errorf("pack %q: %w", r.Object, errRecord)
	}
	what := pack{object: r.Object, class: maildrop.Class(r.Class)}
	for _, in := range r.Mailboxes {
		what.messages += uint32(len(in.Messages))
	}
	number := s.packs.number(what)
	for _, in := range r.Mailboxes {
		box := s.box(maildrop.Address(in.Mailbox))
		if box == nil {
			continue // all of it is forgotten by now
		}
		for _, moved := range in.Messages {
			if m := box.message(moved.Position); m != nil {
				m.pack, m.offset = number, moved.Offset
			}
		}
	}
	return nil
}

// place is where an inline body is. ok is false when its pack is forgotten.
func (s *state) place(m *message) (place ledger.Place, ok bool) {
	if m.pack == 0 {
		return ledger.Place{Offset: m.offset}, true
	}
	in, ok := s.packs.table[m.pack]
	return ledger.Place{Pack: in.object, Offset: m.offset}, ok
}
