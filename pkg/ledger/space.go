package ledger

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// ObjectKind is a kind of object that a ledger keeps in the store.
type ObjectKind string

// The kinds of objects that Stored lists: the names of their folders.
const (
	ObjectLedger ObjectKind = "ledger"
	ObjectPack   ObjectKind = "pack"
	ObjectBody   ObjectKind = "body"

	// ObjectForgotten is a note that a ledger goes on without an object: see Forget. Its
	// name is the sequence's digits.
	ObjectForgotten ObjectKind = "forgotten"
)

// Stored is an object of the ledger in the store.
type Stored struct {
	Name     string // as Delivery.Object, Pack.Object and Place.Pack say it; of a ledger object its digits
	Sequence uint64 // of a ledger object, else 0
	Epoch    uint64 // of the writer of a pack or a body, from its name; 0 for a ledger object
	Size     int64  // octets
}

// Horizon is the highest sequence that Trim may delete; 0: none yet. A
// checkpoint covers it that this process has known for an hour, and so does the older
// of the two newest: a take-over that finds the newest damaged has all it needs.
func (l *Ledger) Horizon() uint64 {
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := len(l.checkpoints) - 1
	if newest < 1 {
		return 0
	}
	horizon := uint64(0)
	for _, c := range l.checkpoints {
		if now-c.since >= keepCovered {
			horizon = max(horizon, c.sequence)
		}
	}
	return min(horizon, l.checkpoints[newest-1].sequence)
}

// Trim deletes the ledger objects up to Horizon, in their order, but those that
// keep says to keep, and all of checkpoints but the two newest. It returns how many
// ledger objects it deleted. It stops at the first error: what is left is there for
// the next call. ErrFenced (Kind NotOwner): there is a newer owner's checkpoint.
func (l *Ledger) Trim(ctx context.Context, keep func(sequence uint64) bool) (n int, err error) {
	const op = "ledger.trim"
	if err := l.usable(op); err != nil {
		return 0, err
	}
	if n, err = l.trimObjects(ctx, keep); err == nil {
		err = l.trimCheckpoints(ctx)
	}
	if err != nil {
		return n, &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return n, nil
}

func (l *Ledger) trimObjects(ctx context.Context, keep func(sequence uint64) bool) (n int, err error) {
	horizon := l.Horizon()
	if horizon == 0 {
		return 0, nil
	}
	for object, err := range l.files.stored(ctx, ObjectLedger, l.log) {
		switch {
		case err != nil:
			return n, err
		case object.Sequence > horizon:
			return n, nil
		case keep(object.Sequence):
			continue
		}
		if err := l.files.store.Delete(ctx, l.files.object(object.Sequence)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// trimCheckpoints deletes what is older than the two newest checkpoints that are
// sound, manifests first, and parts that no manifest names.
func (l *Ledger) trimCheckpoints(ctx context.Context) error {
	select {
	case l.writing <- struct{}{}: // no parts of ours are on their way to a manifest
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	newest := slices.Clone(l.checkpoints[max(0, len(l.checkpoints)-2):])
	l.mu.Unlock()
	if len(newest) < 2 {
		return nil
	}
	alive, dead := map[string]bool{}, map[string]bool{}
	for info, err := range l.files.store.List(ctx, l.files.manifestPrefix(), "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", l.files.manifestPrefix(), err)
		}
		c, ok := l.files.checkpointOf(info.Key)
		switch {
		case !ok:
			l.log.Warn("a stray object among the manifests is left alone", "key", info.Key)
			continue
		case c.epoch > l.epoch:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.stop(ErrFenced)
			return fmt.Errorf("%w: %s", ErrFenced, info.Key)
		case older(c, newest[0].checkpoint) >= 0:
			alive[c.name] = true
			continue
		}
		if err := l.files.store.Delete(ctx, info.Key); err != nil {
			return err
		}
		dead[c.name] = true
	}
	// What an older epoch wrote without a manifest may be a checkpoint on its way,
	// of an owner who stalled. It may get one while ours are not the newest yet.
	ours := newest[0].epoch == l.epoch
	return l.trimParts(ctx, func(name string, epoch uint64) bool {
		return dead[name] || !alive[name] && (epoch == l.epoch || epoch < l.epoch && ours)
	})
}

// trimParts deletes the parts of checkpoints that are garbage.
func (l *Ledger) trimParts(ctx context.Context, garbage func(name string, epoch uint64) bool) error {
	for info, err := range l.files.store.List(ctx, l.files.checkpointPrefix(), "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", l.files.checkpointPrefix(), err)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(info.Key, l.files.checkpointPrefix()), "/")
		epoch, ok := epochOf(name)
		switch {
		case !ok:
			l.log.Warn("a stray object among the checkpoints is left alone", "key", info.Key)
			continue
		case !garbage(name, epoch):
			continue
		}
		if err := l.files.store.Delete(ctx, info.Key); err != nil {
			return err
		}
	}
	return nil
}

// Stored lists the objects of one kind, in the order of their names. What has
// another form of name is logged and left out. After an error it ends.
func (l *Ledger) Stored(ctx context.Context, kind ObjectKind) iter.Seq2[Stored, error] {
	return l.files.listStored(ctx, kind, l.log)
}

func (f files) listStored(ctx context.Context, kind ObjectKind, log *slog.Logger) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for object, err := range f.stored(ctx, kind, log) {
			if err != nil {
				err = &maildrop.Error{Op: "ledger.stored", Kind: kindOf(err), Err: err}
			}
			if !yield(object, err) {
				return
			}
		}
	}
}

func (f files) stored(ctx context.Context, kind ObjectKind, log *slog.Logger) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		prefix := f.prefix + "/" + string(kind) + "/"
		for info, err := range f.store.List(ctx, prefix, "") {
			if err != nil {
				yield(Stored{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			object, ok := storedOf(kind, strings.TrimPrefix(info.Key, prefix))
			if !ok {
				log.Warn("a stray object is left out", "key", info.Key)
				continue
			}
			object.Size = info.Size
			if !yield(object, nil) {
				return
			}
		}
	}
}

// storedOf takes an object's name apart.
func storedOf(kind ObjectKind, name string) (object Stored, ok bool) {
	object.Name = name
	if kind == ObjectLedger || kind == ObjectForgotten {
		object.Sequence, ok = sequenceOf(name)
		return object, ok
	}
	object.Epoch, ok = epochOf(name)
	return object, ok
}

// Delete removes a pack or a body. It refuses a name that a newer epoch than
// ours has made (NotOwner). Deleting what isn't there is no error.
func (l *Ledger) Delete(ctx context.Context, kind ObjectKind, name string) error {
	const op = "ledger.delete"
	if err := l.usable(op); err != nil {
		return err
	}
	epoch, ok := epochOf(name)
	switch {
	case !ok || (kind != ObjectPack && kind != ObjectBody):
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("not a pack or a body: %s %q", kind, name)}
	case epoch > l.epoch:
		return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: fmt.Errorf("%w: %s %s is of a newer epoch", ErrFenced, kind, name)}
	}
	if err := l.files.store.Delete(ctx, l.files.prefix+"/"+string(kind)+"/"+name); err != nil {
		return &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return nil
}
