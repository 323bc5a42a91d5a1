package shard

import (
	"container/list"
	"sync"

	"github.com/postern-pop/postern/pkg/ledger"
)

// cache keeps bodies of fresh messages, the least recently used going first
// when they are more than its octets.
type cache struct {
	max     int64
	metrics *Metrics

	mu     sync.Mutex
	octets int64
	bodies map[ledger.Position]*list.Element
	recent list.List // of cached; the most recently used in front
}

type cached struct {
	position ledger.Position
	body     []byte
}

// cachedOverhead is what an entry takes besides its body, about.
const cachedOverhead = 200

func newCache(octets int64, metrics *Metrics) *cache {
	return &cache{max: octets, metrics: metrics, bodies: make(map[ledger.Position]*list.Element)}
}

// body finds a message's body. It must not be changed.
func (c *cache) body(position ledger.Position) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.bodies[position]
	c.metrics.cacheAsked(found != nil)
	if found == nil {
		return nil, false
	}
	c.recent.MoveToFront(found)
	return found.Value.(*cached).body, true
}

// keep takes a body, which must not be changed any more.
func (c *cache) keep(position ledger.Position, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodies[position] != nil || weight(body) > c.max {
		return
	}
	c.bodies[position] = c.recent.PushFront(&cached{position: position, body: body})
	c.hold(weight(body))
	for c.octets > c.max {
		c.evict(c.recent.Back())
		c.metrics.cacheEvicted()
	}
}

// forget drops bodies: nobody asks again for what is removed.
func (c *cache) forget(positions []ledger.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, position := range positions {
		if found := c.bodies[position]; found != nil {
			c.evict(found)
		}
	}
}

// close drops all bodies and takes no more.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = -1
	c.hold(-c.octets)
	c.bodies, c.recent = nil, list.List{}
}

func (c *cache) evict(e *list.Element) {
	entry := c.recent.Remove(e).(*cached)
	delete(c.bodies, entry.position)
	c.hold(-weight(entry.body))
}

func (c *cache) hold(octets int64) {
	c.octets += octets
	c.metrics.cacheHolds(octets)
}

func weight(body []byte) int64 { return int64(cap(body)) + cachedOverhead }
