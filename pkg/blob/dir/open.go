package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Open opens the store at path, making it if need be. It refuses a file system
// that lacks what Create stands on, and removes what dead processes left half
// written.
func Open(path string) (*Store, error) {
	s := &Store{
		objects: filepath.Join(path, "objects"),
		ready:   make(map[string]bool),
		step:    func(step) error { return nil },
		buffers: sync.Pool{New: func() any { return new([copySize]byte) }},
	}
	temps := filepath.Join(path, "tmp")
	if err := errors.Join(mkdir(s.objects), mkdir(temps)); err != nil {
		return nil, fmt.Errorf("blob store in a directory: %w", err)
	}
	if err := cleanTemps(temps); err != nil {
		return nil, fmt.Errorf("blob store in %s: cleaning tmp: %w", path, err)
	}
	var err error
	if s.temp, err = newTempDir(temps); err != nil {
		return nil, fmt.Errorf("blob store in %s: %w", path, err)
	}
	if err := s.probe(); err != nil {
		return nil, errors.Join(fmt.Errorf("blob store: the file system of %s can't be used: %w", path, err), s.Close())
	}
	return s, nil
}

// Close gives the store's temporary directory up. No call may be running, and
// none may follow.
func (s *Store) Close() error { return s.temp.remove() }

// mkdir makes a directory and what it is in, durably.
func mkdir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// probe tries what Create needs.
func (s *Store) probe() error {
	from := s.tempName()
	defer os.Remove(from)
	if err := probeFile(from); err != nil {
		return err
	}
	// The tilde can't be in a key.
	to := filepath.Join(s.objects, "~"+filepath.Base(s.temp.path))
	defer os.Remove(to)
	if err := os.Link(from, to); err != nil {
		return fmt.Errorf("no hard links: %w", err)
	}
	if err := os.Link(from, to); !errors.Is(err, os.ErrExist) {
		return errors.Join(errors.New("link replaces a name that exists"), err)
	}
	if err := syncDir(s.objects); err != nil {
		return fmt.Errorf("fsync of a directory: %w", err)
	}
	return nil
}

func probeFile(name string) error {
	const exclusive = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, exclusive, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	again, err := os.OpenFile(name, exclusive, 0o600)
	if err == nil {
		return errors.Join(errors.New("O_EXCL opens a file that exists"), again.Close())
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
