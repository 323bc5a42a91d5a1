package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// mended sets a checksum right, so that the rest is looked at too.
func mended(b []byte, at int, sum func([]byte) uint32) []byte {
	if len(b) >= at+crcSize {
		binary.LittleEndian.PutUint32(b[at:], sum(b))
	}
	return b
}

func sorted(t *testing.T, err error) bool {
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
		t.Fatalf("unsorted error: %v", err)
	}
	return err == nil
}

// FuzzManifest: whatever is accepted encodes to the same octets again.
func FuzzManifest(f *testing.F) {
	c := checkpoint{sequence: 9, epoch: 3, name: "0000000000000003-00000000000000000000000000"}
	m := &manifest{checkpoint: c, identity: 7, time: time.Unix(1, 2).UTC(), parts: []partSum{{1, 2}, {MaxPart, 4}}}
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= manifestSize {
			mended(b, atManifestCRC, func(b []byte) uint32 { return manifestSum(c.name, b) })
		}
		m, err := decodeManifest(c, b)
		if sorted(t, err) && !bytes.Equal(m.encode(), b) {
			t.Fatalf("encoded again it differs: %x, %x", m.encode(), b)
		}
	})
}

// FuzzPart: whatever is accepted encodes to the same octets again.
func FuzzPart(f *testing.F) {
	c := checkpoint{sequence: 9, epoch: 3, name: "0000000000000003-00000000000000000000000000"}
	part, _ := encodePart(nil, c, 7, 5, []byte("payload"))
	f.Add(part)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= partSize {
			mended(b, atPartCRC, func(b []byte) uint32 { return sumOfPart(c.name, b) })
		}
		payload, err := decodePart(c, 7, 5, b)
		if !sorted(t, err) {
			return
		}
		if again, _ := encodePart(nil, c, 7, 5, payload); !bytes.Equal(again, b) {
			t.Fatalf("encoded again it differs: %x, %x", again, b)
		}
	})
}

// FuzzPack: a header that is accepted is within the limits.
func FuzzPack(f *testing.F) {
	name := "0000000000000003-00000000000000000000000000"
	pack, _, err := encodePack(name, 7, 3, 1, []PackBody{{At(2, 0), []byte("body")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pack)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= packSize {
			mended(b, atPackCRC, func(b []byte) uint32 { return packSum(name, b) })
		}
		h, err := decodePack(name, b)
		if sorted(t, err) && (h.count < 1 || h.count > MaxPacked || h.frames > MaxPack-packSize || h.epoch != 3) {
			t.Fatalf("%+v", h)
		}
	})
}
