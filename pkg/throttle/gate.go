package throttle

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// How long, and how many, logins are remembered.
const (
	knownFor   = 24 * time.Hour // at least, a login that succeeded
	guessFor   = time.Hour      // at least, a wrong password
	remembered = 1 << 16        // of each kind
)

// Gate is a Table for many goroutines, in real time, and a memory of logins. No
// password is kept, only keyed hashes under a key of the process's own.
type Gate struct {
	key [sha256.Size]byte

	mu      sync.Mutex
	table   *Table
	known   *memory // users and sources that logged in
	guesses *memory // wrong passwords
}

// NewGate makes a Gate that knows nothing yet.
func NewGate(limits Limits) *Gate {
	var self [8]byte
	rand.Read(self[:]) // never fails
	g := &Gate{
		table: NewTable(limits, binary.BigEndian.Uint64(self[:])),
		known: newMemory(remembered, 2*knownFor), guesses: newMemory(remembered, 2*guessFor),
	}
	rand.Read(g.key[:])
	return g
}

// Connect counts a connection, if its source may have one more; then it is to be
// ended by Disconnect.
func (g *Gate) Connect(remote netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Connect(time.Now(), SourceOf(remote))
}

// Disconnect ends a connection that Connect counted.
func (g *Gate) Disconnect(remote netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.Disconnect(SourceOf(remote))
}

// Delay is how long a login of the user has to wait before its password is looked at.
func (g *Gate) Delay(remote netip.Addr, user string) time.Duration {
	s, now := SourceOf(remote), time.Now()
	key := g.hash(s, user)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known.has(now, key) {
		return 0
	}
	return g.table.Delay(now, s)
}

// Standing is what is known of the source: see [Table.Standing].
func (g *Gate) Standing(remote netip.Addr) (failures, open, limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Standing(time.Now(), SourceOf(remote))
}

// Failed counts a login that was refused for its credentials. secret is the
// password; empty where there is none to compare, and then each login counts.
func (g *Gate) Failed(remote netip.Addr, user, secret string) {
	s, now := SourceOf(remote), time.Now()
	key := g.hash(s, user, secret)
	g.mu.Lock()
	defer g.mu.Unlock()
	if secret != "" && g.guesses.has(now, key) {
		return
	}
	g.guesses.add(now, key)
	g.table.Fail(now, s)
}

// Succeeded remembers that the user logged in from there.
func (g *Gate) Succeeded(remote netip.Addr, user string) {
	key := g.hash(SourceOf(remote), user)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known.add(time.Now(), key)
}

// Say is what the other fronts are to be told: see [Table.Say].
func (g *Gate) Say() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Say(time.Now())
}

// Hear takes what another front said: see [Table.Hear].
func (g *Gate) Hear(packet []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.Hear(time.Now(), packet)
}

// hash is a keyed hash of a source and texts, each behind its length.
func (g *Gate) hash(s Source, texts ...string) uint64 {
	mac := hmac.New(sha256.New, g.key[:])
	network := s.network.As16()
	mac.Write(network[:])
	for _, text := range texts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(text)))
		mac.Write(length[:])
		mac.Write([]byte(text))
	}
	return binary.BigEndian.Uint64(mac.Sum(nil))
}
