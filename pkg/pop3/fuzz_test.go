package pop3

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// conversation sends lines to a Session and holds it to what every reply must be.
func conversation(t interface{ Fatalf(string, ...any) }, lines [][]byte) {
	b := newBox("five")
	d := newDriver(b)
	quit := false
	for _, line := range lines {
		if d.end != "" {
			break
		}
		inside := d.session.State() == Transaction
		marked := d.session.marks.count
		d.sent.Reset()
		d.line(line)
		if d.sent.Len() > 0 && !reply.Match(d.sent.Bytes()) {
			t.Fatalf("%q: %q", line, d.sent.String())
		}
		if first, _, _ := bytes.Cut(d.sent.Bytes(), []byte("\n")); len(first)+1 > maxReply {
			t.Fatalf("%q: a reply of %d octets", line, len(first)+1)
		}
		if len(line) > 30 && bytes.Contains(d.sent.Bytes(), line) {
			t.Fatalf("%q is sent back", line)
		}
		quit = inside && marked > 0 && strings.EqualFold(strings.TrimRight(string(line), " "), "QUIT")
		if removed := b.gone(); len(removed) > 0 && (!quit || len(removed) != marked) {
			t.Fatalf("%q: removed %v of %d", line, removed, marked)
		}
	}
	if quit && len(b.gone()) == 0 {
		t.Fatalf("QUIT removed nothing")
	}
}

// reply is one reply: a line, or lines up to a dot; or a challenge.
// Words after LANG may be in UTF-8 (RFC 6856 section 3).
var reply = regexp.MustCompile(`^(\+OK [ -~\x{80}-\x{10FFFF}]+\r\n|-ERR [ -~\x{80}-\x{10FFFF}]+\r\n|\+ [A-Za-z0-9+/]*={0,2}\r\n|\+OK [ -~\x{80}-\x{10FFFF}]+\r\n(([^.\n]|\.[^\r])?[^\n]*\r\n)*\.\r\n)$`)

// What a client says that logs in by SCRAM at a box: "n,,n=alice@example.com,r=client",
// then its proof.
const (
	scramFirst = "biwsbj1hbGljZUBleGFtcGxlLmNvbSxyPWNsaWVudA=="
	scramFinal = "Yz1iaXdzLHI9Y2xpZW50c2VydmVyLHA9UW5SM1JOUFhLeHd2V0hOSDUyM1h5UkYrMzgrUVhCQ1pxMXpvT0pZREhqZz0="
)

// TestConversations is TXN-28 (RFC 1939 section 3), and tries what clients say in orders that no client has.
func TestConversations(t *testing.T) {
	words := []string{
		"USER alice@example.com", "PASS secret", "PASS wrong", "AUTH PLAIN", "AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==",
		"AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==", "*",
		"AUTH LOGIN", "YWxpY2VAZXhhbXBsZS5jb20=", "c2VjcmV0", "AUTH SCRAM-SHA-256", "AUTH SCRAM-SHA-256 " + scramFirst, scramFirst, scramFinal, scramFinal, "AUTH", "CAPA", "STAT", "LIST", "LIST 1", "UIDL", "UIDL 5", "RETR 1", "RETR 2",
		"TOP 1 0", "TOP 2 9", "DELE 1", "DELE 3", "DELE 5", "RSET", "NOOP", "QUIT", "QUIT ", "quit", "QUIT 1", "FOO", "UTF8", "LANG", "LANG de", "LANG xx", "LANG *", "", "DELE 1 2",
	}
	rapid.Check(t, func(t *rapid.T) {
		lines := [][]byte{}
		if rapid.Bool().Draw(t, "login") {
			lines = append(lines, []byte(words[4]))
		}
		for _, word := range rapid.SliceOf(rapid.SampledFrom(words)).Draw(t, "lines") {
			lines = append(lines, []byte(word))
		}
		conversation(t, lines)
	})
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA==\nDELE 1\nTOP 2 1\nQUIT"))
	f.Add([]byte("USER alice@example.com\nPASS secret\nLIST 18446744073709551617\n\n \nUIDL\x00"))
	f.Add([]byte("AUTH SCRAM-SHA-256 " + scramFirst + "\n" + scramFinal + "\n\nDELE 1\nQUIT"))
	f.Add([]byte("AUTH SCRAM-SHA-256\n" + scramFirst + "\n" + scramFinal + "\n*\nAUTH LOGIN\nYWxpY2VAZXhhbXBsZS5jb20=\nc2VjcmV0"))
	f.Add([]byte("UTF8\nLANG af\nUSER alice@example.com\nPASS secret\nUTF8\nSTAT\nUTF8\nRETR 9\nLANG"))
	f.Add([]byte("AUTH PLAIN\n*\nAUTH PLAIN =\nAUTH\nGET / HTTP/1.0"))
	f.Fuzz(func(t *testing.T, text []byte) { conversation(t, bytes.Split(text, []byte("\n"))) })
}

func FuzzPlain(f *testing.F) {
	f.Add([]byte("AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
	f.Add([]byte("YWJj=YWJj"))
	f.Fuzz(func(t *testing.T, text []byte) {
		message, err := decodeBase64(text)
		if err != nil {
			return
		}
		if again, err := base64.StdEncoding.DecodeString(base64.StdEncoding.EncodeToString(message)); err != nil || !bytes.Equal(again, message) {
			t.Fatalf("%q: %q", text, message)
		}
		if authzid, name, password, ok := splitPlain(message); ok && authzid+"\x00"+name+"\x00"+password != string(message) {
			t.Fatalf("%q: %q %q %q", message, authzid, name, password)
		}
	})
}
