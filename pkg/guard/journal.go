package guard

import (
	"container/list"
	"slices"
	"sync"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits on what a Journal remembers. A row is about 250 octets.
const (
	maxRows        = maildrop.MaxTold // of one address
	maxRowsRefused = 8 << 10          // of addresses that somebody was refused at
	maxRowsCalm    = 8 << 10          // of the others
	maxRowsUnknown = 1 << 10          // of names that don't exist
)

// Journal remembers the latest attempts at each address, alike ones in one row. When
// it is full it forgets the addresses that nobody has tried for longest. Names that
// don't exist, addresses that were refused and those that never were don't displace
// each other: there are more polls than refusals, and no end of names. It is safe for
// concurrent use.
type Journal struct {
	mu                      sync.Mutex
	byAddress               map[maildrop.Address]*history
	refused, calm, unknowns *pool
}

// pool is histories that share a limit, the latest in front.
type pool struct {
	limit, rows int
	order       *list.List // of *history
}

// history is one address's.
type history struct {
	address maildrop.Address
	rows    []maildrop.Attempt // the latest first
	pool    *pool
	place   *list.Element
}

// NewJournal makes an empty one.
func NewJournal() *Journal {
	return &Journal{
		byAddress: make(map[maildrop.Address]*history),
		refused:   newPool(maxRowsRefused), calm: newPool(maxRowsCalm), unknowns: newPool(maxRowsUnknown),
	}
}

func newPool(limit int) *pool { return &pool{limit: limit, order: list.New()} }

// Note takes an attempt in. known: there is such an address.
func (j *Journal) Note(address maildrop.Address, known bool, a maildrop.Attempt) {
	j.change(address, known, func(h *history) { h.note(a) })
}

// Tell takes in what a front refused, with First and Times.
func (j *Journal) Tell(address maildrop.Address, known bool, a maildrop.Attempt) {
	j.change(address, known, func(h *history) { h.tell(a) })
}

func (j *Journal) change(address maildrop.Address, known bool, change func(*history)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	h := j.byAddress[address]
	if h == nil {
		h = &history{address: address}
		j.byAddress[address] = h
	}
	j.leave(h)
	change(h)
	j.enter(h, known)
}

// Of are an address's attempts, the latest first.
func (j *Journal) Of(address maildrop.Address) []maildrop.Attempt {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.byAddress[address]; h != nil {
		return slices.Clone(h.rows)
	}
	return nil
}

// note puts an attempt in front, with those that it is like.
func (h *history) note(a maildrop.Attempt) {
	a.First, a.Times = a.Time, 1
	if len(h.rows) > 0 && repeats(h.rows[0], a) { // the router has tried again
		a.First, a.Times = h.rows[0].First, h.rows[0].Times
		h.drop(0)
	}
	h.put(a)
}

// tell puts in what a front refused: perhaps a session that was let in before, and
// perhaps later than others that came after it.
func (h *history) tell(a maildrop.Attempt) {
	of := func(reason maildrop.Reason) int {
		return slices.IndexFunc(h.rows, func(b maildrop.Attempt) bool {
			return b.Session == a.Session && a.Session != "" && b.Reason == reason
		})
	}
	if a.Times == 1 && of(a.Reason) >= 0 {
		return
	}
	if i := of(maildrop.ReasonNone); i >= 0 && a.Reason == maildrop.ReasonSessions {
		if h.rows[i].Times--; h.rows[i].Times == 0 {
			h.drop(i)
		}
	}
	h.put(a)
	slices.SortStableFunc(h.rows, func(a, b maildrop.Attempt) int { return b.Time.Compare(a.Time) })
}

// put puts a row in front, with the one that it is like.
func (h *history) put(a maildrop.Attempt) {
	if i := slices.IndexFunc(h.rows, func(b maildrop.Attempt) bool { return alike(a, b) }); i >= 0 {
		a.Times += h.rows[i].Times
		if h.rows[i].First.Before(a.First) {
			a.First = h.rows[i].First
		}
		h.drop(i)
	}
	if len(h.rows) == maxRows {
		h.drop(maxRows - 1)
	}
	h.rows = slices.Insert(h.rows, 0, a)
}

func (h *history) drop(i int) { h.rows = slices.Delete(h.rows, i, i+1) }

// alike reports whether two attempts go into one row.
func alike(a, b maildrop.Attempt) bool {
	return a.Remote == b.Remote && a.Mechanism == b.Mechanism && a.Reason == b.Reason
}

// repeats reports whether an attempt is the one before, which nothing came of.
func repeats(before, a maildrop.Attempt) bool {
	return before.Reason == maildrop.ReasonUnavailable && before.Session == a.Session && a.Session != "" && before.Times == 1
}

// leave takes a history out of its pool.
func (j *Journal) leave(h *history) {
	if h.pool != nil {
		h.pool.rows -= len(h.rows)
		h.pool.order.Remove(h.place)
	}
}

// enter puts it into the pool that it belongs to, in front.
func (j *Journal) enter(h *history, known bool) {
	p := j.calm
	switch {
	case !known:
		p = j.unknowns
	case slices.ContainsFunc(h.rows, func(a maildrop.Attempt) bool { return a.Reason != maildrop.ReasonNone }):
		p = j.refused
	}
	p.rows += len(h.rows)
	h.pool, h.place = p, p.order.PushFront(h)
	for p.rows > p.limit {
		oldest, _ := p.order.Back().Value.(*history)
		j.leave(oldest)
		delete(j.byAddress, oldest.address)
	}
}
