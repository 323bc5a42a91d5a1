// Package guard keeps those who guess passwords from trying many. It counts wrong
// passwords by address where all of an address's logins meet, at the owner of its
// shard, so the count is exact whichever fronts they come through; and it remembers
// the latest attempts for whoever has to help a user.
//
//	          Begin                                     End
//	attempt ──┬─ locked out ─▶ refused (lockout)         ┌─ right ─▶ nothing is counted any more
//	          ├─ as many are being verified as ─▶ Busy   │
//	          │   there are tries left                   ├─ wrong ─▶ counted once ── the last try: locked out
//	          └─▶ the caller verifies ───────────────────┤
//	                                                     └─ trouble ─▶ nothing happened
//
// # Contract
//
//   - Of one address at most Rules.Tries different passwords are verified within
//     Rules.Window, however many at once, unless the right one is among them.
//   - The same wrong password is counted once: a device that was forgotten and polls
//     with the old password locks nobody out.
//   - During a lock-out nothing is verified and nothing counted: it ends when it was
//     said to. The right password is refused like any other.
//   - Names that don't exist are treated alike, in a table of MaxUnknown names. What it
//     forgets are names that don't exist: no flood of names lifts the lock-out of an
//     address that does.
//   - Only Denied with ReasonCredentials is a wrong password. Trouble, a hang-up and
//     a policy's refusal are not.
//   - Of passwords only 64 bits of an HMAC under a key of the process are kept, and
//     those for the length of the window.
//
// # Decisions
//
//   - 2026-11-25: what a front refuses by itself, it tells the owner of the address's
//     shard (Teller): there it is where all other attempts are, in whichever region the
//     user connected. Alike refusals are one row; an owner hears of an address once a second at
//     most, of 64 addresses from one front, so fronts can't be made to flood him; a login never
//     waits for it. Refused: that explain asks all fronts: those of all regions would have
//     to answer, and one that has ended since knows nothing. What is refused before
//     anybody says who he is belongs to no address: explain --from tells how a network stands
//     with its limits, which the fronts of a region share.
//   - 2026-11-25: a lock-out is answered [SYS/TEMP] with the minutes that are left, not
//     [AUTH]: mail programs throw a right password away at [AUTH] (RFC 3206 section 5),
//     and ask their users, who then try more. It tells a guesser that he is locked out,
//     which he would notice, and nothing of the password or of whether the address
//     exists.
//   - 2026-11-25: counts are in the owner's memory. When a shard changes its owner, or
//     its node restarts, they begin anew: a guesser gains one window's tries each time
//     that happens, and can't make it happen. Refused: records in the ledger, a write
//     to storage for each wrong password of anybody.
//   - 2026-11-25: a login that succeeds ends the count, also one that the cache of
//     verified logins knew. The price: beside a mail program that polls every minute
//     a guesser has four tries a minute. Refused: to count on, which would lock out
//     everybody whose old phone has the wrong password, sooner or later.
//   - 2026-11-25: a lock-out lasts a window from the wrong password that caused it, then
//     all tries are there again. Refused: to give them back one by one as they leave
//     the window, which takes longer to explain and stops nobody.
//   - 2026-11-25: as many passwords as there are tries left are verified at a time, and
//     others are Busy, which the router repeats for a while. Refused: to verify all that
//     arrive before the first is found wrong, a hundred tries in one packet.
//   - 2026-11-25: a proof of a password (SCRAM) can't be recognized when it is
//     repeated: each wrong one counts.
//   - 2026-11-25: names that don't exist may be forgotten before their time, under
//     a flood of more than MaxUnknown of them within a window. Whoever can send that
//     many, each of which costs an argon2 run, may find out that a name which he had locked
//     out before doesn't exist. Refused: memory without a limit.
package guard

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

const (
	// MaxUnknown is how many names that don't exist are counted at a time, about 200
	// octets each. With argon2id at 60 ms and four workers a node verifies 60,000
	// passwords in 15 minutes.
	MaxUnknown = 1 << 16

	sweepEvery = time.Minute // what is over is forgotten
)

// Rules are what an account's administrator may say of guessing and polling.
type Rules struct {
	Tries  int           // different wrong passwords within Window that lock an address out
	Window time.Duration // and how long the lock-out lasts
	Delay  time.Duration // between two logins (RFC 2449 section 6.5); 0: none
}

// Try is one attempt, before anything is verified.
type Try struct {
	Address maildrop.Address
	Known   bool   // there is such an address
	Secret  string // what is verified; the same when it is tried again
	Session string // the front's session
	Rules   Rules
}

// Guard is one shard's. It is safe for concurrent use.
type Guard struct {
	secret     [sha256.Size]byte
	maxUnknown int

	mu      sync.Mutex
	known   map[key]*tally
	unknown map[key]*tally
	visits  map[key]visit // latest logins, where there is a delay between them
	swept   time.Time
}

// key names an address without its up to 320 octets.
type key [16]byte

// tally is what is counted of one address.
type tally struct {
	wrong  []guess // different ones, the latest last; at most the Tries
	trying []guess // being verified; n of them are alike
	until  time.Time
	window time.Duration // of the latest attempt
}

// guess is a password that was tried.
type guess struct {
	secret uint64
	at     time.Time
	n      int
}

// visit is a login that succeeded.
type visit struct {
	at      time.Time
	delay   time.Duration
	session uint64
}

// New makes a Guard that has counted nothing yet.
func New() *Guard {
	g := &Guard{maxUnknown: MaxUnknown, known: make(map[key]*tally), unknown: make(map[key]*tally), visits: make(map[key]visit)}
	rand.Read(g.secret[:]) // never fails: crypto/rand ends the process instead
	return g
}

// Around verifies an attempt, unless its address is locked out, and counts what comes
// of it. Every verification of a shard passes through here. Errors are those of
// verify; Denied with ReasonLockout and how long it lasts; Busy while too many
// passwords of this address are being verified. lockedOut says that this attempt
// was the last one.
func (g *Guard) Around(try Try, verify func() error) (lockedOut bool, err error) {
	k, secret := g.key(try.Address), g.hash("secret", string(try.Address), try.Secret)
	if err := g.begin(k, secret, try, time.Now()); err != nil {
		return false, err
	}
	ended := false
	defer func() {
		if !ended { // a panic counts as trouble
			g.end(k, secret, try, errPanic, time.Now())
		}
	}()
	err = verify()
	ended = true
	return g.end(k, secret, try, err, time.Now()), err
}

var (
	errBusy  = errors.New("too many passwords of one address at once")
	errPanic = errors.New("the verification ended in a panic")
)

// begin lets an attempt be verified, or doesn't.
func (g *Guard) begin(k key, secret uint64, try Try, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep(now)
	t := g.tally(k, try.Known)
	t.forget(now, try.Rules.Window)
	if len(t.wrong) >= try.Rules.Tries { // fewer are allowed than before
		t.lock(t.wrong[len(t.wrong)-1].at)
	}
	if now.Before(t.until) {
		return &maildrop.Error{Op: "guard.begin", Kind: maildrop.Denied, Reason: maildrop.ReasonLockout, Wait: t.until.Sub(now)}
	}
	if i := find(t.trying, secret); i >= 0 {
		t.trying[i].n++
		return nil
	}
	if find(t.wrong, secret) < 0 && len(t.wrong)+len(t.trying) >= try.Rules.Tries {
		return &maildrop.Error{Op: "guard.begin", Kind: maildrop.Busy, Err: errBusy}
	}
	t.trying = append(t.trying, guess{secret: secret, n: 1})
	return nil
}

// end takes what came of a verification. It reports whether that locked the
// address out.
func (g *Guard) end(k key, secret uint64, try Try, err error, now time.Time) (lockedOut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tally(k, try.Known)
	if i := find(t.trying, secret); i >= 0 {
		if t.trying[i].n--; t.trying[i].n == 0 {
			t.trying = remove(t.trying, i)
		}
	}
	switch {
	case err == nil:
		t.wrong, t.until = nil, time.Time{}
	case Wrong(err) && !now.Before(t.until):
		t.forget(now, try.Rules.Window)
		if find(t.wrong, secret) < 0 {
			t.wrong = append(t.wrong, guess{secret: secret, at: now})
		}
		if lockedOut = len(t.wrong) >= try.Rules.Tries; lockedOut {
			t.lock(now)
		}
	}
	g.tidy(k, t)
	return lockedOut
}

// Wrong reports whether a verification found the password wrong, and not something
// else in the way.
func Wrong(err error) bool {
	return err != nil && maildrop.KindOf(err) == maildrop.Denied && maildrop.ReasonOf(err) == maildrop.ReasonCredentials
}

// forget drops what is older than the window, and a lock-out that is over.
func (t *tally) forget(now time.Time, window time.Duration) {
	t.window = window
	if !now.Before(t.until) {
		t.until = time.Time{}
	}
	for len(t.wrong) > 0 && now.Sub(t.wrong[0].at) >= window {
		t.wrong = t.wrong[1:]
	}
}

// lock begins a lock-out; what led to it needn't be remembered any more.
func (t *tally) lock(from time.Time) { t.wrong, t.until = nil, from.Add(t.window) }

func find(guesses []guess, secret uint64) int {
	for i := range guesses {
		if guesses[i].secret == secret {
			return i
		}
	}
	return -1
}

func remove(guesses []guess, i int) []guess {
	guesses[i] = guesses[len(guesses)-1]
	return guesses[:len(guesses)-1]
}

// tally finds an address's, or begins one. An address that was made meanwhile keeps
// what was counted of its name.
func (g *Guard) tally(k key, known bool) *tally {
	if t := g.known[k]; t != nil {
		return t
	}
	t := g.unknown[k]
	switch {
	case t == nil:
		t = &tally{}
	case !known:
		return t
	}
	delete(g.unknown, k)
	if known {
		g.known[k] = t
		return t
	}
	g.makeRoom()
	g.unknown[k] = t
	return t
}

// makeRoom forgets one unknown name, whichever comes first in the map's order,
// which nobody can tell.
func (g *Guard) makeRoom() {
	if len(g.unknown) < g.maxUnknown {
		return
	}
	for k, t := range g.unknown {
		if len(t.trying) == 0 {
			delete(g.unknown, k)
			return
		}
	}
}

// tidy ends a tally that says nothing.
func (g *Guard) tidy(k key, t *tally) {
	if len(t.wrong)+len(t.trying) == 0 && t.until.IsZero() {
		delete(g.known, k)
		delete(g.unknown, k)
	}
}

// sweep forgets what is over, now and then.
func (g *Guard) sweep(now time.Time) {
	if now.Sub(g.swept) < sweepEvery {
		return
	}
	g.swept = now
	for _, table := range []map[key]*tally{g.known, g.unknown} {
		for k, t := range table {
			t.forget(now, t.window)
			g.tidy(k, t)
		}
	}
	for k, v := range g.visits {
		if now.Sub(v.at) >= v.delay {
			delete(g.visits, k)
		}
	}
}

// Admit lets a user in whose login has come through everything else, unless his last
// login is more recent than the delay: Denied with ReasonLoginDelay, and how much
// of it is left (RFC 2449 section 8.1.1). A session that comes again is let in: the
// first answer was lost.
func (g *Guard) Admit(try Try, now time.Time) error {
	if try.Rules.Delay <= 0 {
		return nil
	}
	k, session := g.key(try.Address), g.hash("session", try.Session)
	g.mu.Lock()
	defer g.mu.Unlock()
	if last, ok := g.visits[k]; ok && last.session == session && try.Session != "" {
		return nil
	}
	if left := g.delay(k, try.Rules, now); left > 0 {
		return &maildrop.Error{Op: "guard.admit", Kind: maildrop.Denied, Reason: maildrop.ReasonLoginDelay, Wait: left}
	}
	g.visits[k] = visit{at: now, delay: try.Rules.Delay, session: session}
	return nil
}

func (g *Guard) delay(k key, rules Rules, now time.Time) time.Duration {
	last, ok := g.visits[k]
	if !ok {
		return 0
	}
	return max(0, rules.Delay-now.Sub(last.at))
}

// Standing is what a Guard would say to an address's next attempt.
type Standing struct {
	Wrong   int           // different wrong passwords that count at the moment
	Lockout time.Duration // how long its lock-out lasts still; 0: there is none
	Delay   time.Duration // until the next login is allowed; 0: it is
}

// Standing looks at an address and changes nothing.
func (g *Guard) Standing(address maildrop.Address, rules Rules, now time.Time) (s Standing) {
	k := g.key(address)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Delay = g.delay(k, rules, now)
	t := g.known[k]
	if t == nil {
		t = g.unknown[k]
	}
	if t == nil {
		return s
	}
	copied := tally{wrong: t.wrong, until: t.until}
	copied.forget(now, rules.Window)
	if len(copied.wrong) >= rules.Tries {
		copied.lock(copied.wrong[len(copied.wrong)-1].at)
	}
	s.Wrong, s.Lockout = len(copied.wrong), max(0, copied.until.Sub(now))
	return s
}

// Unlock ends an address's lock-out, and forgets what was counted. It reports
// whether there was one.
func (g *Guard) Unlock(address maildrop.Address, now time.Time) (was bool) {
	k := g.key(address)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range []*tally{g.known[k], g.unknown[k]} {
		if t == nil {
			continue
		}
		was = was || now.Before(t.until)
		t.wrong, t.until = nil, time.Time{}
		g.tidy(k, t)
	}
	return was
}

// Locked is how many addresses are locked out, names that don't exist among them.
func (g *Guard) Locked(now time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, table := range []map[key]*tally{g.known, g.unknown} {
		for _, t := range table {
			if now.Before(t.until) {
				n++
			}
		}
	}
	return n
}

func (g *Guard) key(address maildrop.Address) (k key) {
	sum := g.mac("address", string(address))
	copy(k[:], sum[:])
	return k
}

func (g *Guard) hash(use string, texts ...string) uint64 {
	sum := g.mac(use, texts...)
	return binary.BigEndian.Uint64(sum[:])
}

// mac is HMAC-SHA256 over the texts, each behind its length, so that no two lists of
// them read the same.
func (g *Guard) mac(use string, texts ...string) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, g.secret[:])
	for _, text := range append([]string{use}, texts...) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(text)))
		mac.Write(length[:])
		mac.Write([]byte(text))
	}
	mac.Sum(sum[:0])
	return sum
}
