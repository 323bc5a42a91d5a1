package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/postern-pop/postern/pkg/blob"
)

// The object's header. In every later version magic, version and checksum stay
// where they are, so a damaged version is told from a new one.
const (
	magic      = "PSTNLEDG"
	version    = 1 // of all objects but ledger objects
	mirrored   = 2 // of ledger objects: header and records a second time at the end
	headerSize = 72
	nonceSize  = 16
	crcSize    = 4

	atVersion  = 8
	atFlags    = 10
	atIdentity = 12
	atEpoch    = 16
	atSequence = 24
	atDurable  = 32
	atNonce    = 40
	atCount    = 56
	atHeaders  = 60
	atBodies   = 64
	atCRC      = 68
)

// minRecord is the least that any record takes: length, kind, checksum, and the
// two octets that the smallest payload has at any rate.
const minRecord = 1 + 1 + crcSize

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C, going on from crc.
func checksum(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// header is a ledger object's, decoded.
type header struct {
	version  uint16 // 1 has no mirror; 0 is written as the newest
	identity uint32
	epoch    uint64
	sequence uint64
	durable  uint64 // the highest sequence that was durable, with all before it, when this was made
	nonce    [nonceSize]byte
	count    int // records
	headers  int // octets of all record headers
	bodies   int // octets of all bodies with their checksums
}

// mint is what UIDs of the object's messages say of its epoch.
func (h header) mint() uint32 {
	if h.version == version {
		return 0
	}
	return uint32(h.epoch)
}

// size is the whole object's.
func (h header) size() int {
	if h.version == version {
		return headerSize + h.headers + h.bodies
	}
	return headerSize + h.headers + h.bodies + blob.MirrorGap + h.headers + headerSize
}

func (h header) put(b []byte) {
	putFront(b, magic, h.identity)
	if h.version != version {
		binary.LittleEndian.PutUint16(b[atVersion:], mirrored)
	}
	binary.LittleEndian.PutUint64(b[atEpoch:], h.epoch)
	binary.LittleEndian.PutUint64(b[atSequence:], h.sequence)
	binary.LittleEndian.PutUint64(b[atDurable:], h.durable)
	copy(b[atNonce:], h.nonce[:])
	binary.LittleEndian.PutUint32(b[atCount:], uint32(h.count))
	binary.LittleEndian.PutUint32(b[atHeaders:], uint32(h.headers))
	binary.LittleEndian.PutUint32(b[atBodies:], uint32(h.bodies))
	binary.LittleEndian.PutUint32(b[atCRC:], checksum(0, b[:atCRC]))
}

// decodeHeader reads the first octets of an object.
func decodeHeader(b []byte) (h header, err error) {
	if len(b) < headerSize {
		return h, damage(len(b), "object ends in its header")
	}
	b = b[:headerSize]
	if err := checkFront(b, magic, mirrored, checksum(0, b[:atCRC]), atCRC); err != nil {
		return h, err
	}
	h.version = binary.LittleEndian.Uint16(b[atVersion:])
	h.identity = binary.LittleEndian.Uint32(b[atIdentity:])
	h.epoch = binary.LittleEndian.Uint64(b[atEpoch:])
	h.sequence = binary.LittleEndian.Uint64(b[atSequence:])
	h.durable = binary.LittleEndian.Uint64(b[atDurable:])
	copy(h.nonce[:], b[atNonce:])
	return h, h.lengths(b)
}

// sealedMagic begins what package sealed has written: no damage, but a store that
// was opened without its keys.
const sealedMagic = "PSTNSEAL"

// checkFront checks what all objects of a ledger have in common: magic, checksum
// at its place, version and flags, in this order. Damage is never taken for a
// newer version.
func checkFront(b []byte, magic string, newest uint16, sum uint32, atSum int) error {
	switch string(b[:len(magic)]) {
	case magic:
	case sealedMagic:
		return fmt.Errorf("the object is encrypted, and its region's storage.encryption isn't set here: %w", ErrVersion)
	default:
		return damage(0, "not an object of type "+magic)
	}
	if sum != binary.LittleEndian.Uint32(b[atSum:]) {
		return damage(0, "checksum is wrong")
	}
	if v := binary.LittleEndian.Uint16(b[atVersion:]); v < version || v > newest {
		return fmt.Errorf("%s object of version %d, versions up to %d are known: %w", magic, v, newest, ErrVersion)
	}
	if f := binary.LittleEndian.Uint16(b[atFlags:]); f != 0 {
		return fmt.Errorf("%s object with flags %#x: %w", magic, f, ErrVersion)
	}
	return nil
}

// putFront writes magic, version, flags and identity.
func putFront(b []byte, magic string, identity uint32) {
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[atVersion:], version)
	binary.LittleEndian.PutUint16(b[atFlags:], 0)
	binary.LittleEndian.PutUint32(b[atIdentity:], identity)
}

// lengths takes the three lengths and holds them against the limits.
func (h *header) lengths(b []byte) error {
	count := binary.LittleEndian.Uint32(b[atCount:])
	headers := binary.LittleEndian.Uint32(b[atHeaders:])
	bodies := binary.LittleEndian.Uint32(b[atBodies:])
	switch {
	case count < 1 || count > MaxRecords:
		return damage(atCount, "number of records out of range")
	case uint64(headers) < uint64(count)*minRecord || uint64(headers) > MaxObject || uint64(bodies) > MaxObject:
		return damage(atHeaders, "lengths out of range")
	case h.sequence < 1 || h.sequence > MaxSequence:
		return damage(atSequence, "sequence out of range")
	case h.durable >= h.sequence:
		return damage(atDurable, "what is durable isn't before the object")
	}
	h.count, h.headers, h.bodies = int(count), int(headers), int(bodies)
	if h.size() > MaxObject {
		return damage(atHeaders, "lengths out of range")
	}
	return nil
}

// seed begins the chain of the records' checksums: it ties them to their
// object, so records of two objects can't be mixed unseen.
func (h header) seed() uint32 {
	var b [headerSize]byte
	h.put(b[:])
	return checksum(0, b[atIdentity:atCount])
}

// bodySum is the checksum that follows an inline body, here and in a pack. It
// covers whose body it is, so a body in a wrong place fails it.
func bodySum(identity uint32, position Position, body []byte) uint32 {
	var place [12]byte
	binary.LittleEndian.PutUint32(place[:], identity)
	binary.LittleEndian.PutUint64(place[4:], uint64(position))
	crc := ^uint32(0)
	for _, octet := range place { // not crc32.Update, which would put it on the heap
		crc = castagnoli[byte(crc)^octet] ^ crc>>8
	}
	return checksum(^crc, body)
}

// batch is drafts laid out as an object: all but what depends on the object's
// place. One that finds its place taken by a dead owner's object is sealed for another.
type batch struct {
	drafts  []Draft
	entries []Entry
	object  []byte // room for the header, then the records' ones; with room for the bodies
	headers int
	bodies  int
}

// layOut encodes all records, into a buffer of the spares. It refuses what
// doesn't fit the format.
func layOut(drafts []Draft, spares *spares) (*batch, error) {
	if len(drafts) > MaxRecords {
		return nil, fmt.Errorf("%d records, at most %d: %w", len(drafts), MaxRecords, ErrLimit)
	}
	room := fixedSize
	for _, d := range drafts {
		room += d.Size()
	}
	b := &batch{drafts: drafts, entries: make([]Entry, len(drafts)), object: spares.take(min(room, MaxObject))[:headerSize]}
	var scratch []byte
	for i, d := range drafts {
		payload, err := d.Record.appendTo(scratch[:0])
		if err != nil {
			return nil, fmt.Errorf("draft %d: %s: %w: %w", i, d.Record.Kind(), err, ErrLimit)
		}
		scratch = payload
		b.object = appendRecord(b.object, d.Record.Kind(), payload)
		b.entries[i] = Entry{Record: d.Record, Offset: uint32(b.bodies)}
		if len(d.Body) > 0 {
			b.bodies += len(d.Body) + crcSize
		}
		if (header{headers: len(b.object) - headerSize, bodies: b.bodies}).size() > MaxObject {
			return nil, fmt.Errorf("object over %d octets: %w", MaxObject, ErrLimit)
		}
	}
	b.headers = len(b.object) - headerSize
	return b, nil
}

// seal gives the object its place. The entries are what decoding it would yield;
// both are good until the next seal.
func (b *batch) seal(h header) (object []byte, entries []Entry) {
	h.count, h.headers, h.bodies = len(b.drafts), b.headers, b.bodies
	b.object = b.object[:headerSize+b.headers]
	h.put(b.object)
	crc, at := h.seed(), headerSize
	for i, d := range b.drafts {
		at = sealRecord(b.object, at, &crc)
		e := &b.entries[i]
		e.Position, e.Epoch, e.Mint = At(h.sequence, uint16(i)), h.epoch, h.mint()
		if e.Offset = 0; len(d.Body) > 0 {
			e.Offset = uint32(len(b.object))
			b.object = append(b.object, d.Body...)
			b.object = binary.LittleEndian.AppendUint32(b.object, bodySum(h.identity, e.Position, d.Body))
		}
	}
	b.object = appendMirror(b.object, headerSize+b.headers)
	return b.object, b.entries
}

// encodeObject makes an object of drafts whose place is certain.
func encodeObject(h header, drafts []Draft) ([]byte, []Entry, error) {
	b, err := layOut(drafts, &spares{})
	if err != nil {
		return nil, nil, err
	}
	object, entries := b.seal(h)
	return object, entries, nil
}

// settle makes the offset one in the object, of the offset among the bodies.
func (e *Entry) settle(h header) {
	if inlineWire(e.Record) == 0 {
		e.Offset = 0
		return
	}
	e.Offset += uint32(headerSize + h.headers)
}

// appendRecord leaves room for the checksum, which sealRecord fills in.
func appendRecord(b []byte, kind Kind, payload []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(payload)))
	b = append(append(b, byte(kind)), payload...)
	return append(b, 0, 0, 0, 0)
}

// sealRecord sets the checksum of the record at an octet of the object, and
// returns where the next one begins.
func sealRecord(b []byte, at int, crc *uint32) int {
	length, n := binary.Uvarint(b[at:])
	end := at + n + 1 + int(length)
	*crc = checksum(*crc, b[at:end])
	binary.LittleEndian.PutUint32(b[end:], *crc)
	return end + crcSize
}

// inlineWire is how many octets of body the record has in its object.
func inlineWire(r Record) uint64 {
	if d, ok := r.(*Delivery); ok && d.Object == "" {
		return d.Wire
	}
	return 0
}

// decodeRecords reads all record headers, which follow the object's header. With
// damage come the records before it.
func decodeRecords(h header, b []byte) ([]Entry, error) {
	short := len(b) < h.headers
	b = b[:min(h.headers, len(b))]
	entries := make([]Entry, h.count)
	crc, at, bodies := h.seed(), 0, uint64(0)
	for i := range entries {
		record, n, err := decodeOne(b[at:], &crc)
		if err != nil {
			if short {
				err = fmt.Errorf("the object ends in it: %w", ErrCorrupt)
			}
			return entries[:i], inRecord(i, headerSize+at, err)
		}
		at += n
		entries[i] = Entry{Position: At(h.sequence, uint16(i)), Epoch: h.epoch, Mint: h.mint(), Record: record, Offset: uint32(bodies)}
		if wire := inlineWire(record); wire > uint64(h.bodies) {
			return entries[:i], damage(headerSize+at, "body is longer than the object")
		} else if wire > 0 {
			bodies += wire + crcSize
		}
		if bodies > uint64(h.bodies) {
			return entries[:i], damage(headerSize+at, "bodies are longer than the object")
		}
		entries[i].settle(h)
	}
	if at != h.headers || bodies != uint64(h.bodies) {
		return entries, damage(headerSize+at, "lengths of records and object differ")
	}
	return entries, nil
}

// inRecord says where in the object a record's error is.
func inRecord(i, octet int, err error) error {
	if errors.Is(err, ErrCorrupt) {
		return damage(octet, fmt.Sprintf("record %d: %s", i, err.Error()))
	}
	return fmt.Errorf("octet %d: record %d: %w", octet, i, err)
}

// decodeOne reads one record header and returns its length.
func decodeOne(b []byte, crc *uint32) (Record, int, error) {
	r := reader{b: b}
	length := r.uvarint()
	if r.fail != "" || length > uint64(len(r.b)) || uint64(len(r.b))-length < 1+crcSize {
		return nil, 0, fmt.Errorf("length out of range: %w", ErrCorrupt)
	}
	end := len(b) - len(r.b) + 1 + int(length)
	*crc = checksum(*crc, b[:end])
	if binary.LittleEndian.Uint32(b[end:]) != *crc {
		return nil, 0, fmt.Errorf("checksum of the record's header is wrong: %w", ErrCorrupt)
	}
	record, err := decodeRecord(Kind(r.b[0]), b[end-int(length):end])
	return record, end + crcSize, err
}

// damageError is damage at a known octet of an object.
type damageError struct {
	octet int
	what  string
}

func (e *damageError) Error() string {
	return fmt.Sprintf("octet %d: %s: %v", e.octet, e.what, ErrCorrupt)
}
func (e *damageError) Unwrap() error { return ErrCorrupt }

func damage(octet int, what string) error { return &damageError{octet, what} }

// validate refuses drafts that could be written and would make no sense.
func validate(drafts []Draft) error {
	for i, d := range drafts {
		if err := d.validate(); err != nil {
			return fmt.Errorf("draft %d: %w", i, err)
		}
	}
	return nil
}

func (d Draft) validate() error {
	delivery, isDelivery := d.Record.(*Delivery)
	switch {
	case d.Record == nil:
		return errors.New("no record")
	case d.Record.Kind() == KindFence:
		return errors.New("a fence is written by Open only")
	case !isDelivery && d.Body != nil, isDelivery && delivery.Object != "" && d.Body != nil:
		return errors.New("a body that nothing names")
	case !isDelivery || delivery.Object != "":
		return nil
	case uint64(len(d.Body)) != delivery.Wire:
		return fmt.Errorf("body has %d octets, its record says %d", len(d.Body), delivery.Wire)
	case len(d.Body) > MaxInline:
		return fmt.Errorf("inline body of %d octets, at most %d: %w", len(d.Body), MaxInline, ErrLimit)
	}
	return nil
}
