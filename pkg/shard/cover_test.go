package shard

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

const (
	manifestPart   = "/manifest/"
	checkpointPart = "/checkpoint/"
)

// When a checkpoint is due.
func TestCoverageDue(t *testing.T) {
	for name, c := range map[string]struct {
		coverage
		due bool
	}{
		"nothing new":                   {coverage{}, false},
		"a young tail":                  {coverage{tail: 499, waiting: time.Hour - 1}, false},
		"a long tail":                   {coverage{tail: 500, waiting: 1}, true},
		"an old entry":                  {coverage{tail: 1, waiting: time.Hour}, true},
		"all covered, long ago":         {coverage{newest: 24 * time.Hour}, false},
		"objects wait to be trimmed":    {coverage{newest: time.Hour, untrimmed: true}, true},
		"they have not waited for long": {coverage{newest: time.Hour - 1, untrimmed: true}, false},
	} {
		if got := c.coverage.due(); got != c.due {
			t.Errorf("%s: due is %v", name, got)
		}
	}
}

// A take-over never has to replay more than a thousand objects: while no checkpoint
// can be written, changes wait, and who can't wait takes his back.
func TestTailIsBounded(t *testing.T) {
	inBubble(t, func(b *bench) {
		failing := atomic.Bool{}
		failing.Store(true)
		b.store.SetPlan(func(c blobtest.Call) blobtest.Fault {
			if failing.Load() && c.Op == blobtest.OpCreate && strings.Contains(c.Key, manifestPart) {
				return blobtest.Fault{Before: blobtest.ErrInjected}
			}
			return blobtest.Fault{}
		})
		for b.shard.ledger.Tail() < maxTail {
			ok(b, b.deliver(b.Context(), maildroptest.Text("x")))
		}
		ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
		defer cancel()
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() { wants(b, b.deliver(ctx, maildroptest.Text("x")), maildrop.Canceled) })
		}
		calls.Wait()
		if tail := b.shard.ledger.Tail(); tail != maxTail {
			b.Errorf("a tail of %d", tail)
		}
		balanced(b, b.shard)
		waiting := make(chan error, 1)
		go func() { waiting <- b.deliver(b.Context(), maildroptest.Text("y")) }()
		time.Sleep(time.Second)
		failing.Store(false)
		began := time.Now()
		ok(b, <-waiting)
		if took := time.Since(began); took > 2*coverLook {
			b.Errorf("it went on %v after the store did", took)
		}
		if tail := b.shard.ledger.Tail(); tail > tailDue+1 { // it was begun when the tail had 500
			b.Errorf("a tail of %d after a checkpoint", tail)
		}
	})
}

// While the store works, the tail stays near 500, and a new owner replays that much.
func TestCheckpointsInTime(t *testing.T) {
	inBubble(t, func(b *bench) {
		for range 3000 {
			ok(b, b.deliver(b.Context(), maildroptest.Text("x")))
			synctest.Wait()
			if tail := b.shard.ledger.Tail(); tail > tailDue+1 {
				b.Fatalf("a tail of %d", tail)
			}
		}
		b.shard = open(b, testConfig(b.store))
		if n := b.shard.ledger.Stats().Objects; n > tailDue+2 {
			b.Errorf("%d objects were replayed", n)
		}
		if got := b.count(); got != 3000 {
			b.Errorf("%d messages", got)
		}
	})
}

// A damaged newest checkpoint, whatever is wrong with it, is no end: the one
// before has all that it needs.
func TestDamagedCheckpoint(t *testing.T) {
	flip := func(content []byte) []byte { content[len(content)/2] ^= 1; return content }
	for name, c := range map[string]struct {
		part   string
		change func([]byte) []byte
	}{
		"its manifest": {manifestPart, flip},
		"a part":       {checkpointPart, flip},
		"a part, cut":  {checkpointPart, func(content []byte) []byte { return content[:len(content)-3] }},
		"a part, gone": {checkpointPart, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				for range 12 {
					w.deliver(anna, 5000)
					n := 0
					w.remove(anna, func(*letter) bool { n++; return n%4 == 0 })
					time.Sleep(3 * time.Hour)
				}
				if n := len(keys(t, w.store, manifestPart)); n < 2 {
					t.Fatalf("%d checkpoints", n)
				}
				ok(t, w.shard.Close(t.Context()))
				found := keys(t, w.store, c.part)
				if c.part == checkpointPart { // names are random: the newest one is what the newest manifest says
					manifests := keys(t, w.store, manifestPart)
					name := manifests[len(manifests)-1][len("eu/shard-0007/manifest/")+21:]
					found = keys(t, w.store, checkpointPart+name)
				}
				newest := found[len(found)-1]
				if c.change == nil {
					ok(t, w.store.Delete(t.Context(), newest))
				} else {
					w.store.Alter(newest, c.change)
				}
				w.open()
				if w.shard.ledger.Stats().Damaged == 0 {
					t.Error("nobody noticed")
				}
				w.verify()
				time.Sleep(48 * time.Hour)
				w.verify()
			})
		})
	}
}

// A store without any room can't be served, and says so in words.
func TestTakeOverOfAFullStore(t *testing.T) {
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	open(t, testConfig(store))
	store.SetPlan(refusing(blob.ErrFull))
	_, err := Open(t.Context(), testConfig(store), 0)
	wants(t, err, maildrop.Full)
	if !strings.Contains(err.Error(), "no room for the fence") {
		t.Error(err)
	}
}

// All shards of a node share the memory for mail that waits; beyond it they are
// busy, and count that.
func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		config := testConfig(store)
		config.Budget, config.Metrics = NewBudget(1<<20), NewMetrics(registry)
		other := config
		other.Number = 8
		one, two := open(t, config), open(t, other)
		user(t, one, anna)
		user(t, two, anna)
		store.SetPlan(slow)
		first := make(chan error, 1)
		go func() { first <- one.Deliver(t.Context(), envelope(anna), maildroptest.Filled(700_000, 1)) }()
		synctest.Wait()
		wants(t, two.Deliver(t.Context(), envelope(anna), maildroptest.Filled(700_000, 1)), maildrop.Busy)
		if n := metric(t, registry, "postern_node_deliveries_refused_total"); n != 1 {
			t.Errorf("%v refusals are counted", n)
		}
		ok(t, <-first)
		ok(t, two.Deliver(t.Context(), envelope(anna), maildroptest.Filled(700_000, 1)))
		if config.Budget.left != 1<<20 {
			t.Errorf("%d octets are left", config.Budget.left)
		}
	})
}

// Outcomes are applied in the ledger's order, in whatever order they come.
func TestLandingsAreInOrder(t *testing.T) {
	at := func(sequence uint64) landing {
		return landing{entries: []ledger.Entry{{Position: ledger.At(sequence, 0)}}, took: time.Second}
	}
	var p pipeline
	applied := func() (list []uint64) {
		for l, ok := p.nextLanding(); ok; l, ok = p.nextLanding() {
			list = append(list, l.sequence())
		}
		return list
	}
	want := func(what string, list ...uint64) {
		t.Helper()
		if got := applied(); len(got) != len(list) || len(got) > 0 && (got[0] != list[0] || got[len(got)-1] != list[len(list)-1]) {
			t.Errorf("%s: %v is applied, want %v", what, got, list)
		}
	}
	p = pipeline{next: 5, inFlight: 3}
	p.landed(at(6))
	want("6 before 5")
	if _, may := p.pause(time.Now(), 1<<30); may {
		t.Error("another append is started while a gap is open")
	}
	p.landed(at(5))
	want("both", 5, 6)
	p.landed(landing{err: errTest})
	want("a failure")
	p.inFlight = 2
	p.landed(at(9)) // 7 and 8 were left out, or are on their way
	want("a gap")
	p.landed(at(10))
	want("a gap that nobody fills", 9, 10)
}

// How long a queue waits for company.
func TestPause(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		pipeline
		octets int64
		pause  time.Duration
		may    bool
	}{
		"alone":             {pipeline{recent: time.Second, started: now}, 1, 0, true},
		"with company":      {pipeline{recent: time.Second, started: now, inFlight: 1}, 1, 2 * time.Second, true},
		"after some time":   {pipeline{recent: time.Second, started: now.Add(-1200 * time.Millisecond), inFlight: 2}, 1, 800 * time.Millisecond, true},
		"after a long time": {pipeline{recent: time.Second, started: now.Add(-2 * time.Second), inFlight: 3}, 1, 0, true},
		"with a lot":        {pipeline{recent: time.Second, started: now, inFlight: 1}, enoughAhead, 0, true},
		"too many":          {pipeline{inFlight: maxInFlight}, enoughAhead, 0, false},
	} {
		if pause, may := c.pipeline.pause(now, c.octets); pause != c.pause || may != c.may {
			t.Errorf("%s: %v, %v", name, pause, may)
		}
	}
}

// What is moved, and when.
func TestUsage(t *testing.T) {
	const now, hour = int64(1_000_000_000), int64(3600)
	of := func(add ...func(*usage)) (u usage) {
		for _, f := range add {
			f(&u)
		}
		return u
	}
	live := func(octets int64) func(*usage) { return func(u *usage) { u.add(octets, 0, false) } }
	stuck := func(octets int64) func(*usage) { return func(u *usage) { u.add(octets, 0, true) } }
	dead := func(octets, hours int64) func(*usage) { return func(u *usage) { u.add(octets, now-hours*hour, false) } }
	for name, c := range map[string]struct {
		usage
		waited   time.Duration
		messages uint32 // that the pack had at first
		retires  bool
		rewrites bool
	}{
		"nothing":                       {of(), 0, 0, true, false},
		"little, alive":                 {of(live(100)), time.Hour, 1, false, false},
		"little, for long":              {of(live(100)), 6 * time.Hour, 1, true, false},
		"much, alive":                   {of(live(8 << 20)), 0, 1, true, false},
		"more dead than alive":          {of(live(100), dead(101, 1)), 0, 2, true, true},
		"less dead than alive":          {of(live(100), dead(99, 11)), 0, 2, false, false},
		"dead for long":                 {of(live(100), dead(1, 12), dead(1, 1)), 0, 3, true, true},
		"only dead":                     {of(dead(1, 1)), 0, 1, true, false},
		"forgotten by the index":        {of(live(100)), 0, 2, false, true},
		"damaged, beside dead":          {of(stuck(100), dead(200, 20)), 0, 2, true, false},
		"damaged and alive beside dead": {of(stuck(100), live(1), dead(1, 12)), 0, 3, true, true},
	} {
		if got := c.usage.retires(c.waited, now); got != c.retires {
			t.Errorf("%s: retires is %v", name, got)
		}
		if got := c.usage.rewrites(pack{messages: c.messages}, now); got != c.rewrites {
			t.Errorf("%s: rewrites is %v", name, got)
		}
	}
}
