package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

// A sealed object, version 1. In every later version magic and version stay
// where they are.
const (
	magic      = "PSTNSEAL"
	version    = 1
	headerSize = 56
	saltSize   = 32

	atVersion    = 8
	atFlags      = 10
	atGeneration = 12
	atSegment    = 16
	atZero       = 20 // reserved, zero
	atSalt       = 24

	segmentSize   = 16 << 10              // octets of plaintext in each segment but the last
	tagSize       = 16                    // octets that GCM adds to a segment
	sealedSegment = segmentSize + tagSize // octets of a full segment as stored

	// maxPlain is the most octets of one object: the segments' number has 32 bits.
	maxPlain = math.MaxUint32 * int64(segmentSize)
)

// header is a sealed object's.
type header struct {
	generation uint32
	salt       [saltSize]byte
}

// newHeader begins an object: its salt is its own.
func newHeader(generation uint32) header {
	h := header{generation: generation}
	rand.Read(h.salt[:]) // never fails: crypto/rand ends the process instead
	return h
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[atVersion:], version)
	binary.LittleEndian.PutUint32(b[atGeneration:], h.generation)
	binary.LittleEndian.PutUint32(b[atSegment:], segmentSize)
	copy(b[atSalt:], h.salt[:])
	return b
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
	if v := binary.LittleEndian.Uint16(b[atVersion:]); v != version {
		return h, fmt.Sprintf("version %d, version %d is known: damaged, or written by a newer release", v, version)
	}
	h.generation = binary.LittleEndian.Uint32(b[atGeneration:])
	copy(h.salt[:], b[atSalt:])
	switch {
	case binary.LittleEndian.Uint16(b[atFlags:]) != 0, binary.LittleEndian.Uint32(b[atZero:]) != 0:
		return h, "reserved octets of the header are used"
	case binary.LittleEndian.Uint32(b[atSegment:]) != segmentSize:
		return h, "segments of a size that version 1 does not have"
	case h.generation == 0:
		return h, "a key generation of 0"
	}
	return h, ""
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
