package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
)

// A store that is gone refuses everything. An empty answer would be taken for
// an empty mailbox, and a new tree would be on another file system.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		vanish func(t *testing.T, path string)
	}{
		"removed":             {func(t *testing.T, path string) { must(t, os.RemoveAll(path)) }},
		"removed, made again": {func(t *testing.T, path string) { must(t, os.RemoveAll(path), os.MkdirAll(path+"/objects", 0o700)) }},
		"replaced":            {func(t *testing.T, path string) { must(t, os.Rename(path, path+"-old"), os.Mkdir(path, 0o700)) }},
		"objects removed":     {func(t *testing.T, path string) { must(t, os.RemoveAll(path+"/objects")) }},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			s := open(t, path)
			must(t, create(s, "a/1", "x"))
			c.vanish(t, path)
			refusesAll(t, s)
			if got := below(t, path); len(got) > 0 {
				t.Errorf("made: %q", got)
			}
		})
	}
}

// refusesAll holds that no call says anything of the objects.
func refusesAll(t *testing.T, s *Store) {
	t.Helper()
	ctx := context.Background()
	_, errRead := s.ReadAt(ctx, "a/1", make([]byte, 1), 0)
	var errList error
	for _, err := range s.List(ctx, "a/", "") {
		errList = err
	}
	for call, err := range map[string]error{
		"create, known folder": create(s, "a/2", "x"), "create, new folder": create(s, "b/1", "x"),
		"read": errRead, "list": errList, "delete": s.Delete(ctx, "a/1"),
	} {
		for _, kind := range []error{blob.ErrNotFound, blob.ErrExists, blob.ErrMaybe, blob.ErrFull, os.ErrNotExist} {
			if errors.Is(err, kind) {
				t.Errorf("%s: %v is taken for: %v", call, err, kind)
			}
		}
		if err == nil || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("%s: %v; want that the store is gone", call, err)
		}
	}
}

// When the directory that was opened is back, all is well again.
func TestGoneAndBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	must(t, create(s, "a/1", "x"), os.Rename(path, path+"-away"))
	refusesAll(t, s)
	must(t, os.Rename(path+"-away", path))
	if got := read(t, s, "a/1"); got != "x" {
		t.Errorf("read %q", got)
	}
	must(t, create(s, "a/2", "x"))
}

// A list that is under way when the store goes says that it isn't whole.
func TestGoneInMidList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	must(t, create(s, "a/1", "x"), create(s, "b/1", "x"))
	var last error
	for info, err := range s.List(context.Background(), "", "") {
		if info.Key == "a/1" {
			must(t, os.RemoveAll(path))
		}
		last = err
	}
	if last == nil {
		t.Error("the list ended as if it were whole")
	}
}

// A folder of objects that somebody removed is made anew: it is of this store.
func TestFolderRemoved(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, create(s, "a/1", "x"), os.RemoveAll(s.file("a")))
	if err := create(s, "a/2", "x"); err == nil || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("the first Create: %v; want a clean failure", err)
	}
	must(t, create(s, "a/2", "x"))
}

// An object that a power failure brought back, though it was deleted, is what it was.
func TestDeletedObjectIsBack(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := context.Background()
	must(t, create(s, "a/1", "old"), os.Link(s.file("a/1"), s.file("kept")))
	must(t, s.Delete(ctx, "a/1"), os.Rename(s.file("kept"), s.file("a/1")))
	if err := create(s, "a/1", "new"); !errors.Is(err, blob.ErrExists) {
		t.Errorf("Create: %v; want ErrExists", err)
	}
	if got := read(t, s, "a/1"); got != "old" {
		t.Errorf("read %q", got)
	}
	must(t, s.Delete(ctx, "a/1"), create(s, "a/1", "new"))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// below is what is under path, directories too, except an empty objects.
func below(t *testing.T, path string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(path, func(name string, _ os.DirEntry, err error) error {
		if err == nil && name != path && name != filepath.Join(path, "objects") && !strings.HasPrefix(name, filepath.Join(path, "tmp")) {
			found = append(found, name)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}
