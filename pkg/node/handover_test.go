package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

// heralds brings owners' word to heirs, in place of the network.
type heralds struct {
	mu    sync.Mutex
	nodes map[string]*runner // by address
	asked []int              // shards, in order
	fail  error
}

func (h *heralds) prepare(ctx context.Context, address string, number int) error {
	h.mu.Lock()
	h.asked = append(h.asked, number)
	n, err := h.nodes[address], h.fail
	h.mu.Unlock()
	if err != nil || n == nil {
		return errors.Join(err, ctx.Err())
	}
	return n.Prepare(ctx, number)
}

func (h *heralds) start(r *region, name string, adjust ...func(*Config)) *runner {
	n := r.start(name, append(adjust, func(c *Config) { c.Prepare = h.prepare })...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes[name+":1"] = n
	return n
}

func (h *heralds) shards() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

// openings are how many shards a node opened, of those it had read before, and others.
func openings(t *testing.T, registry prometheus.Gatherer) (ready, cold float64) {
	t.Helper()
	const name = "postern_node_shard_takeover_duration_seconds"
	_, ready = series(t, registry, name, "catch_up")
	_, cold = series(t, registry, name, "replay")
	return ready, cold
}

// A node that joins, and those that stay when another leaves, have read each shard
// before they get it. What was delivered before is there, and so is what came while they read.
func TestHeirsAreReady(t *testing.T) {
	r := newRegion(t)
	h := &heralds{nodes: map[string]*runner{}}
	first := prometheus.NewPedanticRegistry()
	a := h.start(r, "a", func(c *Config) { c.Registerer = first })
	r.awaitServed("a's shards", a)
	for number := range shards {
		r.enroll(a, user(number))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for number := range shards {
		must(deliver(t.Context(), a, user(number), "before\r\n"))
	}
	registry := prometheus.NewPedanticRegistry()
	b := h.start(r, "b", func(c *Config) { c.Registerer = registry })
	r.awaitSettled("fair shares", a, b)
	theirs := len(b.Shards())
	if ready, cold := openings(t, registry); int(ready) != theirs || cold != 0 {
		t.Errorf("of %d shards b had read %v, and not %v", theirs, ready, cold)
	}
	b.stop()
	<-b.ended
	r.awaitServed("a alone again", a)
	if ready, cold := openings(t, first); int(ready) != theirs || cold != shards {
		t.Errorf("of b's %d shards a had read %v; not read were %v, its own", theirs, ready, cold)
	}
	for number := range shards {
		drop, err := a.Open(t.Context(), maildrop.Login{Address: user(number), Password: password})
		must(err)
		if drop.Info().Count != 1 {
			t.Errorf("shard %d: %d messages", number, drop.Info().Count)
		}
	}
}

// An heir that can't make itself ready gets its shards all the same.
func TestHeirsThatAreNot(t *testing.T) {
	r := newRegion(t)
	h := &heralds{nodes: map[string]*runner{}, fail: errors.New("a test: cut off")}
	a := h.start(r, "a")
	r.awaitServed("a's shards", a)
	registry := prometheus.NewPedanticRegistry()
	b := h.start(r, "b", func(c *Config) { c.Registerer = registry })
	r.awaitSettled("fair shares", a, b)
	if ready, cold := openings(t, registry); ready != 0 || int(cold) != len(b.Shards()) {
		t.Errorf("of %d shards b had read %v, and not %v", len(b.Shards()), ready, cold)
	}
	if asked := h.shards(); len(asked) < len(b.Shards()) {
		t.Errorf("asked for %v, b has %v", asked, b.Shards())
	}
}

func TestWarmth(t *testing.T) {
	h := empty(t)
	now := time.Now()
	expect := func(want warmth, number int, heir string, at time.Time) {
		t.Helper()
		if got := h.warmth(number, heir, at); got != want {
			t.Errorf("shard %d for %s: %d, want %d", number, heir, got, want)
		}
	}
	expect(warm, 1, "x", now) // nothing is served: nothing to wait for
	s := h.begin(1, func() {})
	h.serve(s, plain{})
	expect(cold, 1, "x", now)
	expect(warming, 1, "x", now.Add(time.Hour))
	h.warmed(1, "y", now)
	expect(warming, 1, "x", now)
	h.warmed(1, "x", now)
	expect(warm, 1, "x", now.Add(preparedFor/2))
	expect(cold, 1, "x", now.Add(preparedFor/2+time.Second)) // the heir may have let it go
	expect(warming, 1, "x", now)
	expect(cold, 1, "y", now) // another heir
	expect(warming, 1, "y", now)
}

func TestPreparations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p preparations
		ready := source{store: blob.Store(nil), shard: &shard.Prepared{}}
		for number := range maxPrepared {
			if !p.begin(number) {
				t.Errorf("no place for %d", number)
			}
		}
		if p.begin(maxPrepared) || p.begin(1) {
			t.Error("a place too many")
		}
		p.end(1, source{}, errors.New("a test"))
		p.end(2, ready, nil)
		p.end(3, ready, nil)
		for number, want := range map[int]bool{0: false, 1: false, 2: true} { // 0 is still being read
			if _, ok := p.take(number); ok != want {
				t.Errorf("shard %d: ready is %v", number, ok)
			}
		}
		p.end(0, ready, nil)
		if _, ok := p.take(0); ok {
			t.Error("what came too late is there")
		}
		<-time.After(preparedFor + time.Second)
		if _, ok := p.take(3); ok {
			t.Error("nothing is too old")
		}
		p.forget()
		if !p.begin(maxPrepared) {
			t.Error("no place after all were let go")
		}
	})
}
