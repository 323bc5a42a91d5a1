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
// written. A full file system is no reason to refuse: what is there can be read.
func Open(path string) (*Store, error) { return openAt(path, func(step) error { return nil }) }

// OpenReadOnly opens the store at path to be read: it makes, probes and removes nothing
// there, and needs no permission to. Create and Delete are refused with
// blob.ErrReadOnly. A directory that isn't a store's is refused.
func OpenReadOnly(path string) (*Store, error) {
	s := newStore(path, func(step) error { return nil })
	s.readOnly = true
	var err error
	if s.root, err = os.Open(s.objects); err != nil {
		return nil, fmt.Errorf("blob store in %s: there is none that can be read: %w", path, err)
	}
	return s, nil
}

// openAt is Open with a test's hook before each step.
func openAt(path string, at func(step) error) (*Store, error) {
	s := newStore(path, at)
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("blob store in %s: %w", path, explained(err))
	}
	return s, nil
}

func newStore(path string, at func(step) error) *Store {
	return &Store{
		path:    path,
		objects: filepath.Join(path, "objects"),
		ready:   make(map[string]bool),
		step:    at,
		buffers: sync.Pool{New: func() any { return new([copySize]byte) }},
	}
}

func (s *Store) open() (err error) {
	if err := mkdir(s.objects); err != nil {
		return err
	}
	if s.root, err = os.Open(s.objects); err != nil {
		return err
	}
	s.temp, err = s.makeTemp()
	if err != nil && !noRoom(err) {
		return errors.Join(err, s.root.Close())
	}
	return nil
}

// Close gives the store's temporary directory up. No call may be running, and
// none may follow.
func (s *Store) Close() error {
	err := s.root.Close()
	if s.temp != nil {
		err = errors.Join(err, s.temp.remove())
	}
	return err
}

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

// makeTemp makes this process's directory for files half written and, in it,
// tries all that Create needs. When there is no room for that it is tried again by
// the next Create.
func (s *Store) makeTemp() (*tempDir, error) {
	temps := filepath.Join(s.path, "tmp")
	if err := mkdir(temps); err != nil {
		return nil, err
	}
	if err := s.cleanTemps(temps); err != nil {
		return nil, fmt.Errorf("cleaning tmp: %w", err)
	}
	temp, err := s.newTempDir(temps)
	if err != nil {
		return nil, err
	}
	if err := s.probe(temp); err != nil {
		return nil, errors.Join(err, temp.remove())
	}
	return temp, nil
}

// probe tries what Create needs.
func (s *Store) probe(temp *tempDir) error {
	from := s.tempName(temp)
	defer os.Remove(from)
	if err := errors.Join(s.step(stepProbe), probeFile(from)); err != nil {
		return err
	}
	to := probeName(s.objects, temp.path)
	defer os.Remove(to)
	if err := errors.Join(s.step(stepProbeLink), os.Link(from, to)); noRoom(err) {
		return err
	} else if err != nil {
		return fmt.Errorf("this file system has no hard links from tmp to objects, which is what makes one of two writers win; use a local one such as ext4 or xfs: %w", err)
	}
	if err := os.Link(from, to); !errors.Is(err, os.ErrExist) {
		return errors.Join(errors.New("this file system's link replaces a name that exists: two writers could both win"), err)
	}
	if err := syncDir(s.objects); err != nil {
		return fmt.Errorf("this file system can't fsync a directory, so nothing in it is durable: %w", err)
	}
	return nil
}

// probeName is the probe's name among the objects. The tilde can't be in a key.
func probeName(objects, temp string) string {
	return filepath.Join(objects, "~"+filepath.Base(temp))
}

func probeFile(name string) error {
	const exclusive = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, exclusive, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("probe")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("this file system can't write and fsync a file: %w", err)
	}
	again, err := os.OpenFile(name, exclusive, 0o600)
	if err == nil {
		return errors.Join(errors.New("this file system's O_EXCL opens a file that exists: two writers could both win"), again.Close())
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
