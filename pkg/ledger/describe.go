package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
)

// Describe writes what an object of a ledger says, in lines for people: the
// object at the key, whole. Secrets, hashes and mail are left out. The error wraps
// ErrCorrupt when something is damaged, after what could be read; ErrVersion or
// ErrLimit (a key that no ledger has).
func Describe(w io.Writer, key string, object []byte) error {
	return (&describer{w: w, key: key}).describe(object)
}

func (d *describer) describe(object []byte) error {
	key := d.key
	folder, name := path.Base(path.Dir(key)), path.Base(key)
	switch {
	case folder == "ledger":
		d.ledger(object)
	case folder == "forgotten":
		d.forgotten(name, object)
	case folder == "manifest":
		d.manifest(name, object)
	case folder == "pack":
		d.pack(name, object)
	case folder == "body":
		d.body(name, object)
	case path.Base(path.Dir(path.Dir(key))) == "checkpoint":
		d.part(folder, name, object)
	default:
		return fmt.Errorf("%s: not the key of a ledger's object: %w", key, ErrLimit)
	}
	if err := errors.Join(d.damage, d.failed); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// describer writes lines, and keeps the same in fields, and what went wrong.
type describer struct {
	w      io.Writer
	key    string
	in     Inspection
	damage error // of the object
	failed error // of w
}

func (d *describer) line(format string, args ...any) {
	if d.failed == nil {
		_, d.failed = fmt.Fprintf(d.w, format+"\n", args...)
	}
}

// found keeps damage, and reports whether there is any.
func (d *describer) found(err error) bool {
	if err == nil {
		return false
	}
	d.damage = errors.Join(d.damage, err)
	at := damageOf(d.key, err)
	in := InspectedDamage{What: at.What}
	if at.Octet >= 0 {
		in.Octet = &at.Octet
	}
	d.in.Damage = append(d.in.Damage, in)
	return true
}

func (d *describer) ledger(b []byte) {
	h, entries, damages, err := decodeEither(b)
	for _, one := range damages {
		d.found(one)
	}
	d.found(err)
	if h == (header{}) {
		return
	}
	d.front(ObjectLedger, b, h.identity, h.epoch)
	d.in.Version, d.in.Sequence, d.in.Durable, d.in.RecordCount, d.in.BodyOctets = h.version, h.sequence, h.durable, h.count, h.bodies
	d.line("ledger object: sequence %d, epoch %d, ledger %08x, durable to %d", h.sequence, h.epoch, h.identity, h.durable)
	d.line("%d records in %d octets, bodies in %d octets", h.count, h.headers, h.bodies)
	if len(entries) < h.count {
		d.line("records that can be read: %d, before the damage", len(entries))
	}
	for _, e := range entries {
		d.line("%s %s", e.Position, inWords(e.Record))
		in := inspected(h, e)
		if wire := inlineWire(e.Record); wire > 0 {
			d.line("    body of %d octets at octet %d", wire, e.Offset)
			sound := d.inline(h, e, wire, b, in.Body)
			in.Body.Offset, in.Body.Sound = e.Offset, &sound
		}
		d.in.Records = append(d.in.Records, in)
	}
}

func (d *describer) forgotten(name string, b []byte) {
	sequence, ok := sequenceOf(name)
	if !ok {
		d.found(fmt.Errorf("the key isn't that of a forgotten sequence: %w", ErrLimit))
		return
	}
	f, damaged, err := decodeForgotten(b)
	d.found(damaged)
	if d.found(err) {
		return
	}
	if f.Sequence != sequence {
		d.found(damage(atSequence, fmt.Sprintf("it says that it is of sequence %d", f.Sequence)))
	}
	d.front(ObjectForgotten, b, f.Ledger, f.Epoch)
	d.in.Version, d.in.Sequence, d.in.Time, d.in.By, d.in.Why = version, f.Sequence, f.Time, f.By, f.Why
	d.line("forgotten: sequence %d of ledger %08x, by %q at %s", f.Sequence, f.Ledger, f.By, stamp(f.Time))
	if f.Epoch > 0 {
		d.line("epochs up to %d had begun", f.Epoch)
	}
	d.line("because of: %s", f.Why)
}

// inline checks an inline body.
func (d *describer) inline(h header, e Entry, wire uint64, b []byte, in *InspectedBody) (sound bool) {
	end := uint64(e.Offset) + wire
	if end+crcSize > uint64(len(b)) {
		d.found(damage(int(e.Offset), fmt.Sprintf("body of %s is cut off", e.Position)))
		return false
	}
	want := binary.LittleEndian.Uint32(b[end:])
	in.CRC32C = fmt.Sprintf("%08x", want)
	if bodySum(h.identity, e.Position, b[e.Offset:end]) != want {
		return !d.found(damage(int(e.Offset), fmt.Sprintf("checksum of the body of %s is wrong", e.Position)))
	}
	return true
}

// inWords is a record without its secrets. An ID is a hash, too.
func inWords(record Record) string {
	switch r := record.(type) {
	case *Fence:
		return r.String()
	case *Address:
		words := r.String()
		if r.Hash != "" {
			words += ", hash set"
		}
		if r.Scram != "" {
			words += ", SCRAM keys set"
		}
		return words
	case *Delivery:
		where := "inline"
		if r.Object != "" {
			where = "body object " + r.Object
		}
		return fmt.Sprintf("delivery to %s: %d octets (%d in wire form), class %d, received %s, UID %q, %s",
			r.Mailbox, r.Size, r.Wire, r.Class, stamp(r.Received), r.UID, where)
	case *Removal:
		return fmt.Sprintf("removal from %s at %s: %s", r.Mailbox, stamp(r.Time), list(r.Messages))
	case *Withdrawal:
		return fmt.Sprintf("withdrawal from %s at %s: %s", r.Mailbox, stamp(r.Time), list(r.Messages))
	case *Move:
		return fmt.Sprintf("move %d of account %q: stage %d at %s", r.ID, r.Account, r.Stage, stamp(r.Time))
	case *Pack:
		var b strings.Builder
		fmt.Fprintf(&b, "pack %s: %d octets, class %d, at %s", r.Object, r.Size, r.Class, stamp(r.Time))
		for _, m := range r.Mailboxes {
			fmt.Fprintf(&b, "\n    %s:", m.Mailbox)
			for _, message := range m.Messages {
				fmt.Fprintf(&b, " %s@%d", message.Position, message.Offset)
			}
		}
		return b.String()
	}
	return record.Kind().String()
}

func stamp(t time.Time) string { return t.Format(time.RFC3339Nano) }

func list(positions []Position) string {
	words := make([]string, len(positions))
	for i, p := range positions {
		words[i] = p.String()
	}
	return strings.Join(words, " ")
}

func (d *describer) manifest(name string, b []byte) {
	c, ok := files{}.checkpointOf(files{}.manifestPrefix() + name)
	if !ok {
		d.found(fmt.Errorf("the key isn't a manifest's: %w", ErrLimit))
		return
	}
	m, err := decodeManifest(c, b)
	if d.found(err) {
		return
	}
	d.front("manifest", b, m.identity, m.epoch)
	d.in.Sequence, d.in.Time = m.sequence, m.time
	for _, p := range m.parts {
		d.in.Parts = append(d.in.Parts, InspectedPart{p.length, fmt.Sprintf("%08x", p.crc)})
	}
	d.line("manifest: checkpoint of sequence %d, epoch %d, ledger %08x, made at %s", m.sequence, m.epoch, m.identity, stamp(m.time))
	d.line("%d parts with %d octets", len(m.parts), m.octets())
	for number, p := range m.parts {
		d.line("part %06d: %d octets, CRC-32C %08x", number, p.length, p.crc)
	}
}

func (d *describer) part(checkpointName, name string, b []byte) {
	epoch, ok := epochOf(checkpointName)
	number, err := strconv.ParseUint(name, 10, 32)
	if !ok || err != nil {
		d.found(fmt.Errorf("the key isn't a part's: %w", ErrLimit))
		return
	}
	identity := uint32(0)
	if len(b) >= partSize {
		identity = binary.LittleEndian.Uint32(b[atIdentity:])
	}
	payload, err := decodePart(checkpoint{epoch: epoch, name: checkpointName}, identity, int(number), b)
	if !d.found(err) {
		d.front("checkpoint", b, identity, epoch)
		of := int(number)
		d.in.Part = &of
		d.line("part %d of checkpoint %s: epoch %d, ledger %08x, %d octets of payload", number, checkpointName, epoch, identity, len(payload))
	}
}

// PartPayload is what State wrote into a part of a checkpoint: of the object, whole.
// It verifies nothing. nil: it is too short.
func PartPayload(object []byte) []byte {
	if len(object) < partSize {
		return nil
	}
	return object[partSize:]
}

func (d *describer) pack(name string, b []byte) {
	h, err := decodePack(name, b)
	if d.found(err) {
		return
	}
	d.front(ObjectPack, b, h.identity, h.epoch)
	d.in.Class, d.in.Bodies, d.in.BodyOctets = h.class, h.count, h.frames
	d.line("pack: epoch %d, ledger %08x, class %d, %d bodies in %d octets", h.epoch, h.identity, h.class, h.count, h.frames)
	if len(b) != packSize+h.frames {
		d.found(damage(min(len(b), packSize+h.frames), fmt.Sprintf("the object has %d octets, its header says %d", len(b), packSize+h.frames)))
	}
}

func (d *describer) body(name string, b []byte) {
	epoch, ok := epochOf(name)
	if !ok {
		d.found(fmt.Errorf("the key isn't a body's: %w", ErrLimit))
		return
	}
	blocks, octets := 0, 0
	for at := 0; at < len(b); at += frameSize {
		frame := b[at:min(at+frameSize, len(b))]
		if length := len(frame) - crcSize; length < 1 {
			d.found(damage(at, "block is cut off"))
		} else if octets += length; blockSum(name, uint64(blocks), frame[:length]) != binary.LittleEndian.Uint32(frame[length:]) {
			d.found(damage(at, "checksum of the block is wrong"))
		}
		blocks++
	}
	d.in.Kind, d.in.Epoch, d.in.BodyOctets, d.in.Blocks = ObjectBody, epoch, octets, blocks
	d.line("body: epoch %d, %d octets in %d blocks", epoch, octets, blocks)
}
