package pop3

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

// item is a line of testdata/checklist.
type item struct {
	id, rfc, title string
	tests          []string
}

func checklist(t *testing.T) (items []item) {
	t.Helper()
	text, err := os.ReadFile("testdata/checklist")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for number, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		columns := strings.Split(line, " | ")
		if len(columns) != 4 || slices.Contains(columns, "") || seen[columns[0]] {
			t.Fatalf("testdata/checklist:%d: want four columns, and each id once: %q", number+1, line)
		}
		seen[columns[0]] = true
		items = append(items, item{columns[0], columns[1], columns[2], strings.Split(columns[3], ", ")})
	}
	return items
}

var (
	itemID    = regexp.MustCompile(`\b[A-Z][A-Z0-9]+-[0-9]{2}\b`)
	itemRange = regexp.MustCompile(`\b([A-Z][A-Z0-9]+)-([0-9]{2}) to (?:[A-Z][A-Z0-9]+-)?([0-9]{2})\b`)
)

// named are the items that a comment names, those within "TXN-01 to TXN-03" too.
func named(comment string) map[string]bool {
	comment = regexp.MustCompile(`\n(//|#) ?`).ReplaceAllString(comment, " ")
	ids := map[string]bool{}
	for _, id := range itemID.FindAllString(comment, -1) {
		ids[id] = true
	}
	for _, r := range itemRange.FindAllStringSubmatch(comment, -1) {
		first, _ := strconv.Atoi(r[2])
		last, _ := strconv.Atoi(r[3])
		for n := first; n <= last; n++ {
			ids[fmt.Sprintf("%s-%02d", r[1], n)] = true
		}
	}
	return ids
}

// remarks are the comment lines of a script.
func remarks(text string) string {
	var comment strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			comment.WriteString(line)
		}
	}
	return comment.String()
}

// conversations are the comments of this directory's scripts, by file/name.
func conversations(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(filepath.Base(file), ".txt")
		for _, part := range strings.Split("\n"+string(text), "\n== ")[1:] {
			head, _, _ := strings.Cut(part, "\n")
			name, _, _ := strings.Cut(head, " @")
			comments[base+"/"+name] = remarks(part)
		}
	}
	return comments
}

// functions are the comments of a directory's functions, by name.
func functions(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../" + dir + "/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no Go files: %v", dir, err)
	}
	form := regexp.MustCompile(`(?m)((?:^//.*\n)*)^func (?:\(\w+ \*?\w+\) )?(\w+)\(`)
	comments := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range form.FindAllStringSubmatch(string(text), -1) {
			comments[f[2]] += f[1]
		}
	}
	return comments
}

// TestChecklist: every item has a test that names it and quotes its RFC.
func TestChecklist(t *testing.T) {
	scripts, dirs := conversations(t), map[string]map[string]string{}
	comment := func(test string) (text string, ok bool) {
		dir, function, isGo := strings.Cut(test, " ")
		switch {
		case isGo:
			if dirs[dir] == nil {
				dirs[dir] = functions(t, dir)
			}
			text, ok = dirs[dir][function]
		case strings.HasPrefix(test, "pkg/"):
			script, err := os.ReadFile("../../" + test)
			text, ok = remarks(string(script)), err == nil
		default:
			text, ok = scripts[test]
		}
		return text, ok
	}
	listed := map[string]bool{}
	for _, i := range checklist(t) {
		listed[i.id] = true
		if slices.Contains(i.tests, "corpus") {
			continue // TestChecklistOfFormats
		}
		var quoted strings.Builder
		for _, test := range i.tests {
			text, ok := comment(test)
			switch {
			case !ok:
				t.Errorf("%s: there is no test %q", i.id, test)
			case !named(text)[i.id]:
				t.Errorf("%s: %s doesn't name it", i.id, test)
			}
			quoted.WriteString(text)
		}
		for _, rfc := range strings.Split(i.rfc, "; ") {
			if number, _, _ := strings.Cut(rfc, " "); number == "-" || regexp.MustCompile(`RFC[^.;:]*\b`+number+`\b`).MatchString(quoted.String()) {
				quoted.Reset() // one of them is enough
				break
			}
		}
		if quoted.Len() > 0 {
			t.Errorf("%s: no test of %v quotes RFC %s", i.id, i.tests, i.rfc)
		}
	}
	for name, text := range scripts {
		for id := range named(text) {
			if !listed[id] {
				t.Errorf("%s names %s, which isn't in the checklist", name, id)
			}
		}
	}
}

// TestChecklistOfFormats: each message of the corpus is an item of its own, with its rule.
func TestChecklistOfFormats(t *testing.T) {
	var formats int
	for _, i := range checklist(t) {
		if !slices.Contains(i.tests, "corpus") {
			continue
		}
		for _, m := range append(corpus.All(), corpus.Loose()...) {
			if strings.HasPrefix(m.ID, strings.TrimSuffix(i.id, "*")) && strings.Contains(m.Rule, "RFC ") {
				formats++
			}
		}
		for _, test := range i.tests {
			if dir, function, isGo := strings.Cut(test, " "); isGo && !strings.Contains(functions(t, dir)[function], "//") {
				t.Errorf("%s: there is no test %q", i.id, test)
			}
		}
	}
	if formats < 60 {
		t.Errorf("%d messages", formats)
	}
}
