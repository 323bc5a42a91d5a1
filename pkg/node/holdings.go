package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
)

// state is what a node does with a shard; see the package's picture.
type state uint8

const (
	acquiring state = iota
	serving
	releasing
	states // how many there are
)

var stateNames = [states]string{"acquiring", "serving", "releasing"}

// slot is one shard that the node has to do with. Its fields are the
// holdings' to change.
type slot struct {
	number  int
	state   state
	claim   placement.Claim    // zero until it is taken
	shard   owned              // from serving on
	since   time.Time          // of serving
	cancel  context.CancelFunc // ends acquiring
	opened  chan struct{}      // closed when it isn't acquiring any more
	gone    chan struct{}      // closed when the slot is empty
	dropped bool               // while acquiring: it is another's already
	heir    string             // instance that was told of the shard: see warmth
	warm    time.Time          // since when that is ready; zero: not yet
	heat    heat
}

// holdings are the shards that a node has to do with. Each change of a shard's
// state is one method, so that no two can be under way at once.
type holdings struct {
	metrics *metrics

	mu    sync.RWMutex
	slots map[int]*slot
	count [states]int
	known map[int]int64 // revision of our own last write of a claim
}

func newHoldings(m *metrics) *holdings {
	return &holdings{metrics: m, slots: map[int]*slot{}, known: map[int]int64{}}
}

// begin makes a slot for a shard to be taken. nil: there is one, or enough are
// being taken.
func (h *holdings) begin(number int, cancel context.CancelFunc) *slot {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[number] != nil || h.count[acquiring] >= maxTakes {
		return nil
	}
	s := &slot{number: number, cancel: cancel, opened: make(chan struct{}), gone: make(chan struct{})}
	h.slots[number] = s
	h.tally(acquiring, 1)
	return s
}

// claimed notes that the claim is ours, or was rewritten by us.
func (h *holdings) claimed(s *slot, claim placement.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.claim = claim
	h.known[s.number] = claim.Revision
}

// serve lets calls in. It reports false when the shard was lost meanwhile.
func (h *holdings) serve(s *slot, shard owned) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.dropped {
		return false
	}
	s.shard, s.since = shard, time.Now()
	h.turn(s, serving)
	close(s.opened)
	h.metrics.epoch(s.number, shard.Epoch())
	return true
}

// retire ends the serving of a shard, for the caller to close it; nil: it
// isn't served. A shard that is being opened is told to stop that.
func (h *holdings) retire(number int) *slot {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.slots[number]
	switch {
	case s == nil, s.state == releasing:
		return nil
	case s.state == acquiring:
		s.dropped = true
		s.cancel()
		return nil
	}
	h.turn(s, releasing)
	return s
}

// retireSlot is retire for the slot's own shard only, not for a successor.
func (h *holdings) retireSlot(s *slot) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[s.number] != s || s.state != serving {
		return false
	}
	h.turn(s, releasing)
	return true
}

// end empties the slot. released is the claim as it was freed, if it was.
func (h *holdings) end(s *slot, released placement.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[s.number] = max(h.known[s.number], released.Revision)
	h.tally(s.state, -1)
	delete(h.slots, s.number)
	if s.state == acquiring {
		close(s.opened)
	}
	close(s.gone)
	h.metrics.noEpoch(s.number)
}

func (h *holdings) turn(s *slot, to state) {
	h.tally(s.state, -1)
	h.tally(to, 1)
	s.state = to
}

func (h *holdings) tally(s state, by int) {
	h.count[s] += by
	h.metrics.held(s, h.count[s])
}

// owned are the shards whose claim we hold, for all we know.
func (h *holdings) owned() []int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var numbers []int
	for number, s := range h.slots {
		if s.claim.Revision > 0 {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

func (h *holdings) has(number int) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.slots[number] != nil
}

func (h *holdings) serving() []int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	numbers := make([]int, 0, h.count[serving])
	for number, s := range h.slots {
		if s.state == serving {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// claims are the shards whose claims may be ours: those that are served, being
// opened or being given away.
func (h *holdings) claims() []int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Sorted(maps.Keys(h.slots))
}

// sees reports whether a view of that revision has our own last write of the
// shard's claim in it. One that hasn't is no ground for anything.
func (h *holdings) sees(number int, revision int64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return revision >= h.known[number]
}

// forgetRevisions is for an etcd that was restored and counts anew.
func (h *holdings) forgetRevisions() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.known)
}

// find is the served shard of that number. One that is being opened is waited
// for, a little.
func (h *holdings) find(ctx context.Context, op string, number int) (owned, error) {
	timer := time.NewTimer(openingWait)
	defer timer.Stop()
	for {
		h.mu.RLock()
		s := h.slots[number]
		var at state
		var shard owned
		if s != nil {
			at, shard = s.state, s.shard
		}
		h.mu.RUnlock()
		switch {
		case s == nil || at == releasing:
			return nil, notOwner(op, number)
		case at == serving:
			s.heat.calls.Add(1)
			return shard, nil
		}
		select {
		case <-s.opened:
		case <-timer.C:
			return nil, notOwner(op, number)
		case <-ctx.Done():
			return nil, &maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: ctx.Err()}
		}
	}
}

func notOwner(op string, number int) error {
	return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: fmt.Errorf("shard %d isn't served here", number)}
}
