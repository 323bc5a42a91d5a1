package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/postern-pop/postern/pkg/blob"
)

// A sealed object, version 2. In every later version magic and version stay
// where they are.
const (
	magic      = "PSTNSEAL"
	version    = 2
	headerSize = 56
	saltSize   = 32

	atVersion    = 8
	atFlags      = 10
	atGeneration = 12
	atSegment    = 16 // version 1: octets of a segment
	atCRC        = 16 // version 2: CRC-32C of the rest of the header
	atMirror     = 20 // version 2: where the body's mirror begins; version 1: zero
	atSalt       = 24

	segmentSize   = 16 << 10              // octets of plaintext in each segment but the last
	tagSize       = 16                    // octets that GCM adds to a segment
	sealedSegment = segmentSize + tagSize // octets of a full segment as stored

	// maxPlain is the most octets of one object: the segments' number has 32 bits.
	maxPlain = math.MaxUint32 * int64(segmentSize)
)

// header is a sealed object's.
type header struct {
	version    uint16
	pads       uint16 // pieces of 16 octets between the first side and the mirror
	generation uint32
	mirror     uint32 // offset of the mirror in the plaintext; 0: there is none
	salt       [saltSize]byte
}

// newHeader begins an object: its salt is its own.
func newHeader(generation, mirror uint32, pads uint16) header {
	h := header{version: version, generation: generation, mirror: mirror, pads: pads}
	rand.Read(h.salt[:]) // never fails: crypto/rand ends the process instead
	return h
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[atVersion:], h.version)
	binary.LittleEndian.PutUint16(b[atFlags:], h.pads)
	binary.LittleEndian.PutUint32(b[atGeneration:], h.generation)
	binary.LittleEndian.PutUint32(b[atMirror:], h.mirror)
	copy(b[atSalt:], h.salt[:])
	if h.version == 1 {
		binary.LittleEndian.PutUint32(b[atSegment:], segmentSize)
	} else {
		binary.LittleEndian.PutUint32(b[atCRC:], headerSum(b))
	}
	return b
}

// headerSum is the checksum of a header of version 2.
func headerSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:atCRC], castagnoli), castagnoli, b[atMirror:headerSize])
}

// isSealed tells a sealed object by how it begins.
func isSealed(b []byte) bool { return len(b) >= len(magic) && string(b[:len(magic)]) == magic }

// decodeHeader reads the first octets of an object. What it returns is not to be
// believed before a segment was opened with the key that it leads to.
func decodeHeader(b []byte) (h header, damage string) {
	if !isSealed(b) {
		return h, "the object is not a sealed one"
	}
	if len(b) < headerSize {
		return h, "the object ends in its header"
	}
	h.version = binary.LittleEndian.Uint16(b[atVersion:])
	h.pads = binary.LittleEndian.Uint16(b[atFlags:])
	h.generation = binary.LittleEndian.Uint32(b[atGeneration:])
	h.mirror = binary.LittleEndian.Uint32(b[atMirror:])
	copy(h.salt[:], b[atSalt:])
	switch {
	case h.version == 0 || h.version > version:
		return h, fmt.Sprintf("version %d, versions up to %d are known: damaged, or written by a newer release", h.version, version)
	case h.version == 1 && (h.pads != 0 || h.mirror != 0):
		return h, "reserved octets of the header are used"
	case h.version == 1 && binary.LittleEndian.Uint32(b[atSegment:]) != segmentSize:
		return h, "segments of a size that version 1 does not have"
	case h.version > 1 && binary.LittleEndian.Uint32(b[atCRC:]) != headerSum(b):
		return h, "the header's checksum is wrong"
	case h.generation == 0:
		return h, "a key generation of 0"
	case h.pads > maxPads || h.mirror > 0 && h.mirror <= blob.MirrorGap:
		return h, "lengths of the header are out of range"
	}
	return h, ""
}

// mend finds the header of version 2 that one damaged octet was changed from: the
// checksum leaves no other within that distance. What opens with it is proved by its seal.
func mend(b []byte) (h header, octet int, ok bool) {
	if len(b) < headerSize {
		return h, 0, false
	}
	tried := [headerSize]byte(b[:headerSize])
	from, to := 0, headerSize
	for i := range len(magic) { // others than these have begun otherwise: most are not sealed
		if tried[i] != magic[i] {
			if to == 1+from {
				return h, 0, false
			}
			from, to = i, i+1
		}
	}
	for octet = from; octet < to; octet++ {
		was := tried[octet]
		for change := 1; change < 256; change++ {
			tried[octet] = was ^ byte(change)
			if h, damage := decodeHeader(tried[:]); damage == "" && h.version > 1 {
				return h, octet, true
			}
		}
		tried[octet] = was
	}
	return h, 0, false
}

// objectKey is the key of one object alone. It hangs on every octet of the
// header and on the object's name, so that none of them can be changed.
func (h header) objectKey(data *secret, name string) (*secret, error) {
	info := string(h.encode()[:atSalt]) + name
	derived, err := hkdf.Key(sha256.New, data.reveal()[:], h.salt[:], info, keySize)
	if err != nil {
		return nil, err
	}
	return newSecret(derived), nil
}

// cipher is AES-256-GCM with the key.
func (s *secret) cipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.reveal()[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonce is a segment's: its number, and whether the object ends with it (the
// STREAM construction). The key being the object's own, no nonce is used twice.
func nonce(number uint32, last bool) []byte {
	var n [12]byte
	binary.BigEndian.PutUint32(n[7:], number)
	if last {
		n[11] = 1
	}
	return n[:]
}

// sealedSize is how many octets are stored for so many of plaintext.
func sealedSize(plain int64) int64 {
	return headerSize + plain + (plain+segmentSize-1)/segmentSize*tagSize
}

// plainSize is sealedSize's inverse, and 0 for a size that no sealed object has.
func plainSize(stored int64) int64 {
	rest := stored - headerSize
	if rest <= tagSize || rest > sealedSize(maxPlain)-headerSize {
		return 0
	}
	segments := (rest + sealedSegment - 1) / sealedSegment
	if rest-(segments-1)*sealedSegment <= tagSize {
		return 0
	}
	return rest - segments*tagSize
}
