package placement

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func nodesOf(names ...string) []Node {
	nodes := make([]Node, len(names))
	for i, name := range names {
		nodes[i] = Node{Name: name, Instance: name + "-1", Address: name + ":1", Revision: 1}
	}
	return nodes
}

func viewOf(shards int, nodes ...Node) View {
	v := emptyView(shards)
	for _, node := range nodes {
		v.Nodes[node.Name] = node
	}
	v.Revision = 1
	return v
}

func counts(owners []string) map[string]int {
	n := map[string]int{}
	for _, owner := range owners {
		n[owner]++
	}
	return n
}

func names(t *rapid.T, least, most int) []string {
	return rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9-]{0,12}[a-z0-9]`), least, most, rapid.ID[string]).Draw(t, "names")
}

func TestAssignIsBalanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesOf(names(t, 5, 5)...)
		for name, n := range counts(Assign(256, nodes)) {
			if mean := 256.0 / 5; float64(n) < 0.8*mean || float64(n) > 1.2*mean {
				t.Fatalf("%s has %d shards of 256 among 5", name, n)
			}
		}
	})
}

func TestAssignFollowsWeights(t *testing.T) {
	nodes := nodesOf("a", "b", "c")
	nodes[0].Weight, nodes[1].Weight, nodes[2].Weight = 2, 1, 1
	got := counts(Assign(256, nodes))
	if got["a"] < 120 || got["a"] > 128 || got["b"] < 60 || got["b"] > 64 {
		t.Fatalf("weights 2, 1, 1 gave %v", got)
	}
}

func TestAssignIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesOf(names(t, 1, 8)...)
		shuffled := slices.Clone(nodes)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !slices.Equal(Assign(64, nodes), Assign(64, shuffled)) {
			t.Fatal("the order of the nodes changes their shards")
		}
	})
}

func TestAssignGivesEveryShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesOf(names(t, 1, 12)...)
		for i := range nodes {
			nodes[i].Weight = rapid.IntRange(-1, MaxWeight+1).Draw(t, "weight")
		}
		shards := rapid.IntRange(1, 300).Draw(t, "shards")
		if slices.Contains(Assign(shards, nodes), "") {
			t.Fatal("a shard without an owner")
		}
	})
	if got := Assign(2, nil); !slices.Equal(got, []string{"", ""}) {
		t.Fatalf("no nodes: %q", got)
	}
}

// When a node goes, its shards move; of the others at most a few do, for the
// ceiling's sake.
func TestAssignMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesOf(names(t, 3, 8)...)
		before, after := Assign(256, nodes), Assign(256, nodes[1:])
		moved := 0
		for shard, owner := range before {
			if owner != nodes[0].Name && owner != after[shard] {
				moved++
			}
		}
		if moved > 256/10 {
			t.Fatalf("%d of 256 shards moved besides those of the lost node (of %d)", moved, len(nodes))
		}
	})
}

func TestPlanOneHeirPerShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		view := viewOf(64, nodesOf(names(t, 1, 6)...)...)
		for shard := range view.Claims {
			if rapid.Bool().Draw(t, "owned") {
				view.Claims[shard] = Claim{Shard: shard, Owner: "gone", Instance: "x", Epoch: 3, Revision: 1}
			}
		}
		taken := map[int]string{}
		for name, node := range view.Nodes {
			for _, action := range Plan(view, node, nil, nil, true) {
				if other, twice := taken[action.Claim.Shard]; twice {
					t.Fatalf("%s and %s both take shard %d", name, other, action.Claim.Shard)
				}
				taken[action.Claim.Shard] = name
			}
		}
		if len(taken) != 64 {
			t.Fatalf("%d of 64 shards are taken", len(taken))
		}
	})
}

// shardOf finds a shard whose heir is the named one.
func shardOf(t *testing.T, owners []string, name string) int {
	t.Helper()
	shard := slices.Index(owners, name)
	if shard < 0 {
		t.Fatalf("%s is heir of nothing", name)
	}
	return shard
}

func TestPlanCases(t *testing.T) {
	a, b, c := nodesOf("a")[0], nodesOf("b")[0], nodesOf("c")[0]
	old := Node{Name: "a", Instance: "a-0"}
	drained := a
	drained.Draining = true
	claimed := func(n Node, revision int64) Claim {
		return Claim{Owner: n.Name, Instance: n.Instance, Epoch: 4, Revision: revision}
	}
	free := Claim{Epoch: 4, Revision: 3}
	cases := []struct {
		name     string
		nodes    []Node
		heir     string // of the shard that is looked at, when all nodes are well
		claim    Claim
		serving  bool
		suspects map[string]int64
		stable   bool
		want     Verb // 0: nothing
		reason   Reason
	}{
		{name: "never owned", nodes: []Node{a, b}, heir: "a", want: Take, reason: Startup},
		{name: "never owned, another's", nodes: []Node{a, b}, heir: "b"},
		{name: "free", nodes: []Node{a, b}, heir: "a", claim: free, want: Take, reason: Rebalance},
		{name: "of our former process", nodes: []Node{a, b}, heir: "a", claim: claimed(old, 2), want: Take, reason: Startup},
		{name: "owner gone", nodes: []Node{a, b}, heir: "a", claim: claimed(c, 2), want: Take, reason: Failover},
		{name: "owner lives", nodes: []Node{a, b}, heir: "a", claim: claimed(b, 2), stable: true},
		{name: "owner suspect", nodes: []Node{a, b}, heir: "b", claim: claimed(b, 2), suspects: map[string]int64{"b": 5}, want: Take, reason: Failover},
		{name: "free, heir suspect", nodes: []Node{a, b}, heir: "b", claim: free, suspects: map[string]int64{"b": 5}, want: Take, reason: Rebalance},
		{name: "suspect refuted by its claim", nodes: []Node{a, b}, heir: "b", claim: claimed(b, 6), suspects: map[string]int64{"b": 5}},
		{name: "suspicion of oneself", nodes: []Node{a, b}, heir: "a", claim: claimed(a, 2), serving: true, suspects: map[string]int64{"a": 5}, stable: true},
		{name: "ours and served", nodes: []Node{a, b}, heir: "a", claim: claimed(a, 2), serving: true, stable: true},
		{name: "ours and not served", nodes: []Node{a, b}, heir: "a", claim: claimed(a, 2), want: Take, reason: Failover},
		{name: "another's, not yet stable", nodes: []Node{a, b}, heir: "b", claim: claimed(a, 2), serving: true},
		{name: "another's, stable", nodes: []Node{a, b}, heir: "b", claim: claimed(a, 2), serving: true, stable: true, want: Release, reason: Rebalance},
		{name: "another's, which is suspect", nodes: []Node{a, b}, heir: "b", claim: claimed(a, 2), serving: true, stable: true, suspects: map[string]int64{"b": 5}},
		{name: "another's, ours by claim only", nodes: []Node{a, b}, heir: "b", claim: claimed(a, 2), want: Release, reason: Rebalance},
		{name: "draining", nodes: []Node{drained, b}, heir: "b", claim: claimed(a, 2), serving: true, want: Release, reason: Draining},
		{name: "draining alone", nodes: []Node{drained}, heir: "a", claim: claimed(a, 2), serving: true, stable: true},
		{name: "lost", nodes: []Node{a, b}, heir: "a", claim: claimed(b, 2), serving: true, want: Drop, reason: Failover},
		{name: "freed by nobody of us", nodes: []Node{a, b}, heir: "a", claim: free, serving: true, want: Drop, reason: Failover},
		{name: "not registered: serve on", nodes: []Node{b}, heir: "b", claim: claimed(a, 2), serving: true, stable: true},
		{name: "not registered: take nothing", nodes: []Node{b}, heir: "b", claim: free},
		{name: "replaced: take nothing", nodes: []Node{{Name: "a", Instance: "a-2"}, b}, heir: "a", claim: free},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			view := viewOf(32, c.nodes...)
			for shard := range view.Claims { // all else rests with a live owner
				view.Claims[shard] = Claim{Shard: shard, Owner: c.nodes[0].Name, Instance: c.nodes[0].Instance, Epoch: 1, Revision: 1}
			}
			shard := shardOf(t, Assign(32, candidates(view, nil)), c.heir)
			c.claim.Shard = shard
			view.Claims[shard] = c.claim
			var held []int
			if c.serving {
				held = []int{shard}
			}
			var got Action
			for _, action := range Plan(view, a, held, c.suspects, c.stable) {
				if action.Claim.Shard == shard {
					got = action
				}
			}
			if got.Do != c.want || got.Reason != c.reason {
				t.Fatalf("got %d (%s), want %d (%s)", got.Do, got.Reason, c.want, c.reason)
			}
			if got.Do != 0 && got.Claim != c.claim {
				t.Fatalf("the action is on %+v", got.Claim)
			}
		})
	}
}

func TestPlanReleasesAFewAtATime(t *testing.T) {
	nodes := nodesOf("a", "b")
	view := viewOf(64, nodes...)
	var held []int
	for shard := range view.Claims {
		view.Claims[shard] = Claim{Shard: shard, Owner: "a", Instance: "a-1", Epoch: 1, Revision: 1}
		held = append(held, shard)
	}
	if got := Plan(view, nodes[0], held, nil, true); len(got) != MaxReleases {
		t.Fatalf("%d releases in one pass, want %d", len(got), MaxReleases)
	}
}

// world is a model of etcd and of nodes that follow it late and suspect each
// other without ground, for ever.
type world struct {
	now      View
	nodes    []Node
	seen     []View
	held     []map[int]bool
	suspects []map[string]int64
	takes    int
}

func (w *world) step(i int, fresh bool) (acted bool) {
	if fresh {
		w.seen[i] = w.now.Clone()
	}
	var held []int
	for shard := range w.held[i] {
		held = append(held, shard)
	}
	actions := Plan(w.seen[i], w.nodes[i], held, w.suspects[i], true)
	for _, action := range actions {
		shard := action.Claim.Shard
		if action.Do == Drop {
			delete(w.held[i], shard)
			continue
		}
		if w.now.Claims[shard] != action.Claim {
			continue // the transaction fails
		}
		w.now.Revision++
		next := Claim{Shard: shard, Epoch: action.Claim.Epoch, Revision: w.now.Revision}
		if delete(w.held[i], shard); action.Do == Take {
			next.Owner, next.Instance, next.Epoch = w.nodes[i].Name, w.nodes[i].Instance, next.Epoch+1
			w.held[i][shard] = true
			w.takes++
		}
		w.now.Claims[shard] = next
	}
	return len(actions) > 0
}

// Whatever the nodes suspect of each other, they come to rest, and then each
// shard is served by one of them.
func TestPlanDoesNotThrash(t *testing.T) {
	const shards = 16
	rapid.Check(t, func(t *rapid.T) {
		w := &world{nodes: nodesOf(names(t, 2, 4)...)}
		w.now = viewOf(shards, w.nodes...)
		for range w.nodes {
			w.seen = append(w.seen, w.now.Clone())
			w.held = append(w.held, map[int]bool{})
			w.suspects = append(w.suspects, map[string]int64{})
		}
		draw := rapid.IntRange(0, len(w.nodes)-1)
		for range rapid.IntRange(0, 40).Draw(t, "turbulence") {
			i, j := draw.Draw(t, "node"), draw.Draw(t, "suspect")
			if i != j && rapid.Bool().Draw(t, "suspects") {
				w.suspects[i][w.nodes[j].Name] = w.now.Revision
			}
			w.step(i, rapid.Bool().Draw(t, "fresh"))
		}
		w.takes = 0
		for round, acted := 0, true; acted; round++ {
			acted = false
			for i := range w.nodes {
				acted = w.step(i, true) || acted
			}
			if round > 100 {
				t.Fatal("no rest after 100 rounds")
			}
		}
		if w.takes > shards*len(w.nodes) {
			t.Fatalf("%d take-overs of %d shards before they rest", w.takes, shards)
		}
		checkServed(t, w)
	})
}

func checkServed(t *rapid.T, w *world) {
	for shard, claim := range w.now.Claims {
		var owners []string
		for i, held := range w.held {
			if held[shard] {
				owners = append(owners, w.nodes[i].Name)
			}
		}
		if len(owners) != 1 || owners[0] != claim.Owner {
			t.Fatalf("shard %d is served by %v, claimed by %q", shard, owners, claim.Owner)
		}
	}
}

// TestPlanFollowsOrders plays what operators order through nodes that follow the plan.
func TestPlanFollowsOrders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesOf(names(t, 2, 5)...)
		view := viewOf(32, nodes...)
		drained := rapid.SliceOfDistinct(rapid.SampledFrom(nodes), func(n Node) string { return n.Name }).Draw(t, "drained")
		for _, node := range drained {
			view.Drains[node.Name] = Order{Node: node.Name}
		}
		for shard, to := range rapid.MapOf(rapid.IntRange(0, 31), rapid.SampledFrom(append(nodesOf("gone"), nodes...))).Draw(t, "moves") {
			view.Moves[shard] = Order{Node: to.Name}
		}
		for shard := range view.Claims { // all of them are the first one's
			view.Claims[shard] = Claim{Shard: shard, Owner: nodes[0].Name, Instance: nodes[0].Instance, Epoch: 1, Revision: 1}
		}
		for range 3 * 32 {
			for _, me := range nodes {
				for _, action := range Plan(view, me, ownedBy(view, me), nil, true) {
					claim := &view.Claims[action.Claim.Shard]
					switch action.Do {
					case Take:
						*claim = Claim{Shard: claim.Shard, Owner: me.Name, Instance: me.Instance, Epoch: claim.Epoch + 1, Revision: claim.Revision + 1}
					case Release:
						*claim = Claim{Shard: claim.Shard, Epoch: claim.Epoch, Revision: claim.Revision + 1}
					case Drop:
						t.Fatalf("%s loses shard %d to nobody", me.Name, claim.Shard)
					}
				}
			}
		}
		for shard, claim := range view.Claims {
			move, moved := view.Moves[shard]
			switch {
			case claim.Owner == "":
				t.Fatalf("shard %d has no owner", shard)
			case len(drained) < len(nodes) && view.Draining(claim.Owner):
				t.Fatalf("shard %d is at %s, which drains", shard, claim.Owner)
			case moved && move.Node != "gone" && !view.Draining(move.Node) && claim.Owner != move.Node:
				t.Fatalf("shard %d was moved to %s and is at %s", shard, move.Node, claim.Owner)
			}
		}
	})
}

func ownedBy(view View, me Node) (held []int) {
	for _, claim := range view.Claims {
		if claim.by(me) {
			held = append(held, claim.Shard)
		}
	}
	return held
}
