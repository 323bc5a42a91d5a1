package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

var errOffset = errors.New("the offset is behind the message's end")

// textRemoved is what a session is told of a message that was in it, and whose
// octets are gone.
const textRemoved = "the message has been removed"

// Read streams a message of the snapshot in wire form from an offset.
func (d *drop) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	const op = "shard.read"
	if err := d.usable(ctx, op); err != nil {
		return 0, err
	}
	f, ok := d.find(uid)
	if !ok {
		return 0, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: errUID}
	}
	if offset > uint64(f.wire) {
		return 0, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: errOffset}
	}
	if offset == uint64(f.wire) {
		return 0, nil
	}
	n, err := d.read(ctx, f, offset, w)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, ledger.ErrGone) {
		err = d.gone(ctx, uid, err)
	}
	d.shard.noteDamage(f, offset+n, err)
	return n, failed(op, err)
}

func (d *drop) read(ctx context.Context, f found, offset uint64, w io.Writer) (uint64, error) {
	if f.object != "" {
		return d.shard.readObject(ctx, f, offset, w)
	}
	body, err := d.shard.body(ctx, f)
	if errors.Is(err, ledger.ErrGone) { // it may have moved meanwhile
		if again, ok := d.find(f.uid); ok {
			body, err = d.shard.body(ctx, again)
		}
	}
	if err != nil {
		return 0, err
	}
	return write(w, body[offset:])
}

// found is a message and where its body is.
type found struct {
	message
	uid    maildrop.UID
	object string       // of a large one
	place  ledger.Place // of an inline one
	lost   bool         // there is no place any more
}

func (d *drop) find(uid maildrop.UID) (f found, ok bool) {
	s := d.shard
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.state.find(d.claims.snapshot, uid)
	if m == nil {
		return f, false
	}
	f = found{message: *m, uid: uid, object: s.state.objects[m.position]}
	f.place, ok = s.state.place(m)
	f.lost = !ok
	return f, true
}

// body is an inline one, from memory or the store.
func (s *Shard) body(ctx context.Context, f found) ([]byte, error) {
	if body, hit := s.cache.body(f.position); hit {
		return body, nil
	}
	if f.lost {
		return nil, &maildrop.Error{Op: "shard.body", Kind: maildrop.NotFound, Err: ledger.ErrGone}
	}
	return s.ledger.ReadBody(ctx, f.position, f.place, uint64(f.wire))
}

// gone finds out why a body's octets aren't there: the shard is another's by now, the
// message was removed or has expired, or it is damage.
func (d *drop) gone(ctx context.Context, uid maildrop.UID, gone error) error {
	if err := d.shard.ask(ctx); errors.Is(err, ledger.ErrFenced) {
		return err
	}
	s := d.shard
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.state.find(d.claims.snapshot, uid)
	if m == nil || s.state.died(m, time.Now().Unix()+int64(clockSlack/time.Second)) != 0 {
		return &maildrop.Error{Op: "shard.read", Kind: maildrop.NotFound, Text: textRemoved, Err: gone}
	}
	return &maildrop.Error{Op: "shard.read", Kind: maildrop.Corrupt, Err: fmt.Errorf("%w: %w", ledger.ErrCorrupt, gone)}
}

// readChunk is how many octets of a large message are read before they are
// written: a block of the ledger's.
const readChunk = 256 << 10

func (s *Shard) readObject(ctx context.Context, f found, offset uint64, w io.Writer) (uint64, error) {
	if err := s.mended(ctx, f, offset); err != nil {
		return 0, err
	}
	r, err := s.ledger.OpenBody(ctx, f.object, uint64(f.wire), offset)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	buffer := make([]byte, min(readChunk, uint64(f.wire)-offset))
	sum := uint64(0)
	for {
		n, err := r.Read(buffer)
		written, failure := write(w, buffer[:n])
		sum += written
		switch {
		case failure != nil:
			return sum, failure
		case errors.Is(err, io.EOF):
			return sum, nil
		case err != nil:
			return sum, err
		}
	}
}

// mended looks first where a large body was found damaged before: so damage in the
// middle ends one session, which has octets of it by then, and the others hear of it in
// time.
func (s *Shard) mended(ctx context.Context, f found, offset uint64) error {
	at, damaged := s.damage.where(string(ledger.ObjectBody) + f.object)
	if !damaged || at < offset {
		return nil
	}
	r, err := s.ledger.OpenBody(ctx, f.object, uint64(f.wire), at) // verifies the block
	if err != nil {
		return err
	}
	return r.Close()
}

// write passes octets on. The writer's error is Canceled: nobody takes the
// message any more.
func write(w io.Writer, octets []byte) (uint64, error) {
	if len(octets) == 0 {
		return 0, nil
	}
	n, err := w.Write(octets)
	if err == nil && n < len(octets) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return uint64(n), &maildrop.Error{Op: "shard.write", Kind: maildrop.Canceled, Err: fmt.Errorf("the reader left: %w", err)}
	}
	return uint64(n), nil
}

// damage remembers the objects whose damage was logged, and at which octet of the
// message it was found last.
type damage struct {
	mu      sync.Mutex
	objects map[string]uint64
}

// maxDamaged bounds that memory: beyond it, damage is counted and not logged.
const maxDamaged = 10_000

// first reports whether the object's damage is news.
func (d *damage) first(object string, at uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.objects[object]
	if !known && len(d.objects) >= maxDamaged {
		return false
	}
	if d.objects == nil {
		d.objects = make(map[string]uint64)
	}
	d.objects[object] = at
	return !known
}

func (d *damage) where(object string) (at uint64, damaged bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, damaged = d.objects[object]
	return at, damaged
}

// noteDamage counts an error that is damage, and logs the first one of its object. The
// error names object and octet.
func (s *Shard) noteDamage(f found, at uint64, err error) {
	if !errors.Is(err, ledger.ErrCorrupt) {
		return
	}
	kind, object := ledger.ObjectLedger, strconv.FormatUint(f.position.Sequence(), 10)
	switch {
	case f.object != "":
		kind, object = ledger.ObjectBody, f.object
	case f.place.Pack != "":
		kind, object = ledger.ObjectPack, f.place.Pack
	}
	s.config.Metrics.damaged(string(kind))
	if s.damage.first(string(kind)+object, at) {
		s.log.Error("a stored message is damaged", "kind", kind, "object", object, "message", f.position, "error", err)
	}
}
