// Package snapshot keeps what a view of etcd said last, so that a process can
// start while etcd is away: from its own disk, or from another process that
// has been told more.
//
//	view ──changed──▶ Keep ──▶ file ─┐
//	                                 ├─ newest ──▶ a view without etcd, until etcd answers
//	another process's view ──────────┘
//
// A snapshot is one view whole, at one revision of etcd. It is a memory and no
// authority: whoever starts from one goes on asking etcd, and what etcd says replaces
// it. It never expires: an old route that leads nowhere costs a temporary error, and no
// route at all is an outage.
//
// # Format
//
//	"postern snapshot 1\n"  SHA-256 of what follows (32 octets)  gzip of JSON
//
// # Decisions
//
//   - 2026-11-25: the newest by etcd's revision is taken, of all that can be had
//     within a moment. Refused: the disk first and others only without it, for a front
//     that comes back after a day would route by yesterday's accounts while
//     its neighbours know today's.
//   - 2026-11-25: a file is written some seconds after a change, not at each: an
//     administrator's script makes thousands of them. What is lost by a crash in
//     between is known to the others.
package snapshot

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxOctets bounds a snapshot, encoded and decoded: a directory of a million
// customers fits.
const MaxOctets = 1 << 30

const magic = "postern snapshot 1\n"

// Snapshot is what a view said at one revision.
type Snapshot struct {
	View     string    `json:"view"`     // whose: "directory", or "owners/" and the region
	Revision int64     `json:"revision"` // etcd's
	Taken    time.Time `json:"taken"`    // when etcd last agreed with it
	Entries  []Entry   `json:"entries"`
}

// Entry is one key.
type Entry struct {
	Key      string `json:"key"`
	Value    []byte `json:"value"`
	Revision int64  `json:"revision,omitempty"` // of its last write; 0 where nobody needs it
}

// ErrNone says that there is no snapshot, or none that is newer.
var ErrNone = errors.New("no snapshot")

// Encode is the snapshot's file.
func Encode(s Snapshot) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(magic)
	b.Write(make([]byte, sha256.Size))
	z := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(z).Encode(s), z.Close()); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b.Bytes()[len(magic)+sha256.Size:])
	copy(b.Bytes()[len(magic):], sum[:])
	return b.Bytes(), nil
}

// Decode is the opposite. It refuses what is damaged, too long, or of another
// view.
func Decode(view string, octets []byte) (Snapshot, error) {
	rest, ok := bytes.CutPrefix(octets, []byte(magic))
	if !ok || len(rest) < sha256.Size {
		return Snapshot{}, errors.New("not a snapshot that this version knows")
	}
	if sum := sha256.Sum256(rest[sha256.Size:]); subtle.ConstantTimeCompare(sum[:], rest[:sha256.Size]) == 0 {
		return Snapshot{}, errors.New("the snapshot is damaged")
	}
	z, err := gzip.NewReader(bytes.NewReader(rest[sha256.Size:]))
	if err != nil {
		return Snapshot{}, err
	}
	var s Snapshot
	if err := json.NewDecoder(io.LimitReader(z, MaxOctets)).Decode(&s); err != nil {
		return Snapshot{}, err
	}
	if s.View != view || s.Revision <= 0 {
		return Snapshot{}, fmt.Errorf("the snapshot is of %q at revision %d, not of %q", s.View, s.Revision, view)
	}
	return s, nil
}
