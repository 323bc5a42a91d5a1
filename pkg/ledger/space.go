package ledger

import (
	"context"
	"errors"
	"iter"
)

// ObjectKind is a kind of object that a ledger keeps in the store.
type ObjectKind string

// The kinds of objects that Stored lists.
const (
	ObjectLedger ObjectKind = "ledger"
	ObjectPack   ObjectKind = "pack"
	ObjectBody   ObjectKind = "body"
)

// Stored is an object of the ledger in the store.
type Stored struct {
	Name     string // what Delivery.Object, Pack.Object or Place.Pack says; a ledger object's digits
	Sequence uint64 // of a ledger object, else 0
	Epoch    uint64 // of a pack's or a body's writer, from the name; 0 for a ledger object
	Size     int64  // octets
}

// Horizon is the highest sequence that Trim may delete; 0: none yet.
func (l *Ledger) Horizon() uint64 { return 0 }

// Trim deletes the ledger objects up to Horizon, in their order, but those that
// keep says to keep, and checkpoints that are neither of the two newest. It returns
// how many ledger objects it deleted.
func (l *Ledger) Trim(ctx context.Context, keep func(sequence uint64) bool) (n int, err error) {
	return 0, errors.ErrUnsupported
}

// Stored lists the objects of one kind, in the order of their names. What has
// another form of name is logged and left out. After an error it ends.
func (l *Ledger) Stored(ctx context.Context, kind ObjectKind) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) { yield(Stored{}, errors.ErrUnsupported) }
}

// Delete removes a pack or a body. It refuses a name that a newer epoch than
// ours has made. Deleting what isn't there is no error.
func (l *Ledger) Delete(ctx context.Context, kind ObjectKind, name string) error {
	return errors.ErrUnsupported
}
