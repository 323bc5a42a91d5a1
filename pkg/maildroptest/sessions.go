package maildroptest

import (
	"errors"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var sessions = []test{
	{"empty maildrop", emptyMaildrop},
	{"listing", listing},
	{"octets", octets},
	{"read from every offset", everyOffset},
	{"large messages", largeMessages},
	{"a writer that fails", failingWriter},
	{"a snapshot stays as it was", snapshotStays},
	{"remove", remove},
	{"remove is all or nothing", removeAllOrNothing},
	{"remove what another session removed", removeTwice},
	{"uids are never used again", uidsAreForEver},
	{"resume", resume},
	{"a token that isn't ours", forgedToken},
	{"a new owner", newOwner},
	{"ended contexts of a session", endedSessionContexts},
}

func emptyMaildrop(s *scene) {
	anna := s.user("anna")
	d := s.open(anna)
	info := d.Info()
	if info.Address != anna || info.Class != maildrop.ClassLocal || info.Count != 0 || info.Octets != 0 {
		s.Errorf("Info is %+v", info)
	}
	if entries := s.list(d); len(entries) != 0 {
		s.Errorf("listed %v", entries)
	}
	s.ok(d.Check(s.Context()))
	s.ok(d.Remove(s.Context(), nil))
	_, err := d.Read(s.Context(), "no-such-uid", 0, discard{})
	s.fails(err, maildrop.Invalid)
}

func listing(s *scene) {
	anna := s.user("anna")
	var want []uint64
	sum := uint64(0)
	for i := range 20 {
		body := Text("Subject: x\r\n\r\n." + strings.Repeat("y", i*3))
		s.deliver(anna, body)
		want = append(want, body.Size())
		sum += body.Size()
	}
	d := s.open(anna)
	if info := d.Info(); info.Count != len(want) || info.Octets != sum {
		s.Errorf("Info has %d messages of %d octets, want %d of %d", info.Count, info.Octets, len(want), sum)
	}
	entries := s.list(d)
	seen := make(map[maildrop.UID]bool)
	var sizes []uint64
	for _, e := range entries {
		if !e.UID.Valid() || seen[e.UID] {
			s.Errorf("unique-id %q is not valid or not unique", e.UID)
		}
		seen[e.UID] = true
		sizes = append(sizes, e.Size)
	}
	if !slices.Equal(sizes, want) {
		s.Errorf("sizes in order of arrival are %v, want %v", sizes, want)
	}
	if again := s.list(s.open(anna)); !slices.Equal(again, entries) {
		s.Errorf("another session lists %v, want %v", again, entries)
	}
}

// octets: what is fetched is what was delivered.
func octets(s *scene) {
	anna := s.user("anna")
	bodies := []Body{
		Text(""), Text("\r\n"), Text("."), Text(".\r\n.\r\n..\r\n"), Text("a\r\n.b"), Text("\x00\xff\x80 8 bit\r\n"),
		Text("a bare \r and a bare \n inside"), Text(strings.Repeat("z", 100_000)), Filled(2, 0), Filled(3000, 1),
	}
	for _, body := range bodies {
		s.deliver(anna, body)
	}
	d := s.open(anna)
	for i, e := range s.list(d) {
		if e.Size != bodies[i].Size() {
			s.Errorf("message %d has size %d, want %d", i, e.Size, bodies[i].Size())
		}
		s.same(s.read(d, e.UID, 0), bodies[i].Octets())
		s.same(s.read(d, e.UID, 0), bodies[i].Octets()) // reading changes nothing
	}
}

func everyOffset(s *scene) {
	anna := s.user("anna")
	body := Text("Subject: offsets\r\n\r\n.dot\r\n..\r\nend")
	s.deliver(anna, body)
	d := s.open(anna)
	uid := s.uids(d)[0]
	for offset := range body.Wire() + 1 {
		s.same(s.read(d, uid, offset), body.Octets()[offset:])
	}
	_, err := d.Read(s.Context(), uid, body.Wire()+1, discard{})
	s.fails(err, maildrop.Invalid)
	_, err = d.Read(s.Context(), uid, 1<<63, discard{})
	s.fails(err, maildrop.Invalid)
}

func largeMessages(s *scene) {
	anna := s.user("anna")
	const mib = 1 << 20
	for i, size := range []int{mib - 100_000, mib - 1, mib, mib + 1, 3 * mib} {
		body := Filled(size, byte(i))
		s.deliver(anna, body)
		d := s.open(anna)
		entry := s.list(d)[i]
		if entry.Size != uint64(size) {
			s.Errorf("size %d, want %d", entry.Size, size)
		}
		for _, offset := range []uint64{0, 1, 4095, 65_536, 262_143, 262_144, 262_145, 900_000, body.Wire() - 1, body.Wire()} {
			s.same(s.read(d, entry.UID, offset), body.Octets()[offset:])
		}
	}
}

var errWriter = errors.New("the writer's own error")

// brokenWriter takes some octets and then fails.
type brokenWriter struct{ room int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	n := min(w.room, len(p))
	w.room -= n
	if n < len(p) {
		return n, errWriter
	}
	return n, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func failingWriter(s *scene) {
	anna := s.user("anna")
	bodies := []Body{Filled(10_000, 1), Filled(3<<20, 2)}
	for _, body := range bodies {
		s.deliver(anna, body)
	}
	d := s.open(anna)
	for i, uid := range s.uids(d) {
		for _, room := range []int{0, 1, 7000, len(bodies[i].Octets()) - 1} {
			n, err := d.Read(s.Context(), uid, 0, &brokenWriter{room: room})
			s.fails(err, maildrop.Canceled)
			if !errors.Is(err, errWriter) {
				s.Errorf("the writer's error is lost in %v", err)
			}
			if n != uint64(room) {
				s.Errorf("the writer took %d octets, Read says %d", room, n)
			}
		}
		s.same(s.read(d, uid, 0), bodies[i].Octets()) // the session goes on
	}
}

func snapshotStays(s *scene) {
	anna := s.user("anna")
	first, second := s.message(anna), s.message(anna)
	d := s.open(anna)
	before := s.list(d)
	info := d.Info()

	s.message(anna)
	other := s.open(anna)
	s.ok(other.Remove(s.Context(), []maildrop.UID{before[0].UID}))
	s.message(anna)

	if after := s.list(d); !slices.Equal(after, before) {
		s.Errorf("the listing was %v and is %v", before, after)
	}
	if d.Info() != info {
		s.Errorf("Info was %+v and is %+v", info, d.Info())
	}
	s.same(s.read(d, before[1].UID, 0), second.Octets())
	var got strings.Builder
	switch _, err := d.Read(s.Context(), before[0].UID, 0, &got); {
	case err == nil:
		s.same([]byte(got.String()), first.Octets())
	default:
		s.fails(err, maildrop.NotFound)
	}
	if got := s.count(anna); got != 3 {
		s.Errorf("a new session sees %d messages, want 3", got)
	}
	if got := len(s.list(other)); got != 3 {
		s.Errorf("the session that removed has %d messages, want the 3 of its snapshot", got)
	}
}

func remove(s *scene) {
	anna := s.user("anna")
	for range 5 {
		s.message(anna)
	}
	d := s.open(anna)
	uids := s.uids(d)
	gone := []maildrop.UID{uids[3], uids[1], uids[3]} // in any order, and twice
	s.ok(d.Remove(s.Context(), gone))
	s.ok(d.Remove(s.Context(), gone)) // idempotent
	left := s.uids(s.open(anna))
	if want := []maildrop.UID{uids[0], uids[2], uids[4]}; !slices.Equal(left, want) {
		s.Errorf("left are %v, want %v", left, want)
	}
	if got := s.uids(d); !slices.Equal(got, uids) {
		s.Errorf("the snapshot changed to %v", got)
	}
	s.ok(d.Remove(s.Context(), uids))
	if got := s.count(anna); got != 0 {
		s.Errorf("%d messages are left", got)
	}
}

func removeAllOrNothing(s *scene) {
	anna, ben := s.user("anna"), s.user("ben")
	s.message(anna)
	s.message(ben)
	d := s.open(anna)
	own, foreign := s.uids(d)[0], s.uids(s.open(ben))[0]
	s.message(anna)
	later := s.uids(s.open(anna))[1]
	for _, bad := range []maildrop.UID{foreign, later, "", "nonsense", own + "x", own[:len(own)-1], maildrop.UID(strings.Repeat("v", 18))} {
		s.fails(d.Remove(s.Context(), []maildrop.UID{own, bad}), maildrop.Invalid)
		_, err := d.Read(s.Context(), bad, 0, discard{})
		s.fails(err, maildrop.Invalid)
	}
	if a, b := s.count(anna), s.count(ben); a != 2 || b != 1 {
		s.Errorf("anna has %d and ben %d messages, want 2 and 1", a, b)
	}
}

func removeTwice(s *scene) {
	anna := s.user("anna")
	for range 3 {
		s.message(anna)
	}
	phone, desktop := s.open(anna), s.open(anna)
	uids := s.uids(phone)
	s.ok(phone.Remove(s.Context(), uids[:2]))
	s.ok(desktop.Remove(s.Context(), uids[1:]))
	if got := s.count(anna); got != 0 {
		s.Errorf("%d messages are left", got)
	}
}

func uidsAreForEver(s *scene) {
	anna, ben := s.user("anna"), s.user("ben")
	seen := make(map[maildrop.UID]bool)
	for range 5 {
		s.message(anna)
		s.message(ben)
		for _, address := range []maildrop.Address{anna, ben} {
			d := s.open(address)
			uids := s.uids(d)
			if len(uids) != 1 || seen[uids[0]] {
				s.Fatalf("%s has %v; used before: %v", address, uids, seen)
			}
			seen[uids[0]] = true
			s.ok(d.Remove(s.Context(), uids))
		}
	}
}
