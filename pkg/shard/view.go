package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// View is a shard as somebody sees it who holds the store's credentials, and no
// user's: tools that verify what is stored, or move a mailbox away. It is the state
// at one moment, never changes, and may be used by several goroutines at once.
//
// Nothing is written and nobody is fenced: the owner goes on, and what a View says of
// places may be outdated a moment later. Then a fresh one says where it is now.
type View struct {
	reader *ledger.Reader
	state  *state
}

// Read makes a View, and goes on past damage: see Damage. Of the Config it needs
// Region, Number, Store and Log. Errors are those of ledger.Read: NotFound for a
// shard that nobody ever owned, Corrupt when nothing can be made of it.
func Read(ctx context.Context, config Config) (*View, error) {
	const op = "shard.read"
	if config.Region == "" || config.Number < 0 || config.Store == nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: errors.New("region, number and store are needed")}
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	v := &View{}
	reader, err := ledger.Read(ctx, ledger.Config{Store: ReadOnly(config.Store), Prefix: config.Prefix(), Log: config.Log}, func() ledger.State {
		v.state = newState()
		return v.state
	})
	if err != nil {
		return nil, failed(op, err)
	}
	v.reader = reader
	return v, nil
}

// Identity is the ledger's, the same for ever.
func (v *View) Identity() uint32 { return v.reader.Identity() }

// Epoch is the owner's when the view was made.
func (v *View) Epoch() uint64 { return v.reader.Epoch() }

// Last is the highest sequence of the ledger that was seen.
func (v *View) Last() uint64 { return v.reader.Last() }

// Damage is what was found lost while the view was made: in checkpoints and
// ledger objects, not in bodies.
func (v *View) Damage() []ledger.Damage { return v.reader.Damage() }

// Checker verifies the shard's objects one by one.
func (v *View) Checker() *ledger.Checker { return v.reader.Checker() }

// Counts are the addresses that have a record, and the mailboxes with mail in them,
// of an address or of one that there was.
func (v *View) Counts() (addresses, mailboxes int) {
	for _, box := range v.state.mailboxes {
		if len(box.messages) > 0 {
			mailboxes++
		}
	}
	return v.state.addresses, mailboxes
}

// Addresses are all that have a record or mail, sorted.
func (v *View) Addresses() []maildrop.Address {
	list := make([]maildrop.Address, 0, len(v.state.mailboxes))
	for n := range v.state.mailboxes {
		list = append(list, v.state.address(n))
	}
	slices.Sort(list)
	return list
}

// Record is an address's. Its Hash is "set" or empty.
func (v *View) Record(address maildrop.Address) (maildrop.AddressRecord, bool) {
	r, ok := v.state.record(address)
	if !ok {
		return maildrop.AddressRecord{}, false
	}
	return r.full(address), true
}

// Message is a message as the index knows it: also one that was removed or has
// expired, until it is forgotten a day later.
type Message struct {
	Mailbox  maildrop.Address
	Position ledger.Position
	Size     uint64 // octets without dot-stuffing
	Wire     uint64 // octets of the body
	Class    maildrop.Class
	Received time.Time
	Removed  time.Time // zero: it isn't

	Object string       // the body's own object; empty: Place says where it is
	Place  ledger.Place // of an inline body
}

// Lives reports whether the message's user can fetch it.
func (m *Message) Lives(now time.Time) bool {
	return m.Removed.IsZero() && now.Before(m.Received.Add(m.Class.Retention()))
}

// Kept says which object the body is in: its kind, and its name as
// ledger.Stored has it. A message without any octet is in none: then ok is false.
func (m *Message) Kept() (kind ledger.ObjectKind, name string, ok bool) {
	switch {
	case m.Object != "":
		return ledger.ObjectBody, m.Object, true
	case m.Place.Pack != "":
		return ledger.ObjectPack, m.Place.Pack, m.Wire > 0
	}
	return ledger.ObjectLedger, fmt.Sprintf("%020d", m.Position.Sequence()), m.Wire > 0
}

// Messages are one mailbox's, in order of arrival.
func (v *View) Messages(address maildrop.Address) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		if box := v.state.box(address); box != nil {
			v.each(address, box, yield)
		}
	}
}

// All are the messages of all mailboxes, in no certain order.
func (v *View) All() iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for n, box := range v.state.mailboxes {
			if len(box.messages) > 0 && !v.each(v.state.address(n), box, yield) {
				return
			}
		}
	}
}

func (v *View) each(address maildrop.Address, box *mailbox, yield func(Message) bool) bool {
	for i := range box.messages {
		if !yield(v.message(address, &box.messages[i])) {
			return false
		}
	}
	return true
}

// lostPlace is the name of a pack that the index says and doesn't know.
const lostPlace = "unknown"

func (v *View) message(address maildrop.Address, m *message) Message {
	shown := Message{
		Mailbox: address, Position: m.position, Size: uint64(m.size), Wire: uint64(m.wire), Class: m.class,
		Received: time.Unix(int64(m.received), 0).UTC(),
	}
	if m.flags&flagRemoved != 0 {
		shown.Removed = time.Unix(int64(v.state.removals[m.position].time), 0).UTC()
	}
	if m.flags&flagObject != 0 {
		shown.Object = v.state.objects[m.position]
		return shown
	}
	place, ok := v.state.place(m)
	if !ok {
		place.Pack = lostPlace
	}
	shown.Place = place
	return shown
}

// Find finds a message by mailbox and position.
func (v *View) Find(address maildrop.Address, position ledger.Position) (Message, bool) {
	if box := v.state.box(address); box != nil {
		if m := box.message(position); m != nil {
			return v.message(address, m), true
		}
	}
	return Message{}, false
}

// UID is the message's unique-id.
func (v *View) UID(m Message) maildrop.UID {
	if uid, imported := v.state.uids[m.Position]; imported {
		return uid
	}
	return maildrop.UID(v.state.appendMinted(nil, m.Position))
}

// Open reads a message's body in wire form. Inline bodies are verified as a whole
// before, others block by block. Errors, here and of Read: Corrupt; NotFound (ledger.ErrGone)
// when its octets have moved or are deleted since; those of the store.
func (v *View) Open(ctx context.Context, m Message) (io.ReadCloser, error) {
	if m.Object != "" {
		return v.reader.OpenBody(ctx, m.Object, m.Wire, 0)
	}
	body, err := v.reader.ReadBody(ctx, m.Position, m.Place, m.Wire)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// Names are the objects of one kind, packs or bodies, that the index has, also if
// only for dead messages. Others of that kind are garbage, or on their way.
func (v *View) Names(kind ledger.ObjectKind) map[string]bool {
	names := make(map[string]bool)
	if kind == ledger.ObjectPack {
		for name := range v.state.packs.numbers {
			names[name] = true
		}
		return names
	}
	for _, name := range v.state.objects {
		names[name] = true
	}
	return names
}

// ReadOnly is a store through which nothing can be written or deleted. Damage that
// the store finds itself, as one that encrypts does, is the ledger's ErrCorrupt behind it.
func ReadOnly(store blob.Store) blob.Store { return readOnly{store} }

type readOnly struct{ store blob.Store }

var errReadOnly = errors.New("the store is open for reading only")

// Create implements blob.Store.
func (readOnly) Create(_ context.Context, key string, _ io.Reader, _ int64) error {
	return fmt.Errorf("create %s: %w", key, errReadOnly)
}

// Delete implements blob.Store.
func (readOnly) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w", key, errReadOnly)
}

// ReadAt implements blob.Store.
func (r readOnly) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	n, err := r.store.ReadAt(ctx, key, p, offset)
	if maildrop.KindOf(err) == maildrop.Corrupt && !errors.Is(err, ledger.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	return n, err
}

// List implements blob.Store.
func (r readOnly) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return r.store.List(ctx, prefix, after)
}
