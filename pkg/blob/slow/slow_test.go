package slow

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

func TestContract(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return New(blobtest.NewMemory(), filepath.Join(t.TempDir(), "no switch"))
	})
}

// calls is every call of a store, each with what says that it was made.
func calls(ctx context.Context, s *Store) map[string]func() error {
	return map[string]func() error{
		"Create": func() error { return s.Create(ctx, "b", strings.NewReader("x"), 1) },
		"ReadAt": func() error { _, err := s.ReadAt(ctx, "a", make([]byte, 1), 0); return err },
		"List": func() error {
			for _, err := range s.List(ctx, "", "") {
				return err
			}
			return errors.New("nothing is listed")
		},
		"Delete": func() error { return s.Delete(ctx, "a") },
	}
}

// each makes every call at a store of its own, in fake time, with a switch that says that.
func each(t *testing.T, text func(now time.Time) string, check func(t *testing.T, s *Store, name string)) {
	t.Helper()
	for name := range calls(t.Context(), nil) {
		synctest.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "switch")
			if err := os.WriteFile(file, []byte(text(time.Now())), 0o600); err != nil {
				t.Fatal(err)
			}
			s := New(blobtest.NewMemory(), file)
			if err := s.store.Create(t.Context(), "a", strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
			check(t, s, name)
		})
	}
}

func TestCallsAreLate(t *testing.T) {
	for what, c := range map[string]struct {
		text func(now time.Time) string
		want time.Duration
	}{
		"on":              {func(now time.Time) string { return string(Switch(now.Add(time.Minute), 300*time.Millisecond)) }, 300 * time.Millisecond},
		"as long as goes": {func(now time.Time) string { return string(Switch(now.Add(time.Minute), time.Hour)) }, Longest},
		"no more":         {func(now time.Time) string { return string(Switch(now.Add(-time.Second), time.Second)) }, 0},
		"empty":           {func(time.Time) string { return "" }, 0},
		"for ever":        {func(time.Time) string { return "1s" }, 0},
		"by nothing":      {func(now time.Time) string { return now.Add(time.Hour).Format(time.RFC3339) }, 0},
		"by less":         {func(now time.Time) string { return string(Switch(now.Add(time.Minute), -time.Second)) }, 0},
	} {
		t.Run(what, func(t *testing.T) {
			each(t, c.text, func(t *testing.T, s *Store, name string) {
				began := time.Now()
				if err := calls(t.Context(), s)[name](); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if took := time.Since(began); took != c.want {
					t.Errorf("%s took %v, want %v", name, took, c.want)
				}
			})
		})
	}
}

func TestACallThatIsCutOffWasNotMade(t *testing.T) {
	on := func(now time.Time) string { return string(Switch(now.Add(time.Minute), time.Second)) }
	each(t, on, func(t *testing.T, s *Store, name string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := calls(ctx, s)[name](); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		var there []string
		for info := range s.store.List(t.Context(), "", "") {
			there = append(there, info.Key)
		}
		if len(there) != 1 || there[0] != "a" {
			t.Errorf("after %s there is %q", name, there)
		}
	})
}
