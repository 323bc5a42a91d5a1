package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// key names one (address, hash, password) without telling it.
type key [sha256.Size]byte

// cache remembers verified logins. All entries live equally long, so the
// order of their coming is the order of their going: a ring is enough. It has
// no clock; the instants it is given never go back by much.
type cache struct {
	secret [sha256.Size]byte
	ttl    time.Duration

	mu    sync.Mutex
	until map[key]time.Time
	ring  []key // the oldest at head; grows up to max
	max   int
	head  int
	count int
}

func newCache(size int, ttl time.Duration) *cache {
	c := &cache{ttl: ttl, max: size, until: make(map[key]time.Time)}
	rand.Read(c.secret[:])
	return c
}

// key is HMAC-SHA256 over the three texts, each behind its length, so that no
// two triples read the same.
func (c *cache) key(address maildrop.Address, hash, password string) (k key) {
	mac := hmac.New(sha256.New, c.secret[:])
	for _, s := range []string{string(address), hash, password} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(s)))
		mac.Write(length[:])
		mac.Write([]byte(s))
	}
	mac.Sum(k[:0])
	return k
}

func (c *cache) has(k key, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, known := c.until[k]
	return known && now.Before(until)
}

func (c *cache) add(k key, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.count > 0 && !now.Before(c.until[c.ring[c.head]]) {
		c.dropOldest()
	}
	if _, known := c.until[k]; known {
		return // verified by two at once: the first one's time counts
	}
	if c.count == c.max {
		c.dropOldest()
	}
	c.push(k)
	c.until[k] = now.Add(c.ttl)
}

func (c *cache) push(k key) {
	if c.count == len(c.ring) {
		c.grow()
	}
	c.ring[(c.head+c.count)%len(c.ring)] = k
	c.count++
}

// grow doubles the ring, so a small installation has a small one.
func (c *cache) grow() {
	ring := make([]key, min(c.max, max(64, 2*len(c.ring))))
	for i := range c.count {
		ring[i] = c.ring[(c.head+i)%len(c.ring)]
	}
	c.ring, c.head = ring, 0
}

func (c *cache) dropOldest() {
	delete(c.until, c.ring[c.head])
	c.head = (c.head + 1) % len(c.ring)
	c.count--
}
