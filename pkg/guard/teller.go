package guard

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// What a Teller does at most.
const (
	tellEvery   = time.Second
	maxTellings = 64              // addresses whose owners are told each time
	maxWaiting  = 1024            // addresses that wait to be told of
	tellAtOnce  = 8               // calls
	tellTimeout = 5 * time.Second // of a call
	tellFor     = time.Minute     // how long it is tried
)

// Teller tells the owners of addresses what a front refused that they weren't asked about,
// so that those who help users find it where all other attempts are. It is a courtesy:
// what comes too fast, or while an owner is away for longer than a minute, is lost, and counted.
// It never makes anybody wait, and an owner hears of an address once a second at most.
type Teller struct {
	tell    func(context.Context, maildrop.Address, []maildrop.Attempt) error
	results *prometheus.CounterVec

	mu      sync.Mutex
	waiting map[maildrop.Address]*news
	order   []maildrop.Address // the longest waiting first
}

// news is what is to be told of an address.
type news struct {
	history
	since time.Time
}

// NewTeller makes a Teller, which tells by tell. Run runs it.
func NewTeller(tell func(context.Context, maildrop.Address, []maildrop.Attempt) error, registerer prometheus.Registerer) *Teller {
	t := &Teller{tell: tell, waiting: make(map[maildrop.Address]*news)}
	t.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_front_refusals_told_total",
		Help: "What was refused here without asking the mailbox's owner, by whether he was told of it.",
	}, []string{"result"})
	for _, result := range []string{toldResult, lostResult} {
		t.results.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(t.results)
	}
	return t
}

const (
	toldResult = "told"
	lostResult = "lost"
)

// Note takes in what was refused.
func (t *Teller) Note(address maildrop.Address, a maildrop.Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.waiting[address]
	if n == nil {
		if len(t.waiting) >= maxWaiting {
			t.count(lostResult, 1)
			return
		}
		n = &news{since: a.Time}
		t.waiting[address] = n
		t.order = append(t.order, address)
	}
	n.note(a)
}

// Run tells until ctx ends.
func (t *Teller) Run(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.round(ctx)
		}
	}
}

// round tells of those that wait longest.
func (t *Teller) round(ctx context.Context) {
	places := make(chan struct{}, tellAtOnce)
	var calls sync.WaitGroup
	for address, n := range t.next() {
		places <- struct{}{}
		calls.Go(func() {
			defer func() { <-places }()
			t.tellOf(ctx, address, n)
		})
	}
	calls.Wait()
}

// next takes out what is to be told now.
func (t *Teller) next() map[maildrop.Address]*news {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := min(len(t.order), maxTellings)
	taken := make(map[maildrop.Address]*news, now)
	for _, address := range t.order[:now] {
		taken[address] = t.waiting[address]
		delete(t.waiting, address)
	}
	t.order = slices.Delete(t.order, 0, now)
	return taken
}

func (t *Teller) tellOf(ctx context.Context, address maildrop.Address, n *news) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := t.tell(ctx, address, n.rows)
	switch {
	case err == nil:
		t.count(toldResult, len(n.rows))
	case passes(err) && time.Since(n.since) < tellFor:
		t.again(address, n)
	default:
		t.count(lostResult, len(n.rows))
	}
}

// passes reports whether it may go better the next time.
func passes(err error) bool {
	switch maildrop.KindOf(err) {
	case maildrop.Transient, maildrop.NotOwner, maildrop.Busy:
		return true
	}
	return false
}

// again puts back what couldn't be told.
func (t *Teller) again(address maildrop.Address, n *news) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if later := t.waiting[address]; later != nil {
		for _, a := range slices.Backward(n.rows) {
			later.tell(a)
		}
		later.since = n.since
		return
	}
	if len(t.waiting) >= maxWaiting {
		t.count(lostResult, len(n.rows))
		return
	}
	t.waiting[address] = n
	t.order = append(t.order, address)
}

func (t *Teller) count(result string, n int) { t.results.WithLabelValues(result).Add(float64(n)) }
