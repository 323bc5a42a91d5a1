package shard

import (
	"maps"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
)

// surveyAtOnce is how many messages, about, are looked at under one lock.
const surveyAtOnce = 65536

// survey is what the index says of stored bodies, at about one moment: what dies
// meanwhile is found by the next one.
type survey struct {
	horizon    uint64
	inline     usage // in ledger objects up to the horizon
	kept       map[uint64]bool
	packs      map[uint32]*usage
	table      map[uint32]pack
	objects    map[string]bool              // of the table's packs
	stuck      map[ledger.Position]struct{} // damaged bodies that live
	bodies     map[string]bool              // objects of bodies: whether the message lives
	deadBodies []string
}

func (s *Shard) survey(horizon uint64) *survey {
	v := &survey{
		horizon: horizon, kept: make(map[uint64]bool), packs: make(map[uint32]*usage),
		stuck: make(map[ledger.Position]struct{}), bodies: make(map[string]bool),
		objects: make(map[string]bool),
	}
	now := time.Now().Unix()
	s.eachMessage(func(_ name, m *message) bool {
		v.add(s, m, now)
		return true
	})
	s.mu.RLock()
	defer s.mu.RUnlock()
	v.table = maps.Clone(s.state.packs.table)
	for object := range s.state.packs.numbers {
		v.objects[object] = true
	}
	return v
}

// eachMessage goes through the index under short locks. Messages that come or go
// meanwhile may be seen or not; those that stay are seen once, unless a few were
// forgotten before them: then it goes on behind the last one seen.
func (s *Shard) eachMessage(f func(name, *message) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	looked := 0
	for n := range s.state.mailboxes {
		after := ledger.Position(0)
		for box := s.state.mailboxes[n]; box != nil; box = s.state.mailboxes[n] {
			from, _ := box.search(after + 1)
			to := min(len(box.messages), from+surveyAtOnce)
			for i := from; i < to; i++ {
				if !f(n, &box.messages[i]) {
					return
				}
			}
			last := to == len(box.messages)
			if to > from {
				after = box.messages[to-1].position
			}
			if looked += to - from + 1; looked >= surveyAtOnce {
				s.mu.RUnlock()
				looked = 0
				s.mu.RLock()
			}
			if last {
				break
			}
		}
	}
}

func (v *survey) add(s *Shard, m *message, now int64) {
	died := s.state.died(m, now)
	if m.flags&flagObject != 0 {
		object := s.state.objects[m.position]
		v.bodies[object] = died == 0
		if died != 0 {
			v.deadBodies = append(v.deadBodies, object)
		}
		return
	}
	if !m.inline() || m.pack == 0 && m.position.Sequence() > v.horizon {
		return
	}
	_, stuck := s.space.stuck[m.position]
	if stuck && died == 0 {
		v.stuck[m.position] = struct{}{}
	}
	if m.pack == 0 {
		v.inline.add(int64(m.wire), died, stuck)
		if died == 0 {
			v.kept[m.position.Sequence()] = true
		}
		return
	}
	u := v.packs[m.pack]
	if u == nil {
		u = &usage{}
		v.packs[m.pack] = u
	}
	u.add(int64(m.wire), died, stuck)
}

// names reports whether a message, dead or alive, names the object, or the
// table of packs does: then it is no orphan.
func (v *survey) names(o orphan) bool {
	if o.kind == ledger.ObjectPack {
		return v.objects[o.name]
	}
	_, named := v.bodies[o.name]
	return named
}

// died is since when nobody may fetch the message any more, Unix time in seconds; 0:
// it lives. An expired one is given some time, for clocks differ.
func (s *state) died(m *message, now int64) int64 {
	died := m.expires() + int64(clockSlack/time.Second)
	if m.flags&flagRemoved != 0 {
		died = min(died, int64(s.removals[m.position].time))
	}
	if m.flags&flagRemoved == 0 && died > now {
		return 0
	}
	return died
}
