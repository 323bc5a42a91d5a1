package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Damage is something that a Reader found lost.
type Damage struct {
	Key   string // of the object
	Octet int    // where in it; -1: not known, or all of it
	What  string

	Position Position // of the message whose body it is; 0: it is something else
}

// String is for people.
func (d Damage) String() string {
	if d.Octet < 0 {
		return d.Key + ": " + d.What
	}
	return fmt.Sprintf("%s: octet %d: %s", d.Key, d.Octet, d.What)
}

// Kind is the kind of object that is damaged, as its folder is called.
func (d Damage) Kind() string {
	folder := path.Dir(d.Key)
	if kind := path.Base(path.Dir(folder)); kind == "checkpoint" {
		return kind
	}
	return path.Base(folder)
}

// damageOf takes an error of decoding apart.
func damageOf(key string, err error) Damage {
	d := Damage{Key: key, Octet: -1, What: strings.TrimSuffix(strings.TrimPrefix(err.Error(), key+": "), ": "+ErrCorrupt.Error())}
	var at *damageError
	if errors.As(err, &at) {
		d.Octet, d.What = at.octet, strings.TrimPrefix(d.What, fmt.Sprintf("octet %d: ", at.octet))
	}
	return d
}

// Reader is a ledger that is read and not taken over.
type Reader struct {
	files     files
	log       *slog.Logger
	identity  uint32
	epoch     uint64
	last      uint64
	damage    []Damage
	lost      []*LostError
	forgotten []Forgotten
}

// Read works the ledger out as Open does, and writes nothing: for tools, beside an
// owner who goes on. It goes on where something is damaged, and reports it; State
// then lacks what was there. Of the Config it needs Store, Prefix and Log.
//
// Errors: NotFound when there is no ledger, ErrCorrupt when neither a checkpoint
// nor the ledger's beginning can be read, ErrVersion, those of State, and Transient or
// Canceled when ctx ended while the store refused.
func Read(ctx context.Context, config Config, begin func() State) (*Reader, error) {
	for {
		o := newOpener(config, begin)
		o.take, o.tolerant = o.takeTolerantly, true
		err := o.read(ctx)
		if errors.Is(err, errAgain) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, &maildrop.Error{Op: "ledger.read", Kind: o.kind(err), Err: err}
		}
		return &Reader{
			files: files{store: config.Store, prefix: config.Prefix}, log: o.log,
			identity: o.identity, epoch: o.epoch, last: o.next - 1, damage: o.lost, lost: o.missed, forgotten: o.skipped,
		}, nil
	}
}

func (o *opener) read(ctx context.Context) error {
	err := o.list(ctx)
	if err == nil {
		err = o.loadNewest(ctx)
	}
	if err == nil {
		err = o.listForgotten(ctx)
	}
	if err == nil {
		err = o.replayTail(ctx)
	}
	if err == nil {
		err = o.forgottenEnd(ctx)
	}
	if (len(o.lost) > 0 || o.hole != nil || errors.Is(err, ErrCorrupt)) && o.movedOn(ctx) {
		return fmt.Errorf("%w: what is missing may have been trimmed", errAgain)
	}
	if err != nil {
		return err
	}
	covering, err := o.covering(ctx, max(o.next, o.newest()+1), 0)
	switch {
	case err != nil:
		return err
	case covering != "":
		return fmt.Errorf("%w: %s covers more than was read", errAgain, covering)
	case o.epoch == 0 && len(o.listed) > 0:
		return fmt.Errorf("no checkpoint and no beginning: %w", errors.Join(o.damaged...))
	case o.epoch == 0:
		return fmt.Errorf("%s: no ledger: %w", o.ledgerPrefix(), ErrGone)
	}
	if err := o.reachesAll(); err != nil {
		o.note(fetched{key: o.object(o.next), sequence: o.next, err: err})
	}
	return nil
}

// takeTolerantly takes in what a list showed, and notes what can't be.
func (o *opener) takeTolerantly(ctx context.Context, got fetched) error {
	switch {
	case errors.Is(got.err, errMissing):
		if o.hole == nil {
			o.hole = got.err
		}
		return nil
	case o.hole != nil && got.err == nil && got.header.durable < o.next:
		return nil // behind a crash's hole: nobody replays it
	case got.err != nil && !errors.Is(got.err, ErrCorrupt):
		return got.err
	case o.hole != nil && got.err == nil:
		if err := o.stillMissing(ctx); err != nil {
			return err
		}
		o.noteHole(got.sequence)
	}
	if got.err == nil {
		got.err = o.admitAnyhow(got)
	}
	if got.err == nil {
		return o.replay(got)
	}
	if o.epoch == 0 {
		return got.err // the ledger's beginning is lost, and with it who it is
	}
	o.note(got)
	if o.hole == nil {
		o.next = got.sequence + 1
	}
	return nil
}

// admitAnyhow is admit for one who goes on: an epoch whose fence is lost is
// taken as begun.
func (o *opener) admitAnyhow(got fetched) error {
	if o.epoch > 0 && got.header.epoch > o.epoch && got.header.identity == o.identity {
		if fence, err := got.fence(); fence == nil && err == nil {
			if !o.lostJustBefore() { // what was lost there may well have been the fence
				o.found(got.key, damage(atEpoch, fmt.Sprintf("the fence of epoch %d is lost", got.header.epoch)))
			}
			o.epoch = got.header.epoch
		}
	}
	return o.admit(got)
}

// noteHole notes the objects of a hole, but those that are there and damaged, and
// goes on behind it.
func (o *opener) noteHole(end uint64) {
	for ; o.next < end; o.next++ {
		key := o.object(o.next)
		if !slices.ContainsFunc(o.lost, func(d Damage) bool { return d.Key == key }) {
			o.note(fetched{key: key, sequence: o.next, err: fmt.Errorf("%w, and it was durable: %w", errMissing, ErrCorrupt)})
		}
	}
	o.hole = nil
}

func (o *opener) lostJustBefore() bool {
	n := len(o.lost)
	return o.gap || n > 0 && o.lost[n-1].Key == o.object(o.next-1)
}

// note notes an object that an owner could not go on without.
func (o *opener) note(got fetched) {
	o.missed = append(o.missed, &LostError{Sequence: got.sequence, Key: got.key, Err: got.err})
	o.lost = append(o.lost, damageOf(got.key, got.err))
	o.log.Error("damage, going on behind it", "key", got.key, "error", got.err)
}

// found notes damage that costs no record.
func (o *opener) found(key string, err error) {
	d := damageOf(key, err)
	o.lost = append(o.lost, d)
	o.stats.Damaged++
	o.log.Error("damage in a ledger object, its records are read all the same", "key", key, "octet", d.Octet, "error", err)
}

// Identity is the ledger's; UIDs are made of it.
func (r *Reader) Identity() uint32 { return r.identity }

// Epoch is the owner's when the ledger was read.
func (r *Reader) Epoch() uint64 { return r.epoch }

// Last is the highest sequence that was read.
func (r *Reader) Last() uint64 { return r.last }

// Damage is what was found lost while the ledger was read, in its order. Bodies
// are checked when they are read.
func (r *Reader) Damage() []Damage { return slices.Clone(r.damage) }

// Lost are the objects that no owner can open the ledger without, unless they are
// forgotten, in order.
func (r *Reader) Lost() []*LostError { return slices.Clone(r.lost) }

// Forgotten are the sequences that are forgotten, of those that no checkpoint
// covers, in order.
func (r *Reader) Forgotten() []Forgotten { return slices.Clone(r.forgotten) }

// ReadBody is Ledger.ReadBody.
func (r *Reader) ReadBody(ctx context.Context, position Position, place Place, wire uint64) ([]byte, error) {
	return r.files.readBody(ctx, r.identity, position, place, wire)
}

// OpenBody is Ledger.OpenBody.
func (r *Reader) OpenBody(ctx context.Context, object string, wire, offset uint64) (io.ReadCloser, error) {
	return r.files.openBody(ctx, object, wire, offset)
}

// Stored is Ledger.Stored.
func (r *Reader) Stored(ctx context.Context, kind ObjectKind) iter.Seq2[Stored, error] {
	return r.files.listStored(ctx, kind, r.log)
}
