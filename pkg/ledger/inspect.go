package ledger

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Inspection is what Describe says of an object, in fields for programs. What doesn't
// belong to its kind is left out. Secrets, hashes and mail are left out, as there.
type Inspection struct {
	Kind     ObjectKind `json:"kind,omitempty"`     // ledger, forgotten, manifest, checkpoint, pack or body
	Version  uint16     `json:"version,omitempty"`  // of the format; a body has none
	Ledger   string     `json:"ledger,omitempty"`   // the ledger's identity, in hex
	Epoch    uint64     `json:"epoch,omitempty"`    //
	Sequence uint64     `json:"sequence,omitempty"` // of a manifest: the last one that its checkpoint covers
	Durable  uint64     `json:"durable,omitempty"`  // all up to this sequence was durable when it was written
	Time     time.Time  `json:"time,omitzero"`      //

	RecordCount int               `json:"record_count,omitempty"` // that the header says; more than there are records: they are damaged
	Records     []InspectedRecord `json:"records,omitempty"`      //
	Parts       []InspectedPart   `json:"parts,omitempty"`        // of a manifest
	Part        *int              `json:"part,omitempty"`         // its number in its checkpoint
	Class       uint8             `json:"class,omitempty"`        // of all bodies of a pack
	Bodies      int               `json:"bodies,omitempty"`       // in a pack
	BodyOctets  int               `json:"body_octets,omitempty"`  // of bodies, with their checksums in all but a body object
	Blocks      int               `json:"blocks,omitempty"`       // of a body object
	By          string            `json:"by,omitempty"`           // who decided that the sequence is forgotten
	Why         string            `json:"why,omitempty"`          //

	Sound  bool              `json:"sound"` // every checksum that the object has is right
	Damage []InspectedDamage `json:"damage,omitempty"`
}

// InspectedPart is what a manifest knows of a part of its checkpoint.
type InspectedPart struct {
	Octets uint32 `json:"octets"` // of its payload
	CRC32C string `json:"crc32c"` // in hex
}

// InspectedDamage is a place that is damaged.
type InspectedDamage struct {
	Octet *int   `json:"octet,omitempty"` // where in the object; none: not known, or all of it
	What  string `json:"what"`
}

// InspectedRecord is a record in its place.
type InspectedRecord struct {
	Position string    `json:"position"`
	Kind     string    `json:"kind"`
	Mailbox  string    `json:"mailbox,omitempty"` // of a delivery, a removal or a withdrawal
	UID      string    `json:"uid,omitempty"`
	Imported bool      `json:"imported,omitempty"` // the UID came with the message
	Class    uint8     `json:"class,omitempty"`
	Size     uint64    `json:"size,omitempty"` // of a message: octets without dot-stuffing; of a pack: of the object
	Wire     uint64    `json:"wire,omitempty"` // octets in wire form
	Time     time.Time `json:"time,omitzero"`  // of arrival, removal, change, or packing

	Body      *InspectedBody `json:"body,omitempty"`
	Messages  []string       `json:"messages,omitempty"`  // that are removed or withdrawn
	Mailboxes []InspectedBox `json:"mailboxes,omitempty"` // in a pack
	Object    string         `json:"object,omitempty"`    // a pack's name

	Epoch   uint64   `json:"epoch,omitempty"` // that a fence begins
	Owner   string   `json:"owner,omitempty"`
	Address string   `json:"address,omitempty"`
	Account string   `json:"account,omitempty"`
	Primary string   `json:"primary,omitempty"`
	Removed bool     `json:"removed,omitempty"` // the address
	Access  uint8    `json:"access,omitempty"`
	Groups  []string `json:"groups,omitempty"`
	Move    uint64   `json:"move,omitempty"`  // of the account, between regions
	Stage   uint8    `json:"stage,omitempty"` // that it has come to
	HashSet bool     `json:"hash_set,omitempty"`
	KeysSet bool     `json:"scram_keys_set,omitempty"`
}

// InspectedBody is where a message's body is.
type InspectedBody struct {
	Object string `json:"object,omitempty"` // an object of its own; empty: in this one
	Offset uint32 `json:"offset,omitempty"` // of an inline body, octets
	Octets uint64 `json:"octets"`           // in wire form
	CRC32C string `json:"crc32c,omitempty"` // that the object has for an inline body, in hex: over identity, position and octets
	Sound  *bool  `json:"sound,omitempty"`  // the inline body has that checksum
}

// InspectedBox is the messages of one mailbox in a pack.
type InspectedBox struct {
	Mailbox  string             `json:"mailbox"`
	Messages []InspectedMessage `json:"messages"`
}

// InspectedMessage is a message's place in a pack.
type InspectedMessage struct {
	Position string `json:"position"`
	Offset   uint32 `json:"offset"` // octets
}

// Inspect says what Describe does, in fields, and has its errors.
func Inspect(key string, object []byte) (Inspection, error) {
	d := &describer{w: io.Discard, key: key}
	err := d.describe(object)
	d.in.Sound = err == nil
	return d.in, err
}

// front keeps what all objects of a ledger begin with, of one that could be decoded.
func (d *describer) front(kind ObjectKind, b []byte, identity uint32, epoch uint64) {
	d.in.Kind, d.in.Ledger, d.in.Epoch = kind, fmt.Sprintf("%08x", identity), epoch
	d.in.Version = binary.LittleEndian.Uint16(b[atVersion:])
}

// inspected is a record without its secrets: see inWords.
func inspected(h header, e Entry) InspectedRecord {
	in := InspectedRecord{Position: e.Position.String(), Kind: e.Record.Kind().String()}
	switch r := e.Record.(type) {
	case *Fence:
		in.Epoch, in.Owner, in.Time = r.Epoch, r.Owner, r.Time
	case *Address:
		in.Address, in.Account, in.Primary, in.Removed, in.Access, in.Groups = r.Address, r.Account, r.Primary, r.Removed, r.Access, r.Groups
		in.HashSet, in.KeysSet, in.Time = r.Hash != "", r.Scram != "", r.Time
	case *Delivery:
		in.Mailbox, in.UID, in.Imported, in.Class = r.Mailbox, r.UID, r.UID != "", r.Class
		if !in.Imported {
			in.UID = UID(h.identity, e.Position, e.Mint)
		}
		in.Size, in.Wire, in.Time = r.Size, r.Wire, r.Received
		in.Body = &InspectedBody{Object: r.Object, Octets: r.Wire}
	case *Removal:
		in.Mailbox, in.Time, in.Messages = r.Mailbox, r.Time, inspectedPositions(r.Messages)
	case *Withdrawal:
		in.Mailbox, in.Time, in.Messages = r.Mailbox, r.Time, inspectedPositions(r.Messages)
	case *Move:
		in.Account, in.Move, in.Stage, in.Time = r.Account, r.ID, r.Stage, r.Time
	case *Pack:
		in.Object, in.Class, in.Size, in.Time = r.Object, r.Class, r.Size, r.Time
		for _, m := range r.Mailboxes {
			in.Mailboxes = append(in.Mailboxes, inspectedBox(m))
		}
	}
	return in
}

func inspectedPositions(positions []Position) []string {
	if len(positions) == 0 {
		return nil
	}
	words := make([]string, len(positions))
	for i, p := range positions {
		words[i] = p.String()
	}
	return words
}

func inspectedBox(m PackMailbox) InspectedBox {
	box := InspectedBox{Mailbox: m.Mailbox}
	for _, message := range m.Messages {
		box.Messages = append(box.Messages, InspectedMessage{message.Position.String(), message.Offset})
	}
	return box
}
