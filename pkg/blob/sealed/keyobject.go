package sealed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A key object, version 1, of which two are one after the other, so that damage in
// one of them costs nothing. The first releases wrote one.
const (
	keyMagic   = "PSTNDKEY"
	keyVersion = 1
	keyHead    = 34 // octets before the wrapper's name
	crcSize    = 4

	atKeyVersion    = 8
	atKeyZero       = 10 // reserved, zero
	atKeyGeneration = 12
	atKeyCheck      = 16
	atKeyName       = 32 // length, 2 octets

	maxName      = 512
	maxWrapped   = 4096
	maxKeyObject = keyHead + maxName + 2 + maxWrapped + crcSize
)

// maxWraps is how often one data key can be wrapped anew.
const maxWraps = 9999

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keyObject is a wrapped data key.
type keyObject struct {
	generation uint32
	check      [checkSize]byte
	name       string // of the key that it is wrapped by
	wrapped    []byte
}

// head is the part that is bound to the wrapped key.
func (k keyObject) head() []byte {
	b := make([]byte, keyHead, keyHead+len(k.name)+2+len(k.wrapped)+crcSize)
	copy(b, keyMagic)
	binary.LittleEndian.PutUint16(b[atKeyVersion:], keyVersion)
	binary.LittleEndian.PutUint32(b[atKeyGeneration:], k.generation)
	copy(b[atKeyCheck:], k.check[:])
	binary.LittleEndian.PutUint16(b[atKeyName:], uint16(len(k.name)))
	return append(b, k.name...)
}

// bound is the associated data that the key is wrapped with.
func (k keyObject) bound(prefix string) []byte { return append(k.head(), prefix...) }

func (k keyObject) encode() ([]byte, error) {
	if len(k.name) == 0 || len(k.name) > maxName || len(k.wrapped) == 0 || len(k.wrapped) > maxWrapped {
		return nil, fmt.Errorf("a wrapped key of %d octets by a key with a name of %d: at most %d and %d",
			len(k.wrapped), len(k.name), maxWrapped, maxName)
	}
	b := binary.LittleEndian.AppendUint16(k.head(), uint16(len(k.wrapped)))
	b = append(b, k.wrapped...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, b...), nil
}

var errKeyObject = errors.New("the key object is damaged")

// decodeKeyObject reads whichever copy is sound; damaged is what is wrong with the
// other.
func decodeKeyObject(b []byte) (k keyObject, damaged, err error) {
	if k, err := decodeKeyOnce(b); err == nil {
		return k, nil, nil
	}
	half := len(b) / 2
	k, err = decodeKeyOnce(b[:half])
	other, damaged := decodeKeyOnce(b[half:])
	switch {
	case err != nil && damaged != nil:
		return k, nil, err
	case err != nil:
		return other, err, nil
	case damaged == nil && !bytes.Equal(b[:half], b[half:]):
		damaged = fmt.Errorf("%w: its two copies differ", errKeyObject)
	}
	return k, damaged, nil
}

func decodeKeyOnce(b []byte) (k keyObject, err error) {
	bad := func(what string) error { return fmt.Errorf("%w: %s", errKeyObject, what) }
	switch {
	case len(b) < keyHead+2+crcSize || len(b) > maxKeyObject:
		return k, bad("its length is out of range")
	case string(b[:len(keyMagic)]) != keyMagic:
		return k, bad("it does not begin as one")
	case crc32.Checksum(b[:len(b)-crcSize], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-crcSize:]):
		return k, bad("its checksum is wrong")
	case binary.LittleEndian.Uint16(b[atKeyVersion:]) != keyVersion:
		return k, fmt.Errorf("a key object of version %d, version %d is known", binary.LittleEndian.Uint16(b[atKeyVersion:]), keyVersion)
	case binary.LittleEndian.Uint16(b[atKeyZero:]) != 0:
		return k, bad("reserved octets are used")
	}
	k.generation = binary.LittleEndian.Uint32(b[atKeyGeneration:])
	copy(k.check[:], b[atKeyCheck:])
	rest := b[keyHead : len(b)-crcSize]
	name := int(binary.LittleEndian.Uint16(b[atKeyName:]))
	if name == 0 || name > maxName || name+2 > len(rest) {
		return k, bad("the length of its name is out of range")
	}
	k.name, rest = string(rest[:name]), rest[name:]
	wrapped := int(binary.LittleEndian.Uint16(rest))
	if wrapped == 0 || wrapped > maxWrapped || wrapped != len(rest)-2 {
		return k, bad("the length of its wrapped key is out of range")
	}
	k.wrapped = rest[2:]
	return k, nil
}

// slot is a place of a key object: a generation, and how often its data key had
// been wrapped before.
type slot struct{ generation, wrap uint32 }

// name is the slot's in the folder of keys.
func (s slot) name() string {
	if s.wrap == 0 {
		return fmt.Sprintf("%010d", s.generation)
	}
	return fmt.Sprintf("%010d-%04d", s.generation, s.wrap)
}

// parseSlot is name's inverse.
func parseSlot(name string) (s slot, ok bool) {
	digits, wrap, again := strings.Cut(name, "-")
	generation, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return s, false
	}
	s.generation = uint32(generation)
	if again {
		number, err := strconv.ParseUint(wrap, 10, 32)
		if err != nil || number > maxWraps {
			return s, false
		}
		s.wrap = uint32(number)
	}
	return s, s.generation > 0 && s.name() == name
}
