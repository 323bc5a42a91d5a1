package sealed

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	// nearby is how far into an object a read begins with the header: so many
	// more octets cost less than a second request.
	nearby = 128 << 10
	// maxPooled is the most octets of a buffer that is kept for the next read.
	maxPooled = 2 << 20
)

// ReadAt implements blob.Store. It reads the segments that p needs with one
// ranged read, and the header with it or, when that is far and not known yet, with
// one more. No octet comes out that wasn't verified; that an object ends is as well.
// Errors: ErrCorrupt (Kind Corrupt) names object and octet; ErrNoKey.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	if err := s.mine(key); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("read %s: offset %d", key, offset)
	}
	if len(p) == 0 {
		return s.store.ReadAt(ctx, key, p, 0)
	}
	how, known := s.known.take(key)
	r := reading{Store: s, key: key, p: p, offset: min(offset, maxPlain), how: how}
	n, err := r.read(ctx)
	if known && errors.Is(err, ErrCorrupt) {
		// It may have been deleted and created anew, by another process.
		s.known.drop(key)
		r.how = nil
		n, err = r.read(ctx)
	}
	if errors.Is(err, blob.ErrNotFound) {
		s.known.drop(key)
	}
	return n, err
}

// opened is how an object is read: with its key, or as it is.
type opened struct {
	plain  bool
	key    *secret
	layout layout
}

// reading is one call of ReadAt.
type reading struct {
	*Store
	key    string
	p      []byte
	offset int64
	how    *opened // nil: the header isn't known
	ending bool    // this is the look at the object's end

	stored []byte // of the object, from the octet `from` on
	from   int64
	ended  bool // the object ends with them
}

// end is the offset behind the last octet that is wanted.
func (r *reading) end() int64 { return min(r.offset+int64(len(r.p)), maxPlain) }

func (r *reading) read(ctx context.Context) (int, error) {
	buffer := r.buffers.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= maxPooled {
			r.buffers.Put(buffer)
		}
	}()
	if r.how == nil {
		if err := r.begin(ctx, buffer); err != nil {
			return 0, err
		}
	}
	if r.how.plain {
		return r.store.ReadAt(ctx, r.key, r.p, r.offset)
	}
	return r.open(ctx, buffer)
}

// begin reads the header, and what is wanted with it unless that is far.
func (r *reading) begin(ctx context.Context, buffer *[]byte) error {
	before := layout{begin: headerSize}.at(r.offset) // as if it had one side: most of it is there then
	if before.stored > nearby {
		return r.header(ctx)
	}
	if err := r.fetch(ctx, buffer, 0, r.behindLast(layout{begin: headerSize})); err != nil {
		return err
	}
	return r.learn(ctx, r.stored)
}

// behindLast is the octet behind the last segment that is wanted, and one more: what
// has that octet doesn't end the object.
func (r *reading) behindLast(l layout) int64 {
	last := max(r.end()-1, r.offset)
	if l.inGap(last) {
		last = l.first - 1
	}
	s := l.at(last)
	return s.stored + s.length + 1
}

// fetch reads stored octets.
func (r *reading) fetch(ctx context.Context, buffer *[]byte, from, to int64) error {
	*buffer = grown(*buffer, to-from)
	n, err := r.store.ReadAt(ctx, r.key, *buffer, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	r.stored, r.from, r.ended = (*buffer)[:n], from, n < len(*buffer)
	return nil
}

// segment is a segment's octets, which are there or are read with all that is wanted
// behind them. last says that the object ends with it.
func (r *reading) segment(ctx context.Context, buffer *[]byte, s segment) (sealed []byte, last bool, err error) {
	has := func() bool {
		return s.stored >= r.from && (r.ended || s.stored+s.length < r.from+int64(len(r.stored)))
	}
	if !has() {
		if err := r.fetch(ctx, buffer, s.stored, r.behindLast(r.how.layout)); err != nil {
			return nil, false, err
		}
	}
	rest := r.stored[min(s.stored-r.from, int64(len(r.stored))):]
	return rest[:min(s.length, int64(len(rest)))], r.ended && int64(len(rest)) <= s.length, nil
}

// header reads the object's header alone.
func (r *reading) header(ctx context.Context) error {
	var head [headerSize]byte
	n, err := r.store.ReadAt(ctx, r.key, head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return r.learn(ctx, head[:n])
}

// learn finds out how the object is read, of its first octets.
func (r *reading) learn(ctx context.Context, begin []byte) error {
	h, damage := decodeHeader(begin)
	if damage != "" {
		mended, octet, ok := mend(begin)
		switch {
		case ok:
			h = mended
			r.found(r.key, int64(octet), "the header is damaged in one octet, and was mended: "+damage)
		case !isSealed(begin) && r.plain:
			r.how = &opened{plain: true}
			r.known.put(r.key, r.how)
			return nil
		default:
			return corrupt(r.key, 0, damage)
		}
	}
	data, err := r.ring.key(ctx, h.generation)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	derived, err := h.objectKey(data, r.key)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	r.how = &opened{key: derived, layout: h.layout()}
	r.known.put(r.key, r.how)
	return nil
}

// open opens the wanted segments into p. Octets that come with an error are
// verified, too.
func (r *reading) open(ctx context.Context, buffer *[]byte) (filled int, err error) {
	aead, err := r.how.key.cipher()
	if err != nil {
		return 0, err
	}
	l, end := r.how.layout, int(r.end()-r.offset)
	for filled < end {
		at := r.offset + int64(filled)
		if l.inGap(at) {
			n := min(int(l.mirror-at), end-filled)
			clear(r.p[filled : filled+n])
			filled += n
			continue
		}
		s := l.at(at)
		sealed, last, err := r.segment(ctx, buffer, s)
		switch {
		case err != nil:
			return filled, err
		case len(sealed) == 0 && filled == 0:
			return 0, r.behind(ctx)
		}
		n, err := r.openOne(aead, s, sealed, last, filled)
		if filled += n; err != nil {
			return filled, err
		}
		if last {
			break
		}
	}
	if filled < len(r.p) {
		return filled, io.EOF
	}
	return filled, nil
}

// openOne opens a segment into p, from filled on. One that p takes whole is opened into
// it, another one in its place.
func (r *reading) openOne(aead cipher.AEAD, s segment, sealed []byte, last bool, filled int) (int, error) {
	at := r.offset + int64(filled)
	whole := at == s.plain && len(r.p)-filled >= len(sealed)-tagSize
	into := sealed[:0]
	if whole {
		into = r.p[filled:filled]
	}
	plain, err := aead.Open(into, nonce(s.number, last), sealed, nil)
	switch {
	case err != nil || len(plain) == 0:
		return 0, corrupt(r.key, s.plain, "a segment is not what was sealed here")
	case whole:
		return len(plain), nil
	}
	return copy(r.p[filled:], plain[min(at-s.plain, int64(len(plain))):]), nil
}

// behind is a read behind the object's end: io.EOF once the segment that seems to
// be the last one says that it is.
func (r *reading) behind(ctx context.Context) error {
	if r.ending {
		return corrupt(r.key, r.offset, "the object is shorter than it is listed")
	}
	for info, err := range r.store.List(ctx, r.key, "") {
		if err != nil {
			return err
		}
		if info.Key != r.key {
			break
		}
		size := plainSize(info.Size)
		if size == 0 || size > r.offset {
			return corrupt(r.key, size, "the object has a length that it can't have")
		}
		last := reading{Store: r.Store, key: r.key, p: make([]byte, 1), offset: size - 1, how: r.how, ending: true}
		if _, err := last.read(ctx); err != nil {
			return err
		}
		return io.EOF
	}
	return fmt.Errorf("read %s: %w", r.key, blob.ErrNotFound)
}

// grown is b with the length, made anew only when it is too short.
func grown(b []byte, length int64) []byte {
	if int64(cap(b)) < length {
		return make([]byte, length)
	}
	return b[:length]
}
