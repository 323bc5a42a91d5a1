// Package auth checks passwords: slowly enough for a thief of hashes, quickly
// enough for a client that polls every minute, and with bounded memory.
//
//	Verify ──▶ cache of verified logins ──hit──▶ nil
//	               │ miss
//	               ▼
//	           flight: equal checks under way are one ──▶ queue ──▶ workers (64 MiB each)
//	                                                       │ a line for each source, in turns
//	                                                       │ full: the longest line's latest is Busy
//
// # Contract
//
//   - "No such user" and "wrong password" are one error, Denied with
//     ReasonCredentials, after the same work.
//   - Memory: at most Workers checks at once, each of at most 64 MiB whatever a
//     stored hash asks for; at most Queue more wait; the rest is Busy at once.
//   - A source (a client's address, of IPv6 the /48) waits for its own checks and
//     for one of each other source's: nobody's login waits behind all of a
//     guesser's. When the queue is full, who has most in it loses one.
//   - A password that was right is known for ten minutes, for this very hash
//     string: a changed credential never meets an old answer. Nothing is
//     known of wrong ones.
//   - A caller whose context ends stops waiting; a check that nobody waits
//     for any more is not begun.
//
// # Decisions
//
//   - 2026-11-23: argon2id with the second recommended option of RFC 9106
//     section 4 (t=3, 64 MiB, p=4). Refused: the first (2 GiB a login), and
//     bcrypt (cuts passwords at 72 octets).
//   - 2026-11-23: the cache's key is HMAC-SHA256 under a random key of the
//     process, over address, hash string and password. No password is kept, and
//     a core dump's entries can be guessed at no better than with its key. Refused:
//     dropping entries when a credential changes, which needs every writer to tell
//     every node.
//   - 2026-11-23: ten minutes count from the check and not from the last use:
//     who polls for ever pays argon2id six times an hour.
//   - 2026-11-25: passwords are prepared by SASLprep (RFC 6856 section 2.2, RFC 4013), when
//     they are hashed and when they are checked: two ways to type one password, composed or
//     not, are one. It is what SCRAM's keys are made of, so one password works with every
//     mechanism. Refused: passwords as octets, as it was before (a phone and a desktop that
//     compose differently), and OpaqueString of RFC 8265 (see package scram).
//   - 2026-11-23: a stored hash that can't be read costs the dummy's time and
//     is Internal: the user hears of a passing fault, not of a wrong password,
//     which would make his client forget the right one.
//   - 2026-11-23: equal concurrent checks share one run, also failing ones: a
//     phone and a desktop at the same second, or a guesser's copies, cost 64 MiB
//     once.
//   - 2026-11-25: sources take turns. Refused: one line for all (250 wrong
//     passwords at once held everybody's first login up for 15 s); a bound on what one
//     source may have in the queue (a carrier's NAT would meet it while workers are
//     idle); turns by mail address (a guesser tries many, and names them as he
//     likes).
package auth

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

const (
	maxDefaultWorkers = 4
	defaultQueue      = 128     // at four workers of 60 ms: two seconds of waiting
	defaultRemembered = 1 << 16 // verified logins, about 100 octets each
	rememberFor       = 10 * time.Minute
)

// Config is what a Verifier needs. The zero value is usable.
type Config struct {
	Workers    int                   // checks at once; 0: the number of CPUs, at most 4
	Queue      int                   // checks that may wait; 0: 128
	Remembered int                   // verified logins kept; 0: 65536
	Registerer prometheus.Registerer // nil: no metrics
}

// Verifier checks passwords. It is safe for concurrent use.
type Verifier struct {
	cache   *cache
	dummy   phc // what an unknown user's password is checked against
	metrics *metrics
	workers sync.WaitGroup

	mu      sync.Mutex
	more    *sync.Cond // something came into the queue, or closed was set
	queue   *queue
	flights map[key]*flight
	closed  bool
}

// flight is one check that any number of callers wait for.
type flight struct {
	key      key
	source   netip.Prefix
	hash     phc
	password string
	dummy    bool          // the hash is nobody's: the answer is no, whatever comes out
	refusal  error         // the answer if it is no
	waiting  int           // callers; guarded by Verifier.mu
	done     chan struct{} // closed when err is set
	err      error         // not nil until the password was found right
}

var (
	errWrong   = &maildrop.Error{Op: "auth.verify", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	errBusy    = &maildrop.Error{Op: "auth.verify", Kind: maildrop.Busy, Err: errors.New("too many passwords to check")}
	errClosed  = &maildrop.Error{Op: "auth.verify", Kind: maildrop.Transient, Err: errors.New("closed")}
	errNotDone = &maildrop.Error{Op: "auth.verify", Kind: maildrop.Internal, Err: errors.New("the check was not done")}
	errBadHash = &maildrop.Error{Op: "auth.verify", Kind: maildrop.Internal, Err: errPHC}
)

// New starts a Verifier's workers. Close it.
func New(c Config) *Verifier {
	return newVerifier(c, recommended)
}

func newVerifier(c Config, dummy parameters) *Verifier {
	c = c.withDefaults()
	v := idle(c, dummy)
	v.metrics = newMetrics(c.Registerer, v.queued)
	for range c.Workers {
		v.workers.Go(v.work)
	}
	return v
}

// idle is a Verifier without workers.
func idle(c Config, dummy parameters) *Verifier {
	v := &Verifier{
		cache:   newCache(c.Remembered, rememberFor),
		dummy:   dummy.nobodys(),
		queue:   newQueue(c.Queue),
		flights: make(map[key]*flight),
	}
	v.more = sync.NewCond(&v.mu)
	return v
}

func (v *Verifier) queued() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return float64(v.queue.count)
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = min(runtime.NumCPU(), maxDefaultWorkers)
	}
	if c.Queue <= 0 {
		c.Queue = defaultQueue
	}
	if c.Remembered <= 0 {
		c.Remembered = defaultRemembered
	}
	return c
}

// Verify returns nil when the login's password is the one that hash was made of.
// hash "" stands for a user who doesn't exist. Errors: Denied with ReasonCredentials;
// Busy when too many checks wait already; Canceled when ctx ended first;
// Internal for a hash that can't be read.
func (v *Verifier) Verify(ctx context.Context, login maildrop.Login, hash string) error {
	login.Password = scram.Prepare(login.Password)
	k := v.cache.key(login.Address, hash, login.Password)
	if hash != "" && v.cache.has(k, time.Now()) {
		v.metrics.count(resultCached)
		return nil
	}
	err := v.wait(ctx, k, login, hash)
	v.metrics.count(resultOf(err))
	return err
}

func (v *Verifier) wait(ctx context.Context, k key, login maildrop.Login, hash string) error {
	if err := ctx.Err(); err != nil {
		return canceled(err)
	}
	f, err := v.join(k, login, hash)
	if err != nil {
		return err
	}
	defer v.leave(f)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return canceled(ctx.Err())
	}
}

func canceled(err error) error {
	return &maildrop.Error{Op: "auth.verify", Kind: maildrop.Canceled, Err: err}
}

// join finds the flight of an equal check, or queues a new one.
func (v *Verifier) join(k key, login maildrop.Login, hash string) (*flight, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errClosed
	}
	if f := v.flights[k]; f != nil {
		f.waiting++
		return f, nil
	}
	f := v.flight(k, login, hash)
	switch dropped := v.queue.push(f); dropped {
	case f:
		return nil, errBusy
	case nil:
	default:
		v.drop(dropped)
	}
	v.flights[k] = f
	v.more.Signal()
	return f, nil
}

// drop tells those who wait for a check that was begun by nobody and won't be.
func (v *Verifier) drop(f *flight) {
	f.err = errBusy
	if v.flights[f.key] == f {
		delete(v.flights, f.key)
	}
	close(f.done)
}

func (v *Verifier) flight(k key, login maildrop.Login, hash string) *flight {
	password := login.Password
	f := &flight{key: k, source: sourceOf(login.Remote), password: password, refusal: errWrong, waiting: 1, done: make(chan struct{}), err: errNotDone}
	var err error
	if f.hash, err = parsePHC(hash); err != nil {
		f.hash, f.dummy = v.dummy, true
		if hash != "" {
			f.refusal = errBadHash
		}
	}
	if len(password) > maxPassword {
		f.password, f.dummy = password[:maxPassword], true
	}
	return f
}

func (v *Verifier) leave(f *flight) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f.waiting--
}

func (v *Verifier) work() {
	for f := v.next(); f != nil; f = v.next() {
		if v.begin(f) {
			started := time.Now()
			f.err = v.check(f)
			v.metrics.took(time.Since(started))
		}
		v.land(f)
	}
}

// next waits for a check; nil: the Verifier is closed, and none is left.
func (v *Verifier) next() *flight {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.queue.count == 0 && !v.closed {
		v.more.Wait()
	}
	return v.queue.pop()
}

// begin reports whether the flight is still worth its 64 MiB.
func (v *Verifier) begin(f *flight) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		f.err = errClosed
	} else if f.waiting == 0 {
		delete(v.flights, f.key) // from here on nobody joins it
	}
	return !v.closed && f.waiting > 0
}

func (v *Verifier) check(f *flight) error {
	if !f.hash.matches(f.password) || f.dummy {
		return f.refusal
	}
	v.cache.add(f.key, time.Now())
	return nil
}

func (v *Verifier) land(f *flight) {
	v.mu.Lock()
	if v.flights[f.key] == f {
		delete(v.flights, f.key)
	}
	v.mu.Unlock()
	close(f.done)
}

// Close ends the workers and waits for them. Checks that wait are Transient.
func (v *Verifier) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.more.Broadcast()
	v.workers.Wait()
}
