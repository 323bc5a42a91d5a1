package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	for _, at := range []step{stepSyncMade, stepWrite, stepSync, stepOpenDir, stepLink, stepSyncDir, stepUnlink} {
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
		{"a/b/1", []step{stepSyncMade, stepSyncMade, stepWrite, stepSync, stepOpenDir, stepLink, stepSyncDir, stepUnlink}},
		{"a/b/2", []step{stepWrite, stepSync, stepOpenDir, stepLink, stepSyncDir, stepUnlink}},
		{"a/b/2", []step{stepWrite, stepSync, stepOpenDir, stepLink, stepSyncDir, stepUnlink}}, // exists: durable as well
	} {
		steps = nil
		_ = create(s, c.key, "x")
		if !slices.Equal(steps, c.want) {
			t.Errorf("%s: %q, want %q", c.key, steps, c.want)
		}
	}
}

// A file's fsync that failed is a clean failure, of this Create and all that come.
func TestFsyncOfFileFails(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	s.step = failing(stepSync, syscall.EIO)
	if err := create(s, "a/1", "x"); !errors.Is(err, syscall.EIO) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want a clean EIO", err)
	}
	if got := files(t, path); got != nil {
		t.Errorf("left: %q", got)
	}
	s.step = failing("", nil)
	if err := create(s, "a/1", "y"); err == nil || errors.Is(err, blob.ErrMaybe) || !strings.Contains(err.Error(), "restart the process") {
		t.Errorf("the next try: %v; want a clean refusal that says what to do", err)
	}
	if err := create(open(t, path), "a/1", "z"); err != nil {
		t.Errorf("a new process: %v", err)
	}
}

// Some file systems find out at fsync only that there is no room: nothing is
// in doubt then.
func TestFsyncOfFileFindsNoRoom(t *testing.T) {
	s := open(t, t.TempDir())
	s.step = failing(stepSync, syscall.EDQUOT)
	if err := create(s, "a/1", "x"); !errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want ErrFull", err)
	}
	s.step = failing("", nil)
	if err := create(s, "a/1", "y"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A new directory whose fsync failed is never taken for durable, however often
// Create is called.
func TestFsyncOfMadeDirectoryFails(t *testing.T) {
	s := open(t, t.TempDir())
	s.step = failing(stepSyncMade, syscall.EIO)
	for range 3 {
		if err := create(s, "a/1", "x"); err == nil || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("Create: %v; want a clean failure", err)
		}
		s.step = failing("", nil)
	}
}

// failing fails at a step.
func failing(at step, err error) func(step) error {
	return func(now step) error {
		if now == at {
			return err
		}
		return nil
	}
}

// After a directory's fsync failed the outcome is unknown, and stays so however
// often it is asked for; nothing else is acknowledged either. A new process is
// free of it.
func TestFsyncOfDirectoryFails(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	s.step = failing(stepSyncDir, syscall.EIO)
	if err := create(s, "a/1", "x"); !errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want ErrMaybe", err)
	}
	s.step = failing("", nil)
	for _, key := range []string{"a/1", "a/2"} {
		if err := create(s, key, "x"); err == nil || errors.Is(err, blob.ErrExists) {
			t.Errorf("Create(%s) after it: %v; want no acknowledgement", key, err)
		}
	}
	if got := files(t, path); !slices.Equal(got, []string{"objects/a/1"}) {
		t.Errorf("left: %q; want nothing made after the failure", got)
	}
	if got := read(t, s, "a/1"); got != "x" {
		t.Errorf("read %q", got)
	}
	if err := create(open(t, path), "a/1", "x"); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a new process: %v", err)
	}
}

// A Create that is under way when another's fsync fails isn't acknowledged.
func TestFsyncFailsMeanwhile(t *testing.T) {
	for _, at := range []step{stepOpenDir, stepSyncDir} {
		s := open(t, t.TempDir())
		s.step = func(now step) error {
			if now == at {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.sick = syscall.EIO
			}
			return nil
		}
		if err := create(s, "a/1", "x"); !errors.Is(err, blob.ErrMaybe) {
			t.Errorf("%s: %v; want ErrMaybe", at, err)
		}
	}
}

// Too many open files is trouble that passes, and nothing was created.
func TestDirectoryCannotBeOpened(t *testing.T) {
	s := open(t, t.TempDir())
	s.step = failing(stepOpenDir, syscall.EMFILE)
	if err := create(s, "a/1", "x"); err == nil || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want a clean failure", err)
	}
	s.step = failing("", nil)
	if err := create(s, "a/1", "y"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestLinkErrors(t *testing.T) {
	for err, want := range map[syscall.Errno]error{
		syscall.ENOSPC: blob.ErrFull, syscall.EDQUOT: blob.ErrFull, syscall.EIO: blob.ErrMaybe, syscall.ESTALE: blob.ErrMaybe,
		syscall.EACCES: nil, syscall.EROFS: nil,
	} {
		got := explained(notLinked(&os.LinkError{Op: "link", Err: err}))
		for _, kind := range []error{blob.ErrFull, blob.ErrMaybe} {
			if errors.Is(got, kind) != errors.Is(kind, want) {
				t.Errorf("%v: %v", err, got)
			}
		}
	}
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
	s := open(t, t.TempDir())
	temps := t.TempDir()
	var done sync.WaitGroup
	for range 16 {
		done.Go(func() {
			for range 30 {
				if err := s.cleanTemps(temps); err != nil {
					t.Error(err)
				}
				d, err := s.newTempDir(temps)
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

// A file system that lacks something is refused in words that name it.
func TestOpenRefusesPoorFileSystems(t *testing.T) {
	for _, c := range []struct {
		at   step
		err  error
		says string
	}{
		{stepLock, syscall.ENOLCK, "no locks"},
		{stepLock, syscall.EOPNOTSUPP, "no locks"},
		{stepProbeLink, syscall.EPERM, "no hard links"}, // as FAT says
		{stepProbeLink, syscall.EOPNOTSUPP, "no hard links"},
		{stepProbeLink, syscall.EXDEV, "no hard links from tmp to objects"},
		{stepProbe, syscall.EROFS, "read-only"},
	} {
		path := t.TempDir()
		_, err := openAt(path, failing(c.at, c.err))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v at %s: %v; want a refusal with %q", c.err, c.at, err, c.says)
		}
		if got := files(t, path); got != nil {
			t.Errorf("%v at %s: left %q", c.err, c.at, got)
		}
	}
}

// BenchmarkCreate is of objects of 64 KiB in one directory, by so many at once.
func BenchmarkCreate(b *testing.B) {
	content := bytes.Repeat([]byte("x"), 64<<10)
	for _, creators := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(creators), func(b *testing.B) {
			s := open(b, b.TempDir())
			var serial atomic.Int64
			var done sync.WaitGroup
			b.ResetTimer()
			for range creators {
				done.Go(func() {
					for i := serial.Add(1); i <= int64(b.N); i = serial.Add(1) {
						if err := s.Create(context.Background(), fmt.Sprintf("k/%020d", i), bytes.NewReader(content), int64(len(content))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			done.Wait()
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := open(b, b.TempDir())
	p := bytes.Repeat([]byte("x"), 64<<10)
	if err := s.Create(context.Background(), "k/1", bytes.NewReader(p), int64(len(p))); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.ReadAt(context.Background(), "k/1", p, 0); err != nil {
			b.Fatal(err)
		}
	}
}
