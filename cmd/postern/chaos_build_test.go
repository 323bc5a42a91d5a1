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

// chaosMutants are what the suite must find.
var chaosMutants = map[string][]mutation.Replacement{
	"acknowledges before the commit": {{
		File: "pkg/shard/deliver.go",
		From: "\tr.draft.Record = &d\n\treturn s.commits.commit(ctx, r)\n",
		To:   "\tr.draft.Record = &d\n\tif mutant(\"acknowledges before the commit\") {\n\t\t_, err := s.commits.submit(r)\n\t\treturn err\n\t}\n\treturn s.commits.commit(ctx, r)\n",
	}},
	"without a fence": {
		{
			File: "pkg/ledger/open.go",
			From: "\t\terr = o.commit(ctx, o.object(o.next), object, headerSize, nil, o.log)",
			To:   "\t\tif o.next == 1 || !mutant(\"without a fence\") {\n\t\t\terr = o.commit(ctx, o.object(o.next), object, headerSize, nil, o.log)\n\t\t}",
		},
		{
			File: "pkg/ledger/append.go",
			From: "\t\tcase taken.epoch >= l.epoch:\n",
			To:   "\t\tcase taken.epoch >= l.epoch && mutant(\"without a fence\"):\n\t\t\treturn nil\n\t\tcase taken.epoch >= l.epoch:\n",
		},
	},
}

// buildChaos makes a postern with a clock and a disk that can be broken, and perhaps mutants.
func buildChaos(t *testing.T, mutants ...[]mutation.Replacement) (program string) {
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
		replaced = append(replaced[:len(replaced):len(replaced)], m...)
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
