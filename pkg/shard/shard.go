// Package shard is one shard of a region's mailboxes: the index in memory, the
// ledger that it is worked out of, and the one goroutine that writes there.
//
//	Open, Resume ─▶ snapshot ─▶ Drop: List, Check ──▶ state (memory)
//	                               Read ───────────▶ cache ─▶ ledger (object store)
//	Deliver, Remove, PutAddress ─▶ queue ─▶ committer ─▶ ledger.Append ─▶ state.apply ─▶ answer
//
// A Shard implements maildrop.Service for the addresses whose hash names it;
// that an address is one of them is its caller's to know.
//
// # Contract
//
//   - State changes only by ledger entries that are durable, in their order. A
//     call that changes something returns nil after its entry was applied, so
//     the next Open sees it.
//   - Done is closed when a newer owner has begun, when it is not known whether
//     an append was written, and after Close: from then on every call is
//     NotOwner. Open the shard anew.
//   - A session is a snapshot: a position of the ledger and an instant. Its token
//     carries both under the ledger's secret, and counts for the shard's next owner
//     as well. It lives 6 hours from its last Check, and never more than 20.
//   - An owner that was replaced without its knowledge answers from its old state
//     for a second at most: see confirm.
//   - A message is not in a session that was opened after its retention had ended.
//   - Memory: about 35 octets a message and 220 a mailbox; bodies that wait to be
//     written, at most 64 MiB; the cache of bodies, Config.CacheBytes.
//   - No lock is held while a password is verified or storage is waited for.
//
// # Decisions
//
//   - 2026-11-23: a snapshot is worked out (position, removals, instant) and not
//     copied: an open session costs the shard nothing, and a token of about 100
//     octets survives the shard's owner. Refused: a listing kept for each session.
//   - 2026-11-23: the index keeps removed and expired messages for 24 hours, and no
//     session lives that long. Refused: counting sessions, which a stateless
//     session has nobody for.
//   - 2026-11-23: a delivery's ID is remembered as 16 octets of a hash over mailbox
//     and ID, in two generations of 24 hours each.
//   - 2026-11-23: an empty hash in an address's entry means "as it was" and is
//     resolved in the ledger's order, so a new password and a new access rule that
//     are set at the same time cannot undo each other. "set", as Address tells
//     of a hash, means the same: a record that was read may be put back.
//   - 2026-11-23: a caller who leaves while its record waits takes it back and gets
//     Canceled; Maybe is only for what is being written.
//   - 2026-11-23: after ErrFenced the callers of that batch get NotOwner, for the
//     ledger knows that nothing was written; after ErrBroken they get Maybe.
//   - 2026-11-23: a read from storage does not fill the cache: mail is mostly
//     fetched once. Fresh mail is there from its delivery on, until it is removed.
//   - 2026-11-23: an owner that has proved nothing for a second asks the store, at
//     Open, Check, Accept and Deliver, whether a fence stands behind its last object. Refused: asking
//     etcd, which a region must do without for half an hour; and leases, which
//     depend on clocks.
//   - 2026-11-23: a changed password ends sessions at their next Check and not
//     before; so does a changed primary address or a removed one.
package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

const (
	defaultCache = 64 << 20 // octets
	purgeEvery   = time.Hour
	purgeAtOnce  = 256 // mailboxes under one lock

	// proofAge is how long an answer may rest on an earlier proof that no newer
	// owner has begun, and proofTimeout how long the store may take to give one.
	proofAge     = time.Second
	proofTimeout = time.Second
)

// Config is what a shard needs.
type Config struct {
	Region string
	Number int
	Node   string // who owns it, for logs and Info
	Store  blob.Store
	Rules  policy.Rules
	// Verify checks a password: see auth.Verifier. An empty hash stands for a user
	// who doesn't exist and must take the same time.
	Verify     func(ctx context.Context, address maildrop.Address, hash, password string) error
	Log        *slog.Logger // nil: none
	Metrics    *Metrics     // nil: none
	CacheBytes int64        // octets of bodies kept in memory; 0: 64 MiB, below 0: none
}

// Prefix begins the keys of the shard's objects.
func (c Config) Prefix() string { return fmt.Sprintf("%s/shard-%04d", c.Region, c.Number) }

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.Region == "", c.Number < 0, c.Node == "":
		return errors.New("shard: region, number and node are needed")
	case c.Store == nil, c.Rules == nil, c.Verify == nil:
		return errors.New("shard: store, rules and verify are needed")
	}
	return nil
}

// Shard is an open shard.
type Shard struct {
	config  Config
	log     *slog.Logger
	ledger  *ledger.Ledger
	cache   *cache
	uploads chan struct{} // a token for each large body on its way

	commits committer
	born    time.Time
	proved  atomic.Int64 // when nobody else owned the shard for certain, in nanoseconds since born
	done    chan struct{}
	abort   context.CancelFunc // ends an append that takes too long for Close
	loops   sync.WaitGroup

	mu     sync.RWMutex // guards what follows
	state  *state
	gauged [2]int // messages and addresses that the metrics know of
}

// Open takes a shard over: it replays its ledger and fences earlier owners. The
// new epoch is at least the given one. Errors are those of ledger.Open. Close it.
func Open(ctx context.Context, config Config, epoch uint64) (*Shard, error) {
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: "shard.open", Kind: maildrop.Invalid, Err: err}
	}
	s := newShard(config)
	var err error
	s.ledger, err = ledger.Open(ctx, ledger.Config{
		Store: config.Store, Prefix: config.Prefix(), Owner: config.Node, Epoch: epoch, Log: s.log,
	}, s.state.apply)
	if err != nil {
		return nil, failed("shard.take_over", err)
	}
	s.config.Metrics.replay(s.ledger.Stats().Records)
	s.start()
	return s, nil
}

func newShard(config Config) *Shard {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.CacheBytes == 0 {
		config.CacheBytes = defaultCache
	}
	return &Shard{
		config:  config,
		log:     config.Log.With("shard", config.Number),
		cache:   newCache(config.CacheBytes, config.Metrics),
		uploads: make(chan struct{}, maxUploads),
		done:    make(chan struct{}),
		state:   newState(),
		born:    time.Now(),
	}
}

func (s *Shard) start() {
	s.commits = committer{append: s.ledger.Append, applied: s.applied, known: s.known, log: s.log, metrics: s.config.Metrics}
	s.commits.start()
	s.purge(time.Now())
	var ctx context.Context
	ctx, s.abort = context.WithCancel(context.Background())
	s.loops.Go(func() {
		s.commits.run(ctx)
		close(s.done)
	})
	s.loops.Go(s.purging)
}

// Epoch is the epoch that this ownership began.
func (s *Shard) Epoch() uint64 { return s.ledger.Epoch() }

// Done is closed when the shard isn't owned here any more.
func (s *Shard) Done() <-chan struct{} { return s.done }

// Close finishes what is being written and refuses the rest. When ctx ends
// before, the outcome of that is left to the next owner to find out. After Close
// nothing of the shard runs any more.
func (s *Shard) Close(ctx context.Context) error {
	s.commits.stop()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.abort()
	s.loops.Wait()
	s.cache.close()
	s.gauge(0, 0)
	return nil
}

// owned is NotOwner once the shard is done, and Canceled for a context that
// has ended: the first question of every call.
func (s *Shard) owned(ctx context.Context, op string) error {
	select {
	case <-s.done:
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errStopped}
	default:
	}
	if err := ctx.Err(); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: err}
	}
	return nil
}

// confirm keeps an owner that was cut off, or asleep, from answering out of a
// past that a newer owner has left behind: when nothing has proved for a while
// that there is none, the store is asked. A store that can't tell changes nothing,
// for sessions go on without it.
func (s *Shard) confirm(ctx context.Context, op string) error {
	if time.Since(s.born)-time.Duration(s.proved.Load()) < proofAge {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	asked := time.Since(s.born)
	err := s.ledger.Confirm(ctx)
	switch {
	case err == nil:
		s.proved.Store(int64(asked))
	case errors.Is(err, ledger.ErrFenced):
		s.commits.stop()
		return failed(op, err)
	}
	return nil
}

// failed puts an operation's name on an error and keeps all that others
// may act on.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &maildrop.Error{Op: op, Kind: maildrop.KindOf(err), Reason: maildrop.ReasonOf(err), Text: maildrop.TextOf(err), Err: err}
	var inner *maildrop.Error
	if errors.As(err, &inner) {
		e.Primary = inner.Primary
	}
	return e
}

// applied makes a durable batch visible. An error means that the state is not
// what the ledger says any more.
func (s *Shard) applied(entries []ledger.Entry, drafts []ledger.Draft) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range entries {
		if err := s.state.apply(e); err != nil {
			return err
		}
		switch r := e.Record.(type) {
		case *ledger.Delivery:
			if r.Object == "" {
				s.cache.keep(e.Position, drafts[i].Body)
			}
		case *ledger.Removal:
			s.cache.forget(r.Messages)
		}
	}
	s.gauge(s.state.messages, s.state.addresses)
	s.proved.Store(int64(time.Since(s.born))) // the append was
	return nil
}

// gauge brings the metrics up to date. s.mu is held, or nothing runs any more.
func (s *Shard) gauge(messages, addresses int) {
	s.config.Metrics.index(messages-s.gauged[0], addresses-s.gauged[1])
	s.gauged = [2]int{messages, addresses}
}

func (s *Shard) known(key delivery) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.repeats.has(key, seconds(time.Now()))
}

// record finds an address's record, or nil.
func (s *Shard) record(address maildrop.Address) *record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.record(address)
}

func (s *Shard) purging() {
	ticker := time.NewTicker(purgeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.purge(time.Now())
		case <-s.done:
			return
		}
	}
}

// purge forgets what no session can hold any more, a few mailboxes at a time.
func (s *Shard) purge(now time.Time) {
	addresses := s.mailboxes()
	for len(addresses) > 0 {
		n := min(len(addresses), purgeAtOnce)
		s.purgeSome(addresses[:n], now)
		addresses = addresses[n:]
	}
}

func (s *Shard) mailboxes() []maildrop.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	addresses := make([]maildrop.Address, 0, len(s.state.mailboxes))
	for address := range s.state.mailboxes {
		addresses = append(addresses, address)
	}
	return addresses
}

func (s *Shard) purgeSome(addresses []maildrop.Address, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, address := range addresses {
		s.state.purge(address, now)
	}
	s.state.repeats.turn(seconds(now))
	s.gauge(s.state.messages, s.state.addresses)
}
