package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/blob"
)

// What every ledger object has besides its records, and how often these are in it.
const (
	fixedSize = headerSize + blob.MirrorGap + headerSize
	copies    = 2
)

// appendMirror ends an object with what it begins with, its head: the records,
// then the header, so that it is found from the end.
func appendMirror(object []byte, head int) []byte {
	var gap [blob.MirrorGap]byte
	object = append(append(object, gap[:]...), object[headerSize:head]...)
	return append(object, object[:headerSize]...)
}

// mirror is the octet at which the object's second records begin.
func (h header) mirror() int { return h.size() - headerSize - h.headers }

// object is an encoded ledger object on its way into the store.
type object struct {
	*bytes.Reader
	mirror int64
}

// Mirror implements blob.Mirrored.
func (o object) Mirror() int64 { return o.mirror }

// bodyOf is how an object goes to the store.
func bodyOf(content []byte) io.Reader {
	h, err := decodeHeader(content)
	if err != nil || h.version == version {
		return bytes.NewReader(content) // not a ledger object
	}
	return object{bytes.NewReader(content), int64(h.mirror())}
}

// decodeEither takes a whole object apart, by whichever copy of its headers is
// sound, and says what is wrong with the rest. The error is of an object that neither tells;
// the entries are then those before the damage.
func decodeEither(b []byte) (h header, entries []Entry, damages []error, err error) {
	h, err = decodeHeader(b)
	if errors.Is(err, ErrCorrupt) && len(b) >= fixedSize {
		if last, other := decodeHeader(b[len(b)-headerSize:]); other == nil && last.version != version && last.size() == len(b) {
			h, damages, err = last, append(damages, err), nil
		}
	}
	if err != nil {
		return h, nil, damages, err
	}
	if len(b) != h.size() {
		damages = append(damages, lengthDamage(len(b), h.size()))
	}
	entries, err = decodeRecords(h, b[headerSize:])
	if errors.Is(err, ErrCorrupt) && h.version != version && len(b) >= h.mirror() {
		if second, other := decodeRecords(h, b[h.mirror():]); other == nil {
			return h, second, append(damages, err), nil
		}
	}
	if err == nil && len(damages) == 0 {
		if damaged := mirrorDamage(h, b); damaged != nil {
			damages = append(damages, damaged)
		}
	}
	return h, entries, damages, err
}

// mirrorDamage says what is wrong with the mirror of a whole object with a sound head.
func mirrorDamage(h header, b []byte) error {
	if h.version == version {
		return nil
	}
	head := headerSize + h.headers
	want, at := appendMirror(append(make([]byte, 0, h.size()), b[:head]...), head)[head:], head+h.bodies
	for i, octet := range want {
		if octet != b[at+i] {
			return damage(at+i, "the second copy of the headers differs from the first")
		}
	}
	return nil
}

// mirrorHeader reads the header that ends an object, whose first one is damaged: one
// read, and a list if the object's size isn't known (-1).
func (f files) mirrorHeader(ctx context.Context, key string, size int64, first error) (h header, err error) {
	if size < 0 {
		if size, err = f.size(ctx, key); errors.Is(err, blob.ErrNotFound) {
			return h, fmt.Errorf("%w; and it isn't listed", first)
		} else if err != nil {
			return h, err
		}
	}
	var b [headerSize]byte
	if size < fixedSize {
		err = damage(int(size), "the object is cut off")
	} else if err = f.read(ctx, key, b[:], size-headerSize); err == nil {
		h, err = decodeHeader(b[:])
	}
	if err == nil && (h.version == version || int64(h.size()) != size) {
		err = damage(int(size-headerSize), "it says another length")
	}
	if errors.Is(err, ErrCorrupt) {
		return header{}, fmt.Errorf("%w; and the copy at the end: %w", first, err)
	}
	return h, err
}

// size asks the store for an object's.
func (f files) size(ctx context.Context, key string) (int64, error) {
	for info, err := range f.store.List(ctx, key, "") {
		if err != nil {
			return 0, err
		}
		if info.Key == key {
			return info.Size, nil
		}
		break
	}
	return 0, fmt.Errorf("%s: %w", key, blob.ErrNotFound)
}
