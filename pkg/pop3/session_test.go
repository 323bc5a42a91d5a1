package pop3

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestAdvertised is CAP-03, I18N-07 and SASL-21 (RFC 2449 sections 4 and 5, RFC 5034 section 3,
// RFC 6856): what CAPA says is there, and what is there
// has its line.
func TestAdvertised(t *testing.T) {
	d := newDriver(newBox("five"))
	d.sent.Reset()
	d.line([]byte("CAPA"))
	tags := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimSuffix(d.sent.String(), ".\r\n"), "\r\n") {
		words := strings.Split(line, " ")
		if line == "" || words[0] == "+OK" {
			continue
		}
		if tags[words[0]] || slices.Contains(words, "") || len(line)+2 > maxReply {
			t.Errorf("line %q", line)
		}
		tags[words[0]] = true
		switch words[0] {
		case "SASL":
			for _, name := range words[1:] {
				d.sent.Reset()
				d.line([]byte("AUTH " + name))
				if !strings.HasPrefix(d.sent.String(), "+ ") {
					t.Errorf("AUTH %s: %q", name, d.sent.String())
				}
				d.line([]byte("*"))
			}
		case "USER", "UIDL", "TOP", "STLS", "UTF8", "LANG":
			d.sent.Reset()
			d.line([]byte(words[0]))
			if strings.Contains(d.sent.String(), "unknown") {
				t.Errorf("%s is announced and unknown", words[0])
			}
		case "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE", "IMPLEMENTATION":
		default:
			t.Errorf("%q is announced; nothing here tests that it is there", words[0])
		}
	}
	for _, c := range d.session.protocol.commands {
		if tag, _, _ := strings.Cut(c.capa, " "); tag != "" && c.states != Cleartext && !tags[tag] {
			t.Errorf("%s is not announced", c.verb)
		}
	}
}

// TestAnonymous is CAP-11: the product's name can be left out, of the greeting too.
func TestAnonymous(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		config := Config{Anonymous: anonymous}
		d := &driver{box: newBox("five"), session: newProtocol("h", "r", config.implementation(), nil).Session("x")}
		d.perform(d.session.Greet())
		for _, line := range []string{"CAPA", "USER alice@example.com", "PASS secret", "CAPA", "QUIT"} {
			d.line([]byte(line))
		}
		greeting, _, _ := strings.Cut(d.sent.String(), "\r\n")
		if want := map[bool]string{false: "+OK h Postern POP3 ready, region r", true: "+OK h POP3 ready, region r"}[anonymous]; greeting != want {
			t.Errorf("greeting %q, want %q", greeting, want)
		}
		if n := strings.Count(d.sent.String(), "\r\nIMPLEMENTATION Postern\r\n"); n != map[bool]int{false: 2, true: 0}[anonymous] {
			t.Errorf("anonymous %v: IMPLEMENTATION %d times", anonymous, n)
		}
		if anonymous && strings.Contains(d.sent.String(), "ostern") {
			t.Errorf("the name is told: %q", d.sent.String())
		}
	}
}

// TestLimits is LIM-01 to LIM-03: 255 octets are a command, more are refused whole, and
// only AUTH may be longer.
// See RFC 2449 section 4.
func TestLimits(t *testing.T) {
	pad := func(verb string, size int) string { return verb + strings.Repeat("x", size-2-len(verb)) }
	for _, test := range []struct{ line, reply string }{
		{pad("USER ", 255), "+OK send PASS\r\n"},
		{pad("USER ", 256), "-ERR line too long\r\n"},
		{pad("FOO", 255), "-ERR unknown command\r\n"},
		{pad("FOO", 12288), "-ERR line too long\r\n"},
		{pad("AUTH PLAIN ", 12290), "-ERR the response is not base64\r\n"},
		{pad("AUTH PLAIN ", 12291), "-ERR line too long\r\n"},
		{pad("USER alice@example.com", 8000) + " DELE 1", "-ERR line too long\r\n"},
	} {
		d := newDriver(newBox("five"))
		d.sent.Reset()
		d.line([]byte(test.line))
		if d.sent.String() != test.reply {
			t.Errorf("%.20s… of %d octets: %q, want %q", test.line, len(test.line)+2, d.sent.String(), test.reply)
		}
	}

	d := newDriver(newBox("five")) // SASL-13: a long response is a wrong password, not a wrong line
	d.line([]byte("AUTH PLAIN"))
	d.sent.Reset()
	d.line([]byte(base64.StdEncoding.EncodeToString([]byte("\x00alice@example.com\x00" + strings.Repeat("p", 8000)))))
	if !strings.HasPrefix(d.sent.String(), "-ERR [AUTH] ") {
		t.Errorf("a long password: %q", d.sent.String())
	}
	d.line([]byte("AUTH PLAIN"))
	d.sent.Reset()
	d.line(bytes.Repeat([]byte("A"), maxResponse)) // an overlong response ends the exchange
	d.line([]byte("CAPA"))
	if !strings.HasPrefix(d.sent.String(), "-ERR line too long\r\n+OK capa") {
		t.Errorf("an overlong response: %q", d.sent.String())
	}
}

// TestStrangersLines: a stranger's lines are limited in number; a user's are not.
func TestStrangersLines(t *testing.T) {
	d := newDriver(newBox("five"))
	for i := 0; d.end == ""; i++ {
		if i > DefaultLimits().LinesBeforeLogin {
			t.Fatal("still there")
		}
		d.line([]byte("CAPA"))
	}
	if d.end != EndFlood || !strings.HasSuffix(d.sent.String(), "\r\n-ERR [SYS/PERM] too many commands before login; please check your mail program (lines-before-login)\r\n") {
		t.Errorf("%s, %q", d.end, d.sent.String())
	}
	d = newDriver(newBox("five"))
	d.line([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
	for range 10 * DefaultLimits().LinesBeforeLogin {
		d.line([]byte("FOO"))
	}
	if d.end != "" || d.session.State() != Transaction {
		t.Error("errors ended a session:", d.end)
	}
}

// TestBadDriver: calls out of order end a session instead of harming it.
func TestBadDriver(t *testing.T) {
	now := time.Now()
	p := NewProtocol("h", "r")
	s := p.Session("x")
	if step := s.Result(now, Result{}); step.End != EndBadOrder {
		t.Errorf("a result of nothing: %+v", step)
	}
	s = p.Session("x")
	s.Line(now, []byte("USER a@b.example"))
	if step := s.Line(now, []byte("PASS x")); step.Do.Op != OpOpen {
		t.Fatalf("%+v", step)
	}
	if step := s.Line(now, []byte("NOOP")); step.End != EndBadOrder {
		t.Errorf("a line while waiting: %+v", step)
	}
}

// TestBadListing: a listing that contradicts what Open said is trouble, not mail.
func TestBadListing(t *testing.T) {
	info := maildrop.Info{Count: 2, Octets: 30}
	for name, entries := range map[string][]maildrop.Entry{
		"short": {{UID: "a", Size: 30}}, "sum": {{UID: "a", Size: 10}, {UID: "b", Size: 10}},
		"id": {{UID: "a", Size: 10}, {UID: "b c", Size: 20}}, "none": nil,
	} {
		if err := checkListing(info, maildrop.ListingOf(entries...)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestMarks: what is marked, of a listing of any sizes.
func TestMarks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m marks
		l, marked, octets := maildrop.NewListing(0, 0), []maildrop.UID(nil), uint64(0)
		for i, size := range rapid.SliceOfN(rapid.Uint64(), 0, 200).Draw(t, "sizes") {
			uid := maildrop.UID(strconv.Itoa(i))
			l.Append(uid, size)
			if rapid.Bool().Draw(t, "mark") {
				m.add(i)
				m.add(i)
				marked, octets = append(marked, uid), octets+size
			}
		}
		if got := m.uids(l); !slices.Equal(got, marked) || m.count != len(marked) || m.octets(l) != octets {
			t.Fatalf("marked %v, want %v", got, marked)
		}
	})
}

// TestUIDHash: what one session leaves is what the next one finds.
func TestUIDHash(t *testing.T) {
	b := newBox("five")
	login := "AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="
	d := newDriver(b)
	for _, line := range []string{login, "DELE 2", "DELE 5", "QUIT"} {
		d.line([]byte(line))
	}
	before, after, ok := d.session.UIDs()
	b.uids, b.wire = slices.Delete(b.uids, 1, 2)[:3], slices.Delete(b.wire, 1, 2)[:3]
	d = newDriver(b)
	for _, line := range []string{login, "UIDL", "QUIT"} {
		d.line([]byte(line))
	}
	before2, after2, ok2 := d.session.UIDs()
	if !ok || !ok2 || before == after || after != before2 || before2 != after2 {
		t.Errorf("%x -> %x, then %x -> %x", before, after, before2, after2)
	}
}

// TestLongListing is SCL-01 in small: a listing comes in chunks, whole, and the
// buffer isn't kept.
func TestLongListing(t *testing.T) {
	b := newBox("many")
	for i := range 20000 {
		b.uids = append(b.uids, maildrop.UID(strconv.Itoa(i)))
		b.wire = append(b.wire, "x\r\n")
	}
	d := newDriver(b)
	d.trace = func(s Step) {
		if len(s.Reply) > 2*chunkSize {
			t.Errorf("a chunk of %d octets", len(s.Reply))
		}
	}
	d.line([]byte("AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="))
	d.sent.Reset()
	d.line([]byte("DELE 7000"))
	d.line([]byte("UIDL"))
	var want strings.Builder
	want.WriteString("+OK marked as deleted\r\n+OK 19999 messages\r\n")
	for i := range 20000 {
		if i != 6999 {
			fmt.Fprintf(&want, "%d %d\r\n", i+1, i)
		}
	}
	if got := d.sent.String(); got != want.String()+".\r\n" {
		t.Errorf("UIDL: %d octets, want %d", len(got), want.Len()+3)
	}
	d.line([]byte("NOOP"))
	if cap(d.session.out) > 2*maxReply {
		t.Errorf("%d octets are kept for replies", cap(d.session.out))
	}
}

// TestWords: every error of the back end, in every call, becomes one line of ASCII that
// tells nothing of the inside, and only credentials are [AUTH].
func TestWords(t *testing.T) {
	for op := OpOpen; op <= OpRemove; op++ {
		for kind := maildrop.Internal; int(kind) < maildrop.Kinds; kind++ {
			s := NewProtocol("h", "r").Session("REF")
			s.call = call{command: s.protocol.lookup([]byte("NOOP"))}
			step := s.trouble(op, &maildrop.Error{
				Op: "shard.read", Kind: kind, Text: "caf\u00e9\r\n+OK " + strings.Repeat("x", 600), Err: fmt.Errorf("disk at 10.0.0.7"),
			})
			text := string(step.Reply)
			if !regexp.MustCompile(`^-ERR [ -~]+\r\n$`).MatchString(text) || len(text) > maxReply {
				t.Errorf("%v %v: %q", op, kind, text)
			}
			for _, word := range []string{"[AUTH]", "assword", "10.0.0.7", "shard"} {
				if strings.Contains(text, word) {
					t.Errorf("%v %v: %q has %q", op, kind, text, word)
				}
			}
			if temporary := strings.Contains(text, "[SYS/TEMP]"); temporary != (kind != maildrop.Denied && (op != OpRead || kind != maildrop.NotFound)) {
				t.Errorf("%v %v: %q", op, kind, text)
			}
		}
	}
}
