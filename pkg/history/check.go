package history

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Invariant is a promise that a cluster is held to.
type Invariant string

// The invariants that Check holds.
const (
	Kept  Invariant = "kept"  // what was acknowledged is there until its removal is asked for
	Once  Invariant = "once"  // and once
	Gone  Invariant = "gone"  // a removal stays
	Named Invariant = "named" // a unique-id names one message
	Exact Invariant = "exact" // octet for octet what was sent
)

// Finding is one breach of an invariant.
type Finding struct {
	Invariant Invariant
	Text      string
}

// Check finds what in a history breaks an invariant, in the order in which it shows. A session is
// held to the facts that were known for so long as stale when it was opened; 0 stands for a
// cluster whose every answer is the newest. The session of a Final is held to all of them: open it
// that much after the last answer.
func Check(events []Event, stale time.Duration) []Finding {
	c := &checker{stale: stale, boxes: map[string]*box{}, found: map[subject]bool{}, opened: map[int]fact{}, last: map[int]map[int]bool{}}
	c.learn(events)
	for place, e := range events {
		c.take(fact{place, e.At}, e)
	}
	for _, name := range slices.Sorted(maps.Keys(c.boxes)) {
		if !c.boxes[name].final {
			c.report(Kept, name, "", "%s could not be read to its end, so nobody knows what is in it", name)
		}
	}
	return c.findings
}

// fact is when something was known, or asked.
type fact struct {
	place int // in the history
	at    time.Time
}

// subject is what a finding is about.
type subject struct {
	invariant    Invariant
	mailbox, uid string
}

// checker walks along a history.
type checker struct {
	stale    time.Duration
	boxes    map[string]*box
	opened   map[int]fact         // session → its Opening
	last     map[int]map[int]bool // session → numbers fetched in it
	found    map[subject]bool
	findings []Finding
}

// box is what is known of a mailbox.
type box struct {
	name    string
	sent    map[int]Sum
	acked   map[int]fact
	uids    map[int]string  // number → its unique-id, also if that is only known later
	numbers map[string]int  // unique-id → its number, likewise
	there   map[string]fact // unique-ids known to be there, since when
	asked   map[string]bool // unique-ids whose removal was asked for
	removed map[string]fact // those whose removal was answered +OK, since the first time
	missed  map[string]fact // those whose removal was asked for, and that a listing hadn't any more
	final   bool
}

func (c *checker) box(name string) *box {
	b := c.boxes[name]
	if b == nil {
		b = &box{name: name, sent: map[int]Sum{}, acked: map[int]fact{}, uids: map[int]string{}, numbers: map[string]int{},
			there: map[string]fact{}, asked: map[string]bool{}, removed: map[string]fact{}, missed: map[string]fact{}}
		c.boxes[name] = b
	}
	return b
}

// report adds a finding, unless it is known of that unique-id.
func (c *checker) report(invariant Invariant, mailbox, uid, format string, args ...any) {
	about := subject{invariant, mailbox, uid}
	if !c.found[about] {
		c.found[about] = true
		c.findings = append(c.findings, Finding{invariant, fmt.Sprintf(format, args...)})
	}
}

// learn finds out which unique-id each message has, and which message each unique-id names:
// the first that was seen.
func (c *checker) learn(events []Event) {
	for _, e := range events {
		if e.Kind != Fetched {
			continue
		}
		b := c.box(e.Mailbox)
		if _, known := b.numbers[e.UID]; known {
			continue
		}
		b.numbers[e.UID] = e.Number
		if _, known := b.uids[e.Number]; !known && e.Number != 0 {
			b.uids[e.Number] = e.UID
		}
	}
}

func (c *checker) take(now fact, e Event) {
	b := c.box(e.Mailbox)
	switch e.Kind {
	case Sent:
		b.sent[e.Number] = e.Sum
	case Acknowledged:
		b.acknowledged(now, e.Number)
	case Opening:
		c.opened[e.Session] = now
	case Listed:
		c.listed(b, now, e)
	case Fetched:
		c.fetched(b, e)
	case Asked:
		for _, uid := range e.UIDs {
			b.asked[uid] = true
		}
	case Removed:
		for _, uid := range e.UIDs {
			// One that is back and removed again was removed at the first time.
			if _, before := b.removed[uid]; !before {
				b.removed[uid] = now
			}
			delete(b.there, uid)
		}
	case Final:
		c.final(b, e)
	}
}

// acknowledged makes a message one that is there from now on. One whose unique-id nobody ever
// saw is the last session's to miss.
func (b *box) acknowledged(now fact, number int) {
	b.acked[number] = now
	if uid, known := b.uids[number]; known {
		b.present(now, uid)
	}
}

// present makes a unique-id one that is there from now on, unless it was, or is gone.
func (b *box) present(now fact, uid string) {
	_, there := b.there[uid]
	_, removed := b.removed[uid]
	_, missed := b.missed[uid]
	if !there && !removed && !missed {
		b.there[uid] = now
	}
}

// binds reports whether a session that was opened then has to know of a fact.
func (c *checker) binds(f, opened fact) bool {
	return f.place < opened.place && opened.at.Sub(f.at) >= c.stale
}

// listed holds a listing against what was known when its session was opened: what was
// there is there, what was gone isn't. It is a snapshot of some moment since.
func (c *checker) listed(b *box, now fact, e Event) {
	opened, listed := c.opened[e.Session], map[string]bool{}
	for _, uid := range e.UIDs {
		if listed[uid] {
			c.report(Named, b.name, uid, "%s: one listing has %s twice", b.name, uid)
		}
		listed[uid] = true
		c.back(b, opened, uid)
	}
	c.gone(b, now, opened, listed)
	for uid := range listed {
		b.present(now, uid)
	}
}

// gone finds what isn't listed though it was there.
func (c *checker) gone(b *box, now, opened fact, listed map[string]bool) {
	var missing []string
	for uid, since := range b.there {
		if !listed[uid] && c.binds(since, opened) {
			missing = append(missing, uid)
		}
	}
	slices.Sort(missing)
	for _, uid := range missing {
		if b.asked[uid] { // and it was done, though nobody said so
			b.missed[uid] = now
			delete(b.there, uid)
			continue
		}
		c.report(Kept, b.name, uid, "%s: %s was there at %s, is not in the listing of a session that was opened at %s, and nobody had asked to remove it",
			b.name, b.message(uid), clock(b.there[uid]), clock(opened))
	}
}

// back finds what is listed though it was gone.
func (c *checker) back(b *box, opened fact, uid string) {
	if removed, ok := b.removed[uid]; ok && c.binds(removed, opened) {
		c.report(Gone, b.name, uid, "%s: %s is back in a session that was opened at %s; its removal was answered +OK at %s",
			b.name, b.message(uid), clock(opened), clock(removed))
	}
	if missed, ok := b.missed[uid]; ok && c.binds(missed, opened) {
		c.report(Gone, b.name, uid, "%s: %s is back in a session that was opened at %s; its removal had been asked for, and at %s it was gone",
			b.name, b.message(uid), clock(opened), clock(missed))
	}
}

func (c *checker) fetched(b *box, e Event) {
	if c.last[e.Session] == nil {
		c.last[e.Session] = map[int]bool{}
	}
	if number := b.numbers[e.UID]; number != e.Number {
		c.report(Named, b.name, e.UID, "%s: %s names message %d and message %d", b.name, e.UID, number, e.Number)
		return
	}
	sum, sent := b.sent[e.Number]
	switch {
	case !sent:
		c.report(Exact, b.name, e.UID, "%s: %s is a message that nobody sent", b.name, e.UID)
		return
	case sum != e.Sum:
		c.report(Exact, b.name, e.UID, "%s: %s is not what was sent", b.name, b.message(e.UID))
	}
	if first := b.uids[e.Number]; first != e.UID {
		c.report(Once, b.name, e.UID, "%s: message %d is there twice, as %s and as %s", b.name, e.Number, first, e.UID)
	}
	c.last[e.Session][e.Number] = true
}

// final holds what the last session fetched against all that was acknowledged.
func (c *checker) final(b *box, e Event) {
	b.final = true
	for _, number := range slices.Sorted(maps.Keys(b.acked)) {
		uid, seen := b.uids[number]
		switch {
		case c.last[e.Session][number] || b.asked[uid]:
		case seen:
			c.report(Kept, b.name, uid, "%s: %s was acknowledged at %s, and is lost", b.name, b.message(uid), clock(b.acked[number]))
		default:
			c.report(Kept, b.name, strconv.Itoa(number), "%s: message %d was acknowledged at %s, and was never there", b.name, number, clock(b.acked[number]))
		}
	}
}

// message names a unique-id for a person.
func (b *box) message(uid string) string {
	if number := b.numbers[uid]; number != 0 {
		return fmt.Sprintf("message %d (%s)", number, uid)
	}
	return uid
}

// clock is the time of day of a fact, in UTC.
func clock(f fact) string { return f.at.UTC().Format("15:04:05.000Z") }
