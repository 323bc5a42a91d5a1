package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	// ErrCorrupt: stored octets are damaged or missing.
	ErrCorrupt = errors.New("damaged")
	// ErrGone: the object that held the body has been deleted.
	ErrGone = errors.New("gone")
	// ErrVersion: written in a format that this program doesn't know.
	ErrVersion = errors.New("format not known to this version of the program")
	// ErrLimit: more than fits into one object, or a field over its limit.
	ErrLimit = errors.New("over a limit of the format")
)

// Config says which ledger, and for whom.
type Config struct {
	Store  blob.Store
	Prefix string       // of all keys, without a final slash: "eu/shard-0007"
	Owner  string       // the node's name, for people who read fences
	Epoch  uint64       // the new epoch is at least this
	Log    *slog.Logger // nil: none

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
}

// Ledger is an open ledger with one writer. Append is for one caller at a time
// (others wait); reading and writing bodies is for any number.
type Ledger struct {
	files    files
	log      *slog.Logger
	identity uint32
	secret   [32]byte
	epoch    uint64

	appending sync.Mutex // held during an append
	mu        sync.Mutex // guards what follows
	next      uint64     // sequence of the next object
	durable   uint64     // the highest durable sequence, with all before it
	stats     Stats
	stopped   error // ErrFenced or ErrBroken: no append any more
}

// Epoch is the epoch that this opening began.
func (l *Ledger) Epoch() uint64 { return l.epoch }

// Identity is the ledger's, the same for ever; UIDs are made of it.
func (l *Ledger) Identity() uint32 { return l.identity }

// Secret is the ledger's, the same for every owner of it.
func (l *Ledger) Secret() [32]byte { return l.secret }

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

// Append writes the drafts as one object and returns their entries when it is
// durable: all of them or none. No drafts are no object.
//
// Errors: ErrFenced (Kind NotOwner; nothing was written) and ErrBroken
// (Kind Maybe): close, and open anew. After any other error nothing was written and
// the ledger can be used on: Full, Invalid (ErrLimit, or a draft that makes no
// sense), Transient and Canceled (the context ended while the store refused).
// The context bounds how long an unknown outcome is asked after: give it
// a deadline of seconds, and never end it because one caller went away.
func (l *Ledger) Append(ctx context.Context, drafts []Draft) ([]Entry, error) {
	const op = "ledger.append"
	l.appending.Lock()
	defer l.appending.Unlock()
	sequence, err := l.ready()
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: err}
	}
	if len(drafts) == 0 {
		return nil, nil
	}
	if err := validate(drafts); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	object, entries, err := encodeObject(l.header(sequence), drafts)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	switch err := l.files.commit(ctx, sequence, object, l.log); {
	case err == nil:
		l.account(uint64(len(entries)), uint64(len(object)))
		return entries, nil
	case errors.Is(err, errTaken):
		return nil, l.stop(op, maildrop.NotOwner, ErrFenced, err)
	case errors.Is(err, errUnknown):
		return nil, l.stop(op, maildrop.Maybe, ErrBroken, err)
	default:
		return nil, &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
}

// Confirm asks the store whether a newer owner has begun: then there is an object
// where our next one would be. nil: at the time of asking there was none.
// ErrFenced (Kind NotOwner): there is. After any other error nothing is known.
//
// An append finds out by itself; Confirm is for an owner that only reads, and
// that nobody else can tell, being cut off or having slept.
func (l *Ledger) Confirm(ctx context.Context) error {
	const op = "ledger.confirm"
	if !l.appending.TryLock() {
		return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: errAppending}
	}
	defer l.appending.Unlock()
	sequence, err := l.ready()
	if err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: err}
	}
	key := l.files.object(sequence)
	switch _, err := l.files.store.ReadAt(ctx, key, make([]byte, 1), 0); {
	case errors.Is(err, blob.ErrNotFound):
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		return &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return l.stop(op, maildrop.NotOwner, ErrFenced, fmt.Errorf("%s is there", key))
}

var errAppending = errors.New("an append is under way")

// ready returns the next sequence, or why there is none for us.
func (l *Ledger) ready() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next, l.stopped
}

func (l *Ledger) account(records, octets uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = l.next
	l.next++
	l.stats.Objects++
	l.stats.Records += records
	l.stats.Octets += octets
}

// stop ends appending for good.
func (l *Ledger) stop(op string, kind maildrop.Kind, sentinel, cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = sentinel
	return &maildrop.Error{Op: op, Kind: kind, Err: fmt.Errorf("%w: %w", sentinel, cause)}
}

// header begins an object of ours; its nonce is what an unknown outcome is
// told by.
func (l *Ledger) header(sequence uint64) header {
	h := header{identity: l.identity, epoch: l.epoch, sequence: sequence, durable: sequence - 1}
	rand.Read(h.nonce[:]) // never fails: crypto/rand ends the process instead
	return h
}

// kindOf sorts an error after which nothing was written.
func kindOf(err error) maildrop.Kind {
	switch {
	case errors.Is(err, blob.ErrFull):
		return maildrop.Full
	case errors.Is(err, ErrCorrupt):
		return maildrop.Corrupt
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
	if _, err := l.ready(); err != nil {
		return "", &maildrop.Error{Op: "ledger.put_body", Kind: maildrop.NotOwner, Err: err}
	}
	return l.files.putBody(ctx, l.epoch, body, wire)
}

// OpenBody reads a body that PutBody wrote, from an offset in wire octets,
// verified block by block before a reader sees any of it. ctx bounds all of
// the reading. Errors, here and of Read: ErrCorrupt, ErrGone, or those of the store.
func (l *Ledger) OpenBody(ctx context.Context, object string, wire, offset uint64) (io.ReadCloser, error) {
	return l.files.openBody(ctx, object, wire, offset)
}
