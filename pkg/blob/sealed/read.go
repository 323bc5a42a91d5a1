package sealed

import (
	"context"
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
	plain bool
	key   *secret
}

// reading is one call of ReadAt.
type reading struct {
	*Store
	key    string
	p      []byte
	offset int64
	how    *opened // nil: the header isn't known
	ending bool    // this is the look at the object's end
}

// end is the offset behind the last octet that is wanted.
func (r *reading) end() int64 { return min(r.offset+int64(len(r.p)), maxPlain) }

// first is the number of the first segment that is wanted.
func (r *reading) first() int64 { return r.offset / segmentSize }

// window is where the wanted segments are stored, and one octet more: what has
// that octet doesn't end the object.
func (r *reading) window() (begin, length int64) {
	begin = headerSize + r.first()*sealedSegment
	end := headerSize + (r.end()+segmentSize-1)/segmentSize*sealedSegment
	return begin, max(end-begin, 0) + 1
}

func (r *reading) read(ctx context.Context) (int, error) {
	begin, length := r.window()
	buffer := r.buffers.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= maxPooled {
			r.buffers.Put(buffer)
		}
	}()
	from := begin
	if r.how == nil && begin <= nearby {
		from = 0
	}
	if r.how == nil && from > 0 {
		if err := r.header(ctx); err != nil {
			return 0, err
		}
	}
	if r.how != nil && r.how.plain {
		return r.store.ReadAt(ctx, r.key, r.p, r.offset)
	}
	*buffer = grown(*buffer, begin-from+length)
	n, err := r.store.ReadAt(ctx, r.key, *buffer, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	stored := (*buffer)[:n]
	if r.how == nil {
		if err := r.learn(ctx, stored); err != nil {
			return 0, err
		}
		if r.how.plain {
			return r.store.ReadAt(ctx, r.key, r.p, r.offset)
		}
	}
	return r.open(ctx, stored[min(begin-from, int64(n)):], n < len(*buffer))
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
	if !isSealed(begin) && r.plain {
		r.how = &opened{plain: true}
		r.known.put(r.key, r.how)
		return nil
	}
	h, damage := decodeHeader(begin)
	if damage != "" {
		return corrupt(r.key, 0, damage)
	}
	data, err := r.ring.key(ctx, h.generation)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	derived, err := h.objectKey(data, r.key)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	r.how = &opened{key: derived}
	r.known.put(r.key, r.how)
	return nil
}

// open opens the stored segments into p. ended says that the object ends with
// them.
func (r *reading) open(ctx context.Context, stored []byte, ended bool) (int, error) {
	if !ended {
		stored = stored[:len(stored)-1]
	}
	if len(stored) == 0 {
		return 0, r.behind(ctx)
	}
	aead, err := r.how.key.cipher()
	if err != nil {
		return 0, err
	}
	filled := 0
	for number := r.first(); len(stored) > 0; number++ {
		segment := stored[:min(len(stored), sealedSegment)]
		stored = stored[len(segment):]
		at := number * segmentSize // of the plaintext
		// A segment that p takes whole is opened into it, another one in its place.
		whole := at >= r.offset && len(r.p)-filled >= len(segment)-tagSize
		into := segment[:0]
		if whole {
			into = r.p[filled:filled]
		}
		plain, err := aead.Open(into, nonce(uint32(number), ended && len(stored) == 0), segment, nil)
		switch {
		case err != nil || len(plain) == 0:
			return 0, corrupt(r.key, at, "a segment is not what was sealed here")
		case whole:
			filled += len(plain)
		default:
			skip := min(max(r.offset-at, 0), int64(len(plain)))
			filled += copy(r.p[filled:], plain[skip:])
		}
	}
	if filled < len(r.p) {
		return filled, io.EOF
	}
	return filled, nil
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
