package snapshot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Times of this package.
const (
	settle  = 3 * time.Second // after a change, before it is written
	refresh = time.Hour       // between writes when nothing changes
	inquiry = 2 * time.Second // for one source to answer
)

// Source answers with a snapshot of the view that is newer than a revision; with
// ErrNone when it has none.
type Source func(ctx context.Context, view string, newerThan int64) (Snapshot, error)

// Newest asks all sources at once and answers with the newest of what they have
// within a moment; ErrNone, with what went wrong, when nobody has any.
func Newest(ctx context.Context, sources []Source, view string, newerThan int64) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, inquiry)
	defer cancel()
	found, failed := make([]Snapshot, len(sources)), make([]error, len(sources)+1)
	var all sync.WaitGroup
	for i, source := range sources {
		all.Go(func() { found[i], failed[i] = source(ctx, view, newerThan) })
	}
	all.Wait()
	newest := Snapshot{Revision: newerThan}
	for i, s := range found {
		if failed[i] == nil && s.Revision > newest.Revision {
			newest = s
		}
	}
	if newest.Revision > newerThan {
		return newest, nil
	}
	failed[len(sources)] = ErrNone
	return Snapshot{}, errors.Join(failed...)
}

// Dir is a directory with a file for each view.
type Dir string

// Load implements Source.
func (d Dir) Load(_ context.Context, view string, newerThan int64) (Snapshot, error) {
	f, err := os.Open(d.file(view))
	if errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, ErrNone
	}
	if err != nil {
		return Snapshot{}, err
	}
	defer f.Close()
	octets, err := io.ReadAll(io.LimitReader(f, MaxOctets))
	if err != nil {
		return Snapshot{}, err
	}
	s, err := Decode(view, octets)
	if err == nil && s.Revision <= newerThan {
		err = ErrNone
	}
	return s, err
}

// Save writes a view's file, whole or not at all.
func (d Dir) Save(s Snapshot) error {
	octets, err := Encode(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), "new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(octets)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.file(s.View))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (d Dir) file(view string) string {
	return filepath.Join(string(d), strings.ReplaceAll(view, "/", "-")+".snapshot")
}

// View is what can be kept.
type View interface {
	// Snapshot is the view as it is; ok is false while it hasn't been told anything.
	Snapshot() (s Snapshot, ok bool)
	// Changed is closed at the next change.
	Changed() <-chan struct{}
}

// Keep writes the view into the directory, some seconds after each change and
// once an hour, until ctx ends. A directory that can't be written to is a warning:
// it is needed on another day.
func Keep(ctx context.Context, d Dir, view View, log *slog.Logger) {
	for ctx.Err() == nil {
		changed := view.Changed()
		if s, ok := view.Snapshot(); ok {
			if err := d.Save(s); err != nil {
				log.Warn("what is known can't be kept for a start without etcd", "view", s.View, "error", err)
			}
		}
		wait(ctx, changed, refresh)
		wait(ctx, nil, settle)
	}
}

func wait(ctx context.Context, early <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-early:
	case <-timer.C:
	case <-ctx.Done():
	}
}
