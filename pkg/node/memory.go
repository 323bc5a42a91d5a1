package node

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/placement"
)

// crowd remembers since when the region's membership is what it is.
type crowd struct {
	members string
	since   time.Time
}

// observe is how long the membership, suspicions included, has been unchanged.
func (c *crowd) observe(view placement.View, suspects map[string]int64, now time.Time) time.Duration {
	lines := make([]string, 0, len(view.Nodes))
	for name, node := range view.Nodes {
		_, suspect := suspects[name]
		lines = append(lines, fmt.Sprintf("%s %s %d %t %t", name, node.Instance, node.Weight, node.Draining, suspect))
	}
	slices.Sort(lines)
	if members := strings.Join(lines, "\n"); members != c.members || c.since.IsZero() {
		c.members, c.since = members, now
	}
	return now.Sub(c.since)
}

// suspicion remembers which processes seem dead, and since which revision.
type suspicion map[string]suspect

type suspect struct {
	instance string
	since    int64
}

// observe asks about each of the view's nodes but me.
func (s suspicion) observe(view placement.View, me string, gone func(name, instance string) bool) map[string]int64 {
	for name, known := range s {
		if view.Nodes[name].Instance != known.instance {
			delete(s, name)
		}
	}
	suspects := map[string]int64{}
	for name, node := range view.Nodes {
		if name == me || !gone(name, node.Instance) {
			delete(s, name)
			continue
		}
		if _, known := s[name]; !known {
			s[name] = suspect{node.Instance, view.Revision}
		}
		suspects[name] = s[name].since
	}
	return suspects
}

// troubles remembers which shards failed here, and when to try them again.
type troubles struct {
	mu     sync.Mutex
	shards map[int]trouble
}

type trouble struct {
	failures int
	until    time.Time
	why      error // of the last failure, if only a person can end it
}

func newTroubles() *troubles { return &troubles{shards: map[int]trouble{}} }

// add books a failure: each one in a row doubles the pause.
func (t *troubles) add(number int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.shards[number]
	wait := min(backoffMin<<min(last.failures, 16), backoffMax)
	t.shards[number] = trouble{last.failures + 1, now.Add(jitter(wait)), nil}
}

// waits notes why a shard waits for a person.
func (t *troubles) waits(number int, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.shards[number]
	last.why = why
	t.shards[number] = last
}

// reasons are the shards that wait for a person, and why.
func (t *troubles) reasons() map[int]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	reasons := make(map[int]error)
	for number, last := range t.shards {
		if last.why != nil {
			reasons[number] = last.why
		}
	}
	return reasons
}

// pause waits a little without counting a failure: the view must catch up.
func (t *troubles) pause(number int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shards[number] = trouble{t.shards[number].failures, now.Add(jitter(backoffMin)), nil}
}

// clear forgets a shard's failures.
func (t *troubles) clear(number int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.shards, number)
}

// waiting reports whether it is too early to try the shard again.
func (t *troubles) waiting(number int, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Before(t.shards[number].until)
}

// recovering is how many shards wait after a failure.
func (t *troubles) recovering(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, shard := range t.shards {
		if shard.failures > 0 && now.Before(shard.until) {
			n++
		}
	}
	return n
}

// jitter is half to one and a half of d, so that many don't come back at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // spreads load, keeps no secret
}
