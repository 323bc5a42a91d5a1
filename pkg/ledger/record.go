package ledger

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"
)

// Position is where a record stands in its ledger: the object's sequence
// (40 bits are used) and the record's index in it. Positions grow in the
// order of the ledger, and no two records of one ledger share one.
type Position uint64

// At makes a position.
func At(sequence uint64, index uint16) Position {
	return Position(sequence<<16 | uint64(index))
}

// Sequence is the number of the object, from 1.
func (p Position) Sequence() uint64 { return uint64(p) >> 16 }

// Index is the record's index in its object, from 0.
func (p Position) Index() uint16 { return uint16(p) }

// String is for logs.
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Sequence(), p.Index()) }

// uidEncoding is RFC 4648 section 7 in lower case: it keeps the octet order.
var uidEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// UID mints the unique-id of the message at a position: 24 characters, made of
// the ledger's identity (32 bits), the sequence (40), the index (16) and the epoch
// (32). Within one ledger the UIDs' octet order is the order of arrival, and two epochs
// never mint the same one, not even for the same position after the ledger's end was
// lost. Of epoch 0 it is what objects of version 1 minted: 18 characters, without the epoch.
func UID(identity uint32, position Position, epoch uint32) string {
	var raw [15]byte
	binary.BigEndian.PutUint32(raw[:], identity)
	sequence := position.Sequence()
	raw[4] = byte(sequence >> 32)
	binary.BigEndian.PutUint32(raw[5:], uint32(sequence))
	binary.BigEndian.PutUint16(raw[9:], position.Index())
	if epoch == 0 {
		return uidEncoding.EncodeToString(raw[:11])
	}
	binary.BigEndian.PutUint32(raw[11:], epoch)
	return uidEncoding.EncodeToString(raw[:])
}

// Kind says what a record is. The numbers are part of the format.
type Kind uint8

// The kinds of records.
const (
	KindFence    Kind = 1
	KindDelivery Kind = 2
	KindRemoval  Kind = 3
	KindAddress  Kind = 4
	KindPack     Kind = 5

	KindWithdrawal Kind = 6
	KindMove       Kind = 7
)

// String is the kind's name in logs.
func (k Kind) String() string {
	switch k {
	case KindFence:
		return "fence"
	case KindDelivery:
		return "delivery"
	case KindRemoval:
		return "removal"
	case KindAddress:
		return "address"
	case KindPack:
		return "pack"
	case KindWithdrawal:
		return "withdrawal"
	case KindMove:
		return "move"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Record is a fact in the ledger: a *Fence, *Delivery, *Removal, *Address, *Pack,
// *Withdrawal or *Move.
// Times have nanoseconds and come back in UTC; a zero time stays zero.
type Record interface {
	Kind() Kind
	// appendTo writes the payload; it refuses what decode would refuse.
	appendTo(b []byte) ([]byte, error)
}

// Fence begins an epoch. Only Open writes one, alone in its object.
type Fence struct {
	Epoch  uint64
	Owner  string   // who took over, for people
	Ledger uint32   // the ledger's identity, made by its first fence
	Secret [32]byte // made by the ledger's first fence, carried by all; never logged
	Time   time.Time
}

// Delivery is a message of a mailbox.
type Delivery struct {
	Mailbox  string // the primary address
	UID      string // empty, here and in what Open replays: UID(Identity, Position, Entry.Mint) names it
	ID       [16]byte
	Class    uint8
	Received time.Time
	Size     uint64 // octets without dot-stuffing
	Wire     uint64 // octets in wire form: the body's length
	Object   string // what PutBody answered; empty: the body is inline
}

// Removal takes messages out of a mailbox, all of them at once.
type Removal struct {
	Mailbox  string
	Messages []Position
	Time     time.Time
}

// Address is all that is known of one address; it replaces what was known.
type Address struct {
	Address string
	Removed bool
	Account string
	Primary string // not empty: an alias of it
	Hash    string // PHC string, or empty; never logged
	Scram   string // keys of the same password, or empty; never logged
	Access  uint8
	Groups  []string
	Time    time.Time
}

// Pack says that inline bodies are in a pack object from now on. What it says of
// a message replaces what was known of its place.
type Pack struct {
	Object    string // what WritePack answered
	Class     uint8  // the retention class of all its messages
	Size      uint64 // of the object, octets
	Time      time.Time
	Mailboxes []PackMailbox // at most MaxPacked messages together
}

// PackMailbox is the messages of one mailbox in a pack.
type PackMailbox struct {
	Mailbox  string
	Messages []PackMessage
}

// PackMessage is one message's place in a pack.
type PackMessage struct {
	Position Position
	Offset   uint32 // of the body in the pack object, octets
}

// Withdrawal takes messages out of a mailbox that another region keeps, all of them at
// once. A Removal's messages never come back; these may, with the same UIDs.
type Withdrawal struct {
	Mailbox  string
	Messages []Position
	Time     time.Time
}

// Move says how far the move of an account between regions has come in this shard.
type Move struct {
	Account string
	ID      uint64 // of the move; later moves of the account have greater ones
	Stage   uint8
	Time    time.Time
}

// Kind is KindFence.
func (*Fence) Kind() Kind { return KindFence }

// Kind is KindDelivery.
func (*Delivery) Kind() Kind { return KindDelivery }

// Kind is KindRemoval.
func (*Removal) Kind() Kind { return KindRemoval }

// Kind is KindAddress.
func (*Address) Kind() Kind { return KindAddress }

// Kind is KindPack.
func (*Pack) Kind() Kind { return KindPack }

// Kind is KindWithdrawal.
func (*Withdrawal) Kind() Kind { return KindWithdrawal }

// Kind is KindMove.
func (*Move) Kind() Kind { return KindMove }

// String tells all but the secret.
func (f *Fence) String() string {
	return fmt.Sprintf("fence of epoch %d by %q at %s", f.Epoch, f.Owner, f.Time.Format(time.RFC3339))
}

// LogValue keeps the secret out of logs of any form.
func (f *Fence) LogValue() slog.Value { return slog.StringValue(f.String()) }

// String tells all but hash and keys.
func (a *Address) String() string {
	return fmt.Sprintf("address %s of %q, primary %q, removed %v, access %d, groups %q", a.Address, a.Account, a.Primary, a.Removed, a.Access, a.Groups)
}

// LogValue keeps hash and keys out of logs of any form.
func (a *Address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Entry is a record in its place.
type Entry struct {
	Position Position
	Epoch    uint64
	Mint     uint32 // what UIDs say of the epoch: itself; 0 in an object of version 1
	Record   Record
	Offset   uint32 // of the inline body in its object, octets
}

// Draft is a record on its way into the ledger. Body is the message in wire
// form for a Delivery whose Object is empty (len(Body) must be its Wire), and
// nil otherwise.
type Draft struct {
	Record Record
	Body   []byte
}

// Size is the most octets that the draft takes in a ledger object: drafts of
// MaxBatch octets together can be appended at once.
func (d Draft) Size() int {
	const around = binary.MaxVarintLen32 + 1 + crcSize // length, kind, checksum
	const fixed = 96                                   // fixed fields and the lengths of texts, of any kind of record
	n := around + fixed
	switch r := d.Record.(type) {
	case *Fence:
		n += len(r.Owner)
	case *Delivery:
		n += len(r.Mailbox) + len(r.UID) + len(r.Object)
	case *Removal:
		n += len(r.Mailbox) + len(r.Messages)*binary.MaxVarintLen64
	case *Address:
		n += len(r.Address) + len(r.Account) + len(r.Primary) + len(r.Hash) + len(r.Scram)
		for _, group := range r.Groups {
			n += binary.MaxVarintLen16 + len(group)
		}
	case *Pack:
		n += len(r.Object)
		for _, m := range r.Mailboxes {
			n += 2*binary.MaxVarintLen32 + len(m.Mailbox) + len(m.Messages)*(binary.MaxVarintLen64+binary.MaxVarintLen32)
		}
	case *Withdrawal:
		n += len(r.Mailbox) + len(r.Messages)*binary.MaxVarintLen64
	case *Move:
		n += len(r.Account)
	}
	return copies*n + len(d.Body) + crcSize
}
