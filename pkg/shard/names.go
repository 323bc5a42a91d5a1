package shard

import (
	"encoding/binary"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// name is an address in the index: the number of its domain (uvarint) and its
// local part. It takes half of what the address does, for domains are few.
type name string

// domains is the table of domains, numbered as they come.
type domains struct {
	numbers map[string]uint32
	texts   []string
}

// number is the domain's, a new one unless it has one.
func (d *domains) number(domain string) uint32 {
	number, known := d.numbers[domain]
	if !known {
		number = uint32(len(d.texts))
		domain = strings.Clone(domain)
		d.texts = append(d.texts, domain)
		d.numbers[domain] = number
	}
	return number
}

// nameRoom is enough for a name.
const nameRoom = binary.MaxVarintLen32 + maildrop.MaxAddress

func appendName(b []byte, domain uint32, local string) []byte {
	return append(binary.AppendUvarint(b, uint64(domain)), local...)
}

// split is the name's local part and domain.
func (s *state) split(n name) (local, domain string) {
	number, octets := uint64(0), 0
	for shift := 0; ; shift += 7 { // binary.Uvarint would copy
		c := n[octets]
		octets++
		number |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return string(n[octets:]), s.domains.texts[number]
		}
	}
}

func (s *state) address(n name) maildrop.Address {
	local, domain := s.split(n)
	return maildrop.Address(local + "@" + domain)
}

// box finds an address's mailbox, or nil.
func (s *state) box(address maildrop.Address) *mailbox {
	var room [nameRoom]byte
	local, domain := cut(address)
	number, known := s.domains.numbers[domain]
	if !known {
		return nil
	}
	return s.mailboxes[name(appendName(room[:0], number, local))]
}

// mailbox finds an address's mailbox, or begins one.
func (s *state) mailbox(address maildrop.Address) *mailbox {
	if box := s.box(address); box != nil {
		return box
	}
	box := &mailbox{}
	s.mailboxes[s.name(address)] = box
	return box
}

// name is the address's, whether or not there is a mailbox.
func (s *state) name(address maildrop.Address) name {
	local, domain := cut(address)
	return name(appendName(nil, s.domains.number(domain), local))
}

func cut(address maildrop.Address) (local, domain string) {
	at := strings.LastIndexByte(string(address), '@')
	return string(address[:max(at, 0)]), string(address[at+1:])
}
