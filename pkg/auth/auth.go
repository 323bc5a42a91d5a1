// Package auth checks passwords: slowly enough for a thief of hashes, quickly
// enough for a client that polls every minute, and with bounded memory.
//
//	Verify ──▶ cache of verified logins ──hit──▶ nil
//	               │ miss
//	               ▼
//	           flight: equal checks under way are one ──▶ queue ──▶ workers (64 MiB each)
//	                                                       │ full: Busy
//
// # Contract
//
//   - "No such user" and "wrong password" are one error, Denied with
//     ReasonCredentials, after the same work.
//   - Memory: at most Workers checks at once, each of at most 64 MiB whatever a
//     stored hash asks for; at most Queue more wait; the rest is Busy at once.
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
//   - 2026-11-23: passwords are octets: no Unicode preparation. What a client
//     sends at login is what it sent all the years before.
//   - 2026-11-23: a stored hash that can't be read costs the dummy's time and
//     is Internal: the user hears of a passing fault, not of a wrong password,
//     which would make his client forget the right one.
//   - 2026-11-23: equal concurrent checks share one run, also failing ones: a
//     phone and a desktop at the same second, or a guesser's copies, cost 64 MiB
//     once.
package auth

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
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
	queue   chan *flight

	mu      sync.Mutex
	flights map[key]*flight
	closed  bool
}

// flight is one check that any number of callers wait for.
type flight struct {
	key      key
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
	v := &Verifier{
		cache:   newCache(c.Remembered, rememberFor),
		dummy:   dummy.nobodys(),
		queue:   make(chan *flight, c.Queue),
		flights: make(map[key]*flight),
	}
	v.metrics = newMetrics(c.Registerer, func() float64 { return float64(len(v.queue)) })
	for range c.Workers {
		v.workers.Go(v.work)
	}
	return v
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

// Verify returns nil when password is the one that hash was made of. hash ""
// stands for a user who doesn't exist. Errors: Denied with ReasonCredentials;
// Busy when too many checks wait already; Canceled when ctx ended first;
// Internal for a hash that can't be read.
func (v *Verifier) Verify(ctx context.Context, address maildrop.Address, hash, password string) error {
	k := v.cache.key(address, hash, password)
	if hash != "" && v.cache.has(k, time.Now()) {
		v.metrics.count(resultCached)
		return nil
	}
	err := v.wait(ctx, k, hash, password)
	v.metrics.count(resultOf(err))
	return err
}

func (v *Verifier) wait(ctx context.Context, k key, hash, password string) error {
	if err := ctx.Err(); err != nil {
		return canceled(err)
	}
	f, err := v.join(k, hash, password)
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
func (v *Verifier) join(k key, hash, password string) (*flight, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errClosed
	}
	if f := v.flights[k]; f != nil {
		f.waiting++
		return f, nil
	}
	f := v.flight(k, hash, password)
	select {
	case v.queue <- f:
		v.flights[k] = f
		return f, nil
	default:
		return nil, errBusy
	}
}

func (v *Verifier) flight(k key, hash, password string) *flight {
	f := &flight{key: k, password: password, refusal: errWrong, waiting: 1, done: make(chan struct{}), err: errNotDone}
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
	for f := range v.queue {
		if v.begin(f) {
			started := time.Now()
			f.err = v.check(f)
			v.metrics.took(time.Since(started))
		}
		v.land(f)
	}
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
	if !v.closed {
		v.closed = true
		close(v.queue)
	}
	v.mu.Unlock()
	v.workers.Wait()
}
