package shard

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

var errPart = fmt.Errorf("the part makes no sense: %w", ledger.ErrCorrupt)

// Load takes one part of a checkpoint in. It may be called by several
// goroutines at once, before the first Apply; most of the work is done side by side.
func (s *state) Load(part []byte) error {
	r := &partReader{b: part}
	if r.u8() != checkpointVersion {
		return fmt.Errorf("version: %w", errPart)
	}
	for len(r.b) > 0 && !r.bad {
		switch kind := r.u8(); kind {
		case sectionHead:
			s.loadHead(r)
		case sectionMailbox:
			s.loadMailbox(r)
		case sectionMints:
			s.loadMints(r)
		case sectionImports:
			s.loadImports(r)
		case sectionMoves:
			s.loadMoves(r)
		case sectionPacks:
			s.loadPacks(r)
		default:
			r.bad = true
		}
	}
	if r.bad {
		return fmt.Errorf("octet %d: %w", len(part)-len(r.b), errPart)
	}
	return nil
}

func (s *state) loadHead(r *partReader) {
	s.loading.Lock()
	defer s.loading.Unlock()
	s.last = ledger.Position(r.u64())
}

// loadedBox is a section of a mailbox, read and not yet taken in.
type loadedBox struct {
	local, domain []byte
	record        *loadedRecord
	messages      []message
	extras        []loadedExtra
}

type loadedRecord struct {
	record
	account, hash, primary []byte
	groups                 []string
	keys                   scram.Keys
}

type loadedExtra struct {
	message     *message
	removal     removal
	object, uid []byte
}

func (s *state) loadMailbox(r *partReader) {
	l := loadedBox{local: r.text(), domain: r.text()}
	if len(l.local)+1+len(l.domain) > maildrop.MaxAddress {
		r.bad = true
	}
	switch r.u8() {
	case 0:
	case 1:
		l.record = r.record()
	case 2:
		l.record = r.record()
		l.record.keys = r.keys()
	default:
		r.bad = true
	}
	l.messages = r.messages()
	for i := range l.messages {
		if l.messages[i].flags != 0 && !r.bad {
			l.extras = append(l.extras, r.extra(&l.messages[i]))
		}
	}
	if r.bad {
		return
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	r.bad = !s.takeBox(l)
}

// takeBox takes a section of a mailbox in, wherever it belongs among those that are
// there.
func (s *state) takeBox(l loadedBox) bool {
	box := s.mailboxOf(l.local, l.domain)
	if l.record != nil { // twice for one that was removed and made anew while it was written down
		if !box.record.exists() {
			s.addresses++
		}
		if r := l.record.shared(s); r.revision > box.record.revision {
			box.record = r
		}
	}
	if !box.insert(l.messages) {
		return false
	}
	delete(s.recents, box) // it has other indexes now
	s.messages += len(l.messages)
	for i := range l.messages {
		s.octets += uint64(l.messages[i].wire)
	}
	for _, e := range l.extras {
		position := e.message.position
		if e.message.flags&flagRemoved != 0 {
			s.removals[position] = e.removal
		}
		if e.message.flags&flagObject != 0 {
			s.objects[position] = string(e.object)
		}
		if e.message.flags&flagImported != 0 {
			s.uids[position] = maildrop.UID(e.uid)
		}
	}
	return true
}

// mailboxOf is mailbox for texts that are not to be kept.
func (s *state) mailboxOf(local, domain []byte) *mailbox {
	number, known := s.domains.numbers[string(domain)]
	if !known {
		number = s.domains.number(string(domain))
	}
	n := name(appendName(nil, number, string(local)))
	box := s.mailboxes[n]
	if box == nil {
		box = &mailbox{}
		s.mailboxes[n] = box
	}
	return box
}

// insert puts a run of messages where it belongs. It must not overlap with
// what is there.
func (b *mailbox) insert(run []message) bool {
	if len(run) == 0 || len(b.messages) == 0 {
		if len(run) > 0 {
			b.messages = run
		}
		return true
	}
	at, found := b.search(run[0].position)
	if found || at < len(b.messages) && b.messages[at].position <= run[len(run)-1].position {
		return false
	}
	merged := make([]message, 0, len(b.messages)+len(run))
	merged = append(append(append(merged, b.messages[:at]...), run...), b.messages[at:]...)
	b.messages = merged
	return true
}

func (l *loadedRecord) shared(s *state) record {
	r := l.record
	r.furnish(string(l.primary), l.groups, l.keys)
	if one := s.commons[common{string(l.account), string(l.hash)}]; one != nil {
		r.common = one
	} else {
		r.common = s.common(string(l.account), string(l.hash))
	}
	return r
}

func (s *state) loadMints(r *partReader) {
	raw := r.take(int(r.u32()) * mintOctets)
	if r.bad {
		return
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	for ; len(raw) > 0; raw = raw[mintOctets:] {
		one := mint{ledger.Position(binary.LittleEndian.Uint64(raw)), binary.LittleEndian.Uint32(raw[8:])}
		if n := len(s.mints); n > 0 && s.mints[n-1].from >= one.from {
			r.bad = true
			return
		}
		s.mints = append(s.mints, one)
	}
}

func (s *state) loadImports(r *partReader) {
	raw := r.take(int(r.u32()) * importOctets)
	if r.bad {
		return
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	for ; len(raw) > 0; raw = raw[importOctets:] {
		s.imports[binary.LittleEndian.Uint64(raw)] = imported{
			position: ledger.Position(binary.LittleEndian.Uint64(raw[8:])), repeat: binary.LittleEndian.Uint64(raw[16:]),
		}
	}
}

func (s *state) loadMoves(r *partReader) {
	s.loading.Lock()
	defer s.loading.Unlock()
	for count := r.u32(); count > 0 && !r.bad; count-- {
		account := string(r.text())
		one := moved{r.u64(), maildrop.Stage(r.u8())}
		_, twice := s.moves[account]
		if r.bad = r.bad || twice || account == "" || one.id == 0 || one.stage == maildrop.StageNone || !one.stage.Known(); !r.bad {
			s.moves[account] = one
		}
	}
}

func (s *state) loadPacks(r *partReader) {
	s.loading.Lock()
	defer s.loading.Unlock()
	s.packs.next = max(s.packs.next, r.u32())
	for count := r.u32(); count > 0 && !r.bad; count-- {
		number := r.u32()
		one := pack{class: maildrop.Class(r.u8()), messages: r.u32(), object: string(r.text())}
		_, twice := s.packs.table[number]
		if r.bad = r.bad || twice || number == 0 || one.object == "" || !kept(one.class); !r.bad {
			s.packs.put(number, one)
		}
	}
}

// partReader takes a part apart. After its first failure it yields zero values
// and is bad.
type partReader struct {
	b   []byte
	bad bool
}

func (r *partReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *partReader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *partReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *partReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *partReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *partReader) text() []byte {
	n := int(r.u16())
	if n > ledger.MaxText {
		r.bad = true
	}
	return r.take(n)
}

func (r *partReader) keys() (k scram.Keys) {
	k.Iterations = int(r.u32())
	copy(k.Salt[:], r.take(len(k.Salt)))
	copy(k.Stored[:], r.take(len(k.Stored)))
	copy(k.Server[:], r.take(len(k.Server)))
	return k
}

func (r *partReader) record() *loadedRecord {
	l := &loadedRecord{}
	l.revision, l.credentials = ledger.Position(r.u64()), ledger.Position(r.u64())
	l.changed, l.access = r.u32(), maildrop.Access(r.u8())
	copy(l.secret[:], r.take(len(l.secret)))
	l.account, l.hash, l.primary = r.text(), r.text(), r.text()
	groups := int(r.u16())
	if groups > ledger.MaxGroups {
		r.bad = true
	}
	for ; groups > 0 && !r.bad; groups-- {
		l.groups = append(l.groups, strings.Clone(string(r.text())))
	}
	return l
}

// messages reads a run of messages: the bulk of any checkpoint, hence by fixed
// places.
func (r *partReader) messages() []message {
	count := int(r.u32())
	raw := r.take(count * messageOctets)
	if raw == nil || count == 0 {
		return nil
	}
	list, before := make([]message, count), ledger.Position(0)
	for i := range list {
		b, m := raw[i*messageOctets:][:messageOctets:messageOctets], &list[i]
		m.position = ledger.Position(binary.LittleEndian.Uint64(b))
		m.repeat = binary.LittleEndian.Uint64(b[8:])
		m.size, m.wire = binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:])
		m.offset, m.received = binary.LittleEndian.Uint32(b[24:]), binary.LittleEndian.Uint32(b[28:])
		m.pack = binary.LittleEndian.Uint32(b[32:])
		m.class, m.flags = maildrop.Class(b[36]), flags(b[37])
		if m.position <= before || !kept(m.class) || m.flags&^allFlags != 0 {
			r.bad = true
			return nil
		}
		before = m.position
	}
	return list
}

func (r *partReader) extra(m *message) loadedExtra {
	e := loadedExtra{message: m}
	if m.flags&flagRemoved != 0 {
		e.removal = removal{at: ledger.Position(r.u64()), time: r.u32()}
	}
	if m.flags&flagObject != 0 {
		e.object = r.text()
		r.bad = r.bad || len(e.object) == 0
	}
	if m.flags&flagImported != 0 {
		e.uid = r.text()
		r.bad = r.bad || !maildrop.UID(e.uid).Valid()
	}
	return e
}
