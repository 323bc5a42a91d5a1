package node

import (
	"time"

	"github.com/postern-pop/postern/pkg/placement"
)

const (
	// leaseGrace is how long a node whose lease ended, though gossip hears it, keeps
	// its place: long enough to see whether others lose theirs too.
	leaseGrace = 3 * time.Second
	// etcdGrace is the same when more than a third of the leases ended like that.
	// A leader of etcd that is stuck ends them all, and the nodes live.
	etcdGrace = 30 * time.Second
)

// absences remembers the nodes whose leases ended while gossip still hears them.
// A node that gossip doesn't hear either, or that drains, is gone at once.
type absences struct {
	known   map[string]placement.Node // all that have their place
	since   map[string]time.Time      // of them, those without a lease
	trouble bool                      // etcd's: more than a third of them, and not all are back yet
}

func newAbsences() *absences {
	return &absences{known: map[string]placement.Node{}, since: map[string]time.Time{}}
}

// observe is the view with the absent nodes in their places, me excepted: what
// this process may do goes by its own lease.
func (a *absences) observe(view placement.View, me string, gone func(name, instance string) bool, now time.Time) placement.View {
	for name, node := range view.Nodes {
		a.known[name] = node
		delete(a.since, name)
	}
	for name, node := range a.known {
		if _, present := view.Nodes[name]; !present {
			a.miss(node, gone, now)
		}
	}
	a.trouble = len(a.since) > 0 && (a.trouble || 3*len(a.since) > len(a.known))
	if len(a.since) == 0 {
		return view
	}
	patched := view.Clone()
	for name, since := range a.since {
		if name != me && now.Sub(since) < a.grace() {
			patched.Nodes[name] = a.known[name]
		}
	}
	return patched
}

// miss books that a node has no lease. When it has had none for long, that is
// what the region is like now.
func (a *absences) miss(node placement.Node, gone func(name, instance string) bool, now time.Time) {
	since, missed := a.since[node.Name]
	switch {
	case node.Draining || gone(node.Name, node.Instance) || missed && now.Sub(since) >= etcdGrace:
		delete(a.known, node.Name)
		delete(a.since, node.Name)
	case !missed:
		a.since[node.Name] = now
	}
}

func (a *absences) grace() time.Duration {
	if a.trouble {
		return etcdGrace
	}
	return leaseGrace
}
