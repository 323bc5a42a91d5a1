package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/postern-pop/postern/pkg/blob"
)

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	if err := errors.Join(blob.CheckKey(key), s.writable()); err != nil {
		return err
	}
	if size < 1 {
		return fmt.Errorf("create %s: an object of %d octets", key, size)
	}
	if err := s.create(ctx, s.file(key), body, size); err != nil {
		return fmt.Errorf("create %s: %w", key, explained(err))
	}
	return nil
}

// writable refuses what OpenReadOnly's stores don't do.
func (s *Store) writable() error {
	if s.readOnly {
		return fmt.Errorf("%w: it was opened to be read", blob.ErrReadOnly)
	}
	return nil
}

func (s *Store) create(ctx context.Context, to string, body io.Reader, size int64) error {
	temp, err := s.begin()
	if err != nil {
		return err
	}
	parent := filepath.Dir(to)
	if err := s.prepare(parent); err != nil {
		return err
	}
	from := s.tempName(temp)
	// Removed on each way out; after a crash the next Open removes it.
	defer func() {
		if s.step(stepUnlink) == nil {
			os.Remove(from)
		}
	}()
	if err := s.write(ctx, from, body, size); err != nil {
		return err
	}
	folder, err := s.openDir(parent)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := errors.Join(ctx.Err(), s.step(stepLink)); err != nil {
		return err
	}
	switch err := os.Link(from, to); {
	case errors.Is(err, os.ErrExist):
		return s.exists(to, folder)
	case err != nil:
		return notLinked(err)
	}
	return s.settle(folder)
}

// begin says whether this Store may create, and in which directory the
// temporary file goes.
func (s *Store) begin() (*tempDir, error) {
	if err := s.present(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sick != nil {
		return nil, s.sick
	}
	if s.temp != nil {
		return s.temp, nil
	}
	temp, err := s.makeTemp()
	s.temp = temp
	return temp, err
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
	return s.sync(f, stepSync)
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
func (s *Store) exists(to string, folder *os.File) error {
	switch info, err := os.Lstat(to); {
	case err == nil && info.IsDir():
		return errors.New("there are objects below this key: it can't be one itself")
	case errors.Is(err, os.ErrNotExist):
		return blob.ErrExists // it was there, and somebody has deleted it
	}
	if err := s.settle(folder); err != nil {
		return err
	}
	return blob.ErrExists
}

// notLinked sorts a failure of link: that of an error which isn't known to come
// before the effect may come after it.
func notLinked(err error) error {
	for _, before := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOENT, syscall.ENOTDIR,
		syscall.EMLINK, syscall.ENAMETOOLONG, syscall.EXDEV, syscall.ELOOP, syscall.ENOMEM,
	} {
		if errors.Is(err, before) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", blob.ErrMaybe, err)
}

// explained adds what the file system's errors mean here. A full or read-only one may
// be what a create of unknown outcome met on its way: that stays unknown.
func explained(err error) error {
	switch {
	case noRoom(err) && !errors.Is(err, blob.ErrMaybe):
		return fmt.Errorf("%w: %w", blob.ErrFull, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: its file system was mounted so, or made so by the kernel after a disk error (see its log): %w", blob.ErrReadOnly, err)
	}
	return err
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
