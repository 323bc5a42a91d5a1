package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
)

// mounted is a directory with a tmpfs of its own.
func mounted(t *testing.T, options string) string {
	t.Helper()
	path := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: needs root, to mount a file system")
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Skipf("NOT TESTED: no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) })
	return path
}

// fill creates objects until there is no room.
func fill(t *testing.T, s *Store, size int) (stored int) {
	t.Helper()
	content := bytes.Repeat([]byte("x"), size)
	for {
		err := s.Create(context.Background(), fmt.Sprintf("k/%d", stored), bytes.NewReader(content), int64(size))
		if err == nil {
			stored++
			continue
		}
		if !errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrMaybe) || stored < 3 {
			t.Fatalf("after %d objects: %v; want ErrFull", stored, err)
		}
		return stored
	}
}

// A file system that is really full: nothing is half there, and there is room
// for more once something was deleted.
func TestFull(t *testing.T) {
	path := mounted(t, "size=512k")
	s := open(t, path)
	stored := fill(t, s, 100<<10)
	if got := files(t, path); len(got) != stored {
		t.Errorf("left: %q, want %d objects", got, stored)
	}
	must(t, s.Delete(context.Background(), "k/0"))
	if err := create(s, "k/more", strings.Repeat("x", 100<<10)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A store that is opened on a full file system, without octets or without
// inodes, is read as ever, and creates as soon as there is room.
func TestFullAtOpen(t *testing.T) {
	for options, fillRest := range map[string]func(*testing.T, string){"size=512k": fillOctets, "nr_inodes=16": fillInodes} {
		t.Run(options, func(t *testing.T) {
			path := mounted(t, options)
			before := open(t, path)
			must(t, create(before, "a/1", "x"))
			fill(t, before, 16<<10)
			must(t, before.Close())
			fillRest(t, path)

			s := open(t, path)
			if s.temp != nil {
				t.Fatal("there was room at Open: this tests nothing")
			}
			if got := read(t, s, "a/1"); got != "x" {
				t.Errorf("read %q", got)
			}
			if err := create(s, "a/2", "x"); !errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrMaybe) {
				t.Errorf("Create: %v; want ErrFull", err)
			}
			must(t, s.Delete(context.Background(), "k/0"), s.Delete(context.Background(), "k/1"), s.Delete(context.Background(), "k/2"))
			if err := create(s, "a/2", "x"); err != nil {
				t.Errorf("with room again: %v", err)
			}
		})
	}
}

// fillOctets leaves no octet.
func fillOctets(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(path, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !noRoom(err) {
		t.Fatal(err)
	}
	must(t, f.Close())
}

// fillInodes leaves no inode.
func fillInodes(t *testing.T, path string) {
	t.Helper()
	for range 1 << 10 {
		f, err := os.CreateTemp(path, "filler")
		if noRoom(err) {
			return
		}
		must(t, err, f.Close())
	}
	t.Fatal("there are always more")
}

// A store on a file system that becomes read-only is read as ever; opening it
// anew is refused. With the file system writable again all is well.
func TestReadOnly(t *testing.T) {
	path := mounted(t, "size=1m")
	remount := func(flags uintptr) {
		t.Helper()
		must(t, syscall.Mount("", path, "", syscall.MS_REMOUNT|flags, ""))
	}
	s := open(t, path)
	must(t, create(s, "a/1", "x"))
	remount(syscall.MS_RDONLY)
	for _, key := range []string{"a/1", "a/2", "b/1"} {
		err := create(s, key, "x")
		if !errors.Is(err, blob.ErrReadOnly) || errors.Is(err, blob.ErrMaybe) || errors.Is(err, blob.ErrExists) {
			t.Errorf("Create(%s): %v; want ErrReadOnly", key, err)
		}
	}
	if err := s.Delete(context.Background(), "a/1"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Delete: %v", err)
	}
	if got := read(t, s, "a/1"); got != "x" {
		t.Errorf("read %q", got)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Open: %v; want a refusal", err)
	}
	remount(0)
	must(t, create(s, "a/2", "x"))
}

// A file system that is unmounted under a running store, and another mounted
// over it.
func TestUnmounted(t *testing.T) {
	path := mounted(t, "size=1m")
	s := open(t, path)
	must(t, create(s, "a/1", "x"), syscall.Mount("tmpfs", path, "tmpfs", 0, "size=1m"))
	refusesAll(t, s)
	if got := below(t, path); len(got) > 0 {
		t.Errorf("made on the one mounted over it: %q", got)
	}
	must(t, syscall.Unmount(path, 0))
	must(t, create(s, "a/2", "x"))
	must(t, syscall.Unmount(path, syscall.MNT_DETACH))
	refusesAll(t, s)
	if got := below(t, path); len(got) > 0 {
		t.Errorf("made on the file system below: %q", got)
	}
}

// ext4 is a directory with an ext4 of its own, in the file image.
func ext4(t *testing.T, image, size string) string {
	t.Helper()
	for _, tool := range []string{"mkfs.ext4", "mount", "truncate"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT TESTED: needs %s", tool)
		}
	}
	run(t, "truncate", "-s", size, image)
	run(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	return mountImage(t, image)
}

func mountImage(t *testing.T, image string) string {
	t.Helper()
	path := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, path).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: no ext4 can be mounted here: %v %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) })
	return path
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// The power fails after a Create: a copy of the disk as it is at that instant
// has the object, whole, with all before it. A deleted object may be back, and is what it was.
func TestPowerFailure(t *testing.T) {
	disks := mounted(t, "size=128m")
	path := ext4(t, filepath.Join(disks, "disk"), "16m")
	s := open(t, path)
	content := strings.Repeat("postern!", 2500)
	keys := []string{"a/1", "a/2", "b/c/1", "deleted/1", "a/3"}
	for i, key := range keys {
		must(t, create(s, key, key+content))
		if key == "deleted/1" {
			must(t, s.Delete(context.Background(), key))
		}
		image := filepath.Join(disks, "copy")
		run(t, "cp", "--sparse=always", filepath.Join(disks, "disk"), image)
		copied := mountImage(t, image)
		after := open(t, copied)
		for _, k := range keys[:i+1] {
			if k != "deleted/1" && whole(after, k) != k+content {
				t.Errorf("after %s, power fails: %s isn't there, or not whole", key, k)
			}
		}
		if key == "deleted/1" {
			deletedAfterPowerFailure(t, after, key, key+content)
		}
		must(t, after.Close(), syscall.Unmount(copied, 0))
	}
}

func deletedAfterPowerFailure(t *testing.T, s *Store, key, content string) {
	t.Helper()
	got := whole(s, key)
	err := create(s, key, "new")
	switch {
	case got == "" && err == nil:
		t.Log("the deletion was on disk")
	case got == content && errors.Is(err, blob.ErrExists):
		t.Log("the object is back")
	default:
		t.Errorf("a deleted object: %d octets read, then Create: %v", len(got), err)
	}
}

// whole reads an object of at most 64 KiB; empty when there is none.
func whole(s *Store, key string) string {
	p := make([]byte, 64<<10)
	n, _ := s.ReadAt(context.Background(), key, p, 0)
	return string(p[:n])
}

// A disk that really stops taking octets: an fsync fails, and from then on
// nothing is acknowledged, also once the disk is well again.
func TestDiskFails(t *testing.T) {
	disks := mounted(t, "size=24m") // the disk claims to have 64
	path := ext4(t, filepath.Join(disks, "disk"), "64m")
	s := open(t, path)
	content := strings.Repeat("postern!", 64<<10)
	must(t, create(s, "a/1", content))
	var err error
	created := 0
	for err == nil && created < 200 {
		created++
		err = create(s, fmt.Sprintf("a/x%d", created), content)
	}
	if err == nil || !strings.Contains(err.Error(), "fsync of") {
		t.Fatalf("after %d objects: %v; want a failed fsync", created, err)
	}
	t.Logf("after %d objects: %v", created, err)
	must(t, syscall.Mount("", disks, "", syscall.MS_REMOUNT, "size=128m"))
	for _, key := range []string{"a/after", "a/1", "new/1"} {
		if err := create(s, key, "x"); !errors.Is(err, blob.ErrReadOnly) || errors.Is(err, blob.ErrExists) || !strings.Contains(err.Error(), "restart the process") {
			t.Errorf("Create(%s): %v; want a refusal that says what to do", key, err)
		}
	}
}
