package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
)

// world is a shard whose time flies: checkpoints, packs and trimming happen as
// they do in months, and a model says what must be there.
type world struct {
	t      rapid.TB
	store  *blobtest.Memory
	config Config
	shard  *Shard
	former []*Shard

	serial int
	boxes  map[maildrop.Address][]*letter
}

// letter is a message of the model.
type letter struct {
	uid      maildrop.UID // once it was seen
	given    bool         // it came with its UID
	id       maildrop.EnvelopeID
	body     maildroptest.Body
	received time.Time
	expires  time.Time
	removed  time.Time
}

func (l *letter) lives(now time.Time) bool { return l.removed.IsZero() && now.Before(l.expires) }

// Two kinds of mailboxes: 60 days and 5.
var worldAddresses = []maildrop.Address{anna, "ben@local.example", "carl@hosted.example"}

func newWorld(t rapid.TB, store blob.Store, memory *blobtest.Memory) *world {
	w := &world{t: t, store: memory, config: testConfig(store), boxes: make(map[maildrop.Address][]*letter)}
	w.config.CacheBytes = -1
	rules := w.config.Rules.(*maildroptest.Rules)
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu", LegacyUntil: time.Now().AddDate(3, 0, 0)})
	rules.PutDomain(policy.Domain{Name: "hosted.example", Account: "customer", Kind: policy.DomainHosted})
	w.open()
	for _, address := range worldAddresses {
		w.must(w.shard.PutAddress(context.Background(), maildrop.AddressRecord{Address: address, Account: "customer", Hash: plainHash(password)}))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	next, err := Open(context.Background(), w.config, 0)
	w.must(err)
	if w.shard != nil {
		w.former = append(w.former, w.shard)
	}
	w.shard = next
	if len(w.former) > 2 { // the others have had their time
		w.must(w.former[0].Close(context.Background()))
		w.former = w.former[1:]
	}
}

func (w *world) close() {
	for _, s := range append(w.former, w.shard) {
		w.must(s.Close(context.Background()))
	}
	w.former = nil
}

// body has so many octets, about, and no other one has the same line.
func (w *world) body(octets int) maildroptest.Body {
	w.serial++
	line := fmt.Sprintf("message %08d of this world\r\n", w.serial)
	return maildroptest.Text(strings.Repeat(line, max(1, octets/len(line))))
}

func retentionOf(address maildrop.Address) time.Duration {
	if address.Domain() == "hosted.example" {
		return maildrop.ContinuityRetention
	}
	return maildrop.LocalRetention
}

func (w *world) deliver(address maildrop.Address, octets int) *letter {
	w.t.Helper()
	return w.take(address, maildrop.Envelope{ID: maildrop.RandomID(), To: address}, w.body(octets))
}

func (w *world) take(address maildrop.Address, e maildrop.Envelope, body maildroptest.Body) *letter {
	w.t.Helper()
	w.must(w.shard.Deliver(context.Background(), e, body))
	l := &letter{uid: e.UID, given: e.UID != "", id: e.ID, body: body, received: e.Received}
	if now := time.Now(); l.received.IsZero() || l.received.After(now) {
		l.received = now
	}
	l.received = l.received.Truncate(time.Second)
	l.expires = l.received.Add(retentionOf(address))
	w.boxes[address] = append(w.boxes[address], l)
	return l
}

func (w *world) login(address maildrop.Address) maildrop.Drop {
	w.t.Helper()
	d, err := w.shard.Open(context.Background(), maildrop.Login{Address: address, Password: password})
	w.must(err)
	return d
}

// remove removes the letters that are chosen.
func (w *world) remove(address maildrop.Address, chosen func(*letter) bool) {
	w.t.Helper()
	w.verify()
	var list []maildrop.UID
	for _, l := range w.boxes[address] {
		if l.lives(time.Now()) && chosen(l) {
			l.removed = time.Now()
			list = append(list, l.uid)
		}
	}
	w.must(w.login(address).Remove(context.Background(), list))
}

// verify wants every mailbox to be the model's: order, sizes, UIDs, octets.
func (w *world) verify() {
	w.t.Helper()
	for _, address := range worldAddresses {
		var want []*letter
		for _, l := range w.boxes[address] {
			if l.lives(time.Now()) {
				want = append(want, l)
			}
		}
		d := w.login(address)
		entries, err := maildrop.Entries(context.Background(), d)
		w.must(err)
		if len(entries) != len(want) {
			w.t.Fatalf("%s lists %d messages, want %d", address, len(entries), len(want))
		}
		for i, l := range want {
			if l.uid == "" {
				l.uid = entries[i].UID
			}
			if entries[i].UID != l.uid || entries[i].Size != l.body.Size() {
				w.t.Fatalf("%s: message %d is %+v, want %s of %d octets", address, i, entries[i], l.uid, l.body.Size())
			}
			w.read(d, l)
		}
	}
	w.unique()
}

func (w *world) read(d maildrop.Drop, l *letter) {
	w.t.Helper()
	got := &comparing{want: l.body.Octets()}
	if n, err := d.Read(context.Background(), l.uid, 0, got); err != nil || n != l.body.Wire() {
		w.t.Fatalf("%d octets read of %s, want %d: %v", n, l.uid, l.body.Wire(), err)
	}
}

var errOther = errors.New("other octets")

// comparing takes what it wants, and nothing else.
type comparing struct{ want []byte }

func (c *comparing) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.want, p) {
		return 0, errOther
	}
	c.want = c.want[len(p):]
	return len(p), nil
}

// unique wants no two letters of all times to have one UID in a mailbox.
func (w *world) unique() {
	for address, letters := range w.boxes {
		known := make(map[maildrop.UID]bool)
		for _, l := range letters {
			if l.uid != "" && known[l.uid] {
				w.t.Fatalf("%s: %s names two messages", address, l.uid)
			}
			known[l.uid] = true
		}
	}
}

func (w *world) drawn(t *rapid.T) maildrop.Address {
	return rapid.SampledFrom(worldAddresses).Draw(t, "address")
}

func (w *world) importOne(t *rapid.T) {
	address := w.drawn(t)
	e := maildrop.Envelope{ID: maildrop.RandomID(), To: address}
	if rapid.Bool().Draw(t, "its UID") {
		e.UID = maildrop.UID(fmt.Sprint("old-", w.serial))
	}
	if e.UID == "" || rapid.Bool().Draw(t, "its date") {
		e.Received = time.Now().Add(-time.Duration(rapid.Int64Range(-int64(time.Hour), int64(retentionOf(address)-time.Second)).Draw(t, "age")))
	}
	w.take(address, e, w.body(rapid.IntRange(1, 3000).Draw(t, "octets")))
}

// again delivers an import again: however old, and removed or not, it is known.
func (w *world) again(t *rapid.T) {
	address := w.drawn(t)
	var given []*letter
	for _, l := range w.boxes[address] {
		if l.given {
			given = append(given, l)
		}
	}
	if len(given) == 0 {
		t.Skip("no import")
	}
	l := rapid.SampledFrom(given).Draw(t, "import")
	w.must(w.shard.Deliver(context.Background(), maildrop.Envelope{ID: l.id, To: address, UID: l.uid}, l.body))
	err := w.shard.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: address, UID: l.uid}, l.body)
	if err == nil || maildrop.KindOf(err) != maildrop.Invalid {
		t.Fatalf("another message of the same unique-id: %v", err)
	}
}

// checkInWorld runs a property, each time in a bubble of fake time. rapid's
// panics cross over from there.
func checkInWorld(t *testing.T, property func(t *rapid.T, w *world)) {
	t.Helper()
	rapid.Check(t, func(r *rapid.T) {
		var outcome any
		synctest.Test(t, func(*testing.T) {
			defer func() { outcome = recover() }()
			memory := blobtest.NewMemory()
			w := newWorld(r, memory, memory)
			defer w.close()
			property(r, w)
		})
		if outcome != nil {
			panic(outcome)
		}
	})
}

// Any sequence of events ends in the model's state.
func TestWorldIsTheModel(t *testing.T) {
	checkInWorld(t, func(t *rapid.T, w *world) {
		t.Repeat(map[string]func(*rapid.T){
			"deliver": func(t *rapid.T) { w.deliver(w.drawn(t), rapid.IntRange(1, 20_000).Draw(t, "octets")) },
			"deliver many": func(t *rapid.T) {
				for range 20 {
					w.deliver(w.drawn(t), 300)
				}
			},
			"deliver large": func(t *rapid.T) { w.deliver(w.drawn(t), 1<<20+100) },
			"import":        w.importOne,
			"import again":  w.again,
			"remove": func(t *rapid.T) {
				percent := rapid.IntRange(1, 100).Draw(t, "percent")
				w.remove(w.drawn(t), func(*letter) bool { return rapid.IntRange(1, 100).Draw(t, "this one") <= percent })
			},
			"wait": func(t *rapid.T) {
				time.Sleep(rapid.SampledFrom([]time.Duration{
					time.Minute, time.Hour, 3 * time.Hour, 14 * time.Hour, 30 * time.Hour, 5 * 24 * time.Hour,
				}).Draw(t, "time"))
			},
			"crash":     func(*rapid.T) { w.open() },
			"take over": func(*rapid.T) { w.must(w.shard.Close(context.Background())); w.open() },
			"":          func(*rapid.T) { w.verify() },
		})
	})
}

// holds finds the objects of the store that have the text in them.
func holds(t testing.TB, store *blobtest.Memory, text string) (keys []string) {
	t.Helper()
	for info, err := range store.List(t.Context(), "", "") {
		ok(t, err)
		content := make([]byte, info.Size)
		_, err := store.ReadAt(t.Context(), info.Key, content, 0)
		ok(t, err)
		if bytes.Contains(content, []byte(text)) {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

func (l *letter) line() string {
	line, _, _ := strings.Cut(string(l.body.Octets()), "\r\n")
	return line
}

// inWorld runs a test in fake time.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		w := newWorld(t, memory, memory)
		defer w.close()
		test(t, w)
	})
}

// What was removed is gone from the store within 24 hours, wherever it was
// by then; and so is what has expired.
func TestOctetsAreGoneWithinADay(t *testing.T) {
	for name, age := range map[string]time.Duration{
		"at once": 0, "from a ledger object": 5 * time.Hour, "from a pack": 30 * time.Hour, "from an old pack": 40 * 24 * time.Hour,
	} {
		t.Run("removed "+name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				for i := range 30 { // most of them live: nothing but the removal is a reason to act
					w.deliver(anna, 20_000+i)
				}
				w.deliver(anna, 2<<20)
				time.Sleep(age)
				small, large := w.boxes[anna][7], w.boxes[anna][30]
				w.remove(anna, func(l *letter) bool { return l == small || l == large })
				time.Sleep(24 * time.Hour)
				for _, l := range []*letter{small, large} {
					if left := holds(t, w.store, l.line()); len(left) != 0 {
						t.Errorf("%d octets are still in %v", l.body.Wire(), left)
					}
				}
				w.verify()
			})
		})
	}
	t.Run("expired", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			const carl = "carl@hosted.example"
			for range 24 { // each pack has messages that expire hours apart
				w.deliver(carl, 20_000)
				time.Sleep(59 * time.Minute)
			}
			w.deliver(carl, 1<<20+1)
			for _, l := range w.boxes[carl] {
				time.Sleep(time.Until(l.expires.Add(24 * time.Hour)))
				if left := holds(t, w.store, l.line()); len(left) != 0 {
					t.Errorf("a day after its expiry a message is in %v", left)
				}
			}
			w.verify()
		})
	})
}

func stored(t testing.TB, store *blobtest.Memory) (octets int64) {
	t.Helper()
	for info, err := range store.List(t.Context(), "", "") {
		ok(t, err)
		octets += info.Size
	}
	return octets
}

// With a steady load, what is stored is at most twice what lives, checkpoints and
// all. A third of the mail is removed soon, the rest expires.
func TestStoredOctetsInSteadyState(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const carl = "carl@hosted.example"
		began, worst := time.Now(), 0.0
		for i := 0; time.Since(began) < 21*24*time.Hour; i++ {
			w.deliver(carl, 5_000+i*7919%40_000)
			if i%30 == 29 {
				w.remove(carl, func(l *letter) bool { return len(l.uid)+int(l.body.Size())%3 == 18 })
			}
			time.Sleep(20 * time.Minute)
			if time.Since(began) < 6*24*time.Hour || i%3 != 0 {
				continue
			}
			live := int64(0)
			for _, l := range w.boxes[carl] {
				if l.lives(time.Now()) {
					live += int64(l.body.Wire())
				}
			}
			ratio := float64(stored(t, w.store)) / float64(live)
			if worst = max(worst, ratio); ratio > 2 {
				t.Fatalf("after %v %.2f times what lives is stored", time.Since(began), ratio)
			}
		}
		t.Logf("at worst %.2f times what lives", worst)
		w.verify()
	})
}

// A shard where nothing happens leaves the store alone, but for looking at what
// is there.
func TestAQuietShardWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		faulty := blobtest.NewFaulty(memory, nil)
		w := newWorld(t, faulty, memory)
		defer w.close()
		for range 10 {
			w.deliver(anna, 1000)
		}
		time.Sleep(24 * time.Hour)
		faulty.SetPlan(func(c blobtest.Call) blobtest.Fault {
			if c.Op != blobtest.OpList {
				t.Errorf("%s %s", c.Op, c.Key)
			}
			return blobtest.Fault{}
		})
		before := faulty.Calls()
		time.Sleep(24 * time.Hour)
		if calls := faulty.Calls() - before; calls > 2*25 {
			t.Errorf("%d calls in a day", calls)
		}
		faulty.SetPlan(nil)
		w.verify()
		if n := len(keys(t, memory, ledgerPart)); n != 0 {
			t.Errorf("%d ledger objects are left", n)
		}
	})
}
