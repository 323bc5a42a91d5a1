package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
)

// A file system that is really full: nothing is half there, and there is room
// for more once something was deleted.
func TestFull(t *testing.T) {
	path := t.TempDir()
	if os.Geteuid() != 0 {
		t.Log("NOT TESTED: a full file system needs root, to mount one")
		return
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=512k"); err != nil {
		t.Logf("NOT TESTED: a full file system can't be mounted here: %v", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) })
	s := open(t, path)
	content := bytes.Repeat([]byte("x"), 100<<10)
	var err error
	stored := 0
	for ; err == nil; stored++ {
		err = s.Create(context.Background(), fmt.Sprintf("k/%d", stored), bytes.NewReader(content), int64(len(content)))
	}
	if stored--; !errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrMaybe) || stored < 3 {
		t.Fatalf("after %d objects: %v; want ErrFull", stored, err)
	}
	if got := files(t, path); len(got) != stored {
		t.Errorf("left: %q, want %d objects", got, stored)
	}
	if err := s.Delete(context.Background(), "k/0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(context.Background(), "k/more", bytes.NewReader(content), int64(len(content))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
