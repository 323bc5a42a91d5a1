package node

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/shard"
)

// coolEvery is how often heat is worked out.
const coolEvery = 10 * time.Second

// Holding is one shard that a node serves.
type Holding struct {
	Shard int
	Epoch uint64
	Since time.Time // of serving
	Heat  float64   // calls a second, lately
	shard.Stats
}

// Census says what the node serves, by shard.
func (n *Node) Census() []Holding {
	h := n.holdings
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]Holding, 0, h.count[serving])
	for _, s := range h.slots {
		if s.state == serving {
			all = append(all, Holding{Shard: s.number, Epoch: s.shard.Epoch(), Since: s.since, Heat: s.heat.rate, Stats: s.shard.Stats()})
		}
	}
	slices.SortFunc(all, func(a, b Holding) int { return cmp.Compare(a.Shard, b.Shard) })
	return all
}

// heat is how much a shard is asked of.
type heat struct {
	calls atomic.Int64 // since it was last cooled
	at    time.Time    // when that was; the rest is guarded as the slot is
	rate  float64      // calls a second, the last minute counting most
}

// cool works out the shards' heat anew, now and then.
func (h *holdings) cool(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.slots {
		if s.state == serving {
			s.heat.cool(now, s.since)
		}
	}
}

func (h *heat) cool(now, since time.Time) {
	first := h.at.IsZero()
	if first {
		h.at = since
	}
	passed := now.Sub(h.at)
	if passed < coolEvery {
		return
	}
	rate := float64(h.calls.Swap(0)) / passed.Seconds()
	if !first {
		rate = 0.75*h.rate + 0.25*rate
	}
	h.rate, h.at = rate, now
}
