package sim

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mutation"
)

// mutant is one promise broken: texts of the real code that are replaced. A
// replacement asks mutant("name"), so that one build has them all.
type mutant struct {
	name     string
	promise  string
	quick    bool // found within a second or two: hunted by every go test
	ledger   bool // by TestLedger; else by TestSim
	replaced []mutation.Replacement
}

const root = "../.." // of the module, from this package

// TestMutants breaks the real code and wants the simulation to notice.
func TestMutants(t *testing.T) {
	if os.Getenv(mutation.Switch) != "" {
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
	var all []mutation.Replacement
	for _, m := range mutants {
		all = append(all, m.replaced...)
	}
	program := filepath.Join(t.TempDir(), "mutants.test")
	mutation.Build(t, root, "pkg/sim", all, nil, "test", "-c", "-o", program)
	return program
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
	run.Env = append(os.Environ(), mutation.Switch+"="+m.name, "POSTERN_SIM_SEED=", "POSTERN_SIM_FROM=", "POSTERN_SIM_SECONDS=60")
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
