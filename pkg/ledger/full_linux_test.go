package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// On a file system that is really full an append fails cleanly, and goes well
// when there is room again; nothing acknowledged is touched.
func TestFullFileSystem(t *testing.T) {
	path := t.TempDir()
	if os.Geteuid() != 0 {
		t.Log("NOT TESTED: a full file system needs root, to mount one")
		return
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=256k"); err != nil {
		t.Logf("NOT TESTED: a full file system can't be mounted here: %v", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) })
	filler := filepath.Join(path, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := open(t, store)
	n := uint64(0)
	for ; err == nil; n++ {
		_, err = l.Append(context.Background(), []Draft{message(n)})
	}
	if !errors.Is(err, blob.ErrFull) || maildrop.KindOf(err) != maildrop.Full {
		t.Fatalf("append %d: %v; want Full", n, err)
	}
	if _, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, (&history{}).begin); maildrop.KindOf(err) != maildrop.Full {
		t.Errorf("Open: %v; want Full", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	add(t, l, n)
	_, h := open(t, store)
	want := []uint64{}
	for i := range n - 1 {
		want = append(want, i)
	}
	if got := h.numbers(); fmt.Sprint(got) != fmt.Sprint(append(want, n)) {
		t.Errorf("replayed %d, want 0 to %d and %d", got, n-2, n)
	}
}
