package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-pop/postern/pkg/blob"
)

// sync brings a file or directory to disk. Its failure, and that of any other
// sync meanwhile, is final for this Store.
func (s *Store) sync(f *os.File, at step) error {
	err := s.step(at)
	if err == nil {
		err = f.Sync()
	}
	if err != nil && at == stepSync && noRoom(err) {
		return err // it is thrown away, and nothing else is in doubt
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.sick == nil {
		s.sick = fmt.Errorf("%w: fsync of %s failed, nothing is created any more: check the disk and the kernel's log, then restart the process: %w", blob.ErrReadOnly, f.Name(), err)
	}
	return s.sick
}

// settle makes what was linked in the directory durable.
func (s *Store) settle(folder *os.File) error {
	err := s.health()
	if err == nil {
		err = s.sync(folder, stepSyncDir)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", blob.ErrMaybe, err)
	}
	return nil
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
	ready := s.ready[parent]
	s.mu.Unlock()
	if ready {
		return nil
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	for d := parent; d != s.objects; {
		d = filepath.Dir(d)
		if err := s.syncMade(d); err != nil {
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

func (s *Store) syncMade(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(s.sync(d, stepSyncMade), d.Close())
}

// openDir opens the directory of an object, to be synced. If somebody removed
// it, the next Create makes it anew.
func (s *Store) openDir(path string) (*os.File, error) {
	if err := s.step(stepOpenDir); err != nil {
		return nil, err
	}
	d, err := os.Open(path)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ready, path)
	}
	return d, err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
