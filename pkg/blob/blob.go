// Package blob is the door to the object store: immutable objects under keys,
// and the one promise that Postern's safety stands on.
//
//	blob.Store ── blob/dir   a directory on one machine, fsync'ed
//	           └─ blob/s3    S3-compatible storage
//
// # What every Store promises (package blobtest holds them to it)
//
//   - Create is atomic: of any number of callers that create one key, exactly
//     one succeeds, whenever they come, and the others get ErrExists. An object
//     is never seen half written, and never changes.
//   - When Create returned nil the object is durable.
//   - When Create returned an error that is neither ErrExists nor ErrMaybe,
//     the object was not created and will not appear later. ErrMaybe: it may be there,
//     or may appear; repeating the call, or reading, tells.
//   - Reads and lists see every object created before they began.
//   - Every call may be repeated. Deleting what isn't there is no error.
//
// Keys are slash-separated paths of [a-z0-9._-] segments, without "." and ".."
// (CheckKey). Package blob/measured counts what any Store does.
package blob

import (
	"context"
	"errors"
	"io"
	"iter"
)

var (
	// ErrExists says that Create found an object at the key.
	ErrExists = errors.New("object exists")
	// ErrNotFound says that there is no object at the key.
	ErrNotFound = errors.New("no such object")
	// ErrMaybe says that it is not known whether the object was created.
	ErrMaybe = errors.New("outcome unknown")
	// ErrCorrupt says that an object isn't what was created: a Store that can tell
	// never returns such octets.
	ErrCorrupt = errors.New("damaged")
	// ErrFull says that the store has no room.
	ErrFull = errors.New("store full")
	// ErrReadOnly says that the store takes nothing in until somebody acts: that
	// repeating a Create soon is no use. It says why, and comes with ErrMaybe where the
	// outcome is unknown.
	ErrReadOnly = errors.New("store read-only")
	// ErrThrottled says that the store asks for fewer requests. It says why, and
	// comes with ErrMaybe where the outcome is unknown.
	ErrThrottled = errors.New("store asks to slow down")
)

// Info is what List says of an object.
type Info struct {
	Key  string
	Size int64 // octets
}

// MirrorGap is how many octets of zero a Mirrored body has before its mirror.
const MirrorGap = 16

// Mirrored is a body whose end says again what its beginning says, so that damage
// in one of them costs nothing. A Store that can only read whole pieces of an object,
// as one that encrypts does, lets no piece hold octets of both sides: it may leave out the
// octets of the gap to have room for that, and reads them as zero.
type Mirrored interface {
	io.Reader
	// Mirror is the offset of the second telling, behind the gap.
	Mirror() int64
}

// Store keeps objects. Implementations are safe for concurrent use.
type Store interface {
	// Create makes the object at key of exactly size octets from body, unless
	// there is one. Empty objects are refused: not every store keeps them.
	Create(ctx context.Context, key string, body io.Reader, size int64) error

	// ReadAt fills p from the object's offset, as io.ReaderAt does: fewer octets
	// come with io.EOF when the object ends before.
	ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error)

	// List yields the objects whose key begins with prefix and sorts after the
	// key `after` (in octet order), in that order. After an error it ends.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]

	// Delete removes the object at key.
	Delete(ctx context.Context, key string) error
}
