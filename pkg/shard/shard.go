package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/guard"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

const (
	defaultCache = 64 << 20 // octets
	purgeEvery   = time.Hour
	purgeAtOnce  = 16384 // messages, about, under one lock

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
	Ledger uint32 // the identity that its ledger must have; 0: any
	Fenced uint64 // an epoch that its ledger must have come to: see ledger.Config
	Store  blob.Store
	Rules  policy.Rules
	// Verify checks a password: see auth.Verifier. An empty hash stands for a user
	// who doesn't exist and must take the same time.
	Verify     func(ctx context.Context, login maildrop.Login, hash string) error
	Log        *slog.Logger // nil: none
	Metrics    *Metrics     // nil: none
	CacheBytes int64        // octets of bodies kept in memory; 0: 64 MiB, below 0: none
	// Budget is for mail that waits to be written, one for all shards of a node;
	// nil: one of its own.
	Budget *Budget
	// Refusals is what is logged when the store refuses, for all shards of a node; nil: one
	// of its own.
	Refusals *Refusals
	// Account answers what is known of an account: of its moves between regions. nil: there
	// are none.
	Account func(name string) (policy.Account, bool)
	// Identify finds the ID that a stored message was delivered with, if that can be told;
	// nil: it can't.
	Identify func(body io.Reader) (maildrop.EnvelopeID, bool)
	// Repack has room for one token: the shard of a node that repacks holds it.
	// nil: one of its own.
	Repack chan struct{}
	// Clock is the ledger's: see ledger.Config. nil: the machine's.
	Clock func() time.Duration
	// Prepared is what Prepare has read of the shard already, for one Open; nil: nothing.
	Prepared *Prepared
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

// What only a person can end, of the errors of Open; they say what to do.
var (
	ErrLostObject = errors.New("an object that the shard needs is lost")
	ErrOtherStore = errors.New("another store than the one that the shard was opened on, an emptied one or an older copy")
)

// Shard is an open shard.
type Shard struct {
	config  Config
	log     *slog.Logger
	ledger  *ledger.Ledger
	cache   *cache
	uploads chan struct{} // a token for each large body on its way

	guard   *guard.Guard   // of passwords
	journal *guard.Journal // of logins

	gates   gates         // of accounts that move between regions
	turning chan struct{} // a token for who writes a stage of a move
	pushes  pushes        // what was brought to another region

	commits committer
	cover   cover  // checkpoints
	space   space  // what is stored
	damage  damage // what is known to be damaged
	born    time.Time
	proved  atomic.Int64 // when nobody else owned the shard for certain, in nanoseconds since born
	done    chan struct{}
	abort   context.CancelFunc // ends an append that takes too long for Close
	loops   sync.WaitGroup

	mu     sync.RWMutex // guards what follows
	state  *state
	dirty  time.Time // when the first entry came that no checkpoint covers; zero: none did
	gauged [2]int    // messages and addresses that the metrics know of
}

// ledger is what the shard's ledger is opened or prepared with, by whoever.
func (c Config) ledger(log *slog.Logger) ledger.Config {
	return ledger.Config{Store: c.Store, Prefix: c.Prefix(), Owner: c.Node, Log: log, Clock: c.Clock}
}

// Prepared is a shard as far as Prepare has read it.
type Prepared struct {
	state  *state
	ledger *ledger.Prepared
}

// Prepare reads a shard that another node still owns, so that the Open that follows,
// within some minutes, reads only what came since. It writes nothing. Of the config it needs
// what Open needs. Errors are those of ledger.Prepare; Open doesn't need its success.
func Prepare(ctx context.Context, config Config) (*Prepared, error) {
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: "shard.prepare", Kind: maildrop.Invalid, Err: err}
	}
	log := config.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Prepared{}
	var err error
	p.ledger, err = ledger.Prepare(ctx, config.ledger(log.With("shard", config.Number)), func() ledger.State {
		p.state = newState()
		return p.state
	})
	if err != nil {
		return nil, failed("shard.prepare", err)
	}
	return p, nil
}

// Open takes a shard over: it loads its newest checkpoint, replays the ledger
// from there and fences earlier owners. The new epoch is at least the given one.
// Errors are those of ledger.Open. A store without any room is Full: an owner has to write
// its fence before it may answer anything. Close it.
func Open(ctx context.Context, config Config, epoch uint64) (*Shard, error) {
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: "shard.open", Kind: maildrop.Invalid, Err: err}
	}
	s := newShard(config)
	of := config.ledger(s.log)
	of.Epoch, of.Ledger, of.Fenced = epoch, config.Ledger, config.Fenced
	if p := config.Prepared; p != nil {
		s.state, of.Prepared = p.state, p.ledger
	}
	var err error
	s.ledger, err = ledger.Open(ctx, of, func() ledger.State {
		s.state = newState()
		return s.state
	})
	if err != nil {
		return nil, s.notTaken(err)
	}
	for _, d := range s.ledger.Damage() {
		s.config.Metrics.damaged(d.Kind())
	}
	s.config.Metrics.replay(s.ledger.Stats().Records)
	s.start()
	return s, nil
}

// notTaken says why the shard isn't taken over, and what is to be done about it where
// only a person can.
func (s *Shard) notTaken(err error) error {
	const op = "shard.take_over"
	var lost *ledger.LostError
	var end *ledger.LostEndError
	switch {
	case errors.As(err, &lost):
		s.config.Metrics.damaged(string(ledger.ObjectLedger))
		return failed(op, fmt.Errorf("%w: put %s back from a copy of the store, or, if there is none, see postern ledger forget --region FILE --shard %d %d: %w",
			ErrLostObject, lost.Key, s.config.Number, lost.Sequence, err))
	case errors.As(err, &end) && end.Last > 0:
		return failed(op, fmt.Errorf("%w: check storage in the region's file, and whether it is mounted; if it is the right one and the ledger's end is lost for good, see postern ledger forget --region FILE --shard %d --epoch %d %d: %w",
			ErrOtherStore, s.config.Number, end.Begun, end.Last+1, err))
	case errors.Is(err, ledger.ErrForeign):
		return failed(op, fmt.Errorf("%w: check storage in the region's file, and whether it is mounted: %w", ErrOtherStore, err))
	case maildrop.KindOf(err) == maildrop.Full:
		return failed(op, fmt.Errorf("the store has no room for the fence that a new owner must write: %w", err))
	}
	return failed(op, err)
}

func newShard(config Config) *Shard {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.CacheBytes == 0 {
		config.CacheBytes = defaultCache
	}
	if config.Budget == nil {
		config.Budget = NewBudget(0)
	}
	if config.Refusals == nil {
		config.Refusals = &Refusals{}
	}
	if config.Repack == nil {
		config.Repack = make(chan struct{}, 1)
	}
	now := time.Now()
	return &Shard{
		config:  config,
		log:     config.Log.With("shard", config.Number),
		cache:   newCache(config.CacheBytes, config.Metrics),
		uploads: make(chan struct{}, maxUploads),
		guard:   guard.New(),
		journal: guard.NewJournal(),
		done:    make(chan struct{}),
		turning: make(chan struct{}, 1),
		cover:   cover{due: make(chan struct{}, 1), newest: now},
		space:   newSpace(now),
		born:    now,
		dirty:   now, // at least the fence
	}
}

func (s *Shard) start() {
	s.commits = committer{
		append: s.ledger.Append, applied: s.applied, known: s.known, tail: s.ledger.Tail,
		log: s.log, metrics: s.config.Metrics, budget: s.config.Budget, refusals: s.config.Refusals,
	}
	s.commits.start(s.ledger.Last() + 1)
	for account, at := range s.state.moves {
		s.gates.durable(account, at)
	}
	s.purge(time.Now())
	s.config.Metrics.guards(s.guard, true)
	var ctx context.Context
	ctx, s.abort = context.WithCancel(context.Background())
	s.loops.Go(func() {
		s.commits.run(ctx)
		close(s.done)
		s.abort()
	})
	s.loops.Go(s.purging)
	s.loops.Go(func() { s.covering(ctx) })
	s.loops.Go(func() { s.cleaning(ctx) })
}

// Ledger is the identity of the shard's ledger.
func (s *Shard) Ledger() uint32 { return s.ledger.Identity() }

// Epoch is the epoch that this ownership began.
func (s *Shard) Epoch() uint64 { return s.ledger.Epoch() }

// Stats are how much the shard holds.
type Stats struct {
	Addresses int
	Messages  int    // those that were removed or expired within the last hours, too
	Octets    uint64 // of the messages in wire form
}

// Stats are how much the shard holds now.
func (s *Shard) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Addresses: s.state.addresses, Messages: s.state.messages, Octets: s.state.octets}
}

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
	s.config.Metrics.guards(s.guard, false)
	s.mu.Lock() // Close may be called twice at once
	defer s.mu.Unlock()
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
	if err := s.ask(ctx); errors.Is(err, ledger.ErrFenced) {
		return failed(op, err)
	}
	return nil
}

// ask asks the store whether there is a newer owner: ErrFenced.
func (s *Shard) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	asked := time.Now()
	err := s.ledger.Confirm(ctx)
	switch {
	case err == nil:
		s.proveAt(asked)
	case errors.Is(err, ledger.ErrFenced):
		s.commits.stop()
	}
	return err
}

// proveAt notes that at the instant nobody else owned the shard: when a question
// was put, or an append begun, that came out well.
func (s *Shard) proveAt(instant time.Time) {
	proved := int64(instant.Sub(s.born))
	for was := s.proved.Load(); was < proved && !s.proved.CompareAndSwap(was, proved); was = s.proved.Load() {
	}
}

// failed puts an operation's name on an error and keeps all that others
// may act on.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &maildrop.Error{Op: op, Kind: maildrop.KindOf(err), Reason: maildrop.ReasonOf(err), Text: maildrop.TextOf(err), Wait: maildrop.WaitOf(err), Err: err}
	var inner *maildrop.Error
	if errors.As(err, &inner) {
		e.Primary = inner.Primary
	}
	return e
}

// applied makes a durable batch visible. An error means that the state is not
// what the ledger says any more.
func (s *Shard) applied(l landing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range l.entries {
		if err := s.state.Apply(e); err != nil {
			return err
		}
		switch r := e.Record.(type) {
		case *ledger.Delivery:
			if r.Object == "" {
				s.cache.keep(e.Position, l.drafts[i].Body)
			}
		case *ledger.Removal:
			s.cache.forget(r.Messages)
		case *ledger.Withdrawal:
			s.cache.forget(r.Messages)
		case *ledger.Move:
			s.gates.durable(r.Account, s.state.moves[r.Account])
		}
	}
	if s.dirty.IsZero() {
		s.dirty = time.Now()
	}
	if s.ledger.Tail() >= tailDue {
		s.cover.wake()
	}
	s.gauge(s.state.messages, s.state.addresses)
	s.proveAt(l.began)
	return nil
}

// gauge brings the metrics up to date. s.mu is held.
func (s *Shard) gauge(messages, addresses int) {
	s.config.Metrics.index(messages-s.gauged[0], addresses-s.gauged[1])
	s.gauged = [2]int{messages, addresses}
}

// position is that of the last entry that is visible.
func (s *Shard) position() ledger.Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.last
}

func (s *Shard) known(key delivery) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.repeated(key, seconds(time.Now()))
}

// record finds an address's record.
func (s *Shard) record(address maildrop.Address) (record, bool) {
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

// purge forgets what no session can hold any more, a few messages under one
// lock. A map may be changed between two steps through it.
func (s *Shard) purge(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	looked := 0
	for n, box := range s.state.mailboxes {
		looked += 8 + len(box.messages)
		s.state.purge(n, now)
		if looked >= purgeAtOnce {
			s.gauge(s.state.messages, s.state.addresses)
			s.mu.Unlock()
			looked = 0
			s.mu.Lock()
		}
	}
	s.gauge(s.state.messages, s.state.addresses)
}
