package throttle

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Constants of the rules.
const (
	halfLife   = 10 * time.Minute       // of a level
	firstDelay = 250 * time.Millisecond // of the first failure that isn't free
	negligible = 1.0 / 16               // a level below this is none
	maxLevel   = 4095                   // far beyond every delay's bound

	openFor = 15 * time.Second // how long what a peer said of its connections holds
)

// Source is where a client comes from: an IPv4 address or an IPv6 /64. The zero
// Source is an unknown one, for which there are no limits.
type Source struct{ network netip.Addr }

// SourceOf is the source of an address.
func SourceOf(remote netip.Addr) Source {
	remote = remote.Unmap().WithZone("")
	if !remote.Is6() {
		return Source{remote}
	}
	p, _ := remote.Prefix(64) // of an IPv6 address there is always one
	return Source{p.Addr()}
}

// Known reports whether the source is one.
func (s Source) Known() bool { return s.network.IsValid() }

// Wide reports whether the source is an IPv6 /64.
func (s Source) Wide() bool { return s.network.Is6() }

// String is the address or the network.
func (s Source) String() string {
	if s.Wide() {
		return s.network.String() + "/64"
	}
	return s.network.String()
}

// Limits are what a Table enforces. Of each, 0 means no limit.
type Limits struct {
	PerIP    int           // connections of one IPv4 address
	Per64    int           // connections of one IPv6 /64
	Free     int           // the level up to which nobody is delayed
	MaxDelay time.Duration // of one login, 24 h at most; 0: nobody is delayed
	Sources  int           // that are remembered at once; 0: 65536
}

const defaultSources = 1 << 16

// level is a sum of failures that is halved again and again.
type level struct {
	value float64
	at    time.Time // when it was value
}

func (l level) now(now time.Time) float64 {
	age := now.Sub(l.at)
	if l.value == 0 || age <= 0 {
		return l.value
	}
	return l.value * math.Exp2(-float64(age)/float64(halfLife))
}

// record is what is known of one source.
type record struct {
	own   level
	peers []share
}

// share is what a peer said last of a source.
type share struct {
	peer   uint64
	number uint64 // of the packet that said so
	level  level
	open   int // connections
}

func (r *record) harm(now time.Time) float64 {
	sum := r.own.now(now)
	for i := range r.peers {
		sum += r.peers[i].level.now(now)
	}
	return sum
}

// opened is how many connections the peers have of the source.
func (r *record) opened(now time.Time) (sum int) {
	for i := range r.peers {
		if now.Sub(r.peers[i].level.at) < openFor {
			sum += r.peers[i].open
		}
	}
	return sum
}

// Table is the rules and what is known of all sources. It reads no clock: the
// instants that it is given never go back by much. It is for one goroutine at a
// time; Gate is for many.
type Table struct {
	limits  Limits
	self    uint64
	number  uint64 // of the latest packet
	records map[Source]*record
	open    map[Source]int // own connections
	news    map[Source]int // how many times more to tell of it
	told    time.Time      // when all was told last
}

// NewTable makes a Table. self is random, and another one for each start.
func NewTable(limits Limits, self uint64) *Table {
	limits.Sources = cmp.Or(limits.Sources, defaultSources)
	return &Table{
		limits: limits, self: self,
		records: make(map[Source]*record), open: make(map[Source]int), news: make(map[Source]int),
	}
}

// limit is how many connections a source may have; 0: no limit.
func (t *Table) limit(s Source) int {
	switch {
	case !s.Known():
		return 0
	case s.Wide():
		return t.limits.Per64
	}
	return t.limits.PerIP
}

// worthTelling is the number of connections from which the others are told.
func (t *Table) worthTelling(s Source) int { return max(2, t.limit(s)/8) }

// Connect counts a connection, if the source may have one more.
func (t *Table) Connect(now time.Time, s Source) bool {
	limit := t.limit(s)
	if limit == 0 {
		return true
	}
	total := t.open[s]
	if r := t.records[s]; r != nil {
		total += r.opened(now)
	}
	if total >= limit {
		return false
	}
	t.open[s]++
	if t.open[s] >= t.worthTelling(s) {
		t.news[s] = repeats
	}
	return true
}

// Disconnect ends a connection that Connect counted.
func (t *Table) Disconnect(s Source) {
	if t.limit(s) == 0 {
		return
	}
	if t.open[s] >= t.worthTelling(s) {
		t.news[s] = repeats
	}
	if t.open[s]--; t.open[s] <= 0 {
		delete(t.open, s)
	}
}

// Standing is what is known of a source: its level, rounded down, and the connections
// that it has at all fronts, of how many that it may have; 0: no limit.
func (t *Table) Standing(now time.Time, s Source) (failures, open, limit int) {
	open, limit = t.open[s], t.limit(s)
	if r := t.records[s]; r != nil {
		failures, open = int(r.harm(now)), open+r.opened(now)
	}
	return failures, open, limit
}

// Fail counts a wrong password.
func (t *Table) Fail(now time.Time, s Source) {
	if !s.Known() || t.limits.MaxDelay == 0 {
		return
	}
	r := t.record(now, s)
	r.own = level{min(r.own.now(now)+1, maxLevel), now}
	t.news[s] = repeats
}

// Delay is how long the source's next login has to wait.
func (t *Table) Delay(now time.Time, s Source) time.Duration {
	r := t.records[s]
	if r == nil {
		return 0
	}
	over := r.harm(now) - float64(t.limits.Free)
	if over <= 0 {
		return 0
	}
	delay := float64(firstDelay) * math.Exp2(min(over-1, 20))
	return min(t.limits.MaxDelay, time.Duration(delay))
}

// record finds or makes a source's.
func (t *Table) record(now time.Time, s Source) *record {
	r := t.records[s]
	if r == nil {
		if len(t.records) >= t.limits.Sources {
			t.forget(now)
		}
		r = &record{}
		t.records[s] = r
	}
	return r
}

// forget makes room: what has decayed goes, and if that is little, the least
// harmful quarter.
func (t *Table) forget(now time.Time) {
	type candidate struct {
		source Source
		harm   float64
	}
	all := make([]candidate, 0, len(t.records))
	for s, r := range t.records {
		all = append(all, candidate{s, r.harm(now) + float64(r.opened(now))})
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.harm, b.harm) })
	for i, c := range all {
		if i > len(all)/4 && c.harm >= negligible {
			break
		}
		delete(t.records, c.source)
		if t.open[c.source] == 0 {
			delete(t.news, c.source)
		}
	}
}
