package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
)

// childEnv says to this test's binary which part of another process it plays.
const childEnv = "POSTERN_DIR_TEST"

// TestMain plays another process's part, where it is asked to.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "half":
		err = createHalf()
	case "race":
		err = raceForKeys()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// process starts this test's binary in a part, in the store's directory.
func process(t *testing.T, part, path string) (*exec.Cmd, io.WriteCloser, io.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+part)
	cmd.Dir = path
	cmd.Stderr = os.Stderr
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, stdin, stdout
}

// createHalf is in the middle of a Create when it says so, and stays there.
func createHalf() error {
	s, err := Open(".")
	if err != nil {
		return err
	}
	body := io.MultiReader(strings.NewReader("half"), writeOnRead{os.Stdout}, os.Stdin)
	return s.Create(context.Background(), "a/1", body, 1<<20)
}

type writeOnRead struct{ to io.Writer }

func (w writeOnRead) Read([]byte) (int, error) {
	if _, err := w.to.Write([]byte("!")); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// A process killed in mid-Create: while it lives nobody takes its file away, and
// after its end the next Open does.
func TestKilledInMidCreate(t *testing.T) {
	path := t.TempDir()
	cmd, _, stdout := process(t, "half", path)
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
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
	s := open(t, path)
	if got := files(t, path); len(got) != 0 {
		t.Errorf("after its end: %q", got)
	}
	if err := create(s, "a/1", "whole"); err != nil {
		t.Error(err)
	}
}

const raceKeys = 40

// raceForKeys creates all keys, and prints those that it won.
func raceForKeys() error {
	s, err := Open(".")
	if err != nil {
		return err
	}
	fmt.Print("!")
	if _, err := io.ReadAll(os.Stdin); err != nil { // all start when it is closed
		return err
	}
	for i := range raceKeys {
		err := create(s, fmt.Sprintf("race/%d", i), fmt.Sprint(os.Getpid()))
		switch {
		case err == nil:
			fmt.Printf("%d\n", i)
		case !errors.Is(err, blob.ErrExists):
			return err
		}
	}
	return s.Close()
}

// Of several processes one wins each key, and its octets are there.
func TestProcessesRace(t *testing.T) {
	path := t.TempDir()
	const processes = 4
	var start []io.Closer
	var mu sync.Mutex
	winners := make(map[string][]string)
	var done sync.WaitGroup
	for range processes {
		cmd, stdin, stdout := process(t, "race", path)
		if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		start = append(start, stdin)
		done.Go(func() {
			won, err := io.ReadAll(stdout)
			if err := errors.Join(err, cmd.Wait()); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, i := range strings.Fields(string(won)) {
				winners[i] = append(winners[i], fmt.Sprint(cmd.Process.Pid))
			}
		})
	}
	for _, c := range start {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	done.Wait()
	s := open(t, path)
	for i := range raceKeys {
		won := winners[fmt.Sprint(i)]
		if got := read(t, s, fmt.Sprintf("race/%d", i)); !slices.Equal(won, []string{got}) {
			t.Errorf("key %d: won by %q, and has the octets of %q", i, won, got)
		}
	}
	if got := files(t, path); len(got) != raceKeys {
		t.Errorf("left: %q", got)
	}
}
