package node

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/placement"
)

// TestAbsences plays what becomes of nodes whose leases end.
func TestAbsences(t *testing.T) {
	type look struct {
		at      time.Duration
		leases  string // nodes with a lease, by letter; capitals drain
		silent  string // nodes that gossip doesn't hear
		want    string // nodes that have their places
		trouble bool
	}
	for name, looks := range map[string][]look{
		"one of three, heard: it is given up soon": {
			{0, "abc", "", "abc", false},
			{time.Second, "ab", "", "abc", false},
			{3900 * time.Millisecond, "ab", "", "abc", false},
			{4 * time.Second, "ab", "", "ab", false},
		},
		"one of three, silent: it is given up at once": {
			{0, "abc", "", "abc", false},
			{time.Second, "ab", "c", "ab", false},
		},
		"one of two falls silent after its lease ended": {
			{0, "ab", "", "ab", false},
			{time.Second, "a", "", "ab", true},
			{2 * time.Second, "a", "b", "a", false},
		},
		"all of three, one after the other": {
			{0, "abc", "", "abc", false},
			{time.Second, "ab", "", "abc", false},
			{2 * time.Second, "a", "", "abc", true},
			{3 * time.Second, "", "", "bc", true}, // not me: I have no lease
			{4 * time.Second, "a", "", "abc", true},
			{20 * time.Second, "ab", "", "abc", true}, // one is back: that is no end of it
			{30 * time.Second, "ab", "", "abc", true},
			{31 * time.Second, "ab", "", "ab", false},
		},
		"all of three come back": {
			{0, "abc", "", "abc", false},
			{time.Second, "a", "", "abc", true},
			{2 * time.Second, "abc", "", "abc", false},
			{3 * time.Second, "ab", "", "abc", false},
			{6 * time.Second, "ab", "", "ab", false},
		},
		"a node that drained is gone": {
			{0, "abC", "", "abc", false},
			{time.Second, "ab", "", "ab", false},
		},
		"half of the region dies": {
			{0, "abcd", "", "abcd", false},
			{time.Second, "ab", "cd", "ab", false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, start := newAbsences(), time.Unix(1000, 0)
			for i, l := range looks {
				view := placement.View{Revision: int64(i), Nodes: map[string]placement.Node{}}
				for _, letter := range strings.Split(l.leases, "") {
					node := placement.Node{Name: strings.ToLower(letter), Instance: "1", Draining: letter != strings.ToLower(letter)}
					view.Nodes[node.Name] = node
				}
				leases := len(view.Nodes)
				silent := func(name, _ string) bool { return strings.Contains(l.silent, name) }
				got := a.observe(view, "a", silent, start.Add(l.at))
				if nodes := strings.Join(slices.Sorted(maps.Keys(got.Nodes)), ""); nodes != l.want || a.trouble != l.trouble {
					t.Errorf("after %v: nodes %q, trouble %t, want %q, %t", l.at, nodes, a.trouble, l.want, l.trouble)
				}
				if len(view.Nodes) != leases {
					t.Fatal("the shared view was changed")
				}
			}
		})
	}
}
