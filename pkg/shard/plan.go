package shard

import "time"

// When checkpoints are written and what becomes of stored octets: pure rules.
const (
	tailDue     = 500       // ledger objects after the newest checkpoint
	coverWithin = time.Hour // that an entry waits for a checkpoint

	retireOctets = 8 << 20 // of live bodies in ledger objects that may go
	retireWithin = 6 * time.Hour
	deadWithin   = 12 * time.Hour // that dead octets lie beside live ones
	// clockSlack is how much later than it expires a message counts as dead: nodes'
	// clocks differ.
	clockSlack = time.Hour
)

// coverage is what decides about a checkpoint.
type coverage struct {
	tail      int           // ledger objects after the newest one
	waiting   time.Duration // since the first entry that none covers; 0: all are covered
	newest    time.Duration // age of the newest one
	untrimmed bool          // it covers objects that wait to be trimmed: a second one lets them go
}

func (c coverage) due() bool {
	return c.tail >= tailDue || c.waiting >= coverWithin || c.untrimmed && c.newest >= coverWithin
}

// usage is what bodies take in one or several objects, in octets.
type usage struct {
	live     int64
	stuck    int64  // of the live ones: damaged, so they can't be copied
	dead     int64  // of messages that the index still has
	since    int64  // when the first of these died, Unix time in seconds; 0: none did
	messages uint32 // seen, dead and alive
}

// add counts a body; died is 0 while its message lives.
func (u *usage) add(octets, died int64, stuck bool) {
	u.messages++
	if died == 0 {
		u.live += octets
		if stuck {
			u.stuck += octets
		}
		return
	}
	u.dead += octets
	if u.since == 0 || died < u.since {
		u.since = died
	}
}

func (u *usage) movable() bool { return u.live > u.stuck }

// rotten reports whether dead octets lie there for too long, or are too many.
func (u *usage) rotten(now int64) bool {
	return u.dead > u.live || u.since != 0 && now-u.since >= int64(deadWithin/time.Second)
}

// retires decides whether the ledger objects up to the horizon go, what lives in
// them being moved. waited is how long they might have gone.
func (u *usage) retires(waited time.Duration, now int64) bool {
	return u.live-u.stuck >= retireOctets || waited >= retireWithin || !u.movable() || u.rotten(now)
}

// rewrites decides whether what lives in a pack moves, so that the rest can go.
// What the index has forgotten of it has been dead for a day.
func (u *usage) rewrites(p pack, now int64) bool {
	forgotten := u.messages < p.messages
	return u.movable() && (forgotten || u.rotten(now))
}
