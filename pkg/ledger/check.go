package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// Frame is an inline body as an index knows it: whose it is, and where in its
// object.
type Frame struct {
	Position Position
	Offset   uint32
	Wire     uint64 // octets without the checksum
}

// Checked is what was found in an object, or in a checkpoint.
type Checked struct {
	Octets  int64    // read
	Damage  []Damage // in the order of the octets
	Entries []Entry  // of a ledger object whose records are sound
}

func (c *Checked) add(key string, err error) { c.Damage = append(c.Damage, damageOf(key, err)) }

// Checker verifies a ledger's objects one by one, each by itself, and reads all
// of their octets. It needs no State, so it can also tell what is wrong with a
// ledger that can't be opened. What it finds damaged is no error: its errors are
// ErrGone for an object that isn't there, ErrVersion, and those of the store.
type Checker struct {
	files    files
	identity uint32
	known    bool // whether the identity is
}

// NewChecker is for a ledger whose identity isn't known.
func NewChecker(store blob.Store, prefix string) *Checker {
	return &Checker{files: files{store: store, prefix: prefix}}
}

// Checker is for the objects of this ledger.
func (r *Reader) Checker() *Checker {
	return &Checker{files: r.files, identity: r.identity, known: true}
}

// Key is the key of an object that Stored lists under a name.
func (c *Checker) Key(kind ObjectKind, name string) string {
	return c.files.prefix + "/" + string(kind) + "/" + name
}

// Ledger verifies the ledger object of a name: header, records, the bodies that
// these say, and the frames that an index knows besides.
func (c *Checker) Ledger(ctx context.Context, name string, frames []Frame) (Checked, error) {
	key := c.Key(ObjectLedger, name)
	b, err := c.whole(ctx, key, MaxObject)
	if err != nil {
		return c.failed(key, err)
	}
	checked := Checked{Octets: int64(len(b))}
	identity, own, err := c.records(&checked, key, name, b)
	if err == nil {
		c.frames(&checked, key, b, identity, append(own, frames...))
	}
	return checked, err
}

// records verifies all of a ledger object but the bodies, and returns where these are.
func (c *Checker) records(checked *Checked, key, name string, b []byte) (identity uint32, frames []Frame, err error) {
	h, entries, damages, err := decodeEither(b)
	for _, damaged := range damages {
		checked.add(key, damaged)
	}
	if err != nil {
		return c.identity, nil, checked.note(key, err)
	}
	sequence, _ := sequenceOf(name)
	switch {
	case h.sequence != sequence:
		checked.add(key, damage(atSequence, fmt.Sprintf("the object says it is sequence %d", h.sequence)))
	case c.known && h.identity != c.identity:
		checked.add(key, damage(atIdentity, "the object is of another ledger"))
	}
	checked.Entries = entries
	for _, e := range entries {
		if wire := inlineWire(e.Record); wire > 0 {
			frames = append(frames, Frame{Position: e.Position, Offset: e.Offset, Wire: wire})
		}
	}
	return h.identity, frames, nil
}

// note takes damage in, and passes other errors on.
func (c *Checked) note(key string, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%s: %w", key, err)
	}
	c.add(key, err)
	return nil
}

func lengthDamage(has, says int) error {
	return damage(min(has, says), fmt.Sprintf("the object has %d octets, its header says %d", has, says))
}

// frames verifies bodies, each once. All there is to know of a pack's is in the index.
func (c *Checker) frames(checked *Checked, key string, b []byte, identity uint32, frames []Frame) {
	seen := make(map[Frame]bool, len(frames))
	for _, f := range frames {
		if seen[f] || f.Wire == 0 {
			continue
		}
		seen[f] = true
		if err := frameDamage(b, identity, f); err != nil {
			d := damageOf(key, err)
			d.Position = f.Position
			checked.Damage = append(checked.Damage, d)
		}
	}
}

func frameDamage(b []byte, identity uint32, f Frame) error {
	end := uint64(f.Offset) + f.Wire
	switch {
	case f.Wire > MaxInline || end+crcSize > uint64(len(b)):
		return damage(int(f.Offset), "the body is cut off")
	case bodySum(identity, f.Position, b[f.Offset:end]) != binary.LittleEndian.Uint32(b[end:]):
		return damage(int(f.Offset), "checksum of the body is wrong")
	}
	return nil
}

// Pack verifies a pack: its header, its length, and the bodies that an index
// knows to be there.
func (c *Checker) Pack(ctx context.Context, name string, frames []Frame) (Checked, error) {
	key := c.Key(ObjectPack, name)
	b, err := c.whole(ctx, key, MaxPack)
	if err != nil {
		return c.failed(key, err)
	}
	checked, identity := Checked{Octets: int64(len(b))}, c.identity
	h, err := decodePack(name, b)
	if err == nil {
		identity = h.identity
	}
	switch {
	case err != nil:
		if err := checked.note(key, err); err != nil {
			return checked, err
		}
	case c.known && h.identity != c.identity:
		checked.add(key, damage(atIdentity, "the pack is of another ledger"))
	case len(b) != packSize+h.frames:
		checked.add(key, lengthDamage(len(b), packSize+h.frames))
	}
	c.frames(&checked, key, b, identity, frames)
	return checked, nil
}

// Body verifies a body object, a block in memory at a time. wire is how many
// octets of body it should have; 0: not known.
func (c *Checker) Body(ctx context.Context, name string, wire uint64) (Checked, error) {
	key := c.Key(ObjectBody, name)
	checked, octets := Checked{}, uint64(0)
	frame := make([]byte, frameSize)
	for number := uint64(0); ; number++ {
		at := int64(number * frameSize)
		n, err := c.files.store.ReadAt(ctx, key, frame, at)
		if err != nil && !errors.Is(err, io.EOF) {
			failed, err := c.failed(key, err)
			failed.Octets, failed.Damage = checked.Octets, append(checked.Damage, failed.Damage...)
			return failed, err
		}
		checked.Octets += int64(n)
		if n > 0 {
			octets += uint64(max(n-crcSize, 0))
			if err := blockDamage(name, number, frame[:n]); err != "" {
				checked.add(key, damage(int(at), err))
			}
		}
		if n < len(frame) {
			break
		}
	}
	if wire > 0 && octets != wire {
		checked.add(key, damage(int(min(checked.Octets, math.MaxInt32)), fmt.Sprintf("the body has %d octets, its record says %d", octets, wire)))
	}
	return checked, nil
}

func blockDamage(name string, number uint64, frame []byte) string {
	length := len(frame) - crcSize
	switch {
	case length < 1:
		return "block is cut off"
	case blockSum(name, number, frame[:length]) != binary.LittleEndian.Uint32(frame[length:]):
		return "checksum of the block is wrong"
	}
	return ""
}

// Checkpoint verifies a checkpoint: the manifest of a name and all its parts. When a
// part is missing because the checkpoint was deleted meanwhile, it is ErrGone.
func (c *Checker) Checkpoint(ctx context.Context, name string) (Checked, error) {
	key := c.files.manifestPrefix() + name
	of, ok := c.files.checkpointOf(key)
	if !ok {
		return Checked{}, fmt.Errorf("%s: not the key of a manifest: %w", key, ErrLimit)
	}
	b, err := c.whole(ctx, key, manifestSize+maxParts*partSumSize)
	if err != nil {
		return c.failed(key, err)
	}
	checked := Checked{Octets: int64(len(b))}
	m, err := decodeManifest(of, b)
	if err != nil {
		return checked, checked.note(key, err)
	}
	if c.known && m.identity != c.identity {
		checked.add(key, damage(atIdentity, "the manifest is of another ledger"))
	}
	missing, err := c.parts(ctx, &checked, m)
	if err == nil && missing { // manifests are deleted before their parts
		_, err = c.files.store.ReadAt(ctx, key, make([]byte, 1), 0)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return c.failed(key, err)
	}
	return checked, nil
}

func (c *Checker) parts(ctx context.Context, checked *Checked, m *manifest) (missing bool, err error) {
	var buffer []byte
	for number, sum := range m.parts {
		if size := partSize + int(sum.length) + 1; cap(buffer) < size {
			buffer = make([]byte, size)
		}
		_, err := c.files.readPart(ctx, m, number, buffer)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			missing = true
			checked.add(c.files.part(m.name, number), fmt.Errorf("the part is missing: %w", ErrCorrupt))
		case damaged(err):
			checked.add(c.files.part(m.name, number), err)
		case err != nil:
			return missing, err
		}
		checked.Octets += int64(partSize) + int64(sum.length)
	}
	return missing, nil
}

// ValidName reports whether a ledger could have made an object of the kind
// under the name; others in its folders are strays, which all ignore.
func ValidName(kind ObjectKind, name string) bool {
	_, ok := storedOf(kind, name)
	return ok
}

// CheckpointOf is the name of the folder with the parts of a manifest, given
// the manifest's name.
func CheckpointOf(manifest string) (folder string, ok bool) {
	c, ok := files{}.checkpointOf(files{}.manifestPrefix() + manifest)
	return c.name, ok
}

// whole reads an object of at most so many octets; one more is damage.
func (c *Checker) whole(ctx context.Context, key string, limit int) ([]byte, error) {
	b := make([]byte, 0, firstRead)
	for {
		n, err := c.files.store.ReadAt(ctx, key, b[len(b):cap(b)], int64(len(b)))
		b = b[:len(b)+n]
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case len(b) > limit:
			return nil, damage(limit, "the object is longer than any may be")
		case len(b) < cap(b):
			return b, nil
		}
		b = append(make([]byte, 0, min(4*cap(b), limit+1)), b...)
	}
}

// failed sorts what a read has failed with.
func (c *Checker) failed(key string, err error) (Checked, error) {
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return Checked{}, fmt.Errorf("%s: %w: %w", key, ErrGone, err)
	case damaged(err):
		checked := Checked{}
		checked.add(key, err)
		return checked, nil
	}
	return Checked{}, fmt.Errorf("%s: %w", key, err)
}

// damaged reports whether an error is damage: ours, or what the store below
// says of octets that it verifies itself.
func damaged(err error) bool {
	return errors.Is(err, ErrCorrupt) || maildrop.KindOf(err) == maildrop.Corrupt
}
