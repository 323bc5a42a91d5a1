package sealed

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

const (
	keySize   = 32 // octets of every key here: AES-256, HKDF-SHA256
	checkSize = 16
)

// secret is a key. A function holds it, so that nothing that prints a struct
// around it, by whichever verb, shows more than an address.
type secret struct{ reveal func() *[keySize]byte }

func newSecret(octets []byte) *secret {
	var kept [keySize]byte
	copy(kept[:], octets)
	return &secret{func() *[keySize]byte { return &kept }}
}

// randomSecret makes a key.
func randomSecret() *secret {
	var octets [keySize]byte
	rand.Read(octets[:]) // never fails: crypto/rand ends the process instead
	return newSecret(octets[:])
}

// check tells a data key without telling of it: it hangs on the key, its
// generation and its shard. Nobody without the key can make one, so a key object
// that was copied to another shard fails it whatever the wrapper thinks of
// associated data.
func (s *secret) check(prefix string, generation uint32) (check [checkSize]byte, err error) {
	info := "postern data key " + string(binary.LittleEndian.AppendUint32(nil, generation)) + prefix
	derived, err := hkdf.Key(sha256.New, s.reveal()[:], nil, info, checkSize)
	copy(check[:], derived)
	return check, err
}
