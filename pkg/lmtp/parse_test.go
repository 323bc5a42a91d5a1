package lmtp

import (
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestCutPath(t *testing.T) {
	for in, want := range map[string]string{
		"FROM:<a@b>": "a@b", "from: <a@b> X=1": "a@b", "FROM:<>": "", "FROM:<@x,@y:a@b>": "a@b", `FROM:<"> "@b>`: `"> "@b`,
		"FROM:<" + strings.Repeat("x", maildrop.MaxAddress) + ">": strings.Repeat("x", maildrop.MaxAddress),
	} {
		if got, _, err := cutPath(in, "FROM:"); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "FROM", "FROM:", "FROM:a@b", "FROM:<a@b", "FROM:<a@b>x", "FROM:<@x>", "FROM:<@x:>", "FROM:<a<b>", `FROM:<"a>`, `FROM:<"a\">`,
		"FROM:<" + strings.Repeat("x", maildrop.MaxAddress+1) + ">",
	} {
		if got, _, err := cutPath(in, "FROM:"); err == nil {
			t.Errorf("%s was taken: %q", in, got)
		}
	}
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{
		`a@b`: `a@b`, `"a b"@c`: `a b@c`, `"a\"b\\c"@d`: `a"b\c@d`, `"a@b"@c`: `a@b@c`,
		`"a"b@c`: ``, `"a`: ``, `"a\`: ``, `""@c`: `@c`,
	} {
		if got := unquote(in); got != want {
			t.Errorf("unquote(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	long := printable(strings.Repeat("ü", 1000))
	if got := (reply{code: 550, enhanced: "5.7.1", text: long}).append(nil); len(got) > 512 || !utf8.Valid(got) {
		t.Errorf("a reply of %d octets", len(got))
	}
}

// FuzzCommand: whatever a command line holds, the reply is made of our own
// words, and what gets through is fit for a header.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"LHLO client.test", "MAIL FROM:<a@example.test> SIZE=5 BODY=8BITMIME SMTPUTF8", `MAIL FROM:<@a,@b:"x > y\"z"@c> SMTPUTF8`,
		"RCPT TO:<a@example.test>", `RCPT TO:<"a b"@example.test>`, "RCPT TO:<@a:b@c> X=1", "rset", "DATA", "NOOP \x00", "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		verb, argument, err := parseLine(line)
		if err != nil {
			return
		}
		if strings.ContainsAny(verb+argument, "\r\n\x00") || !isASCII(verb) || !utf8.ValidString(argument) {
			t.Fatalf("%q got through as %q, %q", line, verb, argument)
		}
		if host, err := parseHost(argument); err == nil && strings.ContainsAny(host, " ()<>;\"\\") {
			t.Fatalf("client name %q", host)
		}
		if m, err := parseMail(argument); err == nil {
			path := "<" + m.sender + ">"
			if pathEnd(path) != len(path)-1 || len(m.sender) > maildrop.MaxAddress || !isASCII(m.sender) {
				t.Fatalf("sender %q", m.sender)
			}
		}
		a, err := parseRcpt(argument)
		if err != nil {
			return
		}
		again, err := maildrop.ParseAddress(string(a))
		if err != nil || again != a || !isASCII(string(a)) {
			t.Fatalf("recipient %q is not canonical: %q, %v", a, again, err)
		}
		if path := "<" + displayed(a) + ">"; pathEnd(path) != len(path)-1 || unquote(displayed(a)) != string(a) {
			t.Fatalf("recipient %q is displayed as %q", a, displayed(a))
		}
	})
}
