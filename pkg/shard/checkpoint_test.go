package shard

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// seen is all of a state that anybody can see, without numbers and capacities.
type seen struct {
	last                ledger.Position
	addresses, messages int
	boxes               map[maildrop.Address]seenBox
	imports             map[uint64]imported
	packs               map[string]pack
	moves               map[string]moved
}

type seenBox struct {
	record   maildrop.AddressRecord
	hash     string
	keys     scram.Keys
	revision ledger.Position
	messages []seenMessage
}

type seenMessage struct {
	message
	removal removal
	object  string
	uid     maildrop.UID
	place   ledger.Place
}

func see(s *state) seen {
	all := seen{last: s.last, addresses: s.addresses, messages: s.messages, boxes: map[maildrop.Address]seenBox{},
		imports: s.imports, packs: map[string]pack{}, moves: s.moves}
	for _, p := range s.packs.table {
		all.packs[p.object] = p
	}
	for n, box := range s.mailboxes {
		b := seenBox{revision: box.record.credentials}
		if box.record.exists() {
			b.record, b.hash = box.record.full(s.address(n)), box.record.credential().hash()
			b.keys, _ = box.record.keys()
		}
		for i := range box.messages {
			m := box.messages[i]
			one := seenMessage{message: m, removal: s.removals[m.position], object: s.objects[m.position], uid: s.uids[m.position]}
			one.place, _ = s.place(&m)
			one.pack = 0
			b.messages = append(b.messages, one)
		}
		all.boxes[s.address(n)] = b
	}
	return all
}

// history draws entries as a ledger has them.
type history struct {
	*rapid.T
	at        uint64
	now       time.Time
	delivered map[maildrop.Address][]ledger.Position
}

func (h *history) next() ledger.Entry {
	h.at++
	h.now = h.now.Add(rapid.SampledFrom([]time.Duration{0, time.Minute, 13 * time.Hour}).Draw(h.T, "wait"))
	e := ledger.Entry{Position: ledger.At(h.at, rapid.Uint16Max(3).Draw(h.T, "index"))}
	address := drawAddress(h.T)
	switch rapid.IntRange(0, 11).Draw(h.T, "kind") {
	case 10:
		e.Record = &ledger.Withdrawal{Mailbox: string(address), Messages: h.some(address), Time: h.now}
	case 11:
		e.Record = &ledger.Move{Account: rapid.SampledFrom([]string{"a", "b"}).Draw(h.T, "account"), ID: rapid.Uint64Range(1, 3).Draw(h.T, "move"),
			Stage: uint8(rapid.IntRange(1, 6).Draw(h.T, "stage")), Time: h.now}
	case 0:
		e.Record = &ledger.Address{Address: string(address), Removed: rapid.Bool().Draw(h.T, "removed"), Account: "a", Time: h.now}
	case 1:
		a := &ledger.Address{Address: string(address), Account: rapid.SampledFrom([]string{"a", "b"}).Draw(h.T, "account"),
			Hash: rapid.SampledFrom([]string{"", plainHash("x"), plainHash("y")}).Draw(h.T, "hash"), Groups: []string{"g"}, Time: h.now}
		if a.Hash != "" && rapid.Bool().Draw(h.T, "keys") {
			a.Scram = keysText(a.Hash[len(a.Hash)-1])
		}
		e.Record = a
	case 2, 3:
		e.Record = &ledger.Removal{Mailbox: string(address), Messages: h.some(address), Time: h.now}
	case 4, 5:
		e.Record = h.packed(address)
	default:
		d := &ledger.Delivery{Mailbox: string(address), ID: maildrop.RandomID(), Class: 2, Received: h.now, Size: 10, Wire: 10}
		switch rapid.IntRange(0, 3).Draw(h.T, "delivery") {
		case 0:
			d.UID = fmt.Sprint("uid", h.at%5) // some come back
		case 1:
			d.Object = fmt.Sprint("object", h.at)
		}
		e.Record, e.Offset = d, uint32(h.at)
		h.delivered[address] = append(h.delivered[address], e.Position)
	}
	return e
}

func (h *history) some(address maildrop.Address) (list []ledger.Position) {
	for _, p := range h.delivered[address] {
		if rapid.IntRange(0, 2).Draw(h.T, "this one") == 0 {
			list = append(list, p)
		}
	}
	return list
}

func (h *history) packed(address maildrop.Address) *ledger.Pack {
	r := &ledger.Pack{Object: fmt.Sprint("pack", h.at), Class: 2, Time: h.now, Mailboxes: []ledger.PackMailbox{{Mailbox: string(address)}}}
	for _, p := range h.some(address) {
		r.Mailboxes[0].Messages = append(r.Mailboxes[0].Messages, ledger.PackMessage{Position: p, Offset: uint32(h.at)})
	}
	return r
}

// meddler is a lock under which the state goes on whenever it is free.
type meddler struct{ meddle func() }

func (m meddler) Lock()   {}
func (m meddler) Unlock() { m.meddle() }

var tinyChunks = chunks{part: 200, segment: 2, extras: 100, locked: 3}

// A checkpoint that is written while the state goes on, with all entries after its
// position replayed over it, is the state; in whatever order its parts are read.
func TestFuzzyCheckpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{T: t, now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), delivered: map[maildrop.Address][]ledger.Position{}}
		fence := &ledger.Fence{Epoch: 1, Ledger: 7, Secret: [32]byte{9}}
		s := newState()
		var tail []ledger.Entry
		apply := func(e ledger.Entry) {
			if err := s.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		h.at++
		apply(ledger.Entry{Position: ledger.At(h.at, 0), Record: fence})
		for range rapid.IntRange(0, 30).Draw(t, "before") {
			apply(h.next())
		}
		last := s.last
		var parts [][]byte
		for part, err := range s.parts(last, meddler{func() {
			for range rapid.IntRange(0, 2).Draw(t, "meanwhile") {
				tail = append(tail, h.next())
				apply(tail[len(tail)-1])
			}
			if rapid.IntRange(0, 3).Draw(t, "purge") == 0 {
				purgeAll(s, h.now)
			}
		}}, tinyChunks) {
			if err != nil || len(parts) > 1000 {
				t.Fatal(err, len(parts))
			}
			parts = append(parts, slices.Clone(part))
		}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 1))
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		loaded := newState()
		loadAll(t, loaded, parts)
		for _, e := range append([]ledger.Entry{{Epoch: 1, Record: fence}}, tail...) {
			if err := loaded.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		purgeAll(s, h.now)
		purgeAll(loaded, h.now)
		if got, want := see(loaded), see(s); !reflect.DeepEqual(got, want) {
			t.Fatalf("%d parts, tail of %d:\n%+v\nwant\n%+v", len(parts), len(tail), got, want)
		}
		if !reflect.DeepEqual(loaded.removals, s.removals) || !reflect.DeepEqual(loaded.objects, s.objects) || !reflect.DeepEqual(loaded.uids, s.uids) {
			t.Fatal("something is left over in the maps")
		}
	})
}

func purgeAll(s *state, now time.Time) {
	for n := range s.mailboxes {
		s.purge(n, now)
	}
}

// loadAll loads parts as a take-over does: several at once.
func loadAll(t rapid.TB, s *state, parts [][]byte) {
	var all sync.WaitGroup
	failures := make([]error, len(parts))
	for i, part := range parts {
		all.Go(func() {
			failures[i] = s.Load(part)
			clear(part) // it is the state's only until then
		})
	}
	all.Wait()
	for _, err := range failures {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The longest sections fit into a part.
func TestPartsAreBounded(t *testing.T) {
	s := newState()
	long := func(c string, n int) string { return string(bytes.Repeat([]byte(c), n)) }
	for i := range uint64(40_000) {
		d := &ledger.Delivery{Mailbox: string(anna), UID: fmt.Sprintf("%070d", i), Class: 1, Received: time.Now(), Size: 1, Wire: 1, Object: long("o", 43)}
		ok(t, s.Apply(ledger.Entry{Position: ledger.At(i+1, 0), Record: d}))
		ok(t, s.Apply(ledger.Entry{Position: ledger.At(i+1, 1), Record: &ledger.Removal{Mailbox: string(anna), Messages: []ledger.Position{ledger.At(i+1, 0)}}}))
	}
	groups := make([]string, maxGroups)
	for i := range groups {
		groups[i] = long("g", maxName)
	}
	for i := range uint64(30) {
		ok(t, s.Apply(ledger.Entry{Position: ledger.At(50_000+i, 0), Record: &ledger.Address{
			Address: fmt.Sprint("a", i, "@", long("d", 200), ".example"), Account: long("a", maxName), Hash: hashForm + long("h", 200), Scram: keysText(1), Groups: groups}}))
	}
	var parts [][]byte
	for part, err := range s.parts(s.last, new(sync.Mutex), usualChunks) {
		ok(t, err)
		if len(part) > ledger.MaxPart {
			t.Errorf("a part has %d octets", len(part))
		}
		parts = append(parts, slices.Clone(part))
	}
	loaded := newState()
	loadAll(t, loaded, parts)
	if !reflect.DeepEqual(see(loaded), see(s)) {
		t.Error("it isn't the same state")
	}
}

// A lock is never held for long, however large a mailbox is.
func TestChunksAreShort(t *testing.T) {
	s := filled(3, 50_000)
	taken := 0
	for range s.parts(s.last, meddler{func() { taken++ }}, usualChunks) {
	}
	if taken < 3*50_000/usualChunks.locked {
		t.Errorf("the lock was given back %d times", taken)
	}
}

// Whatever a part holds, it is refused or taken, with memory in proportion.
func FuzzLoad(f *testing.F) {
	s := newState()
	h := []ledger.Record{
		&ledger.Address{Address: string(anna), Account: "a", Hash: plainHash("x"), Scram: keysText(1), Groups: []string{"g"}},
		&ledger.Delivery{Mailbox: string(anna), UID: "u", Class: 1, Object: "o", Wire: 1},
		&ledger.Delivery{Mailbox: string(anna), Class: 2, Wire: 1},
		&ledger.Removal{Mailbox: string(anna), Messages: []ledger.Position{ledger.At(2, 0)}},
		&ledger.Pack{Object: "p", Class: 2, Mailboxes: []ledger.PackMailbox{{Mailbox: string(anna), Messages: []ledger.PackMessage{{Position: ledger.At(3, 0)}}}}},
	}
	for i, r := range h {
		if err := s.Apply(ledger.Entry{Position: ledger.At(uint64(i+1), 0), Record: r}); err != nil {
			f.Fatal(err)
		}
	}
	for _, cut := range []chunks{usualChunks, tinyChunks} {
		for part := range s.parts(s.last, new(sync.Mutex), cut) {
			f.Add(slices.Clone(part))
		}
	}
	f.Fuzz(func(t *testing.T, part []byte) {
		s := newState()
		if err := s.Load(part); err != nil {
			if !errors.Is(err, ledger.ErrCorrupt) {
				t.Fatalf("%v is no damage", err)
			}
			return
		}
		purgeAll(s, time.Now())
		for range s.parts(s.last, new(sync.Mutex), tinyChunks) {
		}
	})
}

func TestLoadRefusesWhatMakesNoSense(t *testing.T) {
	s := filled(3, 5)
	for part := range s.parts(s.last, new(sync.Mutex), usualChunks) {
		for name, bad := range map[string][]byte{
			"nothing":             nil,
			"another version":     append([]byte{checkpointVersion + 1}, part[1:]...),
			"cut":                 part[:len(part)-1],
			"cut in a mailbox":    part[:200],
			"an unknown section":  append(slices.Clone(part), 'x'),
			"a mailbox twice":     append(slices.Clone(part), part[1:]...),
			"a count that's over": append(slices.Clone(part), sectionImports, 255, 255, 255, 255),
		} {
			if err := newState().Load(bad); !errors.Is(err, ledger.ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
