package dir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// tempDir is this process's folder for files half written. Its flock says that
// the process lives; the kernel ends it with the process.
type tempDir struct {
	path string
	lock *os.File
}

func (s *Store) newTempDir(temps string) (*tempDir, error) {
	for {
		path := filepath.Join(temps, strings.ToLower(rand.Text()))
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		lock, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // cleaned away by a process that saw it without a lock
		}
		if err != nil {
			return nil, err
		}
		if err := s.flock(lock, syscall.LOCK_EX); err != nil {
			return nil, errors.Join(err, lock.Close(), os.Remove(path))
		}
		if same(lock, path) {
			return &tempDir{path: path, lock: lock}, nil
		}
		if err := lock.Close(); err != nil {
			return nil, err
		}
	}
}

// same reports whether the open directory still has its name.
func same(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// flock locks, or fails with EWOULDBLOCK.
func (s *Store) flock(f *os.File, how int) error {
	err := s.step(stepLock)
	if err == nil {
		err = flock(f, how)
	}
	if err == nil || errors.Is(err, syscall.EWOULDBLOCK) {
		return err
	}
	return fmt.Errorf("this file system has no locks (flock), which tell the files of living processes from those of dead ones: %w", err)
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

func (t *tempDir) remove() error {
	return errors.Join(os.RemoveAll(t.path), t.lock.Close())
}

// tempName is a name that no other call has had.
func (s *Store) tempName(temp *tempDir) string {
	return filepath.Join(temp.path, strconv.FormatUint(s.serial.Add(1), 10))
}

// cleanTemps removes the folders of processes that are no more.
func (s *Store) cleanTemps(temps string) error {
	entries, err := os.ReadDir(temps)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := s.cleanTemp(filepath.Join(temps, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) cleanTemp(path string) error {
	lock, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // another process cleans too
	}
	if err != nil {
		return err
	}
	err = s.flock(lock, syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK): // its process lives
		err = nil
	case err == nil:
		os.Remove(probeName(s.objects, path)) // if it died in Open
		err = os.RemoveAll(path)
	}
	return errors.Join(err, lock.Close())
}
