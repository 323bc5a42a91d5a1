package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/shard"
)

func viewOf(revision int64, nodes ...placement.Node) placement.View {
	v := placement.View{Revision: revision, Nodes: map[string]placement.Node{}}
	for _, n := range nodes {
		v.Nodes[n.Name] = n
	}
	return v
}

func TestCrowdIsStableWhileNothingChanges(t *testing.T) {
	a, b := placement.Node{Name: "a", Instance: "1"}, placement.Node{Name: "b", Instance: "1"}
	again, drained := b, b
	again.Instance, drained.Draining = "2", true
	start := time.Unix(1000, 0)
	var c crowd
	steps := []struct {
		name     string
		view     placement.View
		suspects map[string]int64
		at       time.Duration
		want     time.Duration
	}{
		{"first look", viewOf(1, a, b), nil, 0, 0},
		{"the same", viewOf(2, a, b), nil, 10 * time.Second, 10 * time.Second},
		{"one seems dead", viewOf(2, a, b), map[string]int64{"b": 2}, 11 * time.Second, 0},
		{"still", viewOf(2, a, b), map[string]int64{"b": 2}, 14 * time.Second, 3 * time.Second},
		{"back", viewOf(3, a, again), nil, 15 * time.Second, 0},
		{"drains", viewOf(4, a, drained), nil, 20 * time.Second, 0},
		{"gone", viewOf(5, a), nil, 30 * time.Second, 0},
		{"alone", viewOf(9, a), nil, 45 * time.Second, 15 * time.Second},
	}
	for _, s := range steps {
		if got := c.observe(s.view, s.suspects, start.Add(s.at)); got != s.want {
			t.Errorf("%s: stable for %v, want %v", s.name, got, s.want)
		}
	}
}

func TestSuspicionKeepsItsBeginning(t *testing.T) {
	me, b := placement.Node{Name: "me", Instance: "1"}, placement.Node{Name: "b", Instance: "1"}
	dead := map[string]bool{"me/1": true, "b/1": true}
	gone := func(name, instance string) bool { return dead[name+"/"+instance] }
	s := suspicion{}
	look := func(v placement.View) map[string]int64 { return s.observe(v, "me", gone) }
	if got := look(viewOf(5, me, b)); len(got) != 1 || got["b"] != 5 {
		t.Fatalf("first: %v", got)
	}
	if got := look(viewOf(8, me, b)); got["b"] != 5 {
		t.Fatalf("later: %v", got)
	}
	dead["b/1"] = false
	if got := look(viewOf(9, me, b)); len(got) != 0 {
		t.Fatalf("refuted: %v", got)
	}
	dead["b/1"] = true
	if got := look(viewOf(11, me, b)); got["b"] != 11 {
		t.Fatalf("again: %v", got)
	}
	b.Instance = "2" // its successor isn't dead
	if got := look(viewOf(12, me, b)); len(got) != 0 {
		t.Fatalf("successor: %v", got)
	}
	dead["b/2"] = true
	if got := look(viewOf(13, me, b)); got["b"] != 13 {
		t.Fatalf("successor's death: %v", got)
	}
}

func TestTroublesGrow(t *testing.T) {
	now := time.Unix(1000, 0)
	tr := newTroubles()
	if tr.waiting(3, now) {
		t.Fatal("waits without a failure")
	}
	for range 20 {
		tr.add(3, now)
	}
	if !tr.waiting(3, now.Add(backoffMax/2-1)) || tr.waiting(3, now.Add(2*backoffMax)) {
		t.Fatal("the pause is not about the longest one")
	}
	if tr.recovering(now) != 1 || tr.recovering(now.Add(2*backoffMax)) != 0 {
		t.Fatal("miscounted")
	}
	tr.clear(3)
	tr.add(3, now)
	if !tr.waiting(3, now.Add(backoffMin/2-1)) || tr.waiting(3, now.Add(2*backoffMin)) {
		t.Fatal("the first pause is not about the shortest one")
	}
	tr.pause(4, now)
	if !tr.waiting(4, now) || tr.recovering(now) != 1 {
		t.Fatal("a lost race is no failure")
	}
}

// plain is a shard that does nothing.
type plain struct {
	maildrop.Service
	maildrop.Receiver
}

func (plain) Survey(context.Context, maildrop.Move) (maildrop.Survey, error) {
	return maildrop.Survey{}, nil
}

func (plain) Push(context.Context, maildrop.Move, bool, shard.Peers, func(maildrop.Pushed)) (maildrop.Pushed, error) {
	return maildrop.Pushed{}, nil
}

func (plain) Stage(context.Context, maildrop.Move, maildrop.Stage) error { return nil }

func (plain) Epoch() uint64               { return 1 }
func (plain) Ledger() uint32              { return 1 }
func (plain) Stats() shard.Stats          { return shard.Stats{} }
func (plain) Done() <-chan struct{}       { return nil }
func (plain) Close(context.Context) error { return nil }

func empty(t *testing.T) *holdings {
	t.Helper()
	m, err := newMetrics(nil, 4)
	if err != nil {
		t.Fatal(err)
	}
	return newHoldings(m)
}

func wantNotOwner(t *testing.T, err error) {
	t.Helper()
	if err == nil || maildrop.KindOf(err) != maildrop.NotOwner {
		t.Fatalf("got %v, want not_owner", err)
	}
}

func TestCallsWaitForAShardThatIsBeingOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, none := empty(t), func() {}
		_, err := h.find(t.Context(), "test", 1)
		wantNotOwner(t, err)

		s := h.begin(1, none)
		if h.begin(1, none) != nil {
			t.Fatal("one shard is begun twice")
		}
		go func() {
			<-time.After(openingWait - 1)
			h.serve(s, plain{})
		}()
		if _, err := h.find(t.Context(), "test", 1); err != nil {
			t.Fatal(err)
		}
		if h.retire(1) != s || h.retire(1) != nil {
			t.Fatal("a shard is to be retired once")
		}
		_, err = h.find(t.Context(), "test", 1)
		wantNotOwner(t, err)
		h.end(s, placement.Claim{})

		s = h.begin(1, none) // takes too long
		began := time.Now()
		_, err = h.find(t.Context(), "test", 1)
		wantNotOwner(t, err)
		if time.Since(began) != openingWait {
			t.Fatalf("waited %v", time.Since(began))
		}
		go func() {
			<-time.After(time.Second)
			h.end(s, placement.Claim{}) // fails
		}()
		_, err = h.find(t.Context(), "test", 1)
		wantNotOwner(t, err)

		h.begin(1, none)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.find(ctx, "test", 1); err == nil || maildrop.KindOf(err) != maildrop.Canceled {
			t.Fatalf("a caller that left got %v", err)
		}
	})
}

// listed is a shard with one address.
type listed struct {
	plain
	address maildrop.Address
}

func (l listed) Addresses(context.Context, string) ([]maildrop.AddressRecord, error) {
	return []maildrop.AddressRecord{{Address: l.address}}, nil
}

// Half a list of addresses looks like a whole one: a shard that is being opened
// is waited for, and when that takes too long there is no list.
func TestAddressesAreNeverHalfAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{holdings: empty(t)}
		h := n.holdings
		h.serve(h.begin(0, func() {}), listed{address: "b@acme.example"})
		opening := h.begin(1, func() {})
		if records, err := n.Addresses(t.Context(), "acme"); err == nil {
			t.Fatalf("answered %v without shard 1", records)
		} else {
			wantNotOwner(t, err)
		}
		go func() {
			<-time.After(time.Second)
			h.serve(opening, listed{address: "a@acme.example"})
		}()
		records, err := n.Addresses(t.Context(), "acme")
		if err != nil || len(records) != 2 || records[0].Address != "a@acme.example" {
			t.Fatalf("%v, %v", records, err)
		}
	})
}

func TestADroppedShardIsNotServed(t *testing.T) {
	h, stopped := empty(t), false
	s := h.begin(2, func() { stopped = true })
	h.claimed(s, placement.Claim{Shard: 2, Revision: 7})
	if h.sees(2, 6) || !h.sees(2, 7) {
		t.Fatal("a view that is older than our claim counts")
	}
	if h.retire(2) != nil || !stopped {
		t.Fatal("opening wasn't stopped")
	}
	if h.serve(s, plain{}) {
		t.Fatal("served what is another's")
	}
	h.end(s, placement.Claim{})
	if h.has(2) || len(h.owned()) != 0 {
		t.Fatal("still there")
	}
}

func TestTakeOversAreBounded(t *testing.T) {
	h := empty(t)
	for number := range maxTakes {
		if h.begin(number, func() {}) == nil {
			t.Fatalf("only %d at once", number)
		}
	}
	if h.begin(maxTakes, func() {}) != nil {
		t.Fatal("no bound")
	}
}
