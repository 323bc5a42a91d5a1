package throttle

import "time"

// memory is a set that forgets: the oldest half when it is full, and everything
// after a while. It keeps two generations and reads no clock.
type memory struct {
	max      int           // of both generations
	lifetime time.Duration // of an entry: half of it at least, unless the set is full, and half more than it at most
	began    time.Time     // the young generation
	young    map[uint64]struct{}
	old      map[uint64]struct{}
}

func newMemory(limit int, lifetime time.Duration) *memory {
	return &memory{max: limit, lifetime: lifetime}
}

func (m *memory) has(now time.Time, key uint64) bool {
	m.age(now)
	_, young := m.young[key]
	_, old := m.old[key]
	return young || old
}

func (m *memory) add(now time.Time, key uint64) {
	m.age(now)
	if len(m.young) >= m.max/2 {
		m.turn(now)
	}
	if m.young == nil {
		m.young = make(map[uint64]struct{})
	}
	m.young[key] = struct{}{}
}

// age ends a generation that has had its time, or both.
func (m *memory) age(now time.Time) {
	switch age := now.Sub(m.began); {
	case age >= m.lifetime:
		m.turn(now)
		m.old = nil
	case age >= m.lifetime/2:
		m.turn(now)
	}
}

func (m *memory) turn(now time.Time) {
	m.old, m.young, m.began = m.young, nil, now
}
