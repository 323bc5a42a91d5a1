package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/postern-pop/postern/pkg/mutation"
)

// clockSteps says that a process's wall clock can be stepped here: the vDSO's stand-in is
// written for one processor.
const clockSteps = runtime.GOARCH == "amd64"

// breakable is what makes a process's clock and disk obey switches.
var breakable = []mutation.Replacement{{
	File: "pkg/blob/dir/durable.go",
	From: "\t\terr = f.Sync()\n",
	To:   "\t\tslowDisk()\n\t\terr = f.Sync()\n",
}}

// chaosMutant is a promise broken, and the plan by which the suite must find it.
type chaosMutant struct {
	name     string
	replaced mutation.Replacement
	plan     func(*chaosRig) []act
}

var chaosMutants = []chaosMutant{
	{
		name: "acknowledges before the commit", plan: (*chaosRig).killedInCommits,
		replaced: mutation.Replacement{
			File: "pkg/shard/deliver.go",
			From: "\tr.draft.Record = &d\n\treturn s.commits.commit(ctx, r)\n",
			To: "\tr.draft.Record = &d\n\tif mutant(\"acknowledges before the commit\") {\n\t\t_, err := s.commits.submit(r)\n\t\treturn err\n\t}\n" +
				"\treturn s.commits.commit(ctx, r)\n",
		},
	},
	{
		name: "without a fence", plan: (*chaosRig).replacedUnheard,
		replaced: mutation.Replacement{
			File: "pkg/ledger/append.go",
			From: "\t\tcase taken.epoch >= l.epoch:\n",
			To:   "\t\tcase taken.epoch >= l.epoch && mutant(\"without a fence\"):\n\t\t\treturn nil\n\t\tcase taken.epoch >= l.epoch:\n",
		},
	},
}

// buildChaos makes a postern with a clock and a disk that can be broken, and perhaps mutants.
func buildChaos(t *testing.T, mutants ...chaosMutant) (program string) {
	t.Helper()
	added := map[string]string{}
	for file, source := range map[string]string{
		"cmd/postern/chaos_switches.go": "switches.go",
		"pkg/blob/dir/chaos_disk.go":    "disk.go",
	} {
		added[file] = chaosSource(t, source)
	}
	if clockSteps {
		added["cmd/postern/chaos_clock_amd64.go"] = chaosSource(t, "clock_amd64.go")
		added["cmd/postern/chaos_clock_amd64.s"] = chaosSource(t, "clock_amd64.s")
	} else {
		added["cmd/postern/chaos_clock.go"] = chaosSource(t, "clock_other.go")
	}
	replaced := breakable
	for _, m := range mutants {
		replaced = append(replaced[:len(replaced):len(replaced)], m.replaced)
	}
	program = filepath.Join(t.TempDir(), "postern")
	// The linker lets nobody at the runtime's variables unless it is told.
	mutation.Build(t, "../..", "cmd/postern", replaced, added, "build", "-ldflags=-checklinkname=0", "-o", program)
	return program
}

func chaosSource(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "chaos", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
