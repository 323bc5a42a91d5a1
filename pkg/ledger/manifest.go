package ledger

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A manifest: what a checkpoint covers, and its parts. Magic, version, flags,
// identity and epoch are where a ledger object has them.
const (
	manifestMagic = "PSTNMANI"
	manifestSize  = 88 // without the parts' sums
	partSumSize   = 8

	atManifestSequence = 24
	atManifestTime     = 32
	atManifestSecret   = 40
	atManifestOctets   = 72
	atManifestCount    = 80
	atManifestCRC      = 84
)

// A part of a checkpoint: a header, then the payload, which is State's.
const (
	partMagic = "PSTNPART"
	partSize  = 36 // of the header

	atPartNumber = 24
	atPartLength = 28
	atPartCRC    = 32
)

// Limits of a checkpoint.
const (
	MaxPart  = 8 << 20 // octets of one part that WriteCheckpoint takes
	maxParts = 1 << 16
)

// manifest is a checkpoint's, decoded.
type manifest struct {
	checkpoint
	identity uint32
	secret   [32]byte
	time     time.Time
	parts    []partSum
}

// partSum is what a manifest knows of a part.
type partSum struct {
	length uint32 // of the payload, octets
	crc    uint32 // as in the part's header
}

// octets is the sum of the payloads.
func (m *manifest) octets() (n uint64) {
	for _, p := range m.parts {
		n += uint64(p.length)
	}
	return n
}

func (m *manifest) encode() []byte {
	b := make([]byte, manifestSize, manifestSize+len(m.parts)*partSumSize)
	putFront(b, manifestMagic, m.identity)
	binary.LittleEndian.PutUint64(b[atEpoch:], m.epoch)
	binary.LittleEndian.PutUint64(b[atManifestSequence:], m.sequence)
	binary.LittleEndian.PutUint64(b[atManifestTime:], uint64(m.time.UnixNano()))
	copy(b[atManifestSecret:], m.secret[:])
	binary.LittleEndian.PutUint64(b[atManifestOctets:], m.octets())
	binary.LittleEndian.PutUint32(b[atManifestCount:], uint32(len(m.parts)))
	for _, p := range m.parts {
		b = binary.LittleEndian.AppendUint32(b, p.length)
		b = binary.LittleEndian.AppendUint32(b, p.crc)
	}
	binary.LittleEndian.PutUint32(b[atManifestCRC:], manifestSum(m.name, b))
	return b
}

// manifestSum covers the name too: a manifest in another's place fails it.
func manifestSum(name string, b []byte) uint32 {
	crc := checksum(checksum(0, []byte(name)), b[:atManifestCRC])
	return checksum(crc, b[manifestSize:])
}

// decodeManifest takes the octets of the manifest of a name apart.
func decodeManifest(c checkpoint, b []byte) (*manifest, error) {
	if len(b) < manifestSize {
		return nil, damage(len(b), "object ends in its header")
	}
	if err := checkFront(b, manifestMagic, version, manifestSum(c.name, b), atManifestCRC); err != nil {
		return nil, err
	}
	m := &manifest{
		checkpoint: checkpoint{
			sequence: binary.LittleEndian.Uint64(b[atManifestSequence:]), epoch: binary.LittleEndian.Uint64(b[atEpoch:]), name: c.name,
		},
		identity: binary.LittleEndian.Uint32(b[atIdentity:]),
		time:     time.Unix(0, int64(binary.LittleEndian.Uint64(b[atManifestTime:]))).UTC(),
	}
	copy(m.secret[:], b[atManifestSecret:])
	if m.checkpoint != c {
		return nil, damage(atManifestSequence, fmt.Sprintf("the manifest says it is of sequence %d and epoch %d", m.sequence, m.epoch))
	}
	return m, m.sums(b)
}

// sums takes the parts' lengths and checksums.
func (m *manifest) sums(b []byte) error {
	count, sums := binary.LittleEndian.Uint32(b[atManifestCount:]), b[manifestSize:]
	if count > maxParts || len(sums) != int(count)*partSumSize {
		return damage(atManifestCount, "number of parts out of range")
	}
	m.parts = make([]partSum, count)
	for i := range m.parts {
		at := i * partSumSize
		m.parts[i] = partSum{length: binary.LittleEndian.Uint32(sums[at:]), crc: binary.LittleEndian.Uint32(sums[at+4:])}
		if m.parts[i].length > MaxPart {
			return damage(manifestSize+at, "length of a part out of range")
		}
	}
	if m.octets() != binary.LittleEndian.Uint64(b[atManifestOctets:]) {
		return damage(atManifestOctets, "the parts' lengths have another sum")
	}
	return nil
}

// encodePart makes a part in buffer's room.
func encodePart(buffer []byte, c checkpoint, identity uint32, number int, payload []byte) ([]byte, partSum) {
	var header [partSize]byte
	putFront(header[:], partMagic, identity)
	binary.LittleEndian.PutUint64(header[atEpoch:], c.epoch)
	binary.LittleEndian.PutUint32(header[atPartNumber:], uint32(number))
	binary.LittleEndian.PutUint32(header[atPartLength:], uint32(len(payload)))
	b := append(append(buffer[:0], header[:]...), payload...)
	sum := partSum{length: uint32(len(payload)), crc: sumOfPart(c.name, b)}
	binary.LittleEndian.PutUint32(b[atPartCRC:], sum.crc)
	return b, sum
}

// sumOfPart covers the checkpoint's name, and the part's number in its header.
func sumOfPart(name string, b []byte) uint32 {
	crc := checksum(checksum(0, []byte(name)), b[:atPartCRC])
	return checksum(crc, b[partSize:])
}

// decodePart verifies a part's octets and returns the payload.
func decodePart(c checkpoint, identity uint32, number int, b []byte) ([]byte, error) {
	if len(b) < partSize {
		return nil, damage(len(b), "object ends in its header")
	}
	if err := checkFront(b, partMagic, version, sumOfPart(c.name, b), atPartCRC); err != nil {
		return nil, err
	}
	payload := b[partSize:]
	switch {
	case binary.LittleEndian.Uint32(b[atIdentity:]) != identity, binary.LittleEndian.Uint64(b[atEpoch:]) != c.epoch:
		return nil, damage(atIdentity, "the part is of another ledger or epoch")
	case binary.LittleEndian.Uint32(b[atPartNumber:]) != uint32(number):
		return nil, damage(atPartNumber, "the part has another number")
	case uint64(binary.LittleEndian.Uint32(b[atPartLength:])) != uint64(len(payload)):
		return nil, damage(atPartLength, "the part has another length")
	}
	return payload, nil
}

// check holds a part against its manifest.
func (p partSum) check(b []byte) error {
	if uint64(p.length) != uint64(len(b)-partSize) || p.crc != binary.LittleEndian.Uint32(b[atPartCRC:]) {
		return fmt.Errorf("octet %d: the part isn't the one of its manifest: %w", atPartCRC, ErrCorrupt)
	}
	return nil
}
