package fsck

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	anna     maildrop.Address = "anna@local.example"
	ben      maildrop.Address = "ben@local.example"
	carl     maildrop.Address = "carl@hosted.example" // five days
	number                    = 3
	shards                    = 5
	someHash                  = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$dGFndGFndGFndGFndGFndGFndGFndGFndGFndGFndGE"
	large                     = 1<<20 + 300_000 // an object of its own
)

// world is a region with one shard in use, whose time flies in a test's bubble, and a
// model of its mail.
type world struct {
	*testing.T
	store   *blobtest.Memory
	config  shard.Config
	shard   *shard.Shard
	serial  int
	letters []*letter
}

type letter struct {
	to      maildrop.Address
	line    string
	wire    int64
	expires time.Time
	removed bool
}

func (l *letter) lives() bool { return !l.removed && time.Now().Before(l.expires) }

func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(newWorld(t, blobtest.NewMemory()))
	})
}

// newWorld takes over the shard of a store.
func newWorld(t *testing.T, store *blobtest.Memory) *world {
	w := &world{T: t, store: store, config: shardConfig(store)}
	w.open()
	for _, address := range []maildrop.Address{anna, ben, carl} {
		w.ok(w.shard.PutAddress(context.Background(), maildrop.AddressRecord{Address: address, Account: "customer", Hash: someHash}))
	}
	return w
}

func shardConfig(store blob.Store) shard.Config {
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu", LegacyUntil: time.Now().AddDate(3, 0, 0)})
	rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: policy.DomainLocal})
	rules.PutDomain(policy.Domain{Name: "hosted.example", Account: "customer", Kind: policy.DomainHosted})
	return shard.Config{
		Region: "eu", Number: number, Node: "eu-mailbox-1", Store: store, Rules: rules, CacheBytes: -1,
		Verify: func(context.Context, maildrop.Login, string) error { return nil },
		Clock:  func() time.Duration { return time.Duration(time.Now().UnixNano()) },
	}
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) open() {
	w.Helper()
	s, err := shard.Open(context.Background(), w.config, 0)
	w.ok(err)
	w.shard = s
	w.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			w.Error(err)
		}
	})
}

func (w *world) deliver(to maildrop.Address, octets int) *letter {
	w.Helper()
	w.serial++
	line := fmt.Sprintf("message %08d of this world\r\n", w.serial)
	body := maildroptest.Text(strings.Repeat(line, max(1, octets/len(line))))
	w.ok(w.shard.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: to}, body))
	retention := maildrop.LocalRetention
	if to == carl {
		retention = maildrop.ContinuityRetention
	}
	l := &letter{to: to, line: line, wire: int64(body.Wire()), expires: time.Now().Truncate(time.Second).Add(retention)}
	w.letters = append(w.letters, l)
	return l
}

// remove removes letters of one mailbox by their place among those that live.
func (w *world) remove(to maildrop.Address, chosen func(*letter) bool) {
	w.Helper()
	d, err := w.shard.Open(context.Background(), maildrop.Login{Address: to, Password: "x"})
	w.ok(err)
	entries, err := maildrop.Entries(context.Background(), d)
	w.ok(err)
	var uids []maildrop.UID
	n := 0
	for _, l := range w.letters {
		if l.to != to || !l.lives() {
			continue
		}
		if chosen(l) {
			uids, l.removed = append(uids, entries[n].UID), true
		}
		n++
	}
	w.ok(d.Remove(context.Background(), uids))
}

// age fills the shard with all that there can be: packs, bodies, ledger objects that
// a checkpoint covers and some behind it, dead messages in each of them.
func (w *world) age() {
	w.Helper()
	for i := range 24 {
		w.deliver([]maildrop.Address{anna, ben, carl}[i%3], 2_000+i*900)
	}
	w.deliver(anna, large)
	time.Sleep(30 * time.Hour)
	for i := range 6 {
		w.deliver(ben, 5_000+i)
	}
	time.Sleep(3 * time.Hour)
	for i := range 4 {
		w.deliver([]maildrop.Address{anna, carl}[i%2], 3_000+i)
	}
	w.deliver(anna, large+1000)
	w.remove(anna, func(l *letter) bool { return strings.Contains(l.line, "00004") || l.wire == w.letters[24].wire })
	w.deliver(anna, 2_000)
	for _, kind := range []ledger.ObjectKind{ledger.ObjectLedger, ledger.ObjectPack, ledger.ObjectBody, KindManifest, KindPart} {
		if len(w.keys(kind)) == 0 {
			w.Fatalf("there is no %s", kind)
		}
	}
}

func (w *world) keys(kind ledger.ObjectKind) (keys []string) { return keysOf(w.T, w.store, kind) }

func keysOf(t *testing.T, store blob.Store, kind ledger.ObjectKind) (keys []string) {
	t.Helper()
	for info, err := range store.List(context.Background(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Key, "/"+string(kind)+"/") {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

// model is what the sums have to be.
func (w *world) model() map[string]Sum {
	sums := make(map[string]Sum)
	for _, l := range w.letters {
		class := maildrop.ClassLocal.String()
		if l.to == carl {
			class = maildrop.ClassContinuity.String()
		}
		s := sums[class]
		if l.lives() {
			s.Messages, s.Octets = s.Messages+1, s.Octets+l.wire
		} else {
			s.DeadMessages, s.DeadOctets = s.DeadMessages+1, s.DeadOctets+l.wire
		}
		sums[class] = s
	}
	return sums
}

// runOn verifies the region in a store.
func runOn(t *testing.T, store blob.Store, change ...func(*Config)) (*Report, error) {
	t.Helper()
	config := Config{Region: "eu", Shards: shards, Only: -1, Store: store, Where: "memory"}
	for _, c := range change {
		c(&config)
	}
	return Run(context.Background(), config)
}

func verified(t *testing.T, store blob.Store) *Report {
	t.Helper()
	report, err := runOn(t, store)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func damages(r *Report) (all []Damage) {
	for _, s := range r.Shards {
		all = append(all, s.Damage...)
	}
	return all
}

func sameSums(a, b map[string]Sum) bool {
	for class, sum := range a {
		if b[class] != sum {
			return false
		}
	}
	return len(a) == len(b)
}

// places are some octets of an object: all that may be of a header, and some of the rest.
func places(size int) (list []int) {
	for at := 0; at < size; at += 1 + min(at, size-at)/2 {
		list = append(list, at)
	}
	return slices.Compact(append(list, size-1))
}
