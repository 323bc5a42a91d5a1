package shard

import (
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
)

// Limits of appends that are under way at once.
const (
	maxInFlight = ledger.MaxInFlight
	enoughAhead = 1 << 20 // octets that are worth another append at once
	// maxTail bounds what a take-over has to replay: beyond it, appends wait for a
	// checkpoint.
	maxTail = 1000
)

// pipeline is the appends that are under way. A lone request is written at once.
// While something is being written, what comes is gathered until that is done, or
// there is much of it, or it takes twice its usual time: an append costs about the
// same whatever is in it, so few large ones are cheap.
//
//	────append 1────▶────append 2────▶         little mail
//	     gather           gather
//
//	────append 1────────────▶                  much, or a store that hangs
//	 gather ▶────append 2─────────▶
//	          gather ▶────append 3─────▶
//
// Outcomes come in about the ledger's order, and are applied in exactly that.
type pipeline struct {
	landings chan landing
	inFlight int
	started  time.Time     // the last append
	recent   time.Duration // what appends took lately; 0: not known
	next     uint64        // sequence to be applied next
	arrived  []landing     // written, to be applied, by sequence
	lost     error         // why nothing is applied any more
}

// landing is the outcome of an append.
type landing struct {
	batch   []*request
	drafts  []ledger.Draft
	entries []ledger.Entry
	err     error
	began   time.Time
	took    time.Duration
}

func (l landing) sequence() uint64 { return l.entries[0].Position.Sequence() }

// pause is how long the queue's octets should wait for company. may is false
// while an append has to return first.
func (p *pipeline) pause(now time.Time, octets int64) (pause time.Duration, may bool) {
	switch {
	case p.inFlight >= maxInFlight, len(p.arrived) > 0:
		return 0, false
	case p.inFlight == 0, octets >= enoughAhead:
		return 0, true
	}
	return max(0, 2*p.recent-now.Sub(p.started)), true
}

// landed takes an outcome in.
func (p *pipeline) landed(l landing) {
	p.inFlight--
	if p.recent == 0 {
		p.recent = l.took
	}
	p.recent += (l.took - p.recent) / 4
	if l.err == nil {
		p.arrived = append(p.arrived, l)
		slices.SortFunc(p.arrived, func(a, b landing) int { return int(int64(a.sequence() - b.sequence())) })
	}
}

// nextLanding is the one to be applied now. The ledger may have left a sequence out, so
// a gap is one only while somebody is on his way who could fill it.
func (p *pipeline) nextLanding() (landing, bool) {
	if len(p.arrived) == 0 || p.arrived[0].sequence() != p.next && p.inFlight > 0 {
		return landing{}, false
	}
	l := p.arrived[0]
	p.arrived = slices.Delete(p.arrived, 0, 1)
	p.next = l.sequence() + 1
	return l, true
}
