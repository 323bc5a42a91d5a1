package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// LostError names the object that keeps a ledger from being taken over: it is missing,
// or damaged in both copies of its headers, so nobody can tell what it said. It wraps
// ErrCorrupt. Whoever can't restore the object may Forget it.
type LostError struct {
	Sequence uint64
	Key      string
	Err      error
}

func (e *LostError) Error() string { return e.Err.Error() }
func (e *LostError) Unwrap() error { return e.Err }

// LostEndError says that a ledger ends before an epoch that is known to have begun: it
// has lost its end, or the store is an older copy. It wraps ErrForeign. Whoever can't
// restore what is lost may Forget the sequence behind Last, with Begun for its epoch.
type LostEndError struct {
	Last  uint64 // the sequence that it ends with; 0: there is no ledger, and nothing to go on with
	Epoch uint64 // that it ends in
	Begun uint64 // that is known to have begun
}

func (e *LostEndError) Error() string {
	return fmt.Sprintf("%v: epoch %d had begun, and it ends at sequence %d in epoch %d", ErrForeign, e.Begun, e.Last, e.Epoch)
}

func (e *LostEndError) Unwrap() error { return ErrForeign }

// lostAt names the object that damage is in; other errors stay what they are.
func lostAt(sequence uint64, key string, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	return &LostError{Sequence: sequence, Key: key, Err: err}
}

// Forgotten says that a ledger goes on without an object. It stands for good, also
// when the object turns up again: all that was answered since was answered
// without it.
type Forgotten struct {
	Sequence uint64
	Ledger   uint32 // the ledger's identity
	Epoch    uint64 // an epoch that had begun by then; 0: no more than the ledger says
	Time     time.Time
	By       string // who decided it
	Why      string // what was wrong with the object
}

// ErrNotLost says that the object can be read, is covered by a checkpoint, or isn't
// the ledger's.
var ErrNotLost = errors.New("the ledger doesn't wait for the object")

// Forget lets a ledger go on without an object of its tail, for good. What the object
// said is undone: mail in it is lost, removals in it come back, changes of addresses are
// as they were before. Unique-ids are not given again. Forget refuses (ErrNotLost) what
// Read doesn't report as Lost, and with an epoch all but the sequence behind the
// ledger's last: the ledger has lost its end, and the epoch is the last known to have begun.
// The ledger's first object can't be forgotten: it says whose ledger it is.
func Forget(ctx context.Context, config Config, f Forgotten) (Forgotten, error) {
	const op = "ledger.forget"
	r, why, err := forgettable(ctx, config, f)
	if err != nil {
		return f, err
	}
	f.Ledger, f.Time, f.By, f.Why = r.identity, time.Now().UTC(), clip(f.By), clip(why)
	content := f.encode()
	err = r.files.store.Create(ctx, r.files.forgotten(f.Sequence), bytes.NewReader(content), int64(len(content)))
	switch {
	case errors.Is(err, blob.ErrExists):
		err = fmt.Errorf("%w: it is forgotten already", ErrNotLost)
		return f, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	case err != nil:
		return f, &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return f, nil
}

// Forgettable says what is wrong with an object that Forget would forget; it writes
// nothing, and its errors are Forget's.
func Forgettable(ctx context.Context, config Config, f Forgotten) (why string, err error) {
	_, why, err = forgettable(ctx, config, f)
	return why, err
}

func forgettable(ctx context.Context, config Config, f Forgotten) (r *Reader, why string, err error) {
	if r, err = Read(ctx, config, func() State { return ignoring{} }); err != nil {
		return nil, "", err
	}
	if why, err = r.waitsFor(f); err != nil {
		return nil, "", &maildrop.Error{Op: "ledger.forget", Kind: maildrop.Invalid, Err: err}
	}
	return r, why, nil
}

// waitsFor says what is wrong with the object that is to be forgotten.
func (r *Reader) waitsFor(f Forgotten) (why string, err error) {
	key := r.files.object(max(f.Sequence, 1))
	if f.Epoch > 0 {
		if f.Sequence != r.last+1 || f.Epoch <= r.epoch || f.Epoch > MaxEpoch || len(r.lost) > 0 {
			return "", fmt.Errorf("%w: it ends at sequence %d in epoch %d", ErrNotLost, r.last, r.epoch)
		}
		return fmt.Sprintf("the ledger ended at sequence %d in epoch %d, and epoch %d had begun", r.last, r.epoch, f.Epoch), nil
	}
	for _, lost := range r.lost {
		if lost.Sequence == f.Sequence {
			return lost.Error(), nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNotLost, key)
}

// ignoring is a State for who wants to know of the ledger alone.
type ignoring struct{}

func (ignoring) Load([]byte) error { return nil }
func (ignoring) Apply(Entry) error { return nil }

// clip keeps a text within its limit.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), MaxText)], "") }

// What is forgotten: an object of its own, its content twice. That it is there is what
// counts; its content is for people, but for the epoch.
const (
	forgottenMagic = "PSTNGONE"
	forgottenSize  = 44 // without the texts

	atForgottenTime = 32
	atForgottenCRC  = 40
)

func (f files) forgotten(sequence uint64) string {
	return fmt.Sprintf("%s%020d", f.forgottenPrefix(), sequence)
}

func (f Forgotten) encode() []byte {
	b := make([]byte, forgottenSize)
	putFront(b, forgottenMagic, f.Ledger)
	binary.LittleEndian.PutUint64(b[atEpoch:], f.Epoch)
	binary.LittleEndian.PutUint64(b[atSequence:], f.Sequence)
	binary.LittleEndian.PutUint64(b[atForgottenTime:], uint64(f.Time.UnixNano()))
	for _, text := range []string{clip(f.By), clip(f.Why)} {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(text))), text...)
	}
	binary.LittleEndian.PutUint32(b[atForgottenCRC:], forgottenSum(b))
	return slices.Concat(b, b)
}

func forgottenSum(b []byte) uint32 {
	return checksum(checksum(0, b[:atForgottenCRC]), b[forgottenSize:])
}

// decodeForgotten reads the first copy that is sound; damaged is what is wrong with
// the other.
func decodeForgotten(b []byte) (f Forgotten, damaged, err error) {
	half := len(b) / 2
	first, damaged := decodeForgottenOnce(b[:half])
	second, err := decodeForgottenOnce(b[half:])
	switch {
	case damaged == nil && err == nil && first != second:
		return first, damage(half, "the two copies differ"), nil
	case damaged == nil:
		return first, err, nil
	case err == nil:
		return second, damaged, nil
	}
	return f, nil, damaged
}

func decodeForgottenOnce(b []byte) (f Forgotten, err error) {
	if len(b) < forgottenSize {
		return f, damage(len(b), "object ends in its header")
	}
	if err := checkFront(b, forgottenMagic, version, forgottenSum(b), atForgottenCRC); err != nil {
		return f, err
	}
	f.Ledger = binary.LittleEndian.Uint32(b[atIdentity:])
	f.Epoch = binary.LittleEndian.Uint64(b[atEpoch:])
	f.Sequence = binary.LittleEndian.Uint64(b[atSequence:])
	f.Time = time.Unix(0, int64(binary.LittleEndian.Uint64(b[atForgottenTime:]))).UTC()
	r := reader{b: b[forgottenSize:]}
	f.By, f.Why = r.short(), r.short()
	if r.fail != "" || len(r.b) > 0 {
		return f, damage(forgottenSize, "texts of another length")
	}
	return f, nil
}

// short is a text with its length in two octets.
func (r *reader) short() string {
	if n := r.take(2); n != nil {
		return string(r.take(int(binary.LittleEndian.Uint16(n))))
	}
	return ""
}

// maxForgotten is the most octets of what is read of one.
const maxForgotten = 2 * (forgottenSize + 2*(2+MaxText))

// listForgotten finds what is forgotten behind the checkpoint.
func (o *opener) listForgotten(ctx context.Context) error {
	o.forgotten = make(map[uint64]Forgotten)
	for info, err := range o.store.List(ctx, o.forgottenPrefix(), o.files.forgotten(o.covered)) {
		if err != nil {
			return fmt.Errorf("list %s: %w", o.forgottenPrefix(), err)
		}
		sequence, ok := sequenceOf(strings.TrimPrefix(info.Key, o.forgottenPrefix()))
		if !ok {
			o.log.Warn("a stray object among what is forgotten is ignored", "key", info.Key)
			continue
		}
		if o.forgotten[sequence], err = o.readForgotten(ctx, info.Key, sequence); err != nil {
			return err
		}
	}
	return nil
}

func (o *opener) readForgotten(ctx context.Context, key string, sequence uint64) (Forgotten, error) {
	b := make([]byte, maxForgotten+1)
	n, err := o.store.ReadAt(ctx, key, b, 0)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, ErrCorrupt) {
		return Forgotten{}, err
	}
	f, damaged, failed := decodeForgotten(b[:n])
	if errors.Is(failed, ErrVersion) {
		return f, fmt.Errorf("%s: %w", key, failed)
	}
	for _, err := range []error{damaged, failed} {
		if err != nil {
			o.found(key, err)
		}
	}
	if failed == nil && f.Sequence == sequence {
		return f, nil
	}
	return Forgotten{Sequence: sequence}, nil // nobody else writes this key
}

// takeForgotten goes on without an object.
func (o *opener) takeForgotten(_ context.Context, got fetched) error {
	if o.hole != nil && !o.tolerant {
		return lostAt(o.next, o.object(o.next), fmt.Errorf("%w: sequence %d behind it was forgotten", o.hole, got.sequence))
	}
	if o.hole != nil {
		o.noteHole(got.sequence)
	}
	if o.next == 1 {
		return fmt.Errorf("%s: the ledger's beginning is forgotten: %w", o.object(1), ErrCorrupt)
	}
	f := o.forgotten[got.sequence]
	delete(o.forgotten, got.sequence)
	o.log.Warn("a lost object is gone on without, as it was decided", "key", o.object(f.Sequence), "by", f.By, "at", f.Time, "readable", got.err == nil)
	o.skipped = append(o.skipped, f)
	o.next, o.epoch, o.gap = f.Sequence+1, max(o.epoch, f.Epoch), true
	return nil
}

// forgottenEnd goes on without what the ledger has lost at its end.
func (o *opener) forgottenEnd(ctx context.Context) error {
	for len(o.forgotten) > 0 {
		if _, ok := o.forgotten[o.next]; !ok && o.tolerant {
			o.noteHole(slices.Min(slices.Collect(maps.Keys(o.forgotten))))
		} else if !ok {
			return lostAt(o.next, o.object(o.next), fmt.Errorf("%s: %w, and a sequence behind it was forgotten: %w", o.object(o.next), errMissing, ErrCorrupt))
		}
		if err := o.takeForgotten(ctx, fetched{sequence: o.next, err: errMissing}); err != nil {
			return err
		}
	}
	return nil
}
