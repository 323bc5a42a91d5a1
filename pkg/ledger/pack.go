package ledger

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// A pack: a header, then the bodies, each followed by its checksum as in a
// ledger object. Magic, version, flags, identity and epoch are where that has them.
const (
	packMagic = "PSTNPACK"
	packSize  = 40 // of the header

	atPackCount  = 24
	atPackFrames = 28
	atPackClass  = 32
	atPackCRC    = 36
)

// PackBody is a body on its way into a pack.
type PackBody struct {
	Position Position // of the message that it belongs to
	Body     []byte   // wire form, at most MaxInline octets
}

// PackSize is how large a pack of so many bodies with so many octets together
// will be: at most MaxPack goes.
func PackSize(bodies int, octets uint64) uint64 {
	return packSize + uint64(bodies)*crcSize + octets
}

// WritePack makes a pack object of the bodies, all of one retention class, and
// returns its name, the offset of each body in it, and the object's size, when it is
// durable. A pack that no record names is garbage. What the store refuses is
// repeated until ctx ends: give it a deadline. After an error nothing counts as
// written.
func (l *Ledger) WritePack(ctx context.Context, class uint8, bodies []PackBody) (object string, offsets []uint32, size uint64, err error) {
	const op = "ledger.write_pack"
	if err := l.usable(op); err != nil {
		return "", nil, 0, err
	}
	object = newName(l.epoch)
	content, offsets, err := encodePack(object, l.identity, l.epoch, class, bodies)
	if err != nil {
		return "", nil, 0, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if err := l.files.commit(ctx, l.files.pack(object), content, packSize, nil, l.log); err != nil {
		return "", nil, 0, &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return object, offsets, uint64(len(content)), nil
}

func encodePack(name string, identity uint32, epoch uint64, class uint8, bodies []PackBody) ([]byte, []uint32, error) {
	octets := uint64(0)
	for _, body := range bodies {
		octets += uint64(len(body.Body))
		if len(body.Body) == 0 || len(body.Body) > MaxInline {
			return nil, nil, fmt.Errorf("body of %d octets: %w", len(body.Body), ErrLimit)
		}
	}
	size := PackSize(len(bodies), octets)
	if len(bodies) == 0 || len(bodies) > MaxPacked || size > MaxPack {
		return nil, nil, fmt.Errorf("pack of %d bodies and %d octets: %w", len(bodies), size, ErrLimit)
	}
	b, offsets := make([]byte, packSize, size), make([]uint32, len(bodies))
	for i, body := range bodies {
		offsets[i] = uint32(len(b))
		b = append(b, body.Body...)
		b = binary.LittleEndian.AppendUint32(b, bodySum(identity, body.Position, body.Body))
	}
	putFront(b, packMagic, identity)
	binary.LittleEndian.PutUint64(b[atEpoch:], epoch)
	binary.LittleEndian.PutUint32(b[atPackCount:], uint32(len(bodies)))
	binary.LittleEndian.PutUint32(b[atPackFrames:], uint32(len(b)-packSize))
	b[atPackClass] = class
	binary.LittleEndian.PutUint32(b[atPackCRC:], packSum(name, b))
	return b, offsets, nil
}

// packSum covers the name and the header; each body has its own.
func packSum(name string, b []byte) uint32 {
	return checksum(checksum(0, []byte(name)), b[:atPackCRC])
}

// packHeader is a pack's, decoded.
type packHeader struct {
	identity uint32
	epoch    uint64
	count    int // bodies
	frames   int // octets of the bodies with their checksums
	class    uint8
}

// decodePack reads the first octets of the pack of a name.
func decodePack(name string, b []byte) (h packHeader, err error) {
	if len(b) < packSize {
		return h, damage(len(b), "object ends in its header")
	}
	if err := checkFront(b, packMagic, version, packSum(name, b), atPackCRC); err != nil {
		return h, err
	}
	count, frames := binary.LittleEndian.Uint32(b[atPackCount:]), binary.LittleEndian.Uint32(b[atPackFrames:])
	h = packHeader{
		identity: binary.LittleEndian.Uint32(b[atIdentity:]), epoch: binary.LittleEndian.Uint64(b[atEpoch:]),
		count: int(count), frames: int(frames), class: b[atPackClass],
	}
	switch epoch, ok := epochOf(name); {
	case !ok || epoch != h.epoch:
		return h, damage(atEpoch, "the pack is of another epoch than its name")
	case count < 1 || count > MaxPacked || frames > MaxPack-packSize || uint64(frames) < uint64(count)*(crcSize+1):
		return h, damage(atPackCount, "lengths out of range")
	case b[atPackClass+1] != 0 || b[atPackClass+2] != 0 || b[atPackClass+3] != 0:
		return h, damage(atPackClass+1, "reserved octets are used")
	}
	return h, nil
}
