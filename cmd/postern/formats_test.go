package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

// TestFormats takes every message of the corpus through a real LMTP session, the
// store, and real POP3 sessions over TLS: octets, sizes, stuffing, TOP, twice.
func TestFormats(t *testing.T) {
	at := startStandalone(t)
	messages := corpus.All()
	at.deliverAll(messages)
	first, second := at.shown(), at.shown()
	if len(first) != len(messages) {
		t.Fatalf("FMT-total: %d messages of %d", len(first), len(messages))
	}
	for i, m := range messages {
		t.Run(m.ID+" "+m.Rule, func(t *testing.T) {
			head := zoesTrace.FindString(first[i].wire)
			if head == "" {
				t.Fatalf("trace header: %.300q", first[i].wire)
			}
			sameOctets(t, m.About, first[i].wire[len(head):], m.Stored)
			first[i].check(t)
			if second[i] != first[i] { // FMT-again
				t.Error("a second session shows another message")
			}
		})
	}
	t.Run("FMT-uidl RFC 1939 section 7", func(t *testing.T) { uniqueIDs(t, first) })
}

// TestFormatsOfFiles does so with the messages that LMTP can't carry without
// CHUNKING, which isn't offered: those that don't end with CRLF come in with a
// Maildir, and are sent and counted with their last CRLF (RFC 1939 sections 5, 11).
func TestFormatsOfFiles(t *testing.T) {
	at := startStandalone(t)
	l, err := mailclient.DialLMTP(t.Context(), at.lmtp, nil)
	noError(t, err)
	for _, extension := range l.Extensions {
		if extension == "CHUNKING" || extension == "BINARYMIME" {
			t.Errorf("%s is offered: send these messages by BDAT", extension)
		}
	}
	noError(t, l.Quit())
	messages := corpus.Loose()
	dir := filepath.Join(t.TempDir(), "Maildir")
	for _, sub := range []string{"new", "cur", "tmp"} {
		noError(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
	}
	for i, m := range messages {
		noError(t, os.WriteFile(filepath.Join(dir, "new", fmt.Sprintf("%d.M1P1.old", 1_700_000_000+i)), []byte(m.Sent), 0o600))
	}
	var report importReport
	at.operate(&report, "import", "--maildir", dir, "zoe@shop.example")
	first, second := at.shown(), at.shown()
	if len(first) != len(messages) {
		t.Fatalf("%d messages of %d", len(first), len(messages))
	}
	for i, m := range messages {
		t.Run(m.ID+" "+m.Rule, func(t *testing.T) {
			sameOctets(t, m.About, first[i].wire, m.Stored)
			first[i].check(t)
			if second[i] != first[i] {
				t.Error("a second session shows another message")
			}
		})
	}
}

// TestDeliveredIsThere is LMTP-08: what was answered 250 is there for whoever logs
// in after it (RFC 5321 section 6.1).
func TestDeliveredIsThere(t *testing.T) {
	at := startStandalone(t)
	for n := range 20 {
		noError(t, deliver(t.Context(), at.lmtp, "s@sender.example", []string{"zoe@shop.example"}, fmt.Appendf(nil, "Subject: %d\r\n\r\n", n)))
		_, messages := at.maildrop()
		if len(messages) != n+1 || !strings.HasSuffix(messages[n], fmt.Sprintf("\r\nSubject: %d\r\n\r\n", n)) {
			t.Fatalf("%d messages after %d deliveries", len(messages), n+1)
		}
	}
}

// zoesTrace is the header that a delivery by these tests gets.
var zoesTrace = regexp.MustCompile(`\AReturn-Path: <s@sender\.example>\r\nDelivered-To: zoe@shop\.example\r\n` +
	`Received: from [^\r\n]+\r\n\tby [^\r\n]+\r\n\tfor <zoe@shop\.example>; [^\r\n]+\r\n`)

func (s *standaloneZA) deliverAll(messages []corpus.Message) {
	s.t.Helper()
	l, err := mailclient.DialLMTP(s.t.Context(), s.lmtp, nil)
	noError(s.t, err)
	for _, m := range messages {
		verdicts, err := l.DeliverAsIs("s@sender.example", []string{"zoe@shop.example"}, []byte(m.Sent))
		if err != nil || verdicts[0] != nil {
			s.t.Fatalf("%s: %v, %v", m.ID, err, verdicts)
		}
	}
	noError(s.t, l.Quit())
}

// shownMessage is a message as one session shows it.
type shownMessage struct {
	uid  string
	size int    // by LIST
	said string // RETR's first line
	wire string // what RETR sends, stuffed, without the end
	tops string // what TOP sends with each of topLines
}

// topLines are the numbers of body lines that TOP is asked for.
var topLines = []int{0, 1, 2, 3, 50, 99_999_999}

// shown is a whole session, which deletes nothing. It holds STAT against LIST.
func (s *standaloneZA) shown() (all []shownMessage) {
	s.t.Helper()
	c := s.dialRaw()
	c.one("USER zoe@shop.example")
	c.one("PASS " + s.password)
	stat := c.one("STAT")
	_, list := c.many("LIST")
	_, uids := c.many("UIDL")
	total := 0
	for entry := range strings.Lines(list) {
		var m shownMessage
		var n int
		if _, err := fmt.Sscanf(entry, "%d %d\r\n", &n, &m.size); err != nil || n != len(all)+1 {
			s.t.Fatalf("LIST: %q", entry)
		}
		total += m.size
		uid, rest, _ := strings.Cut(uids, "\r\n")
		m.uid, uids = strings.TrimPrefix(uid, fmt.Sprintf("%d ", n)), rest
		m.said, m.wire = c.many(fmt.Sprintf("RETR %d", n))
		for _, lines := range topLines {
			_, top := c.many(fmt.Sprintf("TOP %d %d", n, lines))
			m.tops += top + ".\r\n"
		}
		all = append(all, m)
	}
	if want := fmt.Sprintf("+OK %d %d", len(all), total); stat != want {
		s.t.Errorf("STAT says %q, LIST %q", stat, want)
	}
	c.one("QUIT")
	return all
}

// check holds a message against what was said of it.
func (m shownMessage) check(t *testing.T) {
	t.Helper()
	if octets := (corpus.Message{Stored: m.wire}).Octets(); len(octets) != m.size {
		t.Errorf("LIST says %d octets, RETR sends %d", m.size, len(octets))
	}
	if !strings.HasPrefix(m.said, fmt.Sprintf("+OK %d octet", m.size)) {
		t.Errorf("RETR says %q, LIST %d", m.said, m.size)
	}
	want := ""
	for _, lines := range topLines {
		want += top(m.wire, lines) + ".\r\n"
	}
	sameOctets(t, "TOP", m.tops, want)
}

// top is the header, the empty line and a number of lines (RFC 1939 section 7).
func top(wire string, lines int) string {
	var b strings.Builder
	body := false
	for line := range strings.Lines(wire) {
		if body {
			if lines == 0 {
				break
			}
			lines--
		}
		b.WriteString(line)
		body = body || line == "\r\n"
	}
	return b.String()
}

// uniqueIDs are of RFC 1939 section 7's octets, and differ also where messages are
// the same and say what they want to be called.
func uniqueIDs(t *testing.T, all []shownMessage) {
	t.Helper()
	seen := map[string]bool{}
	for _, m := range all {
		if !regexp.MustCompile(`\A[\x21-\x7E]{1,70}\z`).MatchString(m.uid) || seen[m.uid] {
			t.Errorf("unique-id %q: twice, or of wrong octets", m.uid)
		}
		seen[m.uid] = true
	}
}

// sameOctets compares what is too long to print.
func sameOctets(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d octets, want %d; from octet %d on %.60q, want %.60q", what, len(got), len(want), i, got[i:], want[i:])
}

// rawPOP is a POP3 client that shows replies as they are on the wire, stuffed.
type rawPOP struct {
	t    *testing.T
	conn *tls.Conn
	r    *bufio.Reader
}

// dialRaw connects and reads the greeting.
func (s *standaloneZA) dialRaw() *rawPOP {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.pop, s.tls())
	noError(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	noError(s.t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
	c := &rawPOP{s.t, conn, bufio.NewReaderSize(conn, 64<<10)}
	c.reply("the greeting")
	return c
}

func (c *rawPOP) line() []byte {
	c.t.Helper()
	line, err := c.r.ReadBytes('\n')
	noError(c.t, err)
	return line
}

func (c *rawPOP) reply(command string) string {
	c.t.Helper()
	line := string(c.line())
	if !strings.HasPrefix(line, "+OK") || !strings.HasSuffix(line, "\r\n") {
		c.t.Fatalf("%.9s: %q", command, line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

// one says a command that is answered by one line.
func (c *rawPOP) one(command string) string {
	c.t.Helper()
	_, err := c.conn.Write([]byte(command + "\r\n"))
	noError(c.t, err)
	return c.reply(command)
}

// many says a command that is answered by many lines, and returns those behind the
// first, without the end.
func (c *rawPOP) many(command string) (first, lines string) {
	c.t.Helper()
	first = c.one(command)
	var b bytes.Buffer
	for {
		line := c.line()
		if string(line) == ".\r\n" {
			return first, b.String()
		}
		b.Write(line)
	}
}
