package pop3

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// script is a conversation from testdata.
type script struct {
	name  string
	drop  string // which maildrop
	clear bool   // it begins without TLS
	steps []scriptStep
}

// scriptStep is one line: C (what the client says), S (what the server says, with *
// for anything), or a directive.
type scriptStep struct {
	line int
	verb string
	text string
}

// scripts reads all of testdata. See testdata/README for the form.
func scripts(t testing.TB) (all []script) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(filepath.Base(file), ".txt")
		for number, line := range strings.Split(string(text), "\n") {
			switch {
			case strings.HasPrefix(line, "== "): // a new conversation
				name, drop, _ := strings.Cut(line[3:], " @")
				drop, cleartext := strings.CutSuffix(drop, " in the clear")
				all = append(all, script{name: base + "/" + name, drop: drop, clear: cleartext})
			case line == "", strings.HasPrefix(line, "#"):
			default:
				s := &all[len(all)-1]
				s.steps = append(s.steps, parseStep(t, file, number+1, line))
			}
		}
	}
	return all
}

func parseStep(t testing.TB, file string, number int, line string) scriptStep {
	t.Helper()
	verb, text, _ := strings.Cut(line, ":")
	text = strings.TrimPrefix(text, " ")
	if verb == "Q" { // C, quoted as in Go
		unquoted, err := strconv.Unquote(text)
		if err != nil {
			t.Fatalf("%s:%d: %v", file, number, err)
		}
		verb, text = "C", unquoted
	}
	if !slices.Contains([]string{"C", "S", "tls", "wait", "fault", "cut", "removed", "calls", "end"}, verb) {
		t.Fatalf("%s:%d: %q is no step", file, number, verb)
	}
	return scriptStep{line: number, verb: verb, text: text}
}

// pure reports whether a script is but talk, so that it can be sent at once.
func (s script) pure() bool {
	talk := true
	for _, step := range s.steps {
		switch step.verb {
		case "wait", "fault", "cut", "tls":
			talk = false
		}
	}
	return talk
}

// check compares what only the box knows.
func (b *box) check(t *testing.T, step scriptStep) {
	t.Helper()
	var got []string
	switch step.verb {
	case "removed":
		for _, uid := range b.gone() {
			got = append(got, strconv.Itoa(slices.Index(b.uids, uid)+1))
		}
	case "calls":
		b.set(func() {
			for _, op := range b.calls {
				got = append(got, op.String())
			}
		})
	}
	if strings.Join(got, " ") != step.text {
		t.Errorf("line %d: %s: %q, want %q", step.line, step.verb, strings.Join(got, " "), step.text)
	}
}

// matches compares a reply line with a pattern in which * is anything.
func matches(pattern, line string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == line
	}
	if !strings.HasPrefix(line, parts[0]) {
		return false
	}
	line = line[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(line, part)
		if i < 0 {
			return false
		}
		line = line[i+len(part):]
	}
	return strings.HasSuffix(line, parts[len(parts)-1])
}

// driver is the part of conn for a Session alone, without time or a network.
type driver struct {
	box     *box
	drop    maildrop.Drop
	session *Session
	now     time.Time
	sent    bytes.Buffer
	end     End
	trace   func(Step)
}

func newDriver(b *box) *driver {
	d := &driver{box: b, now: time.Unix(1e9, 0)}
	d.session = NewProtocol("eu-pop.example.com", "eu").Session("ABC123")
	d.perform(d.session.Greet())
	return d
}

// begin starts a script's session.
func (s script) begin(b *box) *driver {
	d := newDriver(b)
	if s.clear {
		d.sent.Reset()
		d.session = d.session.protocol.Cleartext("ABC123")
		d.perform(d.session.Greet())
	}
	return d
}

func (d *driver) line(text []byte) {
	if len(text)+2 > d.session.MaxLine() {
		d.perform(d.session.Overlong(d.now))
		return
	}
	d.perform(d.session.Line(d.now, text))
}

func (d *driver) perform(step Step) {
	for {
		d.sent.Write(step.Reply)
		if d.trace != nil {
			d.trace(step)
		}
		if d.end = step.End; d.end != "" || step.Do.Op == OpNone {
			return
		}
		step = d.session.Result(d.now, d.execute(step.Do))
	}
}

func (d *driver) execute(r Request) (result Result) {
	ctx := context.Background()
	switch r.Op {
	case OpOpen:
		d.drop, result.Err = d.box.Open(ctx, maildrop.Login{Address: r.Address, Password: r.Password, Proof: r.Proof})
		if result.Err == nil {
			result.Info = d.drop.Info()
		}
	case OpChallenge:
		result.Challenge, result.Err = d.box.Challenge(ctx, maildrop.Login{Address: r.Address})
	case OpLeave:
		d.drop.Close()
		d.drop = nil
	case OpCheck:
		result.Err = d.drop.Check(ctx)
	case OpList:
		result.Listing, result.Err = d.drop.List(ctx)
	case OpRemove:
		result.Err = d.drop.Remove(ctx, r.UIDs)
	case OpTLS:
		d.sent.Write(r.Preface)
	case OpRead:
		var b bytes.Buffer
		top := wire.NewTop(&b, r.Lines)
		if r.Whole {
			_, result.Err = d.drop.Read(ctx, r.UID, 0, &b)
		} else if _, result.Err = d.drop.Read(ctx, r.UID, 0, top); top.Done() {
			result.Err = nil
		}
		if result.Begun = b.Len() > 0; result.Begun {
			d.sent.Write(r.Preface)
			d.sent.Write(b.Bytes())
		}
	}
	return result
}

// TestScripts runs the conversations of testdata against the pure Session.
func TestScripts(t *testing.T) {
	for _, s := range scripts(t) {
		t.Run(s.name, func(t *testing.T) {
			b := newBox(s.drop)
			d := s.begin(b)
			for _, step := range s.steps {
				if step.verb != "S" && step.verb != "end" && d.sent.Len() > 0 {
					t.Fatalf("line %d: the server said too much: %q", step.line, d.sent.String())
				}
				d.step(t, step)
				if t.Failed() {
					return
				}
			}
			if d.sent.Len() > 0 {
				t.Fatalf("the server said too much: %q", d.sent.String())
			}
		})
	}
}

func (d *driver) step(t *testing.T, step scriptStep) {
	switch step.verb {
	case "C":
		if d.end == "" {
			d.line([]byte(step.text))
		}
	case "S":
		line, err := d.sent.ReadString('\n')
		if err != nil || !strings.HasSuffix(line, "\r\n") || !matches(step.text, line[:len(line)-2]) {
			t.Fatalf("line %d: got %q, want %q", step.line, line, step.text)
		}
	case "wait":
		pause, err := time.ParseDuration(step.text)
		if err != nil {
			t.Fatal(err)
		}
		d.now = d.now.Add(pause)
	case "fault":
		d.box.fault(step.text)
	case "cut", "tls":
	case "end":
		if string(d.end) != step.text {
			t.Fatalf("line %d: end %q, want %q", step.line, d.end, step.text)
		}
	default:
		d.box.check(t, step)
	}
}
