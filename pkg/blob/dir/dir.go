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
//	 not created    not created   EEXIST: fsync the      ErrMaybe; the store
//	                              directory, ErrExists   creates nothing any more
//
// link(2) is what makes it atomic: it never replaces, and the name shows an
// object that is whole and on disk already. A directory that this process uses for
// the first time is made durable with all its ancestors.
//
// # Decisions
//
//   - 2026-11-23: ErrExists comes after an fsync of the directory too. Whoever
//     repeats a Create with an unknown outcome takes "exists, and it is mine" for
//     durable, so it must be.
//   - 2026-11-23: after a directory's fsync failed, this Store creates nothing
//     more. The kernel tells such an error once; a second fsync may say "fine" of
//     what was lost. A new process starts afresh from what the disk has.
//   - 2026-11-23: temporary files of dead processes are told by a flock on
//     their directory, which ends with the process, across containers too. Refused:
//     process ids (other containers count anew) and ages (a slow upload is old).
//   - 2026-11-23: a key can't be an object and the folder of others at once,
//     as it could in S3. No key of ours needs it; it is refused with clear words.
//   - 2026-11-23: Delete isn't made durable. An object that is back after a
//     power failure is garbage again and will be deleted again.
//   - 2026-11-23: no descriptors are kept open: opening a file costs 1/100 of
//     the fsync or the read that follows, and a descriptor kept is one to fsync twice.
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
	objects string // <path>/objects
	temp    *tempDir
	serial  atomic.Uint64 // names temporary files
	buffers sync.Pool     // of *[copySize]byte
	step    func(step) error

	mu    sync.Mutex
	ready map[string]bool // directories that are durable with all ancestors
	sick  error           // a directory's fsync failed
}

// step names what Create does next, so a test can fail or cut it short there.
type step string

const (
	stepWrite    step = "write"
	stepSync     step = "sync"
	stepLink     step = "link"
	stepSyncDir  step = "sync dir"
	stepUnlink   step = "unlink"
	stepSyncMade step = "sync made dir"
)

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if size < 1 {
		return fmt.Errorf("create %s: an object of %d octets", key, size)
	}
	if err := s.create(ctx, key, body, size); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context, key string, body io.Reader, size int64) error {
	to := filepath.Join(s.objects, filepath.FromSlash(key))
	if err := s.prepare(filepath.Dir(to)); err != nil {
		return full(err)
	}
	from := s.tempName()
	// Removed on each way out; after a crash the next Open removes it.
	defer func() {
		if s.step(stepUnlink) == nil {
			os.Remove(from)
		}
	}()
	if err := s.write(ctx, from, body, size); err != nil {
		return full(err)
	}
	if err := errors.Join(ctx.Err(), s.step(stepLink)); err != nil {
		return err
	}
	switch err := os.Link(from, to); {
	case errors.Is(err, os.ErrExist):
		return s.exists(to)
	case err != nil:
		return notLinked(err)
	}
	return s.settle(filepath.Dir(to))
}

// write makes a temporary file of exactly size octets and brings it to disk.
func (s *Store) write(ctx context.Context, name string, body io.Reader, size int64) (err error) {
	if err := s.step(stepWrite); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := s.copy(ctx, f, body, size); err != nil {
		return err
	}
	if err := s.step(stepSync); err != nil {
		return err
	}
	return f.Sync() // once: a failure is final for this file
}

// copy copies exactly size octets and finds out that there are no more.
func (s *Store) copy(ctx context.Context, f *os.File, body io.Reader, size int64) error {
	buffer := s.buffers.Get().(*[copySize]byte)
	defer s.buffers.Put(buffer)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(body, buffer[:min(copySize, size-done)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the body ended after %d of %d octets: %w", done+int64(n), size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		if _, err := f.Write(buffer[:n]); err != nil {
			return err
		}
		done += int64(n)
	}
	switch n, err := io.ReadFull(body, buffer[:1]); {
	case n > 0:
		return fmt.Errorf("the body goes on after %d octets", size)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
}

// exists is the answer of a link that found its name in use.
func (s *Store) exists(to string) error {
	switch info, err := os.Lstat(to); {
	case err == nil && info.IsDir():
		return errors.New("there are objects below this key: it can't be one itself")
	case errors.Is(err, os.ErrNotExist):
		return blob.ErrExists // it was there, and somebody has deleted it
	}
	if err := s.settle(filepath.Dir(to)); err != nil {
		return err
	}
	return blob.ErrExists
}

// settle makes what was linked in the directory durable.
func (s *Store) settle(parent string) error {
	err := s.health()
	if err == nil {
		err = s.step(stepSyncDir)
	}
	if err == nil {
		err = syncDir(parent)
	}
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sick == nil {
		s.sick = fmt.Errorf("fsync of %s failed, nothing is created until the process starts anew: %w", parent, err)
	}
	return fmt.Errorf("%w: %w", blob.ErrMaybe, err)
}

func (s *Store) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sick
}

// prepare makes the directory, and makes it and its ancestors durable when this
// process sees it for the first time: whoever made it may not have.
func (s *Store) prepare(parent string) error {
	s.mu.Lock()
	ready, sick := s.ready[parent], s.sick
	s.mu.Unlock()
	if sick != nil || ready {
		return sick
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	for d := parent; d != s.objects; {
		d = filepath.Dir(d)
		if err := s.step(stepSyncMade); err != nil {
			return err
		}
		if err := syncDir(d); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) >= maxReady {
		clear(s.ready)
	}
	s.ready[parent] = true
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// notLinked sorts a failure of link: that of an error which isn't known to come
// before the effect may come after it.
func notLinked(err error) error {
	for _, before := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOENT, syscall.ENOTDIR,
		syscall.EMLINK, syscall.ENAMETOOLONG, syscall.EXDEV, syscall.ELOOP, syscall.ENOMEM,
	} {
		if errors.Is(err, before) {
			return full(err)
		}
	}
	return fmt.Errorf("%w: %w", blob.ErrMaybe, err)
}

// full marks the errors of a file system without room.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", blob.ErrFull, err)
	}
	return err
}

// ReadAt implements blob.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	if err := errors.Join(blob.CheckKey(key), ctx.Err()); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("read %s: offset %d", key, offset)
	}
	f, err := os.Open(filepath.Join(s.objects, filepath.FromSlash(key)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, missing(err))
	}
	defer f.Close()
	n, err := f.ReadAt(p, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read %s: %w", key, missing(err))
	}
	return n, err
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := errors.Join(blob.CheckKey(key), ctx.Err()); err != nil {
		return err
	}
	// Not os.Remove: it would remove a folder, if empty.
	path := filepath.Join(s.objects, filepath.FromSlash(key))
	if err := missing(syscall.Unlink(path)); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// missing marks the errors that mean "no object here": also where a folder is,
// or an object is in the place of a folder.
func missing(err error) error {
	for _, none := range []error{os.ErrNotExist, syscall.ENOTDIR, syscall.EISDIR} {
		if errors.Is(err, none) {
			return fmt.Errorf("%w: %w", blob.ErrNotFound, err)
		}
	}
	return err
}
