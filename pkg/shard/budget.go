package shard

import "sync"

// DefaultBudget is how many octets of mail a node holds in memory until they
// are written.
const DefaultBudget = 256 << 20

// Budget is the memory for mail that waits to be written, shared by the shards
// of a node. It is safe for concurrent use.
type Budget struct {
	mu   sync.Mutex
	left int64
}

// NewBudget makes one of so many octets; 0: DefaultBudget.
func NewBudget(octets int64) *Budget {
	if octets <= 0 {
		octets = DefaultBudget
	}
	return &Budget{left: octets}
}

func (b *Budget) take(octets int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if octets > b.left {
		return false
	}
	b.left -= octets
	return true
}

func (b *Budget) give(octets int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += octets
}
