package sealed

import (
	"io"
	"math"

	"github.com/postern-pop/postern/pkg/blob"
)

// maxPads is how many pieces of tagSize octets may be before a mirror.
const maxPads = 2

// layout says where an object's plaintext is stored: in segments, one side of them, or
// two with a gap between that isn't stored.
type layout struct {
	first  int64  // where the first side ends; 0: there is none
	mirror int64  // where the second side begins
	begin  int64  // the octet at which that is stored
	number uint32 // of its first segment
}

// segments is how many a side of so many octets has.
func segments(plain int64) int64 { return (plain + segmentSize - 1) / segmentSize }

func (h header) layout() layout {
	if h.mirror == 0 {
		return layout{begin: headerSize}
	}
	l := layout{first: int64(h.mirror) - blob.MirrorGap, mirror: int64(h.mirror)}
	l.number = uint32(segments(l.first))
	l.begin = l.firstEnd() + int64(h.pads)*tagSize
	return l
}

// firstEnd is the octet behind the first side as it is stored.
func (l layout) firstEnd() int64 { return headerSize + l.first + int64(l.number)*tagSize }

// side is where the side ends that an offset is in.
func (l layout) side(at int64) int64 {
	if at < l.first {
		return l.first
	}
	return math.MaxInt64
}

// segment is a piece of the object.
type segment struct {
	number uint32
	plain  int64 // its first octet in the plaintext
	stored int64 // and as it is stored
	length int64 // octets stored, at most: the last one of the object may be shorter
}

// at finds the segment that an offset is in, which is not in the gap.
func (l layout) at(offset int64) segment {
	if offset < l.first {
		number := offset / segmentSize
		plain := number * segmentSize
		return segment{uint32(number), plain, headerSize + number*sealedSegment, min(segmentSize, l.first-plain) + tagSize}
	}
	number := (offset - l.mirror) / segmentSize
	return segment{l.number + uint32(number), l.mirror + number*segmentSize, l.begin + number*sealedSegment, sealedSegment}
}

// inGap reports whether the offset is in the gap.
func (l layout) inGap(offset int64) bool { return offset >= l.first && offset < l.mirror }

// divide says how a body is divided, so that it takes the size that sealedSize says:
// what is left out of the gap makes room for one more seal.
func divide(body io.Reader, size int64) (mirror uint32, pads uint16) {
	m, ok := body.(blob.Mirrored)
	if !ok {
		return 0, 0
	}
	at := m.Mirror()
	if at <= blob.MirrorGap || at >= size || at > math.MaxUint32 {
		return 0, 0
	}
	return uint32(at), uint16(1 + segments(size) - segments(at-blob.MirrorGap) - segments(size-at))
}
