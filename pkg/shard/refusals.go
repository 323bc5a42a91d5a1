package shard

import (
	"log/slog"
	"sync"
	"time"
)

// refusalEvery is how often it is logged that the store refuses. Each message that is
// refused for it has its line at the intake.
const refusalEvery = time.Second

// Refusals logs appends that a store refused: the first at once, and then one a second,
// with the number of those in between. It is safe for concurrent use.
type Refusals struct {
	mu       sync.Mutex
	next     time.Time // when the next line is due
	unlogged int       // appends since the last one
}

func (r *Refusals) say(log *slog.Logger, records int, err error) {
	r.mu.Lock()
	now, unlogged := time.Now(), r.unlogged
	if now.Before(r.next) {
		r.unlogged++
		r.mu.Unlock()
		return
	}
	r.next, r.unlogged = now.Add(refusalEvery), 0
	r.mu.Unlock()
	log.Warn("append to the ledger failed", "records", records, "unlogged", unlogged, "error", err)
}
