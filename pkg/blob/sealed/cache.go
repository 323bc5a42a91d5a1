package sealed

import (
	"container/list"
	"sync"
)

// maxKnown is how many objects' keys a Store keeps: some 300 KiB.
const maxKnown = 1024

// cache keeps how the objects read last are read.
type cache struct {
	limit int

	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List // of *cached, the one used last in front
}

type cached struct {
	key string
	how *opened
}

func newCache(limit int) *cache {
	return &cache{limit: limit, byKey: make(map[string]*list.Element), order: list.New()}
}

func (c *cache) take(key string) (*opened, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.byKey[key]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(element)
	return element.Value.(*cached).how, true
}

func (c *cache) put(key string, how *opened) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.byKey[key]; ok {
		element.Value.(*cached).how = how
		c.order.MoveToFront(element)
		return
	}
	c.byKey[key] = c.order.PushFront(&cached{key, how})
	if c.order.Len() > c.limit {
		c.remove(c.order.Back())
	}
}

func (c *cache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.byKey[key]; ok {
		c.remove(element)
	}
}

func (c *cache) remove(element *list.Element) {
	c.order.Remove(element)
	delete(c.byKey, element.Value.(*cached).key)
}
