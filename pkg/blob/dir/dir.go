// Package dir is a blob.Store in a directory of one machine: for a single
// machine's real use, and for tests. Any number of processes may use one
// directory at once; it takes no lock that would keep one out.
//
//	<path>/objects/<key>     the objects; read-only files
//	<path>/tmp/<random>/     one a living process, flock'ed by it
//
// # Create
//
//	write tmp/…/n ─▶ fsync it ─▶ link to objects/key ─▶ fsync the directory ─▶ unlink tmp/…/n
//	      │              │              │                     │
//	 not created    not created   EEXIST: fsync the      ErrMaybe
//	      │              │        directory, ErrExists        │
//	   go on             └──── the store creates nothing ─────┘
//	                                 any more
//
// link(2) is what makes it atomic: it never replaces, and the name shows an
// object that is whole and on disk already. A directory that this process uses for
// the first time is made durable with all its ancestors.
//
// # Bad days
//
//	no room, at Open or later       what is there is read; Create says ErrFull until there is room
//	read-only, at Open              refused; OpenReadOnly needs no more
//	read-only, later                what is there is read; Create says ErrReadOnly, nothing is created
//	unmounted, removed, replaced    every call fails, until the directory that was opened is back
//	fsync failed                    what is there is read; Create says ErrReadOnly until the process
//	                                starts anew
//	no links, locks or exclusive    refused at Open
//	creates on this file system
//	power failure                   what Create said is there; what Delete took away may be back
//
// # Decisions
//
//   - 2026-11-23: ErrExists comes after an fsync of the directory too. Whoever
//     repeats a Create with an unknown outcome takes "exists, and it is mine" for
//     durable, so it must be.
//   - 2026-11-23: after an fsync failed, of a file or a directory, this Store
//     creates nothing more. The kernel tells such an error once; a second fsync may
//     say "fine" of what was lost, here or in a directory that shares the journal. A
//     new process starts afresh from what the disk has. Lack of room is no such
//     error when it comes from a file: the file is thrown away.
//   - 2026-11-23: the directory is opened before the link and not after: an error
//     of opening (no descriptors left) is then a clean failure, and no unknown outcome.
//   - 2026-11-23: temporary files of dead processes are told by a flock on
//     their directory, which ends with the process, across containers too. Refused:
//     process ids (other containers count anew) and ages (a slow upload is old).
//   - 2026-11-23: a key can't be an object and the folder of others at once,
//     as it could in S3. No key of ours needs it; it is refused with clear words.
//   - 2026-11-23: Delete isn't made durable. Trimming deletes thousands, and an
//     fsync for each would cost more than the deletion. An object that is back after
//     a power failure has the octets that it had, so: a Create finds it and says
//     ErrExists, as before the deletion, and never mixes old and new; a reader who had
//     no use for it (a checkpoint covers its sequence, no index names it) still has
//     none; and who deletes by what List says deletes it again. A Create of the key
//     after a Delete makes both durable: they are in one directory.
//   - 2026-11-23: of descriptors only that of objects/ is kept, never fsync'ed
//     and never read through: while it is open no other directory can have its inode's
//     number, so that number and device tell whether the path still leads to the store. To
//     open a file costs 1/100 of the fsync or the read that follows, and a descriptor
//     kept is one to fsync twice.
//   - 2026-11-23: O_TMPFILE instead of link and unlink, and one fsync of a
//     directory for all who wait for it, were measured and refused. On ext4 the journal
//     does that merging: flushes of the disk per Create were the same in all four
//     combinations (4.1 with 1 creator, 2.1 with 4, 0.8 with 16, 0.5 with 64), with
//     them only processor time fell, and only for 64 at once (265 to 190 µs). A shard
//     appends to its own directory, one at a time. With 8 creators in 8
//     directories the gain of O_TMPFILE, RENAME_NOREPLACE and a directory kept open
//     could not be told from the noise (12 to 16 context switches per Create in each), nor
//     that of letting only 1, 2, 4 or 8 Creates of a process run at once.
//   - 2026-11-25: OpenReadOnly for who verifies and exports: Open's temporary directory and
//     probe are for creating, and refused a backup that is mounted read-only or belongs to
//     another user.
//   - 2026-11-25: measured again, one creator, 53 KB: on ext4 with a journal a Create
//     takes 0.23 to 0.28 ms of processor time, with O_TMPFILE 0.21 to 0.26, an append and its
//     fsync 0.12 to 0.13. Without a journal ext4 looks, for each new inode, at all
//     that were deleted lately in the group, 0.3 to 0.8 ms where a lot is; O_TMPFILE
//     doesn't help there. A store belongs on a file system with a journal.
//   - 2026-11-25: writing past the page cache (O_DIRECT) was measured and refused. For 192 KB
//     a Create takes 0.22 to 0.33 ms of processor time so, and 0.26 to 0.31 through the cache, for
//     12 and 96 KB as much as through it. In a virtual machine whose host has yet to
//     find memory for the cache it is 0.32 to 0.40 instead of 0.82 to 0.86, but only until
//     the cache has been filled once. The price would be a read of the disk for all
//     mail that is fetched soon and isn't among the node's own cached bodies.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	maxReady = 4096      // directories remembered as durable
	copySize = 128 << 10 // octets copied at once
)

// Store keeps objects in a directory.
type Store struct {
	path    string
	objects string        // <path>/objects
	root    *os.File      // objects, as it was at Open
	serial  atomic.Uint64 // names temporary files
	buffers sync.Pool     // of *[copySize]byte
	step    func(step) error
	// readOnly: opened so.
	readOnly bool

	mu    sync.Mutex
	temp  *tempDir        // nil: there was no room yet to make it and to probe
	ready map[string]bool // directories that are durable with all ancestors
	sick  error           // an fsync failed
}

// step names what is done next, so a test can fail or cut it short there.
type step string

const (
	stepLock      step = "lock"
	stepProbe     step = "probe"
	stepProbeLink step = "probe link"
	stepWrite     step = "write"
	stepSync      step = "sync"
	stepOpenDir   step = "open dir"
	stepLink      step = "link"
	stepSyncDir   step = "sync dir"
	stepUnlink    step = "unlink"
	stepSyncMade  step = "sync made dir"
)

// ReadAt implements blob.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	if err := errors.Join(blob.CheckKey(key), ctx.Err()); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("read %s: offset %d", key, offset)
	}
	n, err := s.readAt(key, p, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read %s: %w", key, s.missing(err))
	}
	return n, err
}

func (s *Store) readAt(key string, p []byte, offset int64) (int, error) {
	if err := s.present(); err != nil {
		return 0, err
	}
	f, err := os.Open(s.file(key))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, offset)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := errors.Join(blob.CheckKey(key), ctx.Err(), s.writable())
	if err == nil {
		err = s.present()
	}
	if err != nil {
		return err
	}
	// Not os.Remove: it would remove a folder, if empty.
	err = syscall.Unlink(s.file(key))
	if err = s.missing(err); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", key, explained(err))
	}
	return nil
}

func (s *Store) file(key string) string { return filepath.Join(s.objects, filepath.FromSlash(key)) }

// missing marks the errors that mean "no object here", unless the whole store
// isn't here.
func (s *Store) missing(err error) error {
	if !isMissing(err) {
		return err
	}
	if gone := s.present(); gone != nil {
		return gone
	}
	return fmt.Errorf("%w: %w", blob.ErrNotFound, err)
}

// isMissing is true too where a folder is, or an object is in the place of a folder.
func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}

// present fails when the path leads to another directory than it did at Open:
// what was mounted there is no more, or somebody removed or replaced it. Without it a
// Create would make a new tree on the wrong file system, and a read would say that
// there is no mail.
func (s *Store) present() error {
	opened, err := s.root.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(s.objects)
	if err == nil && os.SameFile(opened, now) {
		return nil
	}
	gone := fmt.Errorf("the store in %s is gone: %s isn't the directory that was opened (unmounted, removed or replaced?); mount it again, or restart the process", s.path, s.objects)
	if err != nil {
		return fmt.Errorf("%w: %s", gone, err.Error()) // not wrapped: nobody may take it for a missing object
	}
	return gone
}
