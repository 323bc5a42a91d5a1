package sim

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/shard"
)

const (
	region   = "eu"
	number   = 7
	prefix   = "eu/shard-0007"
	password = "secret"
	hash     = "$argon2$" + password

	anna maildrop.Address = "anna@local.example"
	ben  maildrop.Address = "ben@continuity.example"
)

// users are in a domain whose mail is kept for 60 days, and in one of 5.
var users = []struct {
	address maildrop.Address
	class   maildrop.Class
}{{anna, maildrop.ClassLocal}, {ben, maildrop.ClassContinuity}}

func isLedger(key string) bool { return strings.HasPrefix(key, prefix+"/ledger/") }

// world is one run: a store, a shard with those who own it or would, clients,
// and the checker's book.
type world struct {
	dice   dice
	temper temper
	history
	book

	store *blobtest.Memory
	rules *maildroptest.Rules

	clients sync.WaitGroup
	others  sync.WaitGroup // owners, who finds new ones, and what of the store's comes late

	mu           sync.Mutex // guards what follows
	incarnations int
	healed       bool // no trouble begins any more
	over         bool // nobody takes the shard over any more, but who audits it
	route        *owner
	all          []*owner
	opened       []*owner
	fenced       []*owner // in the order of their fences' coming
}

// temper is how bad a run is, and at which pace it goes.
type temper struct {
	latency      time.Duration // of most halves of a call, at most
	slow         float64       // calls that take seconds
	late         time.Duration // until a create is done that nobody waits for, at most
	readFaults   float64       // of reads, lists and deletes
	createFaults float64
	crashes      float64 // of owners
	sleeps       float64
	sleep        [2]time.Duration // how long, from and to
	gap          time.Duration    // between what a client does, at most
	mails        int              // of each gateway
	events       int              // of the director
	stale        float64          // calls that go to an owner that may be none any more
}

func newTemper(t throw) temper {
	temper := temper{
		latency:      oneOf(t, 4*time.Millisecond, 40*time.Millisecond, 400*time.Millisecond),
		slow:         oneOf(t, 0, 0.01, 0.05),
		late:         oneOf(t, time.Second, time.Minute, 3*time.Hour),
		readFaults:   oneOf(t, 0, 0.005, 0.02),
		createFaults: oneOf(t, 0, 0.05, 0.15, 0.3),
		crashes:      oneOf(t, 0, 0.3, 0.7),
		sleeps:       oneOf(t, 0, 0.3, 0.7),
		stale:        oneOf(t, 0, 0.05, 0.2),
		mails:        8,
		events:       t.IntN(6),
	}
	if t.chance(0.2) { // a good store, and bad news of who owns what
		temper.latency, temper.slow, temper.readFaults, temper.createFaults = 4*time.Millisecond, 0, 0, 0
		temper.stale, temper.crashes, temper.sleeps, temper.events = 0.4, 0, 0, 5
	}
	switch t.IntN(8) {
	case 0: // days
		temper.gap, temper.sleep = 20*time.Hour, [2]time.Duration{time.Minute, 14 * time.Hour}
	case 1, 2, 3: // hours
		temper.gap, temper.sleep = 2*time.Hour, [2]time.Duration{time.Minute, 12 * time.Hour}
	default: // seconds
		temper.gap, temper.sleep = 2*time.Second, [2]time.Duration{time.Second, 2 * time.Minute}
		if t.chance(0.03) { // enough for checkpoints that don't come by the hour
			temper.mails = 300
		}
	}
	return temper
}

// plain reports whether reads always come through, and soon.
func (t temper) plain() bool {
	return t.readFaults == 0 && t.slow == 0 && t.latency < 100*time.Millisecond
}

func newWorld(seed uint64) *world {
	w := &world{dice: dice(seed), store: blobtest.NewMemory(), rules: maildroptest.NewRules()}
	w.temper = newTemper(w.dice.roll("temper"))
	w.began = time.Now()
	w.book.open()
	w.rules.PutAccount(policy.Account{Name: "customer", Region: region, Events: []policy.Event{{
		Start: w.began.Add(-time.Hour), End: w.began.AddDate(1, 0, 0),
	}}, Continuity: true})
	w.rules.PutDomain(policy.Domain{Name: anna.Domain(), Account: "customer", Kind: policy.DomainLocal})
	w.rules.PutDomain(policy.Domain{Name: ben.Domain(), Account: "customer", Kind: policy.DomainHosted})
	return w
}

// verify checks passwords that are their own hashes, without the work.
func verify(ctx context.Context, login maildrop.Login, stored string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if stored == "" || stored != "$argon2$"+login.Password {
		return &maildrop.Error{Op: "sim.verify", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	return nil
}

func (o *owner) config() shard.Config {
	return shard.Config{Region: region, Number: number, Node: o.name, Store: o.door, Rules: o.world.rules, Verify: verify, Clock: o.clock}
}

// run is a seed's whole life. It returns what was violated, told with its history.
func run(t *testing.T, seed uint64) (found []string) {
	synctest.Test(t, func(*testing.T) {
		w := newWorld(seed)
		w.note("world", nil, "%+v", w.temper)
		w.begin()
		w.clients.Go(w.director)
		for i := range 3 {
			w.clients.Go(func() { w.gateway(i) })
		}
		for i := range users {
			w.clients.Go(func() { w.user(i, users[i].address) })
			w.clients.Go(func() { w.user(10+i, users[i].address) })
		}
		w.clients.Wait()
		w.audit()
		w.end()
		found = w.verdict()
	})
	return found
}

// begin opens the shard for the first time and makes its users, in calm weather.
func (w *world) begin() {
	w.healed = true
	first := w.takeOver("a")
	for _, user := range users {
		record := maildrop.AddressRecord{Address: user.address, Account: "customer", Hash: hash}
		for first != nil && first.shard.PutAddress(context.Background(), record) != nil {
			first = w.takeOver("a")
		}
	}
	w.healed = false
	if first != nil {
		w.handOver(first)
	}
}

// audit looks at all mailboxes when the trouble is over: once while owners may still
// be asleep, once when all have woken up and every late create is done, and once
// after some hours more.
func (w *world) audit() {
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	w.note("world", nil, "no new trouble from here on")
	w.inspect("audit 1")
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	time.Sleep(w.temper.late + w.temper.sleep[1] + longestOpen)
	w.inspect("audit 2")
	time.Sleep(3 * time.Hour)
	w.inspect("audit 3")
}

func (w *world) inspect(name string) {
	w.takeOver("audit")
	for _, user := range users {
		w.session(name+" of "+string(user.address), user.address, true)
	}
}

// end lets all processes come to theirs.
func (w *world) end() {
	w.mu.Lock()
	all := w.all
	w.mu.Unlock()
	for _, o := range all {
		o.kill()
	}
	w.others.Wait()
}

// takeOver finds the shard a new owner, beginning with a process of the given
// node. It returns nil when the run is over before.
func (w *world) takeOver(node string) *owner {
	began := w.current()
	for !w.failed() {
		o := w.incarnate(node)
		if o.open() == nil {
			w.announce(o)
			return o
		}
		t := w.dice.roll("take over again", o.name)
		time.Sleep(t.between(10*time.Millisecond, 5*time.Second))
		if w.isOver() && node != "audit" {
			return nil
		}
		if now := w.current(); now != began && now.serves() && node != "audit" {
			return now
		}
		if node != "audit" {
			node = oneOf(t, "a", "b", "c")
		}
	}
	return nil
}

// announce tells clients of a new owner, unless they know a newer one.
func (w *world) announce(o *owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = append(w.opened, o)
	if w.route == nil || o.shard.Epoch() > w.route.shard.Epoch() {
		w.route = o
	}
}

func (w *world) current() *owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.route
}

func (w *world) isOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// serves reports whether the owner still thinks that it is one.
func (o *owner) serves() bool {
	select {
	case <-o.shard.Done():
		return false
	case <-o.live.Done():
		return false
	default:
		return true
	}
}

// bereaved is for a shard whose owner has given up or has crashed.
func (w *world) bereaved(o *owner) {
	w.keep(o, w.dice.roll("bereaved", o.name).between(0, 3*time.Second))
}

// lulled is for a shard whose owner is asleep. Others may notice, or not.
func (w *world) lulled(o *owner, length time.Duration) {
	t := w.dice.roll("lulled", o.name)
	if t.chance(0.8) {
		w.keep(o, t.between(0, min(length, 10*time.Minute)))
	}
}

// keep takes the shard over after a time, if the owner's is still the route.
func (w *world) keep(o *owner, after time.Duration) {
	w.others.Go(func() {
		time.Sleep(after)
		if w.current() == o && !w.isOver() {
			w.takeOver(oneOf(w.dice.roll("keep", o.name), "a", "b", "c"))
		}
	})
}

// director makes trouble of the large kind.
func (w *world) director() {
	for i := range w.temper.events {
		t := w.dice.roll("event", i)
		time.Sleep(t.between(50*time.Millisecond, 2*w.temper.gap))
		o := w.current()
		if o == nil || w.failed() {
			return
		}
		length := t.between(100*time.Millisecond, w.temper.sleep[1])
		switch t.IntN(8) {
		case 0:
			w.others.Go(func() { w.takeOver(oneOf(t, "a", "b", "c")) })
		case 1: // a race of two
			w.note("director", nil, "two race for the shard")
			w.others.Go(func() { w.takeOver("b") })
			w.others.Go(func() { w.takeOver("c") })
		case 2: // back to the first node
			w.others.Go(func() { w.takeOver("a") })
		case 3:
			o.die("at any time")
		case 4:
			o.sleep(length, "at any time")
		case 5:
			w.cutOff(o, min(length, 10*time.Minute))
		case 6:
			w.fill(min(length, 10*time.Minute))
		case 7:
			w.handOver(o)
		}
	}
}

// cutOff parts one owner from the store.
func (w *world) cutOff(o *owner, length time.Duration) {
	w.note(o.name, nil, "is CUT OFF from the store for %s", length)
	o.door.mu.Lock()
	o.door.cut = time.Now().Add(length)
	o.door.mu.Unlock()
	w.lulled(o, length)
}

// fill leaves no room in the store.
func (w *world) fill(length time.Duration) {
	w.note("director", nil, "the store is FULL for %s", length)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.opened {
		o.door.mu.Lock()
		o.door.full = time.Now().Add(length)
		o.door.mu.Unlock()
	}
}

// handOver ends an ownership in good order.
func (w *world) handOver(o *owner) {
	w.note(o.name, nil, "hands over")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := o.shard.Close(ctx); err != nil {
		w.violated("9, Close fails", nil, "%v", err)
	}
}

var errStale = errors.New("no owner is known")

// pick is who a client asks: mostly whom everybody takes for the owner.
func (w *world) pick(t throw) (*owner, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.route
	if t.chance(w.temper.stale) && !w.healed {
		o = oneOf(t, w.opened...)
	}
	if o == nil || o.isDead() {
		return nil, &maildrop.Error{Op: "sim.pick", Kind: maildrop.Transient, Err: errStale}
	}
	return o, nil
}
