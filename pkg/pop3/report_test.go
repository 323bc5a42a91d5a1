package pop3

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// talker is a client that takes whatever is said to it.
type talker struct {
	*client
	ended chan struct{}
}

func listening(c *client) *talker {
	t := &talker{c, make(chan struct{})}
	go func() { defer close(t.ended); io.Copy(io.Discard, t.top()) }()
	return t
}

// tell says each line when the one before it has been dealt with.
func (t *talker) tell(lines ...string) *talker {
	for _, line := range lines {
		synctest.Wait()
		io.WriteString(t.top(), line+"\r\n") // who was thrown out can't
	}
	synctest.Wait()
	return t
}

const user, right, wrong = "USER alice@example.com", "PASS secret", "PASS hunter2"

// ends is how each end of a session comes about. The lines of log are in
// testdata/log.golden, in this order.
var ends = []struct {
	end    End
	limits func(*Limits)
	live   func(t *testing.T, b *box, s *Server, c *talker)
}{
	{EndQuit, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) {
		c.tell(user, wrong, user, right)
		time.Sleep(5 * time.Second)
		c.tell("STAT", "RETR 4", "TOP 1 0", "DELE 4", "FOO <x>", "QUIT")
	}},
	{EndUpdate, nil, func(_ *testing.T, b *box, _ *Server, c *talker) {
		c.tell(user, right)
		b.fault("remove transient")
		c.tell("DELE 1", "QUIT")
	}},
	{EndFlood, func(l *Limits) { l.OctetsBeforeLogin = 10 }, func(_ *testing.T, _ *box, _ *Server, c *talker) { c.tell(user) }},
	{EndHTTP, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) { c.tell("GET / HTTP/1.1") }},
	{EndForeign, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) { c.tell("EHLO x") }},
	{EndRefused, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) { c.tell(user, wrong, user, wrong, user, wrong) }},
	{EndAccess, nil, func(_ *testing.T, b *box, _ *Server, c *talker) {
		c.tell(user, right)
		time.Sleep(2 * time.Second)
		b.fault("check denied account-disabled words")
		c.tell("STAT")
	}},
	{EndBackend, nil, func(_ *testing.T, b *box, _ *Server, c *talker) {
		c.tell(user, right)
		b.cutAt = 5
		b.fault("read transient")
		c.tell("RETR 1")
	}},
	{EndRestart, nil, func(t *testing.T, _ *box, s *Server, _ *talker) { stop(t, s) }},
	{EndFull, func(l *Limits) { l.PerIP = 1 }, func(t *testing.T, _ *box, s *Server, c *talker) {
		second := listening(pipeFrom(t, s, office))
		<-second.ended
		c.tell("QUIT")
	}},
	{EndTrailing, nil, func(t *testing.T, _ *box, s *Server, c *talker) {
		listening(pipeCleartext(t, s)).tell("STLS\r\nCAPA")
		c.tell("QUIT")
	}},
	{EndTLS, nil, func(t *testing.T, _ *box, s *Server, c *talker) {
		listening(pipeCleartext(t, s)).tell("STLS", "this is not TLS at all")
		c.tell("QUIT")
	}},
	{EndTLS, nil, func(t *testing.T, _ *box, s *Server, c *talker) { // of each source one line a minute
		<-c.tell("QUIT").ended
		for range 3 {
			raw := pipeRaw(t, s, office)
			io.WriteString(raw, "this is not TLS at all\r\n")
			io.Copy(io.Discard, raw)
		}
		time.Sleep(failurePeriod)
		raw := pipeRaw(t, s, office)
		io.WriteString(raw, "\x16\x03\x01")
		raw.Close()
		synctest.Wait()
		pipeRaw(t, s, office).Close() // who says nothing has none
	}},
	{endClient, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) { c.tell(user, right).raw.Close() }},
	{endIdle, nil, func(_ *testing.T, _ *box, _ *Server, c *talker) { <-c.tell(user, right).ended }},
	{endLogin, func(l *Limits) { l.Login = 30 * time.Second }, func(_ *testing.T, _ *box, _ *Server, c *talker) { <-c.ended }},
}

var sessionLine = regexp.MustCompile(`"session":"[^"]*"|"cipher":"[^"]*"`)

// lived is the lines of log of a server at which a session ended so.
func lived(t *testing.T, i int) (lines []string) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newBox("five")
		server := testServer(t, b, func(c *Config) {
			if ends[i].limits != nil {
				c.Limits = limited(ends[i].limits)
			}
			c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}}))
		})
		c := listening(pipeFrom(t, server, office))
		synctest.Wait()
		ends[i].live(t, b, server, c)
		<-c.ended
		c.raw.Close()
		synctest.Wait()
		stop(t, server)
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, `"msg":"session"`) {
				lines = append(lines, sessionLine.ReplaceAllStringFunc(strings.TrimSpace(line), func(field string) string {
					name, _, _ := strings.Cut(field, ":")
					return name + `:"…"`
				}))
			}
		}
		if strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), "secret") || strings.Contains(log.String(), "<x>") {
			t.Errorf("the log has what clients said: %s", log.String())
		}
	})
	return lines
}

// TestLogOfEachEnd: every end has its line, and the lines are those of the golden file,
// which POSTERN_GOLDEN=write writes anew.
func TestLogOfEachEnd(t *testing.T) {
	file := filepath.Join("testdata", "log.golden")
	var got []string
	for i := range ends {
		lines := lived(t, i)
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, fmt.Sprintf(`"end":%q`, ends[i].end)) }) {
			t.Errorf("%s: %s", ends[i].end, lines)
		}
		got = append(got, lines...)
	}
	text := strings.Join(got, "\n") + "\n"
	if os.Getenv("POSTERN_GOLDEN") == "write" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

// TestReadmeHasEveryField holds README's table of the log's fields against the lines of the
// golden file, both ways.
func TestReadmeHasEveryField(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "log.golden"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## The log\n")
	section, _, _ = strings.Cut(section, "\n## ")
	fields, _, _ := strings.Cut(section, "| end | why |")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(fields, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = true
		}
	}
	written := map[string]bool{"delay_seconds": true, "time": true, "region": true, "role": true, "name": true} // no end needs a delay; whoever makes the logger adds the others
	for line := range strings.Lines(string(golden)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			if name != "level" && name != "msg" {
				written[name] = true
			}
		}
		if end, _ := fields["end"].(string); !strings.Contains(section, "`"+end+"`") {
			t.Errorf("README doesn't say what end %s is", end)
		}
	}
	for name := range written {
		if !documented[name] {
			t.Errorf("README doesn't say what %s is", name)
		}
	}
	for name := range documented {
		if !written[name] {
			t.Errorf("README has %s, and no line does", name)
		}
	}
}

// TestAddresses: hashes are the same for the same key, tell addresses apart, and don't
// show them.
func TestAddresses(t *testing.T) {
	key := bytes.Repeat([]byte{1}, minKey)
	hashed, err := HashedAddresses(key)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := HashedAddresses(key)
	other, _ := HashedAddresses(bytes.Repeat([]byte{2}, minKey))
	a := hashed("anna@example.com")
	if len(a) != 16 || a != again("anna@example.com") || a == hashed("ben@example.com") || a == other("anna@example.com") {
		t.Error(a)
	}
	if _, err := HashedAddresses(key[1:]); err == nil {
		t.Error("a short key is taken")
	}
	if got := ClearAddresses()("anna@example.com"); got != "anna@example.com" {
		t.Error(got)
	}
}
