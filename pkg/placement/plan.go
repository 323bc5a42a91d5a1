package placement

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
)

// Verb is what is to be done with a shard.
type Verb uint8

const (
	// Take: claim it and open it.
	Take Verb = iota + 1
	// Release: stop serving it and free the claim, for another node to take.
	Release
	// Drop: stop serving it. The claim is another's already.
	Drop
)

// Reason is why, for metrics and logs.
type Reason string

const (
	Startup   Reason = "startup"   // nobody of this start of ours, or nobody at all, has owned it
	Failover  Reason = "failover"  // its owner is gone
	Rebalance Reason = "rebalance" // it should be another's
	Draining  Reason = "drain"     // its owner leaves
)

// Action is one step towards the plan.
type Action struct {
	Do     Verb
	Claim  Claim // as seen; what a transaction compares with
	Heir   Node  // of a Release: who should have the shard
	Reason Reason
}

// Plan says what the process me should do now: take free shards and those
// of dead owners whose rightful heir it is, hand back what should be another's,
// drop what is another's already.
//
// held are the shards that it serves, or is about to. suspects are nodes, not
// me, that seem dead, with the view's revision when they began to: a later
// write of theirs refutes it. stable: membership has not changed for a while,
// so shards may move for balance; they do so MaxReleases at a time.
//
// A process that isn't registered takes and releases nothing: it serves what it
// has until somebody else claims it.
func Plan(view View, me Node, held []int, suspects map[string]int64, stable bool) []Action {
	p := newPlanner(view, me, suspects)
	serving := make(map[int]bool, len(held))
	for _, shard := range held {
		serving[shard] = true
	}
	var actions []Action
	releases := 0
	for _, claim := range view.Claims {
		action, ok := p.decide(claim, serving[claim.Shard], stable)
		if ok && action.Do == Release {
			releases++
			ok = releases <= MaxReleases
		}
		if ok {
			actions = append(actions, action)
		}
	}
	return actions
}

type planner struct {
	view       View
	me         Node
	registered bool
	draining   bool
	dead       map[string]bool // suspects that nothing has refuted
	heirs      []string        // by shard, from what etcd says
	survivors  []string        // by shard, without the dead
}

func newPlanner(view View, me Node, suspects map[string]int64) *planner {
	p := &planner{view: view, me: me, registered: view.Lives(me.Name, me.Instance)}
	p.draining = p.registered && view.Draining(me.Name)
	p.dead = unrefuted(view, me, suspects)
	p.heirs = heirs(view, nil)
	p.survivors = p.heirs
	if len(p.dead) > 0 {
		p.survivors = heirs(view, p.dead)
	}
	return p
}

// Heirs are who should own each shard once a node is gone; a zero Node where nobody is left.
func Heirs(view View, without string) []Node {
	names := heirs(view, map[string]bool{without: true})
	all := make([]Node, len(names))
	for shard, name := range names {
		all[shard] = view.Nodes[name]
	}
	return all
}

// heirs are who should own each shard: as assigned, unless an operator moved it.
func heirs(view View, dead map[string]bool) []string {
	willing := candidates(view, dead)
	all := Assign(len(view.Claims), willing)
	for shard, move := range view.Moves {
		if slices.ContainsFunc(willing, func(n Node) bool { return n.Name == move.Node }) {
			all[shard] = move.Node
		}
	}
	return all
}

// decide is what to do about one shard; false: nothing.
func (p *planner) decide(claim Claim, serving, stable bool) (Action, bool) {
	ours, heir := claim.by(p.me), p.heir(claim.Shard)
	act := func(do Verb, why Reason) (Action, bool) {
		action := Action{Do: do, Claim: claim, Reason: why}
		if do == Release {
			action.Heir = p.view.Nodes[heir]
		}
		return action, true
	}
	switch {
	case serving && !ours:
		return act(Drop, Failover)
	case !p.registered || heir == "":
		return Action{}, false
	case heir == p.me.Name && !serving && (ours || !p.lives(claim)):
		return act(Take, p.reason(claim))
	case ours && heir != p.me.Name && p.draining:
		return act(Release, Draining)
	case ours && heir != p.me.Name && (stable || !serving):
		return act(Release, Rebalance)
	}
	return Action{}, false
}

func (p *planner) reason(claim Claim) Reason {
	switch {
	case claim.Revision == 0, claim.Owner == p.me.Name && claim.Instance != p.me.Instance:
		return Startup
	case claim.Owner == "":
		return Rebalance
	}
	return Failover
}

// heir is who should own a shard.
func (p *planner) heir(shard int) string {
	if p.dead[p.heirs[shard]] {
		return p.survivors[shard]
	}
	return p.heirs[shard]
}

// lives reports whether the claim's owner can be expected to serve.
func (p *planner) lives(claim Claim) bool {
	return p.view.Lives(claim.Owner, claim.Instance) && !p.dead[claim.Owner]
}

// unrefuted are the suspects that wrote nothing to etcd since they seem dead.
func unrefuted(view View, me Node, suspects map[string]int64) map[string]bool {
	dead := make(map[string]bool, len(suspects))
	for name, since := range suspects {
		if node, ok := view.Nodes[name]; ok && name != me.Name && node.Revision <= since {
			dead[name] = true
		}
	}
	for _, claim := range view.Claims {
		if dead[claim.Owner] && claim.Revision > suspects[claim.Owner] && view.Lives(claim.Owner, claim.Instance) {
			delete(dead, claim.Owner)
		}
	}
	return dead
}

// candidates are the nodes that may own shards: all but the dead and those that
// drain, or, when nobody else is there, those too.
func candidates(view View, dead map[string]bool) []Node {
	var willing, all []Node
	for name, node := range view.Nodes {
		switch {
		case dead[name]:
		case view.Draining(name):
			all = append(all, node)
		default:
			willing, all = append(willing, node), append(all, node)
		}
	}
	if len(willing) > 0 {
		return willing
	}
	return all
}

// Assign names each shard's rightful owner among the nodes. Their order does
// not matter. Without nodes all names are empty. See the package's Decisions.
func Assign(shards int, nodes []Node) []string {
	owners := make([]string, shards)
	room, total := make([]int, len(nodes)), 0
	for _, node := range nodes {
		total += node.weight()
	}
	for i, node := range nodes {
		room[i] = (shards*node.weight() + total - 1) / total
	}
	for _, b := range bids(shards, nodes) {
		if owners[b.shard] == "" && room[b.node] > 0 {
			owners[b.shard] = nodes[b.node].Name
			room[b.node]--
		}
	}
	return owners
}

// bid is one node's wish for one shard.
type bid struct {
	score       float64
	shard, node int
}

// bids are all of them, the strongest first.
func bids(shards int, nodes []Node) []bid {
	all := make([]bid, 0, shards*len(nodes))
	for i, node := range nodes {
		seed := fnv.New64a()
		seed.Write([]byte(node.Name))
		for shard := range shards {
			all = append(all, bid{score(seed.Sum64(), shard, node.weight()), shard, i})
		}
	}
	slices.SortFunc(all, func(a, b bid) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.shard, b.shard),
			cmp.Compare(nodes[a.node].Name, nodes[b.node].Name))
	})
	return all
}

// score is weighted rendezvous hashing: the chance of a node's score to be a
// shard's highest is proportional to its weight.
func score(node uint64, shard, weight int) float64 {
	uniform := (float64(mix(node^mix(uint64(shard)+1))>>11) + 0.5) / (1 << 53)
	return -float64(weight) / math.Log(uniform)
}

// mix spreads the difference of two inputs over all bits (the finalizer of
// SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
