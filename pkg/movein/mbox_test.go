package movein

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readMboxText(t *testing.T, text string, options MboxOptions) (*Maildrop, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mbox")
	noError(t, os.WriteFile(file, []byte(text), 0o600))
	if options.Now.IsZero() {
		options.Now = noon
	}
	m, err := OpenMbox(file, options)
	if err == nil {
		t.Cleanup(func() { m.Close() })
	}
	return m, err
}

const from = "From anna@example.com Mon Nov 23 01:02:03 2026\n"

func TestMbox(t *testing.T) {
	for _, c := range []struct {
		name, text string
		plain      bool
		want       []string // messages, without dot-stuffing
	}{
		{"empty", "", false, nil},
		{"one", from + "Subject: a\n\nbody\n\n", false, []string{"Subject: a\r\n\r\nbody\r\n"}},
		{"one without the last empty line", from + "Subject: a\n\nbody\n", false, []string{"Subject: a\r\n\r\nbody\r\n"}},
		{"one without the last line end", from + "Subject: a\n\nbody", false, []string{"Subject: a\r\n\r\nbody\r\n"}},
		{"two", from + "Subject: a\n\nbody\n\n" + from + "Subject: b\n\n.\n\n", false, []string{"Subject: a\r\n\r\nbody\r\n", "Subject: b\r\n\r\n.\r\n"}},
		{"CRLF", strings.ReplaceAll(from+"Subject: a\n\nbody\n\n"+from+"\n\n", "\n", "\r\n"), false, []string{"Subject: a\r\n\r\nbody\r\n", "\r\n"}},
		{"an empty message", from + "\n" + from + "\n", false, []string{"", ""}},
		{"empty lines before", "\n\r\n" + from + "a: b\n\n", false, []string{"a: b\r\n"}},
		{"a body's empty lines", from + "a: b\n\n\n\n\n", false, []string{"a: b\r\n\r\n\r\n\r\n"}},
		{"mboxrd", from + "\n>From a\n>>From b\n> From\n>from\n", false, []string{"\r\nFrom a\r\n>From b\r\n> From\r\n>from\r\n"}},
		{"mboxo", from + "\n>From a\n>>From b\n", true, []string{"\r\nFrom a\r\n>>From b\r\n"}},
		{"From in a body", from + "\nFrom here on\n\nFrom there on\nand so on\n", false, []string{"\r\nFrom here on\r\n\r\nFrom there on\r\nand so on\r\n"}},
		{"From with a date in a line's middle", from + "\nx\n" + from, false, []string{"\r\nx\r\n" + strings.TrimSpace(from) + "\r\n"}},
		{"notes", from + "Status: RO\nSubject: a\nX-Status: A\n more\nX-UID : 5\nX-Keywords:\nx-imapbase: 1 2\n\nStatus: kept\n\n", false,
			[]string{"Subject: a\r\n\r\nStatus: kept\r\n"}},
		{"a long line", from + "\n" + strings.Repeat("x", 3*readBuffer) + "\n>From " + strings.Repeat("y", 3*readBuffer) + "\n", false,
			[]string{"\r\n" + strings.Repeat("x", 3*readBuffer) + "\r\nFrom " + strings.Repeat("y", 3*readBuffer) + "\r\n"}},
		{"the mailbox's own message", from + "Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1 2\n\nx\n\n" + from + "a: b\n\n", false, []string{"a: b\r\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := readMboxText(t, c.text, MboxOptions{Plain: c.plain})
			noError(t, err)
			if len(m.Messages) != len(c.want) {
				t.Fatalf("%d messages, want %d", len(m.Messages), len(c.want))
			}
			for i, message := range m.Messages {
				if got := unstuffed(t, message); got != c.want[i] {
					t.Errorf("message %d is %.80q, want %.80q", i+1, got, c.want[i])
				}
			}
		})
	}
}

func TestMboxMalformed(t *testing.T) {
	for text, offset := range map[string]int64{
		"Subject: a\n\nbody\n": 0,
		"\n\nx\n":              2,
		"From here on\n":       0,
		from + "a: b\n\nFrom anna@x now\nSubject: b\n": int64(len(from)) + 6,
	} {
		_, err := readMboxText(t, text, MboxOptions{})
		var malformed *MalformedError
		if !errors.As(err, &malformed) || malformed.Offset != offset {
			t.Errorf("%.40q: %v, want an error at octet %d", text, err, offset)
		}
	}
}

func TestMboxDates(t *testing.T) {
	at := time.Date(2026, 11, 3, 1, 2, 3, 0, time.UTC)
	for line, want := range map[string]time.Time{
		"From a@b Tue Nov  3 01:02:03 2026":                                  at,
		"From a@b Tue Nov 03 01:02:03 2026":                                  at,
		"From a@b Tue Nov  3 01:02:03 CET 2026":                              at,
		"From a@b Tue Nov  3 01:02:03 2026 +0100":                            at,
		"From a@b Tue Nov  3 01:02 2026":                                     at.Truncate(time.Minute),
		"From  Tue Nov  3 01:02:03 2026":                                     at,
		`From "a b"@c Tue Nov  3 01:02:03 2026`:                              at,
		"From a@b Tue Nov  3 01:02:03 1960\nDate: 3 Nov 2026 02:02:03 +0100": at,
		"From a@b Tue Nov  3 01:02:03 1960\nDate: no":                        noon,
		"From a@b Tue Nov  3 01:02:03 2027":                                  noon,
	} {
		m, err := readMboxText(t, line+"\na: b\n\n", MboxOptions{})
		if err != nil || !m.Messages[0].Received.Equal(want) {
			t.Errorf("%q: %v, want %v", line, err, want)
		}
	}
}

// Unique-ids of an mbox are the same at the next run, also when notes have been
// made in it and mail has come.
func TestMboxUIDs(t *testing.T) {
	text := from + "X-UIDL: mine\na: 1\n\n" + from + "a: 2\n\n" + from + "a: 2\n\n" + from + "X-UIDL: two words\na: 3\n\n" +
		from + "X-UIDL: twice\na: 4\n\n" + from + "X-UIDL: twice\na: 5\n\n"
	m, err := readMboxText(t, text, MboxOptions{})
	noError(t, err)
	first := strings.Fields(uids(m))
	seen := map[string]bool{}
	for _, uid := range first {
		seen[uid] = true
	}
	if first[0] != "mine" || len(seen) != 6 || seen["twice"] || m.Replaced != 3 {
		t.Errorf("%d replaced: %q", m.Replaced, first)
	}
	later := strings.ReplaceAll(text, "\na: ", "\nStatus: RO\na: ") + from + "a: 9\n\n"
	m, err = readMboxText(t, later, MboxOptions{})
	noError(t, err)
	if again := uids(m); !strings.HasPrefix(again, strings.Join(first, " ")+" ") {
		t.Errorf("%q became %q", first, again)
	}
}
