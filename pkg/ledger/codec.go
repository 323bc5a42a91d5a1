package ledger

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// Limits of the format. What exceeds them is refused by Append and, read from
// storage, is damage.
const (
	MaxObject   = 32 << 20              // octets of one ledger object
	MaxBatch    = MaxObject - fixedSize // sum of Draft.Size that fits into one object
	MaxRecords  = 65535                 // records in one object
	MaxInline   = 1 << 20               // octets of a body inside a ledger object
	MaxText     = 4096                  // octets of any text in a record
	MaxGroups   = 1024                  // groups of one address
	MaxMessages = 1 << 20               // messages of one removal or withdrawal
	MaxPacked   = 65535                 // messages of one pack
	MaxPack     = 16 << 20              // octets of one pack object
)

// MaxSequence is the greatest sequence: UIDs have 40 bits for it. At 100
// objects a second that is 348 years.
const MaxSequence = 1<<40 - 1

// MaxEpoch is the greatest epoch: UIDs have 32 bits for it. At a take-over a
// second that is 136 years.
const MaxEpoch = 1<<32 - 1

// noTime stands for the zero time, whose nanoseconds int64 can't hold.
const noTime = math.MinInt64

// Times that fit into int64 nanoseconds, to the year.
const minYear, maxYear = 1679, 2261

func appendText(b []byte, s string) ([]byte, error) {
	if len(s) > MaxText {
		return nil, fmt.Errorf("text of %d octets, at most %d", len(s), MaxText)
	}
	return append(binary.AppendUvarint(b, uint64(len(s))), s...), nil
}

func appendTime(b []byte, t time.Time) ([]byte, error) {
	nanos := int64(noTime)
	if !t.IsZero() {
		if t = t.UTC(); t.Year() < minYear || t.Year() > maxYear {
			return nil, fmt.Errorf("time in the year %d", t.Year())
		}
		nanos = t.UnixNano()
	}
	return binary.LittleEndian.AppendUint64(b, uint64(nanos)), nil
}

// zigzag maps small differences of either sign to small numbers.
func zigzag(d int64) uint64   { return uint64(d)<<1 ^ uint64(d>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func (f *Fence) appendTo(b []byte) ([]byte, error) {
	b = binary.LittleEndian.AppendUint64(b, f.Epoch)
	b = binary.LittleEndian.AppendUint32(b, f.Ledger)
	b = append(b, f.Secret[:]...)
	b, err := appendTime(b, f.Time)
	if err != nil {
		return nil, err
	}
	return appendText(b, f.Owner)
}

func (d *Delivery) appendTo(b []byte) ([]byte, error) {
	b = append(b, d.Class)
	b = append(b, d.ID[:]...)
	b = binary.AppendUvarint(b, d.Size)
	b = binary.AppendUvarint(b, d.Wire)
	b, err := appendTime(b, d.Received)
	if err != nil {
		return nil, err
	}
	return appendTexts(b, d.Mailbox, d.UID, d.Object)
}

func (r *Removal) appendTo(b []byte) ([]byte, error) {
	return appendMessages(b, r.Time, r.Mailbox, r.Messages)
}

// A Withdrawal has the form of a Removal.
func (w *Withdrawal) appendTo(b []byte) ([]byte, error) {
	return appendMessages(b, w.Time, w.Mailbox, w.Messages)
}

func appendMessages(b []byte, t time.Time, mailbox string, messages []Position) ([]byte, error) {
	if len(messages) > MaxMessages {
		return nil, fmt.Errorf("removal of %d messages, at most %d", len(messages), MaxMessages)
	}
	b, err := appendTime(b, t)
	if err != nil {
		return nil, err
	}
	if b, err = appendText(b, mailbox); err != nil {
		return nil, err
	}
	b = binary.AppendUvarint(b, uint64(len(messages)))
	before := Position(0)
	for _, p := range messages {
		b = binary.AppendUvarint(b, zigzag(int64(p-before)))
		before = p
	}
	return b, nil
}

func (m *Move) appendTo(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(append(b, m.Stage), m.ID)
	b, err := appendTime(b, m.Time)
	if err != nil {
		return nil, err
	}
	return appendText(b, m.Account)
}

func (a *Address) appendTo(b []byte) ([]byte, error) {
	if len(a.Groups) > MaxGroups {
		return nil, fmt.Errorf("%d groups, at most %d", len(a.Groups), MaxGroups)
	}
	b, err := appendTime(append(b, a.flags(), a.Access), a.Time)
	if err != nil {
		return nil, err
	}
	if b, err = appendTexts(b, a.Address, a.Account, a.Primary, a.Hash); err != nil {
		return nil, err
	}
	if b, err = appendTexts(binary.AppendUvarint(b, uint64(len(a.Groups))), a.Groups...); err != nil || a.Scram == "" {
		return b, err
	}
	return appendText(b, a.Scram)
}

// The flags of an address's record.
const (
	addressRemoved = 1 << iota
	addressScram   // Scram follows the groups; records from before there was any haven't it
	addressFlags   = addressRemoved | addressScram
)

func (a *Address) flags() (flags byte) {
	if a.Removed {
		flags |= addressRemoved
	}
	if a.Scram != "" {
		flags |= addressScram
	}
	return flags
}

func (p *Pack) appendTo(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(append(b, p.Class), p.Size)
	b, err := appendTime(b, p.Time)
	if err != nil {
		return nil, err
	}
	if b, err = appendText(b, p.Object); err != nil {
		return nil, err
	}
	b = binary.AppendUvarint(b, uint64(len(p.Mailboxes)))
	before, total := Position(0), 0
	for _, m := range p.Mailboxes {
		if total += len(m.Messages); total > MaxPacked || len(p.Mailboxes) > MaxPacked {
			return nil, fmt.Errorf("pack of over %d messages", MaxPacked)
		}
		if b, err = appendText(b, m.Mailbox); err != nil {
			return nil, err
		}
		b = binary.AppendUvarint(b, uint64(len(m.Messages)))
		for _, message := range m.Messages {
			b = binary.AppendUvarint(b, zigzag(int64(message.Position-before)))
			b = binary.AppendUvarint(b, uint64(message.Offset))
			before = message.Position
		}
	}
	return b, nil
}

func appendTexts(b []byte, texts ...string) ([]byte, error) {
	for _, s := range texts {
		var err error
		if b, err = appendText(b, s); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// reader takes a payload apart. After its first failure it yields zero values
// and keeps the failure's name.
type reader struct {
	b    []byte
	fail string
}

func (r *reader) refuse(why string) {
	if r.fail == "" {
		r.fail = why
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.refuse("cut short")
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) octet() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uvarint takes the shortest form only: one value has one encoding.
func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || (n > 1 && r.b[n-1] == 0) {
		r.refuse("bad number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count takes a number of things of at least one octet each.
func (r *reader) count(most int) int {
	n := r.uvarint()
	if n > uint64(most) || n > uint64(len(r.b)) {
		r.refuse("count over its limit")
		return 0
	}
	return int(n)
}

func (r *reader) text() string { return string(r.take(r.count(MaxText))) }

func (r *reader) time() time.Time {
	nanos := int64(r.uint64())
	if nanos == noTime || r.fail != "" {
		return time.Time{}
	}
	t := time.Unix(0, nanos).UTC()
	if t.Year() < minYear || t.Year() > maxYear {
		r.refuse("time out of range")
	}
	return t
}

func (r *reader) fence() *Fence {
	f := &Fence{Epoch: r.uint64(), Ledger: r.uint32()}
	copy(f.Secret[:], r.take(len(f.Secret)))
	f.Time = r.time()
	f.Owner = r.text()
	return f
}

func (r *reader) delivery() *Delivery {
	d := &Delivery{Class: r.octet()}
	copy(d.ID[:], r.take(len(d.ID)))
	d.Size, d.Wire = r.uvarint(), r.uvarint()
	d.Received = r.time()
	d.Mailbox, d.UID, d.Object = r.text(), r.text(), r.text()
	return d
}

func (r *reader) removal() *Removal {
	v := &Removal{Time: r.time(), Mailbox: r.text()}
	if n := r.count(MaxMessages); n > 0 {
		v.Messages = make([]Position, n)
	}
	before := Position(0)
	for i := range v.Messages {
		before += Position(unzigzag(r.uvarint()))
		v.Messages[i] = before
	}
	return v
}

func (r *reader) withdrawal() *Withdrawal {
	v := r.removal()
	return &Withdrawal{Mailbox: v.Mailbox, Messages: v.Messages, Time: v.Time}
}

func (r *reader) move() *Move {
	return &Move{Stage: r.octet(), ID: r.uvarint(), Time: r.time(), Account: r.text()}
}

func (r *reader) address() *Address {
	flags := r.octet()
	if flags&^addressFlags != 0 {
		r.refuse("bad flag")
	}
	a := &Address{Removed: flags&addressRemoved != 0}
	a.Access, a.Time = r.octet(), r.time()
	a.Address, a.Account, a.Primary, a.Hash = r.text(), r.text(), r.text(), r.text()
	if n := r.count(MaxGroups); n > 0 {
		a.Groups = make([]string, n)
	}
	for i := range a.Groups {
		a.Groups[i] = r.text()
	}
	if flags&addressScram != 0 {
		if a.Scram = r.text(); a.Scram == "" {
			r.refuse("no keys where there are some")
		}
	}
	return a
}

func (r *reader) pack() *Pack {
	p := &Pack{Class: r.octet(), Size: r.uvarint(), Time: r.time(), Object: r.text()}
	if n := r.count(MaxPacked); n > 0 {
		p.Mailboxes = make([]PackMailbox, n)
	}
	before, left := Position(0), MaxPacked
	for i := range p.Mailboxes {
		m := &p.Mailboxes[i]
		m.Mailbox = r.text()
		n := r.count(left)
		if left -= n; n > 0 {
			m.Messages = make([]PackMessage, n)
		}
		for j := range m.Messages {
			before += Position(unzigzag(r.uvarint()))
			m.Messages[j] = PackMessage{Position: before, Offset: r.offset()}
		}
	}
	return p
}

func (r *reader) offset() uint32 {
	offset := r.uvarint()
	if offset > math.MaxUint32 {
		r.refuse("offset out of range")
	}
	return uint32(offset)
}

// decodeRecord takes a payload apart. Its errors wrap ErrCorrupt or, for a kind that
// this program doesn't know, ErrVersion.
func decodeRecord(kind Kind, payload []byte) (Record, error) {
	r := &reader{b: payload}
	var record Record
	switch kind {
	case KindFence:
		record = r.fence()
	case KindDelivery:
		record = r.delivery()
	case KindRemoval:
		record = r.removal()
	case KindAddress:
		record = r.address()
	case KindPack:
		record = r.pack()
	case KindWithdrawal:
		record = r.withdrawal()
	case KindMove:
		record = r.move()
	default:
		return nil, fmt.Errorf("record of %s: %w", kind, ErrVersion)
	}
	if r.fail == "" && len(r.b) > 0 {
		r.fail = "octets left over"
	}
	if r.fail != "" {
		return nil, fmt.Errorf("%s record: %s: %w", kind, r.fail, ErrCorrupt)
	}
	return record, nil
}
