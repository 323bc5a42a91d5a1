package gossip

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"
)

// book keeps what memberlist reported of each process. memberlist calls it
// from under its own lock, so it never calls back.
type book struct {
	mu      sync.Mutex
	pages   map[string]*page // by memberlist's name, "<name>/<instance>"
	latest  map[string]string
	count   int
	changed chan struct{}
}

// page is one process's.
type page struct {
	peer  Peer
	alive bool
	order int // of its first appearance; a name's greatest is its latest process
}

func newBook() *book {
	return &book{pages: map[string]*page{}, latest: map[string]string{}, changed: make(chan struct{})}
}

// NotifyJoin is called when a process appears, for the first time or again.
func (b *book) NotifyJoin(n *memberlist.Node) { b.enter(n, true) }

// NotifyUpdate is called when a process says something else of itself.
func (b *book) NotifyUpdate(n *memberlist.Node) { b.enter(n, true) }

// NotifyLeave is called when a process died or left.
func (b *book) NotifyLeave(n *memberlist.Node) { b.enter(n, false) }

func (b *book) enter(n *memberlist.Node, alive bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, known := b.pages[n.Name]
	if !known {
		b.count++
		p = &page{order: b.count}
		b.pages[n.Name] = p
		name, _, _ := strings.Cut(n.Name, "/")
		b.latest[name] = n.Name
	}
	p.alive = alive
	if alive {
		p.peer = peerOf(n)
	}
	b.forget()
	close(b.changed)
	b.changed = make(chan struct{})
}

// peerOf reads a member's metadata. The name that memberlist vouches for wins
// over what the metadata says.
func peerOf(n *memberlist.Node) Peer {
	var p Peer
	if json.Unmarshal(n.Meta, &p) != nil {
		p = Peer{}
	}
	p.Name, p.Instance, _ = strings.Cut(n.Name, "/")
	p.Address = n.Address()
	return p
}

// forget bounds the memory of those that are gone: the longest known goes
// first.
func (b *book) forget() {
	for len(b.pages) > maxForgone {
		oldest := ""
		for name, p := range b.pages {
			if !p.alive && (oldest == "" || p.order < b.pages[oldest].order) {
				oldest = name
			}
		}
		if oldest == "" {
			return // all alive: memberlist itself holds that many
		}
		delete(b.pages, oldest)
		if name, _, _ := strings.Cut(oldest, "/"); b.latest[name] == oldest {
			delete(b.latest, name)
		}
	}
}

// dead is about a process, or, without instance, about the name's latest one.
func (b *book) dead(name, instance string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := name + "/" + instance
	if instance == "" {
		key = b.latest[name]
	}
	p, known := b.pages[key]
	return known && !p.alive
}

func (b *book) alive() []Peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	var peers []Peer
	for _, p := range b.pages {
		if p.alive {
			peer := p.peer
			peer.Meta = maps.Clone(peer.Meta)
			peers = append(peers, peer)
		}
	}
	sortPeers(peers)
	return peers
}

func (b *book) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
