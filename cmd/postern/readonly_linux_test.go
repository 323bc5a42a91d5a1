package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// mountReadOnly makes a directory read-only for all who go through its name, also those
// that run already.
func mountReadOnly(t testing.TB, path string) (undo func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: needs root, to mount a directory read-only")
	}
	if err := syscall.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("NOT TESTED: nothing can be mounted here: %v", err)
	}
	mounted := true
	undo = func() {
		if mounted {
			mounted = false
			if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(undo)
	if err := syscall.Mount("", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("NOT TESTED: nothing can be mounted read-only here: %v", err)
	}
	return undo
}

// promptly is how long an answer may take that nobody has to wait for: much less than
// a call is repeated for (15 s), and than an append has (20 s).
const promptly = 5 * time.Second

// TestStoreTurnsReadOnly: with a store that is read-only from one moment on, gateways and
// users are told at once that nothing was changed, mail is read as ever, and with the
// store writable again all goes on without anybody's help.
func TestStoreTurnsReadOnly(t *testing.T) {
	d := startEU(t, 4)
	region, user := d.region("eu"), d.user("eu", kindLocal)
	letter := []byte("Subject: read-only\r\n\r\nx\r\n")
	before := d.login("eu", user)
	count, _, err := before.Stat()
	if err != nil || count == 0 {
		t.Fatal(count, err)
	}
	undo := mountReadOnly(t, filepath.Join(d.dir, "eu", "store"))

	began := time.Now()
	err = deliverOnce(t.Context(), region.LMTP, user.Address, letter)
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "451 4.3.0 Mail store is read-only") || took > promptly {
		t.Errorf("a delivery: %v after %v; want 451 at once", err, took)
	}
	if err := before.Dele(1); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	err = before.Quit()
	var said *mailclient.ReplyError
	if took := time.Since(began); !errors.As(err, &said) || !strings.HasPrefix(said.Reply, "-ERR [SYS/TEMP]") || took > promptly {
		t.Errorf("QUIT with a deletion: %v after %v; want -ERR [SYS/TEMP] at once", err, took)
	}
	during := d.login("eu", user)
	if now, _, err := during.Stat(); err != nil || now != count {
		t.Errorf("read-only: %d messages (%v), want %d", now, err, count)
	}

	undo()
	if err := deliverOnce(t.Context(), region.LMTP, user.Address, letter); err != nil {
		t.Errorf("a delivery, writable again: %v", err)
	}
	if err := errors.Join(during.Dele(1), during.Quit()); err != nil {
		t.Errorf("a deletion, writable again: %v", err)
	}
	after := d.login("eu", user)
	if now, _, err := after.Stat(); err != nil || now != count {
		t.Errorf("in the end: %d messages (%v), want %d", now, err, count)
	}
}

// TestReadersWriteNothing: fsck, export and ledger dump need no more than to read a
// directory, so they work on a copy that is mounted read-only.
func TestReadersWriteNothing(t *testing.T) {
	a := newAudited(t, "")
	a.fill()
	object := a.files("ledger")[0]
	mountReadOnly(t, a.store)
	key, err := filepath.Rel(filepath.Join(a.store, "objects"), object)
	noError(t, err)
	for _, args := range [][]string{
		{"fsck", "--region", a.file},
		{"export", "--region", a.file, "--maildir", filepath.Join(t.TempDir(), "mail"), string(auditedUser)},
		{"ledger", "dump", "--region", a.file, filepath.ToSlash(key)},
	} {
		if code, out, said := tool(t, args...); code != 0 {
			t.Errorf("%s: %d\n%s%s", args[0], code, out, said)
		}
	}
}

// TestNoStoreToRead: a directory in which no store is gets none by being looked at.
func TestNoStoreToRead(t *testing.T) {
	a := newAudited(t, "")
	if code, out, said := tool(t, "fsck", "--region", a.file); code != exitFailed || !strings.Contains(said, "check storage in "+a.file) {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	if made, err := os.ReadDir(a.store); err != nil || len(made) > 0 {
		t.Errorf("%v was made (%v)", made, err)
	}
}
