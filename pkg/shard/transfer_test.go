package shard

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
)

// atlas is two regions with a shard each, an account that moves between them, and a model
// of what its users must find.
type atlas struct {
	t       rapid.TB
	rules   *maildroptest.Rules
	records []policy.Account // the account's record in the directory, as it was and is
	shores  map[string]*shore
	serial  int
	boxes   map[maildrop.Address][]*sheet
}

// shore is one region.
type shore struct {
	atlas  *atlas
	name   string
	config Config
	shard  *Shard
	former []*Shard // that don't know yet, or won't, that they were replaced
	view   int      // the record that its node knows
}

// sheet is a message that was acknowledged.
type sheet struct {
	uid     maildrop.UID
	id      maildrop.EnvelopeID
	body    maildroptest.Body
	removed bool
}

var atlasUsers = []maildrop.Address{anna, "ben@local.example"}

func newAtlas(t rapid.TB) *atlas {
	a := &atlas{t: t, rules: localRules(), shores: map[string]*shore{}, boxes: map[maildrop.Address][]*sheet{}}
	a.put(policy.Account{Name: "customer", Region: "eu"})
	for number, name := range []string{"eu", "us"} {
		s := &shore{atlas: a, name: name, config: testConfig(blobtest.NewMemory())}
		s.config.Region, s.config.Number, s.config.Rules = name, number, a.rules
		s.config.Account, s.config.Identify = s.account, sheetID
		a.shores[name] = s
		s.open()
	}
	for _, user := range atlasUsers {
		a.must(a.home().shard.PutAddress(context.Background(), maildrop.AddressRecord{Address: user, Account: "customer", Hash: plainHash(password), Groups: []string{"staff"}}))
	}
	return a
}

func (a *atlas) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *atlas) put(account policy.Account) {
	a.records = append(a.records, account)
	a.rules.PutAccount(account)
}

func (a *atlas) now() policy.Account { return a.records[len(a.records)-1] }

func (a *atlas) home() *shore { return a.shores[a.now().Region] }

func (a *atlas) move() maildrop.Move { return maildrop.Move{Account: "customer", ID: a.now().Moves} }

func (a *atlas) close() {
	for _, s := range a.shores {
		for _, one := range append(s.former, s.shard) {
			a.must(one.Close(context.Background()))
		}
	}
}

func (s *shore) open() {
	next, err := Open(context.Background(), s.config, 0)
	s.atlas.must(err)
	if s.shard != nil {
		s.former = append(s.former, s.shard)
	}
	s.shard = next
}

// account is what this region's node knows: sometimes less than there is to know.
func (s *shore) account(name string) (policy.Account, bool) {
	return s.atlas.records[s.view], name == "customer"
}

func (s *shore) learn() { s.view = len(s.atlas.records) - 1 }

// sheetID reads the ID that a message of the model says it was delivered with.
func sheetID(body io.Reader) (id maildrop.EnvelopeID, ok bool) {
	text, _ := io.ReadAll(io.LimitReader(body, 36))
	decoded, err := hex.DecodeString(strings.TrimPrefix(string(text), "id: "))
	return maildrop.EnvelopeID(append(decoded, make([]byte, 16)...)[:16]), err == nil
}

func (a *atlas) deliver(user maildrop.Address, octets int) {
	a.t.Helper()
	a.serial++
	one := &sheet{id: maildrop.RandomID()}
	one.body = maildroptest.Text(fmt.Sprintf("id: %x\r\nmessage %d\r\n%s", one.id[:], a.serial, strings.Repeat("x\r\n", octets/3)))
	err := a.home().shard.Deliver(context.Background(), maildrop.Envelope{ID: one.id, To: user}, one.body)
	if err != nil {
		a.paused(err)
		return
	}
	list := a.listing(user)
	one.uid = list[len(list)-1].UID
	a.boxes[user] = append(a.boxes[user], one)
}

// paused wants an error of a moment at which nobody is served.
func (a *atlas) paused(err error) {
	a.t.Helper()
	if kind := maildrop.KindOf(err); kind != maildrop.Transient && kind != maildrop.NotOwner || a.now().Moving.Phase == policy.MoveNone {
		a.t.Fatalf("in phase %q: %v", a.now().Moving.Phase, err)
	}
}

// repeat delivers once more what is there.
func (a *atlas) repeat(user maildrop.Address) {
	for _, one := range a.boxes[user] {
		if one.removed {
			continue
		}
		if err := a.home().shard.Deliver(context.Background(), maildrop.Envelope{ID: one.id, To: user}, one.body); err != nil {
			a.paused(err)
		}
	}
}

func (a *atlas) login(user maildrop.Address) (maildrop.Drop, error) {
	return a.home().shard.Open(context.Background(), maildrop.Login{Address: user, Password: password})
}

func (a *atlas) listing(user maildrop.Address) []maildrop.Entry {
	a.t.Helper()
	d, err := a.login(user)
	a.must(err)
	l, err := d.List(context.Background())
	a.must(err)
	return l.Entries()
}

func (a *atlas) remove(user maildrop.Address, chosen func(i int) bool) {
	d, err := a.login(user)
	if err != nil {
		a.paused(err)
		return
	}
	var uids []maildrop.UID
	var gone []*sheet
	for i, one := range a.boxes[user] {
		if !one.removed && chosen(i) {
			uids, gone = append(uids, one.uid), append(gone, one)
		}
	}
	if err := d.Remove(context.Background(), uids); err != nil {
		a.paused(err)
		return
	}
	for _, one := range gone {
		one.removed = true
	}
}

// verify wants the users to find what the model has.
func (a *atlas) verify() {
	a.t.Helper()
	for _, user := range atlasUsers {
		d, err := a.login(user)
		a.must(err)
		list, err := d.List(context.Background())
		a.must(err)
		got := list.Entries()
		want := slices.DeleteFunc(slices.Clone(a.boxes[user]), func(one *sheet) bool { return one.removed })
		if len(got) != len(want) {
			a.t.Fatalf("%s has %d messages, want %d", user, len(got), len(want))
		}
		for i, one := range want {
			var text bytes.Buffer
			_, err := d.Read(context.Background(), got[i].UID, 0, &text)
			if err != nil || got[i].UID != one.uid || !bytes.Equal(text.Bytes(), one.body.Octets()) {
				a.t.Fatalf("%s: message %d is %s, want %s; %v", user, i, got[i].UID, one.uid, err)
			}
		}
		r, err := a.home().shard.Address(context.Background(), user)
		if err != nil || !slices.Equal(r.Groups, []string{"staff"}) {
			a.t.Fatalf("%s: %+v, %v", user, r, err)
		}
	}
}

// empty wants a region to have nothing of the account, and to say so to nobody.
func (a *atlas) empty(s *shore) {
	a.t.Helper()
	v, err := s.shard.Survey(context.Background(), a.move())
	if err != nil || v.Addresses+v.Mailboxes+v.Messages != 0 {
		a.t.Fatalf("%s has %+v, %v", s.name, v, err)
	}
	for _, user := range atlasUsers {
		_, err := s.shard.Open(context.Background(), maildrop.Login{Address: user, Password: password})
		delivered := s.shard.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: user}, maildroptest.Text("lost\r\n"))
		if maildrop.KindOf(err) != maildrop.NotOwner || maildrop.KindOf(delivered) != maildrop.NotOwner {
			a.t.Fatalf("%s says %v and %v of an account that it had", s.name, err, delivered)
		}
	}
}

// advance is what the directory allows of changes to the record.
func (a *atlas) advance(to policy.MovePhase) {
	next := a.now()
	if !policy.MoveStep(next.Moving.Phase, to) {
		a.t.Fatalf("from phase %q to %q", next.Moving.Phase, to)
	}
	switch to {
	case policy.MoveCopying:
		next.Moves++
		next.Moving = policy.Moving{From: next.Region, To: a.other(next.Region), Phase: to}
	case policy.MoveNone:
		next.Moving = policy.Moving{}
	case policy.MovePurging:
		next.Region = next.Moving.To
		next.Moving.Phase = to
	default:
		next.Moving.Phase = to
	}
	a.must(next.Validate())
	a.put(next)
}

func (a *atlas) other(region string) string {
	if region == "eu" {
		return "us"
	}
	return "eu"
}

func (a *atlas) retreat() {
	next := a.now()
	next.Moves++
	next.Moving.Phase = policy.MoveCopying
	a.put(next)
}

func (a *atlas) peers(region string) (maildrop.Receiver, error) { return a.shores[region].shard, nil }

// drive does what the phase asks for, as whoever drives the move does, up to the first
// thing that fails. It reports whether it came through.
func (a *atlas) drive() bool {
	ctx, move, m := context.Background(), a.move(), a.now().Moving
	if m.Phase == policy.MoveNone {
		return true
	}
	from, to := a.shores[m.From].shard, a.shores[m.To].shard
	push := func(final bool) error { _, err := from.Push(ctx, move, final, a.peers, nil); return err }
	var err error
	next := policy.MoveNone
	switch m.Phase {
	case policy.MoveCopying:
		if move.ID > 1 {
			err = from.Stage(ctx, maildrop.Move{Account: move.Account, ID: move.ID - 1}, maildrop.StageStayed)
			if err != nil && maildrop.KindOf(err) == maildrop.Invalid {
				err = nil
			}
		}
		err = firstError(err, func() error { return to.Stage(ctx, move, maildrop.StageArriving) }, func() error { return push(false) })
		next = policy.MoveSealed
	case policy.MoveSealed:
		err = firstError(from.Stage(ctx, move, maildrop.StageLeaving), func() error { return push(true) })
		next = policy.MoveOpening
	case policy.MoveOpening:
		err = to.Stage(ctx, move, maildrop.StageArrived)
		next = policy.MovePurging
	case policy.MovePurging:
		err = from.Stage(ctx, move, maildrop.StagePurged)
	case policy.MoveAborting:
		err = firstError(to.Stage(ctx, move, maildrop.StageDiscarded), func() error { return from.Stage(ctx, move, maildrop.StageStayed) })
	}
	if err != nil {
		if kind := maildrop.KindOf(err); kind != maildrop.Transient && kind != maildrop.NotOwner {
			a.t.Fatalf("phase %q: %v", m.Phase, err)
		}
		return false
	}
	a.advance(next)
	return true
}

func firstError(err error, then ...func() error) error {
	for _, f := range then {
		if err == nil {
			err = f()
		}
	}
	return err
}

// finish drives a move to its end, with everybody well informed.
func (a *atlas) finish() {
	for a.now().Moving.Phase != policy.MoveNone {
		for _, s := range a.shores {
			s.learn()
		}
		if !a.drive() {
			a.t.Fatalf("it doesn't go on from phase %q", a.now().Moving.Phase)
		}
	}
	for _, s := range a.shores {
		s.learn()
	}
}

// meddle makes a call that comes late, early or to whom it doesn't concern. Nothing is
// wanted of it but that it does no harm.
func (a *atlas) meddle(t *rapid.T) {
	s := a.shores[rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "region")]
	target := s.shard
	if len(s.former) > 0 && rapid.Bool().Draw(t, "a former owner") {
		target = s.former[len(s.former)-1]
	}
	move := maildrop.Move{Account: "customer", ID: rapid.Uint64Range(1, a.now().Moves+1).Draw(t, "move")}
	user := rapid.SampledFrom(atlasUsers).Draw(t, "user")
	ctx := context.Background()
	switch rapid.IntRange(0, 5).Draw(t, "call") {
	case 0, 1:
		_ = target.Stage(ctx, move, maildrop.Stage(rapid.IntRange(1, 6).Draw(t, "stage")))
	case 2:
		_, _ = target.Push(ctx, move, rapid.Bool().Draw(t, "final"), a.peers, nil)
	case 3:
		if sheets := a.boxes[user]; len(sheets) > 0 && move != a.move() { // of an earlier move: late
			one := rapid.SampledFrom(sheets).Draw(t, "message")
			_ = target.Receive(ctx, move, maildrop.Arrival{Class: maildrop.ClassLocal,
				Envelope: maildrop.Envelope{ID: one.id, To: user, UID: one.uid, Received: time.Now()}}, one.body)
		}
	case 4:
		if sheets := a.boxes[user]; len(sheets) > 0 && move != a.move() {
			_ = target.Withdraw(ctx, move, user, []maildrop.UID{sheets[0].uid})
		}
	case 5:
		if move != a.move() {
			_ = target.ReceiveAddress(ctx, move, maildrop.AddressRecord{Address: user, Account: "customer", Hash: plainHash("old")})
		}
	}
}

// stale asks the region that isn't the account's home any more.
func (a *atlas) stale(user maildrop.Address) {
	m := a.now().Moving
	if m.Phase != policy.MovePurging {
		return
	}
	old := a.shores[m.From].shard
	err := old.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: user}, maildroptest.Text("stale\r\n"))
	_, opened := old.Open(context.Background(), maildrop.Login{Address: user, Password: password})
	for _, err := range []error{err, opened} {
		if kind := maildrop.KindOf(err); err == nil || kind != maildrop.NotOwner && kind != maildrop.Transient {
			a.t.Fatalf("the former home of %s says %v", user, err)
		}
	}
}

// Whatever comes between: mail, removals, owners that die, calls that come late, moves that are
// given up: each user finds what was acknowledged and not removed, under its unique-id, at
// the account's home, and the other region has nothing.
func TestMovesKeepMailboxes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var outcome any
		synctest.Test(t, func(*testing.T) {
			defer func() { outcome = recover() }()
			a := newAtlas(r)
			defer a.close()
			user := func() maildrop.Address { return rapid.SampledFrom(atlasUsers).Draw(r, "user") }
			moves := 0
			for range rapid.IntRange(1, 100).Draw(r, "steps") {
				switch rapid.IntRange(0, 13).Draw(r, "step") {
				case 0, 1:
					octets := rapid.SampledFrom([]int{10, 3000, 1<<20 + 100}).Draw(r, "octets")
					a.deliver(user(), octets)
				case 2:
					a.remove(user(), func(i int) bool { return rapid.Bool().Draw(r, fmt.Sprint("message ", i)) })
				case 3:
					a.repeat(user())
				case 4:
					if a.now().Moving.Phase == policy.MoveNone {
						a.advance(policy.MoveCopying)
						moves++
					}
				case 5, 6, 7, 8:
					for _, name := range []string{"eu", "us"} {
						if rapid.IntRange(0, 3).Draw(r, "knows") > 0 {
							a.shores[name].learn()
						}
					}
					a.drive()
				case 9:
					a.shores[rapid.SampledFrom([]string{"eu", "us"}).Draw(r, "failing")].open()
				case 10:
					a.shores[rapid.SampledFrom([]string{"eu", "us"}).Draw(r, "learning")].learn()
				case 11:
					a.meddle(r)
					a.stale(user())
				case 12:
					if rapid.Bool().Draw(r, "go on") {
						break
					}
					switch phase := a.now().Moving.Phase; {
					case policy.MoveStep(phase, policy.MoveAborting):
						a.advance(policy.MoveAborting)
					case phase == policy.MoveOpening:
						a.retreat()
					}
				case 13:
					time.Sleep(rapid.SampledFrom([]time.Duration{time.Second, time.Hour}).Draw(r, "wait"))
				}
			}
			a.finish()
			a.verify()
			if a.now().Region == "us" || moves > 0 {
				a.empty(a.shores[a.other(a.now().Region)])
			}
		})
		if outcome != nil {
			panic(outcome)
		}
	})
}

// What is acknowledged before an account is sealed is there afterwards, and nothing is
// acknowledged later, however many ask at that moment.
func TestSealedMeansAll(t *testing.T) {
	for range 20 {
		synctest.Test(t, sealedMeansAll)
	}
}

func sealedMeansAll(t *testing.T) {
	a := newAtlas(t)
	defer a.close()
	a.advance(policy.MoveCopying)
	a.advance(policy.MoveSealed)
	home := a.home()
	home.learn()
	for range 3 { // to be removed meanwhile
		a.deliver(anna, 10)
	}
	d, err := a.login(anna)
	ok(t, err)
	var delivered, removed, there atomic.Int64
	note := func(err error, count *atomic.Int64) {
		if err != nil {
			wants(t, err, maildrop.Transient)
			return
		}
		count.Add(1)
	}
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			time.Sleep(time.Duration(i%8) * time.Millisecond)
			note(home.shard.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, maildroptest.Text("x\r\n")), &delivered)
		})
	}
	for i, one := range a.boxes[anna] {
		group.Go(func() {
			time.Sleep(time.Duration(2*i+1) * time.Millisecond)
			note(d.Remove(t.Context(), []maildrop.UID{one.uid}), &removed)
		})
	}
	group.Go(func() {
		time.Sleep(3 * time.Millisecond)
		ok(t, home.shard.Stage(t.Context(), a.move(), maildrop.StageLeaving))
		v, err := home.shard.Survey(t.Context(), a.move())
		ok(t, err)
		there.Store(int64(v.Messages))
	})
	group.Wait()
	// Whoever was answered was ahead of the seal, so what it found is all there is.
	if want := 3 + delivered.Load() - removed.Load(); there.Load() != want || delivered.Load() == 0 {
		t.Errorf("%d messages were there when it was sealed, %d were acknowledged", there.Load(), want)
	}
	wants(t, d.Check(t.Context()), maildrop.Transient)
	// A successor knows it.
	home.open()
	_, err = a.login(anna)
	wants(t, err, maildrop.Transient)
	wants(t, home.shard.PutAddress(t.Context(), maildrop.AddressRecord{Address: "new@local.example", Account: "customer", Hash: plainHash("x")}), maildrop.Transient)
}

// A mailbox that was withdrawn leaves nothing behind that would keep its messages from
// coming back, or memory for ever.
func TestWithdrawnIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAtlas(t)
		defer a.close()
		for range 3 {
			a.deliver(anna, 10)
		}
		a.advance(policy.MoveCopying)
		for _, s := range a.shores {
			s.learn()
		}
		if !a.drive() || len(a.shores["us"].shard.state.imports) != 3 {
			t.Fatal("it isn't copied")
		}
		a.advance(policy.MoveAborting)
		a.finish()
		a.empty(a.shores["us"])
		if n := len(a.shores["us"].shard.state.imports); n != 0 {
			t.Errorf("%d unique-ids are remembered", n)
		}
		a.verify()
	})
}

// Mail goes to no region but the one that the directory names, and is taken from nobody
// while it doesn't.
func TestMovesNeedTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAtlas(t)
		defer a.close()
		a.deliver(anna, 10)
		move := maildrop.Move{Account: "customer", ID: 1}
		eu, us := a.shores["eu"].shard, a.shores["us"].shard
		for stage := maildrop.StageArriving; stage <= maildrop.StagePurged; stage++ {
			for _, s := range []*Shard{eu, us} {
				if s.Stage(t.Context(), move, stage) == nil {
					t.Errorf("stage %s without a move", stage)
				}
			}
		}
		if _, err := eu.Push(t.Context(), move, false, a.peers, nil); err == nil {
			t.Error("pushed without a move")
		}
		wants(t, us.Receive(t.Context(), move, maildrop.Arrival{Class: maildrop.ClassLocal, Envelope: maildrop.Envelope{
			ID: maildrop.RandomID(), To: anna, UID: "u", Received: time.Now()}}, maildroptest.Text("x\r\n")), maildrop.Transient)
		wants(t, us.ReceiveAddress(t.Context(), move, maildrop.AddressRecord{Address: anna, Account: "customer", Hash: plainHash("x")}), maildrop.Transient)
		_, err := us.Inventory(t.Context(), move, anna)
		wants(t, err, maildrop.Transient)
		wants(t, us.Withdraw(t.Context(), move, anna, []maildrop.UID{"u"}), maildrop.Transient)

		a.advance(policy.MoveCopying)
		for _, s := range a.shores {
			s.learn()
		}
		ok(t, us.Stage(t.Context(), move, maildrop.StageArriving))
		a.rules.PutDomain(policy.Domain{Name: "other.example", Account: "other", Kind: policy.DomainLocal})
		a.rules.PutAccount(policy.Account{Name: "other", Region: "us"})
		wants(t, us.ReceiveAddress(t.Context(), move, maildrop.AddressRecord{Address: "x@other.example", Account: "customer", Hash: plainHash("x")}), maildrop.Transient)
		wants(t, us.ReceiveAddress(t.Context(), move, maildrop.AddressRecord{Address: anna, Account: "other", Hash: plainHash("x")}), maildrop.Invalid)
		for _, stage := range []maildrop.Stage{maildrop.StageArrived, maildrop.StageDiscarded} {
			wants(t, us.Stage(t.Context(), move, stage), maildrop.Transient)
		}
		for _, stage := range []maildrop.Stage{maildrop.StageLeaving, maildrop.StageStayed} {
			wants(t, eu.Stage(t.Context(), move, stage), maildrop.Transient)
		}
		wants(t, eu.Stage(t.Context(), move, maildrop.StagePurged), maildrop.Invalid)
		a.verify()
	})
}

// A damaged message is told of, and the others go.
func TestPushGoesPastDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAtlas(t)
		defer a.close()
		eu := a.shores["eu"]
		memory := eu.config.Store.(*blobtest.Memory)
		eu.config.CacheBytes = -1
		eu.open()
		for range 3 {
			a.deliver(anna, 3000)
		}
		damaged := a.boxes[anna][1]
		m, _ := eu.shard.state.minted(damaged.uid)
		place := eu.shard.state.box(anna).message(m)
		key := fmt.Sprintf("%s/ledger/%020d", eu.config.Prefix(), m.Sequence())
		if !memory.Alter(key, func(content []byte) []byte { content[place.offset+100] ^= 1; return content }) {
			t.Fatal("no object", key)
		}
		a.advance(policy.MoveCopying)
		for _, s := range a.shores {
			s.learn()
		}
		ok(t, a.shores["us"].shard.Stage(t.Context(), a.move(), maildrop.StageArriving))
		sum, err := eu.shard.Push(t.Context(), a.move(), false, a.peers, nil)
		if err != nil || sum.Damaged != 1 || sum.Messages != 2 {
			t.Fatalf("%+v, %v", sum, err)
		}
	})
}
