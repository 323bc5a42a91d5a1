// Package mutation builds programs of this module with some texts replaced, so that a test can
// break the real code and see whether another test notices. It is for tests only.
//
//	Replacements, added files ──▶ overlay (go help build: -overlay) ──▶ Build
//
// The tree stays as it is. Replacements ask mutant("name"), which each package with a
// replacement gets, and which goes by the environment (Switch): one build has all mutants.
//
// # Decisions
//
//   - 2026-11-25: a package of its own, of what was the simulation's alone: programs with real
//     processes are broken in the same way. Refused: build tags, which would leave broken code
//     in the tree.
package mutation

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Switch is the environment's variable that names the mutant which a program is.
const Switch = "POSTERN_MUTANT"

// Replacement is an exact text that stands once in a file, named from the module's root.
type Replacement struct{ File, From, To string }

const switchFile = `package PACKAGE

import "os"

var mutation = os.Getenv("` + Switch + `")

func mutant(name string) bool { return mutation == name }
`

// Build runs go with a command such as build or test -c, in a folder from the module's root,
// with texts replaced and files added. root is the module's, from the test's folder.
func Build(t testing.TB, root, folder string, replaced []Replacement, added map[string]string, command ...string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": overlay(t, root, replaced, added)})
	if err == nil {
		err = os.WriteFile(list, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", append(command, "-overlay", list, ".")...)
	build.Dir = filepath.Join(root, folder)
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the mutants don't compile; the list needs care: %v\n%s", err, output)
	}
}

// overlay writes the files that stand for those of the tree, and says for which.
func overlay(t testing.TB, root string, replaced []Replacement, added map[string]string) map[string]string {
	t.Helper()
	sources := make(map[string]string)
	for _, r := range replaced {
		source, seen := sources[r.File]
		if !seen {
			text, err := os.ReadFile(filepath.Join(root, r.File))
			if err != nil {
				t.Fatal(err)
			}
			source = string(text)
		}
		if n := strings.Count(source, r.From); n != 1 {
			t.Fatalf("the text to replace stands %d times in %s; the list of mutants needs care:\n%s", n, r.File, r.From)
		}
		sources[r.File] = strings.Replace(source, r.From, r.To, 1)
		room := filepath.Dir(r.File)
		sources[filepath.Join(room, "mutation.go")] = strings.Replace(switchFile, "PACKAGE", filepath.Base(room), 1)
	}
	for file, source := range added {
		sources[file] = source
	}
	return write(t, root, sources)
}

func write(t testing.TB, root string, sources map[string]string) map[string]string {
	t.Helper()
	dir, replace := t.TempDir(), make(map[string]string)
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
