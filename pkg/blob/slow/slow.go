// Package slow makes any blob.Store late, for drills: each call waits first, while a switch is on.
//
//	node ─▶ measured ─▶ slow.Store ─▶ blob/s3 or blob/dir
//	                       └─ a file: until when, by how much
//
// It changes nothing of what the Store says. A call that is cut off while it waits was not
// made.
//
// # Decisions
//
//   - 2026-11-25: the switch is a file that says until when it is on, not one that is there or isn't: who
//     turned it may be killed, and nobody's store stays slow for that. It is read at each call, a few
//     microseconds; only a store whose settings name such a file has this one around it.
//   - 2026-11-25: refused: a delay in the settings, which wants a restart for what a drill does in the middle.
package slow

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// Longest is the longest delay that a switch may ask for.
const Longest = time.Minute

// Store is a blob.Store that may be late.
type Store struct {
	store blob.Store
	file  string
}

// New is a store whose switch is a file, which need not be there.
func New(store blob.Store, file string) *Store { return &Store{store, file} }

// Switch is a switch's file: on, until then, by so much.
func Switch(until time.Time, by time.Duration) []byte {
	return fmt.Appendf(nil, "%s %s\n", until.UTC().Format(time.RFC3339), by)
}

// delay is what the file asks for now. One that can't be read or understood asks for
// nothing: it is no reason to refuse mail.
func (s *Store) delay(now time.Time) time.Duration {
	text, err := os.ReadFile(s.file)
	if err != nil {
		return 0
	}
	then, by, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	until, err := time.Parse(time.RFC3339, then)
	if err != nil || now.After(until) {
		return 0
	}
	delay, err := time.ParseDuration(by)
	if err != nil || delay < 0 {
		return 0
	}
	return min(delay, Longest)
}

func (s *Store) wait(ctx context.Context) error {
	delay := s.delay(time.Now())
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.store.Create(ctx, key, body, size)
}

// ReadAt implements blob.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	return s.store.ReadAt(ctx, key, p, offset)
}

// List implements blob.Store. It waits once, not for each object.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		if err := s.wait(ctx); err != nil {
			yield(blob.Info{}, err)
			return
		}
		for info, err := range s.store.List(ctx, prefix, after) {
			if !yield(info, err) {
				return
			}
		}
	}
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.store.Delete(ctx, key)
}
