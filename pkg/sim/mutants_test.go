package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is one promise broken: texts of the real code that are replaced. A
// replacement asks mutant("name"), so that one build has them all.
type mutant struct {
	name     string
	promise  string
	quick    bool // found within a second or two: hunted by every go test
	ledger   bool // by TestLedger; else by TestSim
	replaced []replacement
}

// replacement is an exact text that stands once in a file.
type replacement struct{ file, from, to string }

// mutationSwitch is added to each package that has mutants.
const mutationSwitch = `package %s

import "os"

var mutation = os.Getenv("POSTERN_SIM_MUTANT")

func mutant(name string) bool { return mutation == name }
`

const root = "../.." // of the module, from this package

// TestMutants breaks the real code and wants the simulation to notice.
func TestMutants(t *testing.T) {
	if os.Getenv("POSTERN_SIM_MUTANT") != "" {
		return // this is a mutant's own run
	}
	program := buildMutants(t)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if !m.quick && !full() {
				t.Skip("hunted by make sim only")
			}
			hunt(t, program, m)
		})
	}
}

// buildMutants makes one test program of all mutants.
func buildMutants(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]any{"Replace": mutate(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "mutants.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-overlay", list, "-c", "-o", program, ".")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the mutants don't compile; the list needs care: %v\n%s", err, output)
	}
	return program
}

// mutate writes mutated copies into the folder, and says what they stand for.
func mutate(t *testing.T, dir string) map[string]string {
	t.Helper()
	sources := make(map[string]string)
	for _, m := range mutants {
		for _, r := range m.replaced {
			source, seen := sources[r.file]
			if !seen {
				source = read(t, r.file)
			}
			if n := strings.Count(source, r.from); n != 1 {
				t.Fatalf("mutant %q: the text to replace stands %d times in %s; the list of mutants needs care:\n%s", m.name, n, r.file, r.from)
			}
			sources[r.file] = strings.Replace(source, r.from, r.to, 1)
			room := filepath.Dir(r.file)
			sources[filepath.Join(room, "mutation.go")] = strings.Replace(mutationSwitch, "%s", filepath.Base(room), 1)
		}
	}
	replace := make(map[string]string)
	for file, source := range sources {
		original, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		replace[original] = filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(replace[original], []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return replace
}

func read(t *testing.T, file string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(source)
}

var failing = regexp.MustCompile(`seed (\d+): VIOLATED: (.*)`)

// hunt runs seeds of a mutant until one fails; a minute is too long.
func hunt(t *testing.T, program string, m mutant) {
	t.Helper()
	began := time.Now()
	ctx, enough := context.WithTimeout(t.Context(), time.Minute)
	defer enough()
	by := "-test.run=^TestSim$"
	if m.ledger {
		by = "-test.run=^TestLedger$"
	}
	run := exec.CommandContext(ctx, program, by, "-test.v")
	run.Env = append(os.Environ(), "POSTERN_SIM_MUTANT="+m.name, "POSTERN_SIM_SEED=", "POSTERN_SIM_FROM=", "POSTERN_SIM_SECONDS=60")
	output, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		last = lines.Text()
		if found := failing.FindStringSubmatch(last); found != nil {
			t.Logf("%s: found in %.1f s by seed %s: %s", m.promise, time.Since(began).Seconds(), found[1], found[2])
			enough() // the broken code may go on for ever
			_ = run.Wait()
			return
		}
	}
	t.Errorf("nobody noticed in %.1f s that this is broken: %s (%v; %s)", time.Since(began).Seconds(), m.promise, run.Wait(), last)
}
