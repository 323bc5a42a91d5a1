package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/gossip"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
)

func TestEachShardIsServedByOne(t *testing.T) {
	r := newRegion(t)
	a, b, c := r.start("a"), r.start("b"), r.start("c")
	view := r.awaitSettled("all shards", a, b, c)
	for shard := range shards {
		owner, other := ownerOf(view, shard, a, b, c)
		r.enroll(owner, user(shard))
		if err := deliver(t.Context(), owner, user(shard), "Subject: hi\r\n\r\nhi\r\n"); err != nil {
			t.Fatal(err)
		}
		wantNotOwner(t, deliver(t.Context(), other, user(shard), "Subject: no\r\n\r\nno\r\n"))
	}
	total := 0
	for _, n := range []*runner{a, b, c} {
		records, err := n.Addresses(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		total += len(records)
	}
	if total != shards {
		t.Fatalf("the nodes list %d addresses of %d", total, shards)
	}
}

func TestACrashedNodesShardsAreServedByTheOther(t *testing.T) {
	r := newRegion(t)
	a := r.start("a")
	r.awaitServed("a's shards", a)
	b := r.start("b")
	view := r.awaitSettled("a fair share", a, b)
	shard := b.Shards()[0]
	r.enroll(b, user(shard))
	if err := deliver(t.Context(), b, user(shard), "Subject: 1\r\n\r\n1\r\n"); err != nil {
		t.Fatal(err)
	}

	r.crash(b)
	after := r.await("failover", func(v placement.View) bool { return served(v, a) })
	if after.Claims[shard].Epoch <= view.Claims[shard].Epoch {
		t.Fatalf("epoch %d after %d", after.Claims[shard].Epoch, view.Claims[shard].Epoch)
	}
	if n := r.count(a, user(shard)); n != 1 {
		t.Fatalf("%d messages after failover, want 1", n)
	}
	// The zombie still thinks that it owns the shard. It must not take mail.
	wantNotOwner(t, deliver(t.Context(), b, user(shard), "Subject: lost\r\n\r\nlost\r\n"))
	if err := deliver(t.Context(), a, user(shard), "Subject: 2\r\n\r\n2\r\n"); err != nil {
		t.Fatal(err)
	}
	if n := r.count(a, user(shard)); n != 2 {
		t.Fatalf("%d messages, want 2", n)
	}
}

func TestAnEndingNodeHandsOver(t *testing.T) {
	r := newRegion(t)
	a := r.start("a")
	r.awaitServed("a's shards", a)
	b := r.start("b")
	r.awaitSettled("a fair share", a, b)
	b.stop()
	if err := <-b.ended; err != nil {
		t.Fatal(err)
	}
	if left := b.Shards(); len(left) != 0 {
		t.Fatalf("ended and serves %v", left)
	}
	if _, registered := r.watcher.View().Nodes["b"]; registered {
		r.await("deregistration", func(v placement.View) bool { return !v.Lives("b", b.instance) })
	}
	r.awaitServed("the rest", a)

	a.stop()
	if err := <-a.ended; err != nil {
		t.Fatal(err)
	}
	r.await("free shards", func(v placement.View) bool {
		return len(v.Nodes) == 0 && !slices.ContainsFunc(v.Claims, func(c placement.Claim) bool { return c.Owner != "" })
	})
}

// Shards move back when membership has been stable for a while, not before.
func TestARejoinedNodeGetsItsShardsBackLater(t *testing.T) {
	const stable = 2 * time.Second
	r := newRegion(t)
	calm := func(c *Config) { c.Stable = stable }
	a := r.start("a", calm)
	r.awaitServed("a's shards", a)
	began := time.Now()
	b := r.start("b", calm)
	r.await("the first release", func(v placement.View) bool {
		return slices.ContainsFunc(v.Claims, func(c placement.Claim) bool { return c.Owner != "a" })
	})
	if waited := time.Since(began); waited < stable {
		t.Fatalf("a shard moved %v after the node was started", waited)
	}
	view := r.awaitSettled("a fair share", a, b)
	for _, claim := range view.Claims {
		if claim.Epoch > 2 {
			t.Fatalf("shard %d has had %d owners", claim.Shard, claim.Epoch)
		}
	}
}

// Gossip finds the death long before the lease ends. It is wrong about it here:
// the node lives, and must give way without a fight.
func TestASuspectGivesWay(t *testing.T) {
	r := newRegion(t)
	ga := r.gossip("a")
	gb := r.gossip("b", ga.Self().Address)
	member := func(m *gossip.Member) func(*Config) {
		return func(c *Config) { c.Gossip, c.LeaseTTL, c.Stable = m, time.Minute, time.Second }
	}
	a := r.start("a", member(ga))
	r.awaitServed("a's shards", a)
	b := r.start("b", member(gb))
	r.await("gossip", func(placement.View) bool { return len(ga.Members()) == 2 && len(gb.Members()) == 2 })
	r.awaitSettled("a fair share", a, b)
	gb.Close()
	view := r.await("failover", func(v placement.View) bool { return len(a.Shards()) == shards && len(b.Shards()) == 0 })
	if !view.Lives("b", b.instance) {
		t.Fatal("the lease ended: that was not gossip's doing")
	}
	for range 3 { // and it stays so
		changed := r.watcher.Changed()
		select {
		case <-changed:
			if now := r.watcher.View(); !slices.Equal(now.Claims, view.Claims) && !served(now, a) {
				t.Fatalf("a fight: %+v", now.Claims)
			}
		case <-time.After(planInterval):
		}
	}
}

func TestOwnersServeWithoutEtcd(t *testing.T) {
	r := newRegion(t)
	a := r.start("a", func(c *Config) { c.LeaseTTL = time.Minute })
	before := r.awaitServed("a's shards", a)
	r.enroll(a, user(1))
	r.etcd.Stop()
	for i := range 3 {
		if err := deliver(t.Context(), a, user(1), fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(a, user(1)); n != 3 {
		t.Fatalf("%d messages", n)
	}
	r.etcd.Restart()
	b := r.start("b")
	r.awaitSettled("a fair share", a, b)
	if now := r.watcher.View(); slices.ContainsFunc(now.Claims, func(c placement.Claim) bool {
		return c.Owner == "a" && c.Epoch != before.Claims[c.Shard].Epoch
	}) {
		t.Fatalf("a took its own shards again: %+v", now.Claims)
	}
}

func TestALostLeaseAloneMovesNothing(t *testing.T) {
	r := newRegion(t)
	a := r.start("a", func(c *Config) { c.LeaseTTL = 2 * time.Second }) // how soon it notices goes by that
	before := r.awaitServed("a's shards", a)
	r.endLease(r.etcd.Client(), "a")
	after := r.await("a's return", func(v placement.View) bool {
		return v.Nodes["a"].Revision > before.Nodes["a"].Revision
	})
	if !slices.Equal(holders(after), holders(before)) || !served(after, a) {
		t.Fatalf("claims were %+v, are %+v", before.Claims, after.Claims)
	}
}

// The ledger's epoch may be ahead of etcd's, after etcd was restored.
func TestALedgersEpochWins(t *testing.T) {
	r := newRegion(t)
	a := r.start("a")
	r.awaitServed("a's shards", a)
	a.stop()
	<-a.ended
	if _, err := r.etcd.Client().Delete(t.Context(), "/postern/v1/region/eu/shards/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	b := r.start("b")
	r.await("b's shards, in unused epochs", func(v placement.View) bool {
		return served(v, b) && !slices.ContainsFunc(v.Claims, func(c placement.Claim) bool { return c.Epoch < 2 })
	})
}

// A node on another store than the region's serves nothing from it: users must
// not find empty maildrops because a disk isn't mounted.
func TestAnotherStoreIsRefused(t *testing.T) {
	r := newRegion(t)
	run := func(config Config, until func(n *Node) bool) {
		t.Helper()
		n, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- n.Run(ctx) }()
		r.await("what is to happen", func(placement.View) bool { return until(n) })
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	all := func(n *Node) bool { return len(n.Shards()) == shards }
	run(r.config("a", r.etcd.Client()), all)

	elsewhere, refusals, empty := r.config("a", r.etcd.Client()), &refusals{}, blobtest.NewMemory()
	elsewhere.Store, elsewhere.Log = empty, slog.New(slog.NewTextHandler(refusals, nil))
	run(elsewhere, func(n *Node) bool { return len(n.Shards()) == 0 && refusals.Load() >= shards })
	for info, err := range empty.List(t.Context(), "", "") {
		t.Errorf("%s (%v) was written to a store that isn't the region's", info.Key, err)
	}
	run(r.config("a", r.etcd.Client()), all)
}

// refusals counts the lines of a log that say that a store is another one.
type refusals struct{ atomic.Int32 }

func (r *refusals) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("another store than the one")) {
		r.Add(1)
	}
	return len(line), nil
}

// A shard that cannot be opened is tried again, and the others are served.
func TestAFailingShardIsTriedAgain(t *testing.T) {
	r := newRegion(t)
	n, err := New(r.config("a", r.etcd.Client()))
	if err != nil {
		t.Fatal(err)
	}
	tries := make(chan time.Time, 64)
	n.open = func(ctx context.Context, claim placement.Claim, from source) (owned, error) {
		if claim.Shard == 3 {
			tries <- time.Now()
			if len(tries) < 3 {
				return nil, errors.New("damaged")
			}
		}
		return n.openShard(ctx, claim, from)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- n.Run(ctx) }()
	r.await("all shards in the end", func(placement.View) bool { return len(n.Shards()) == shards })
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	first, second, third := <-tries, <-tries, <-tries
	if second.Sub(first) < backoffMin/2 || third.Sub(second) < backoffMin {
		t.Fatalf("pauses of %v and %v", second.Sub(first), third.Sub(second))
	}
}

func TestMetrics(t *testing.T) {
	r := newRegion(t)
	registry := prometheus.NewPedanticRegistry()
	a := r.start("a", func(c *Config) { c.Registerer = registry })
	r.awaitServed("a's shards", a)
	expect := func(want float64, name string, values ...string) {
		t.Helper()
		if _, sum := series(t, registry, name, values...); sum != want {
			t.Errorf("%s %v: %v, want %v", name, values, sum, want)
		}
	}
	expect(shards, "postern_shards_configured")
	expect(shards, "postern_node_shards", "serving")
	expect(0, "postern_node_shards", "acquiring")
	expect(shards, "postern_node_shard_transitions_total", "acquire", "startup", "ok")
	if n, _ := series(t, registry, "postern_shard_epoch"); n != shards {
		t.Errorf("%d epochs", n)
	}
	a.stop()
	<-a.ended
	expect(0, "postern_node_shards", "serving")
	expect(shards, "postern_node_shard_transitions_total", "release", "drain", "ok")
	if n, _ := series(t, registry, "postern_shard_epoch"); n != 0 {
		t.Errorf("%d epochs are left", n)
	}
}

func TestNewRefuses(t *testing.T) {
	r := newRegion(t)
	for name, spoil := range map[string]func(*Config){
		"name":   func(c *Config) { c.Name = "" },
		"shards": func(c *Config) { c.Shards = 0 },
		"store":  func(c *Config) { c.Store = nil },
		"etcd":   func(c *Config) { c.Etcd = nil },
	} {
		config := r.config("a", r.etcd.Client())
		spoil(&config)
		if _, err := New(config); err == nil || maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	config := r.config("NOT A NAME", r.etcd.Client())
	n, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // refused by the region, then because it ran
		if err := n.Run(t.Context()); err == nil || maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("run: %v", err)
		}
	}
}

// An etcd in trouble ends all leases at once. Whoever registers again first
// must not take everything over from the others.
func TestManyLostLeasesMoveNothing(t *testing.T) {
	r := newRegion(t)
	first := r.gossip("a")
	members := map[string]*gossip.Member{"a": first, "b": r.gossip("b", first.Self().Address), "c": r.gossip("c", first.Self().Address)}
	var nodes []*runner
	for name, m := range members {
		nodes = append(nodes, r.start(name, func(c *Config) { c.Gossip, c.LeaseTTL = m, 5*time.Second }))
	}
	r.await("gossip", func(placement.View) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(members)), func(m *gossip.Member) bool { return len(m.Members()) < 3 })
	})
	before := r.awaitSettled("fair shares", nodes...)
	client := r.etcd.Client()
	for name := range members {
		r.endLease(client, name)
	}
	after := r.await("their return", func(v placement.View) bool {
		for name, node := range before.Nodes {
			if v.Nodes[name].Revision <= node.Revision {
				return false
			}
		}
		return true
	})
	if !slices.Equal(holders(after), holders(before)) || !served(after, nodes...) {
		t.Fatalf("claims were %+v, are %+v", before.Claims, after.Claims)
	}
}
