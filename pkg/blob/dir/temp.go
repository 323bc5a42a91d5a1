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

func newTempDir(temps string) (*tempDir, error) {
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
		if err := flock(lock, syscall.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("flock: %w", err), lock.Close())
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
func (s *Store) tempName() string {
	return filepath.Join(s.temp.path, strconv.FormatUint(s.serial.Add(1), 10))
}

// cleanTemps removes the folders of processes that are no more.
func cleanTemps(temps string) error {
	entries, err := os.ReadDir(temps)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := cleanTemp(filepath.Join(temps, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func cleanTemp(path string) error {
	lock, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // another process cleans too
	}
	if err != nil {
		return err
	}
	err = flock(lock, syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK): // its process lives
		err = nil
	case err == nil:
		err = os.RemoveAll(path)
	}
	return errors.Join(err, lock.Close())
}
