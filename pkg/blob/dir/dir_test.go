package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func create(s *Store, key, content string) error {
	return s.Create(context.Background(), key, strings.NewReader(content), int64(len(content)))
}

func read(t testing.TB, s *Store, key string) string {
	t.Helper()
	p := make([]byte, 1<<10)
	n, err := s.ReadAt(context.Background(), key, p, 0)
	if n == 0 {
		t.Fatalf("read %s: %v", key, err)
	}
	return string(p[:n])
}

// files are all files below path, relative to it.
func files(t testing.TB, path string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, err = filepath.Rel(path, name)
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestContract(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
}

// Several processes share one directory: a race over all of them has one winner.
func TestContractOfManyStores(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		path := t.TempDir()
		return &many{Store: open(t, path), others: []*Store{open(t, path), open(t, path), open(t, path)}}
	})
}

// many gives each Create to another Store of the same directory.
type many struct {
	*Store // reads and lists
	others []*Store
	turn   atomic.Uint64
}

func (m *many) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	return m.others[m.turn.Add(1)%uint64(len(m.others))].Create(ctx, key, body, size)
}

var errCrash = errors.New("the process ends here")

// A process that ends at any point leaves a whole object or none, and what it
// left half written goes when the next one opens.
func TestCrashAtEachStep(t *testing.T) {
	for _, at := range []step{stepSyncMade, stepWrite, stepSync, stepLink, stepSyncDir, stepUnlink} {
		t.Run(string(at), func(t *testing.T) {
			path := t.TempDir()
			s := open(t, path)
			dead := false
			s.step = func(now step) error {
				if dead = dead || now == at; dead {
					return errCrash
				}
				return nil
			}
			err := create(s, "a/b/c", "content")
			if ok := at == stepUnlink; (err == nil) != ok {
				t.Fatalf("Create: %v", err)
			}
			if err := s.temp.lock.Close(); err != nil { // as the kernel does for a dead process
				t.Fatal(err)
			}
			after := open(t, path)
			var want []string
			if at == stepSyncDir || at == stepUnlink {
				want = []string{"objects/a/b/c"}
			}
			if got := files(t, path); !slices.Equal(got, want) {
				t.Errorf("left: %q, want %q", got, want)
			}
			err = create(after, "a/b/c", "other")
			if exists := want != nil; errors.Is(err, blob.ErrExists) != exists || (err == nil) == exists {
				t.Errorf("Create after it: %v", err)
			}
			if got := read(t, after, "a/b/c"); got != "content" && want != nil {
				t.Errorf("read %q", got)
			}
		})
	}
}

// The object is on disk before it has its name, and the name before Create returns.
func TestOrderOfSteps(t *testing.T) {
	s := open(t, t.TempDir())
	var steps []step
	s.step = func(now step) error {
		steps = append(steps, now)
		return nil
	}
	for _, c := range []struct {
		key  string
		want []step
	}{
		{"a/b/1", []step{stepSyncMade, stepSyncMade, stepWrite, stepSync, stepLink, stepSyncDir, stepUnlink}},
		{"a/b/2", []step{stepWrite, stepSync, stepLink, stepSyncDir, stepUnlink}},
		{"a/b/2", []step{stepWrite, stepSync, stepLink, stepSyncDir, stepUnlink}}, // exists: durable as well
	} {
		steps = nil
		_ = create(s, c.key, "x")
		if !slices.Equal(steps, c.want) {
			t.Errorf("%s: %q, want %q", c.key, steps, c.want)
		}
	}
}

func TestFsyncOfFileFails(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	s.step = func(now step) error {
		if now == stepSync {
			return syscall.EIO
		}
		return nil
	}
	if err := create(s, "a/1", "x"); !errors.Is(err, syscall.EIO) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want a clean EIO", err)
	}
	if got := files(t, path); got != nil {
		t.Errorf("left: %q", got)
	}
	s.step = func(step) error { return nil }
	if err := create(s, "a/1", "y"); err != nil {
		t.Errorf("the next try, with a new file: %v", err)
	}
}

// After a directory's fsync failed the outcome is unknown, and stays so however
// often it is asked for; nothing else is acknowledged either. A new process is
// free of it.
func TestFsyncOfDirectoryFails(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	fail := true
	s.step = func(now step) error {
		if now == stepSyncDir && fail {
			return syscall.EIO
		}
		return nil
	}
	if err := create(s, "a/1", "x"); !errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want ErrMaybe", err)
	}
	fail = false
	for _, key := range []string{"a/1", "a/2"} {
		if err := create(s, key, "x"); err == nil || errors.Is(err, blob.ErrExists) {
			t.Errorf("Create(%s) after it: %v; want no acknowledgement", key, err)
		}
	}
	if got := files(t, path); !slices.Equal(got, []string{"objects/a/1"}) {
		t.Errorf("left: %q; want nothing made after the failure", got)
	}
	if err := s.exists(filepath.Join(s.objects, "a/1")); !errors.Is(err, blob.ErrMaybe) {
		t.Errorf("a Create that had begun before: %v; want ErrMaybe", err)
	}
	if got := read(t, s, "a/1"); got != "x" {
		t.Errorf("read %q", got)
	}
	if err := create(open(t, path), "a/1", "x"); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a new process: %v", err)
	}
}

func TestLinkErrors(t *testing.T) {
	for err, want := range map[syscall.Errno]error{
		syscall.ENOSPC: blob.ErrFull, syscall.EDQUOT: blob.ErrFull, syscall.EIO: blob.ErrMaybe, syscall.ESTALE: blob.ErrMaybe,
		syscall.EACCES: nil, syscall.EROFS: nil,
	} {
		got := notLinked(&os.LinkError{Op: "link", Err: err})
		for _, kind := range []error{blob.ErrFull, blob.ErrMaybe} {
			if errors.Is(got, kind) != errors.Is(kind, want) {
				t.Errorf("%v: %v", err, got)
			}
		}
	}
}

// A living process's half-written files stay; a dead one's go. The living one
// is another process, killed in the end.
func TestTempsOfTheDeadGo(t *testing.T) {
	if os.Getenv("POSTERN_DIR_TEST") != "" {
		sleeper()
	}
	path := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestTempsOfTheDeadGo$")
	cmd.Env = append(os.Environ(), "POSTERN_DIR_TEST=1")
	cmd.Dir = path
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if got := files(t, path); len(got) != 1 || !strings.HasPrefix(got[0], "tmp/") {
		t.Errorf("while it lives: %q", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	open(t, path)
	if got := files(t, path); len(got) != 0 {
		t.Errorf("after its end: %q", got)
	}
}

// sleeper is the other process: it never returns.
func sleeper() {
	s, err := Open(".")
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(s.tempName(), []byte("half"), 0o600); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("!")
	_, _ = io.Copy(io.Discard, os.Stdin) // till the end of the process that started it
	os.Exit(1)
}

func TestManyOpensAtOnce(t *testing.T) {
	path := t.TempDir()
	var done sync.WaitGroup
	for i := range 16 {
		done.Go(func() {
			s, err := Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := create(s, fmt.Sprintf("k/%d", i), "x"); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if got := files(t, path); len(got) != 16 {
		t.Errorf("left: %q", got)
	}
}

// A process that begins beside ones that clean never loses its own folder.
func TestTempDirsBesideCleaners(t *testing.T) {
	temps := t.TempDir()
	var done sync.WaitGroup
	for range 16 {
		done.Go(func() {
			for range 30 {
				if err := cleanTemps(temps); err != nil {
					t.Error(err)
				}
				d, err := newTempDir(temps)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(d.path, "1"), []byte("x"), 0o600); err != nil {
					t.Errorf("its folder was cleaned away: %v", err)
				}
				if err := d.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
}

func TestObjectAndFolder(t *testing.T) {
	s := open(t, t.TempDir())
	for _, key := range []string{"a/b", "o"} {
		if err := create(s, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "o/below"} {
		if err := create(s, key, "x"); err == nil || errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("Create(%s): %v; want a refusal", key, err)
		}
	}
	if err := s.Delete(context.Background(), "a"); err != nil {
		t.Error(err)
	}
	if got := read(t, s, "a/b"); got != "x" {
		t.Errorf("read %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a store")
	}
	if _, err := Open("/proc/postern"); err == nil {
		t.Error("a file system that keeps nothing was opened as a store")
	}
}

func BenchmarkCreate(b *testing.B) {
	s := open(b, b.TempDir())
	content := bytes.Repeat([]byte("x"), 64<<10)
	for i := 0; b.Loop(); i++ {
		if err := s.Create(context.Background(), fmt.Sprintf("k/%020d", i), bytes.NewReader(content), int64(len(content))); err != nil {
			b.Fatal(err)
		}
	}
}
