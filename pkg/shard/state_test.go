package shard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// machine drives a state through a real ledger and holds it against a model
// that a person can check: lists of messages, copied wherever the state works
// something out.
type machine struct {
	ctx    context.Context
	store  *blobtest.Memory
	ledger *ledger.Ledger
	state  *state
	now    time.Time

	boxes    map[maildrop.Address][]*modelMessage
	exists   map[maildrop.Address]bool
	recent   map[modelID]time.Time
	sessions []modelSession
	uids     map[maildrop.UID]*modelMessage // of all times
	serial   int
}

type modelID struct {
	mailbox maildrop.Address
	id      [16]byte
}

type modelMessage struct {
	uid     maildrop.UID
	size    uint64
	expires time.Time
	removed bool
}

type modelSession struct {
	claims claims
	list   []maildrop.Entry
}

func (m *machine) reopen(t *rapid.T) {
	var err error
	m.ledger, err = ledger.Open(m.ctx, ledger.Config{Store: m.store, Prefix: "eu/shard-0001", Owner: "test"}, func() ledger.State {
		m.state = newState()
		return m.state
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) append(t *rapid.T, drafts ...ledger.Draft) []ledger.Entry {
	entries, err := m.ledger.Append(m.ctx, drafts)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := m.state.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return entries
}

var machineAddresses = []maildrop.Address{"anna@local.example", "ben@local.example", "carl@local.example"}

func drawAddress(t *rapid.T) maildrop.Address {
	return rapid.SampledFrom(machineAddresses).Draw(t, "address")
}

// Deliver delivers up to three messages in one object, repetitions among them.
func (m *machine) Deliver(t *rapid.T) {
	var drafts []ledger.Draft
	var boxes []maildrop.Address
	for range rapid.IntRange(1, 3).Draw(t, "messages") {
		address, id := drawAddress(t), [16]byte{rapid.ByteMax(40).Draw(t, "id")}
		key := modelID{address, id}
		last, repeated := m.recent[key]
		repeated = repeated && m.now.Sub(last) < 24*time.Hour
		if got, _ := m.state.repeated(delivery{mailbox: address, repeat: m.state.repeat(address, id)}, seconds(m.now)); got != repeated && !slices.Contains(boxes, address) {
			t.Fatalf("the delivery is a repetition: %v, want %v", got, repeated)
		}
		if repeated {
			continue
		}
		m.serial++
		body := []byte(strings.Repeat("x", m.serial%50) + "\r\n")
		d := &ledger.Delivery{
			Mailbox: string(address), ID: id, Class: uint8(rapid.IntRange(1, 2).Draw(t, "class")),
			Received: m.now, Size: uint64(len(body)), Wire: uint64(len(body)),
		}
		if rapid.IntRange(0, 9).Draw(t, "imported") == 0 {
			d.UID = fmt.Sprintf("imported-%d", m.serial)
			d.ID = maildrop.RandomID()
		} else {
			m.recent[key] = m.now
		}
		drafts, boxes = append(drafts, ledger.Draft{Record: d, Body: body}), append(boxes, address)
	}
	for i, e := range m.append(t, drafts...) {
		m.delivered(t, boxes[i], e)
	}
}

func (m *machine) delivered(t *rapid.T, address maildrop.Address, e ledger.Entry) {
	d := e.Record.(*ledger.Delivery)
	uid := maildrop.UID(d.UID)
	if uid == "" {
		uid = maildrop.UID(ledger.UID(m.ledger.Identity(), e.Position, e.Mint))
	}
	message := &modelMessage{uid: uid, size: d.Size, expires: m.now.Add(maildrop.Class(d.Class).Retention())}
	if m.uids[uid] != nil {
		t.Fatalf("unique-id %s was used before", uid)
	}
	m.uids[uid] = message
	m.boxes[address] = append(m.boxes[address], message)
}

func (m *machine) expect(address maildrop.Address) (list []maildrop.Entry) {
	for _, message := range m.boxes[address] {
		if !message.removed && message.expires.After(m.now) {
			list = append(list, maildrop.Entry{UID: message.uid, Size: message.size})
		}
	}
	return list
}

// Open begins a session.
func (m *machine) Open(t *rapid.T) {
	address := drawAddress(t)
	c := claims{snapshot: m.state.snapshot(address, m.now)}.renewed(m.now)
	m.sessions = append(m.sessions, modelSession{claims: c, list: m.expect(address)})
}

// Remove removes some messages of a session, also ones that are gone already.
func (m *machine) Remove(t *rapid.T) {
	if len(m.sessions) == 0 {
		t.Skip("no session")
	}
	session := rapid.SampledFrom(m.sessions).Draw(t, "session")
	removal := &ledger.Removal{Mailbox: string(session.claims.address), Time: m.now}
	for _, e := range session.list {
		if rapid.Bool().Draw(t, "this one") {
			removal.Messages = append(removal.Messages, m.state.find(session.claims.snapshot, e.UID).position)
			m.uids[e.UID].removed = true
		}
	}
	if len(removal.Messages) > 0 {
		m.append(t, ledger.Draft{Record: removal})
	}
}

// Put writes or removes an address.
func (m *machine) Put(t *rapid.T) {
	address := drawAddress(t)
	m.exists[address] = rapid.Bool().Draw(t, "exists")
	m.append(t, ledger.Draft{Record: &ledger.Address{Address: string(address), Removed: !m.exists[address], Account: "customer", Time: m.now}})
}

// Wait lets time pass; sessions end by themselves.
func (m *machine) Wait(t *rapid.T) {
	m.now = m.now.Add(rapid.SampledFrom([]time.Duration{
		time.Second, time.Hour, 3 * time.Hour, 24*time.Hour - time.Second, 24 * time.Hour, 5 * 24 * time.Hour, 31 * 24 * time.Hour,
	}).Draw(t, "time"))
	m.sessions = slices.DeleteFunc(m.sessions, func(s modelSession) bool { return !s.claims.valid(m.now) })
}

// Check is a session's: it renews it.
func (m *machine) Check(t *rapid.T) {
	if len(m.sessions) == 0 {
		t.Skip("no session")
	}
	i := rapid.IntRange(0, len(m.sessions)-1).Draw(t, "session")
	m.sessions[i].claims = m.sessions[i].claims.renewed(m.now)
}

// Purge forgets what nobody can see.
func (m *machine) Purge(*rapid.T) {
	for n := range m.state.mailboxes {
		m.state.purge(n, m.now)
	}
}

// Reopen is a crash and a new owner.
func (m *machine) Reopen(t *rapid.T) { m.reopen(t) }

// verify compares all that can be seen.
func (m *machine) verify(t *rapid.T) {
	addresses, messages := 0, 0
	for _, address := range machineAddresses {
		snap := m.state.snapshot(address, m.now)
		m.same(t, "a new session", snap, m.expect(address))
		if _, exists := m.state.record(address); exists != m.exists[address] {
			t.Fatalf("%s exists: %v, want %v", address, !m.exists[address], m.exists[address])
		}
		if m.exists[address] {
			addresses++
		}
		if box := m.state.box(address); box != nil {
			messages += len(box.messages)
		}
	}
	for _, session := range m.sessions {
		m.same(t, "an open session", session.claims.snapshot, session.list)
	}
	if m.state.addresses != addresses || m.state.messages != messages {
		t.Fatalf("%d addresses and %d messages are counted, want %d and %d", m.state.addresses, m.state.messages, addresses, messages)
	}
}

func (m *machine) same(t *rapid.T, what string, snap snapshot, want []maildrop.Entry) {
	if got := m.state.list(snap).Entries(); !slices.Equal(got, want) {
		t.Fatalf("%s of %s lists %v, want %v", what, snap.address, got, want)
	}
	octets := uint64(0)
	for _, e := range want {
		octets += e.Size
		if found := m.state.find(snap, e.UID); found == nil || m.state.uid(found) != e.UID {
			t.Fatalf("%s of %s doesn't find %s", what, snap.address, e.UID)
		}
	}
	if n, sum := m.state.sum(snap); n != len(want) || sum != octets {
		t.Fatalf("%s of %s sums up to %d messages, %d octets; want %d, %d", what, snap.address, n, sum, len(want), octets)
	}
	for uid := range m.uids {
		if m.state.find(snap, uid) != nil && !slices.ContainsFunc(want, func(e maildrop.Entry) bool { return e.UID == uid }) {
			t.Fatalf("%s of %s finds %s, which isn't in it", what, snap.address, uid)
		}
	}
}

func TestStateIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			ctx: context.Background(), store: blobtest.NewMemory(), now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
			boxes: make(map[maildrop.Address][]*modelMessage), exists: make(map[maildrop.Address]bool),
			recent: make(map[modelID]time.Time), uids: make(map[maildrop.UID]*modelMessage),
		}
		m.reopen(t)
		t.Repeat(map[string]func(*rapid.T){
			"deliver": m.Deliver, "deliver again": m.Deliver, "open": m.Open, "remove": m.Remove, "put": m.Put, "wait": m.Wait,
			"check": m.Check, "purge": m.Purge, "reopen": m.Reopen, "": m.verify,
		})
	})
}

// Memory goes back when nothing can be seen any more.
func TestPurgeForgetsEverything(t *testing.T) {
	s := newState()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for i := range uint64(10) {
		ok(t, s.Apply(ledger.Entry{Position: ledger.At(i+1, 0), Record: &ledger.Delivery{
			Mailbox: string(anna), UID: fmt.Sprint("uid", i), ID: [16]byte{byte(i)}, Class: 2, Received: now, Size: 1, Wire: 1, Object: "large"}}))
	}
	ok(t, s.Apply(ledger.Entry{Position: ledger.At(11, 0), Record: &ledger.Removal{Mailbox: string(anna), Messages: []ledger.Position{ledger.At(3, 0)}, Time: now}}))
	for _, c := range []struct {
		after time.Duration
		dead  int
	}{
		{24*time.Hour - time.Second, 0}, {24 * time.Hour, 1}, {6*24*time.Hour - time.Second, 0}, {6 * 24 * time.Hour, 9},
	} {
		if got := s.purge(s.name(anna), now.Add(c.after)); got != c.dead {
			t.Errorf("after %v %d messages are forgotten, want %d", c.after, got, c.dead)
		}
	}
	if left := len(s.mailboxes) + len(s.removals) + len(s.objects) + len(s.uids) + s.messages; left != 0 || len(s.imports) != 10 {
		t.Errorf("%d things are left: %+v", left, s)
	}
}

func TestStateRefusesWhatItCantBe(t *testing.T) {
	fine := func() *ledger.Delivery {
		return &ledger.Delivery{Mailbox: string(anna), Class: 1, Received: time.Now(), Size: 1, Wire: 1}
	}
	for name, c := range map[string]struct {
		position ledger.Position
		change   func(*ledger.Delivery)
	}{
		"an old position":  {ledger.At(5, 0), func(*ledger.Delivery) {}},
		"no class":         {ledger.At(6, 0), func(d *ledger.Delivery) { d.Class = 0 }},
		"an unknown class": {ledger.At(6, 0), func(d *ledger.Delivery) { d.Class = 9 }},
		"too large":        {ledger.At(6, 0), func(d *ledger.Delivery) { d.Wire = 1 << 32 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newState()
			ok(t, s.Apply(ledger.Entry{Position: ledger.At(5, 0), Record: fine()}))
			bad := fine()
			c.change(bad)
			if err := s.Apply(ledger.Entry{Position: c.position, Record: bad}); err == nil {
				t.Error("taken")
			}
			if s.last != ledger.At(5, 0) || s.messages != 1 {
				t.Errorf("it changed the state: %+v", s)
			}
		})
	}
}
