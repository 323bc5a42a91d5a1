package lmtp

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the server answers into the scripts")

// sessionID is what differs from run to run.
var sessionID = regexp.MustCompile(`\b[0-9a-v]{16}-`)

// TestScripts holds conversations in testdata against the server:
//
//	C: a line of the client; lines that follow each other go in one packet
//	X: a Go string, sent as it is
//	S: a line of the server
//	S: EOF
//	D: who got a message since the last D, sorted
//	#  words
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := strings.Split(string(text), "\n")
			for i, line := range strings.Split(got, "\n") {
				if i >= len(want) || line != want[i] {
					t.Fatalf("%s:%d:\n got %s\nwant %s", file, i+1, line, strings.Join(want[min(i, len(want)-1):min(i+1, len(want))], ""))
				}
			}
		})
	}
}

// play runs a script and returns it with the server's lines as they were.
func play(t *testing.T, script string) string {
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room, MaxSize: 1000})
	c := dial(t, address)
	var out []string
	pending := ""
	for _, line := range strings.Split(script, "\n") {
		kind, rest, _ := strings.Cut(line, ": ")
		if kind != "C" && kind != "X" && pending != "" {
			c.send(pending)
			pending = ""
		}
		switch kind {
		case "C":
			pending += rest + "\r\n"
		case "C:":
			pending += "\r\n"
		case "X":
			raw, err := strconv.Unquote(rest)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			pending += raw
		case "S":
			line = "S: " + sessionID.ReplaceAllString(c.line(), "ID-")
		case "D:", "D":
			all := []string{"D:"}
			for _, d := range room.take() {
				all = append(all, string(d.envelope.To))
			}
			line = strings.Join(all, " ")
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}
