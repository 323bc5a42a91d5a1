package ledger

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// What callers tell errors apart by, with errors.Is. Every error of this package
// is a *maildrop.Error as well.
var (
	// ErrFenced: a newer owner has begun. This ledger never appends again.
	ErrFenced = errors.New("fenced: a newer owner has taken the ledger over")
	// ErrBroken: it is not known whether an append was written. This ledger never
	// appends again; opening it anew tells.
	ErrBroken = errors.New("outcome of an append unknown: open the ledger again")
	// ErrCorrupt: stored octets are damaged or missing, whether the store or this
	// package found out.
	ErrCorrupt = blob.ErrCorrupt
	// ErrGone: the object that held the body has been deleted.
	ErrGone = errors.New("gone")
	// ErrVersion: written in a format that this program doesn't know.
	ErrVersion = errors.New("format not known to this version of the program")
	// ErrForeign: the store holds another ledger than the one asked for, none, or an
	// older copy. It is the wrong store, was restored, or has lost what it had.
	ErrForeign = errors.New("the store doesn't hold the shard's ledger")
	// ErrLimit: more than fits into one object, or a field over its limit.
	ErrLimit = errors.New("over a limit of the format")
)

// Config says which ledger, and for whom.
type Config struct {
	Store  blob.Store
	Prefix string       // of all keys, without a final slash: "eu/shard-0007"
	Owner  string       // the node's name, for people who read fences
	Epoch  uint64       // the new epoch is at least this
	Ledger uint32       // the identity that it must have; 0: any, or a ledger that isn't there
	Fenced uint64       // an epoch that is known to have begun: a ledger that ends before it has lost its end
	Log    *slog.Logger // nil: none

	// Prepared is what Prepare has read of this ledger already, for one Open; nil: nothing.
	// Its State goes on, unless the ledger has to be read anew, into another one.
	Prepared *Prepared

	// Clock is the time since some moment in the past. It must go on while the
	// machine sleeps, and never goes back. nil: CLOCK_BOOTTIME.
	Clock func() time.Duration
}

// Stats are what the ledger holds, in objects that count.
type Stats struct {
	Objects uint64 // ledger objects read and written
	Skipped uint64 // of these, objects of a fenced owner: not replayed
	Records uint64 // records replayed and appended
	Octets  uint64 // sum of the objects' sizes
	Damaged uint64 // checkpoints and headers that Open found damaged
}

// Ledger is an open ledger with one writer. All its methods may be called by
// any number of goroutines at once.
type Ledger struct {
	files    files
	log      *slog.Logger
	clock    func() time.Duration
	identity uint32
	secret   [32]byte
	epoch    uint64
	fenced   uint64        // sequence of our fence
	turn     chan struct{} // has an element while an append waits to take off
	writing  chan struct{} // has an element while a checkpoint is written, or Trim deletes
	spares   spares        // for objects on their way
	damage   []Damage      // that Open found

	mu      sync.Mutex    // guards what follows; never held during I/O
	next    uint64        // sequence of the next append
	durable uint64        // the highest durable sequence, with all before it
	air     []*flight     // in the order of their sequences
	failing bool          // none takes off until all have landed
	fault   fault         // of the first flight that failed since
	hole    uint64        // its sequence
	changed chan struct{} // closed and made anew when a flight has landed
	proof   time.Duration // when, by clock, we were proven to be the owner
	stopped error         // ErrFenced or ErrBroken: no append any more
	stats   Stats

	checkpoints []known // sound ones, oldest first
}

// Epoch is the epoch that this opening began.
func (l *Ledger) Epoch() uint64 { return l.epoch }

// Identity is the ledger's, the same for ever; UIDs are made of it.
func (l *Ledger) Identity() uint32 { return l.identity }

// Secret is the ledger's, the same for every owner of it.
func (l *Ledger) Secret() [32]byte { return l.secret }

// Damage is what Open found damaged and went on without.
func (l *Ledger) Damage() []Damage { return slices.Clone(l.damage) }

// Last is the highest durable sequence: it and all before it are durable.
func (l *Ledger) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Stats are the ledger's as of now.
func (l *Ledger) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// kindOf sorts an error after which nothing was written.
func kindOf(err error) maildrop.Kind {
	switch {
	case errors.Is(err, blob.ErrFull):
		return maildrop.Full
	case errors.Is(err, blob.ErrReadOnly):
		return maildrop.ReadOnly
	case errors.Is(err, ErrCorrupt):
		return maildrop.Corrupt
	case errors.Is(err, ErrFenced):
		return maildrop.NotOwner
	case errors.Is(err, ErrGone):
		return maildrop.NotFound
	case errors.Is(err, ErrLimit):
		return maildrop.Invalid
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return maildrop.Canceled
	}
	return maildrop.Transient
}

// Place says where a body of at most MaxInline octets is.
type Place struct {
	Pack   string // a pack's name, as WritePack answered it; "": the position's own ledger object
	Offset uint32 // of the body in that object, octets: Entry.Offset, or what WritePack answered
}

// ReadBody reads the body of wire octets of the delivery at the position, and
// verifies it. Errors: ErrCorrupt and ErrGone, with object and octet, or those of
// the store.
func (l *Ledger) ReadBody(ctx context.Context, position Position, place Place, wire uint64) ([]byte, error) {
	return l.files.readBody(ctx, l.identity, position, place, wire)
}

// PutBody streams a body of exactly wire octets into an object of its own and
// returns the object's name, for Delivery.Object, when it is durable. A body that
// no delivery names is garbage. After an error nothing counts as written: it may be
// tried again, with the body from its beginning.
func (l *Ledger) PutBody(ctx context.Context, body io.Reader, wire uint64) (object string, err error) {
	if err := l.usable("ledger.put_body"); err != nil {
		return "", err
	}
	return l.files.putBody(ctx, l.epoch, body, wire)
}

// OpenBody reads a body that PutBody wrote, from an offset in wire octets,
// verified block by block before a reader sees any of it. ctx bounds all of
// the reading. Errors, here and of Read: ErrCorrupt, ErrGone, or those of the store.
func (l *Ledger) OpenBody(ctx context.Context, object string, wire, offset uint64) (io.ReadCloser, error) {
	return l.files.openBody(ctx, object, wire, offset)
}
