package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
)

// Who only reads needs no permission to write, changes nothing, and sees what others
// create meanwhile.
func TestOpenReadOnly(t *testing.T) {
	path := t.TempDir()
	writer := open(t, path)
	must(t, create(writer, "a/1", "x"), writer.Close())
	before := modes(t, path)
	forbid(t, path)

	s, err := OpenReadOnly(path)
	must(t, err)
	ctx := context.Background()
	if got := read(t, s, "a/1"); got != "x" {
		t.Errorf("read %q", got)
	}
	for _, err := range []error{create(s, "a/2", "x"), create(s, "a/1", "x"), s.Delete(ctx, "a/1")} {
		if !errors.Is(err, blob.ErrReadOnly) || errors.Is(err, blob.ErrMaybe) || errors.Is(err, blob.ErrExists) {
			t.Errorf("%v; want ErrReadOnly", err)
		}
	}
	allow(t, path)
	after := modes(t, path)
	if len(after) != len(before) {
		t.Errorf("there was %v, there is %v", before, after)
	}
	must(t, create(open(t, path), "a/2", "y"))
	if got := read(t, s, "a/2"); got != "y" {
		t.Errorf("read %q", got)
	}
	must(t, s.Close())
}

// What isn't a store is none to those who read, and doesn't become one.
func TestOpenReadOnlyMakesNothing(t *testing.T) {
	path := t.TempDir()
	if _, err := OpenReadOnly(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v; want a refusal", err)
	}
	if made := modes(t, path); len(made) != 1 {
		t.Errorf("made: %v", made)
	}
}

// forbid takes the permission to write from all directories; root is not kept by that.
func forbid(t *testing.T, path string) { changeModes(t, path, 0o500) }

func allow(t *testing.T, path string) { changeModes(t, path, 0o700) }

func changeModes(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	for name, info := range modes(t, path) {
		if info.IsDir() {
			must(t, os.Chmod(name, mode))
		}
	}
}

// modes are those of all that is in a directory, itself included.
func modes(t *testing.T, path string) map[string]fs.FileMode {
	t.Helper()
	found := make(map[string]fs.FileMode)
	must(t, filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			found[name] = entry.Type()
		}
		return err
	}))
	return found
}
