package movein

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// drop is a Maildir of the test's own.
type drop struct {
	t   *testing.T
	dir string
}

func newDrop(t *testing.T, files ...string) *drop {
	t.Helper()
	d := &drop{t, newMaildir(t, t.TempDir(), nil)}
	for i, file := range files {
		d.put(file, fmt.Sprintf("Subject: %d\n\nbody\n", i))
	}
	return d
}

func (d *drop) put(name, content string) {
	d.t.Helper()
	noError(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o600))
}

func (d *drop) read(options MaildirOptions) *Maildrop {
	d.t.Helper()
	if options.Now.IsZero() {
		options.Now = time.Now()
	}
	return read(d.t, d.dir, options)
}

// uids are a Maildrop's, with spaces between.
func uids(m *Maildrop) string {
	var all []string
	for _, message := range m.Messages {
		all = append(all, string(message.UID))
	}
	return strings.Join(all, " ")
}

// Content in every form comes out in wire form, however it is cut, and once.
func TestWireForm(t *testing.T) {
	for kept, want := range map[string]string{
		"":                 "",
		"\n":               "\r\n",
		"\r\n":             "\r\n",
		"\r":               "\r\r\n",
		"a":                "a\r\n",
		"a\n":              "a\r\n",
		"a\r\n":            "a\r\n",
		"a\r":              "a\r\r\n",
		"a\n\n":            "a\r\n\r\n",
		"a\r\n\nb":         "a\r\n\r\nb\r\n",
		"a\r\r\n":          "a\r\r\n",
		".":                "..\r\n",
		".\n":              "..\r\n",
		".\r\n":            "..\r\n",
		"..\n":             "...\r\n",
		".a\n.b\r\n.c":     "..a\r\n..b\r\n..c\r\n",
		"a\n.\n":           "a\r\n..\r\n",
		"a\r\n.\r\n":       "a\r\n..\r\n",
		"a\n.\r\nb\r\n.\n": "a\r\n..\r\nb\r\n..\r\n",
		"\x00\xff\n":       "\x00\xff\r\n",
	} {
		for _, source := range []io.Reader{strings.NewReader(kept), iotest.OneByteReader(strings.NewReader(kept)), iotest.DataErrReader(strings.NewReader(kept))} {
			m := &Message{Name: "x", open: func() (io.ReadCloser, error) { return io.NopCloser(source), nil }}
			if got := read1(t, m); got != want {
				t.Errorf("%q became %q, want %q", kept, got, want)
			}
		}
	}
}

// read1 reads a message that can be opened once.
func read1(t testing.TB, m *Message) string {
	r, err := (&Content{message: m}).reader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	octets, err := io.ReadAll(r)
	if err != nil || uint64(len(octets)) != r.Wire() || uint64(len(octets)) < r.Size() {
		t.Fatalf("%d octets, counted %d and %d: %v", len(octets), r.Wire(), r.Size(), err)
	}
	return string(octets)
}

// plainWireForm says the same as sent and package wire do, with all at hand.
func plainWireForm(kept string) string {
	if kept == "" {
		return ""
	}
	kept = strings.ReplaceAll(strings.ReplaceAll(kept, "\r\n", "\n"), "\n", "\r\n")
	if !strings.HasSuffix(kept, "\r\n") {
		kept += "\r\n"
	}
	kept = strings.ReplaceAll(kept, "\r\n.", "\r\n..")
	if kept[0] == '.' {
		kept = "." + kept
	}
	return kept
}

func TestWireFormProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kept := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{"\r", "\n", ".", "a", "\r\n", ".\r\n"})).Draw(rt, "kept"), "")
		m := &Message{Name: "x", open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(kept)), nil }}
		if got := read1(t, m); got != plainWireForm(kept) {
			rt.Fatalf("%q became %q, want %q", kept, got, plainWireForm(kept))
		}
	})
}

// A source that breaks is an error, and not a shorter message.
func TestBrokenSource(t *testing.T) {
	broken := errors.New("broken")
	m := &Message{Name: "x", open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("Subject: a\n\nbo"), iotest.ErrReader(broken))), nil
	}}
	if _, err := m.Measure(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestMaildirWithoutList(t *testing.T) {
	d := newDrop(t, "new/1700000002.M1P1.h", "cur/1700000001.M1P1.h:2,S", "cur/1700000003.M1P1.h,S=22:2,", "cur/1700000004.M1P1.h:2,ST",
		"cur/.hidden", "tmp/1700000000.M1P1.h")
	noError(t, os.Symlink("/etc/passwd", filepath.Join(d.dir, "cur/1700000005.M1P1.h:2,")))
	noError(t, os.Symlink("1700000001.M1P1.h:2,S", filepath.Join(d.dir, "cur/1700000006.M1P1.h:2,")))
	noError(t, syscall.Mkfifo(filepath.Join(d.dir, "new/1700000007.M1P1.h"), 0o600))
	m := d.read(MaildirOptions{})
	var names []string
	for _, message := range m.Messages {
		names = append(names, message.Name)
		if !message.UID.Valid() {
			t.Errorf("%s has the unique-id %q", message.Name, message.UID)
		}
	}
	if want := []string{"cur/1700000001.M1P1.h:2,S", "new/1700000002.M1P1.h", "cur/1700000003.M1P1.h,S=22:2,"}; !slices.Equal(names, want) {
		t.Errorf("found %q, want %q", names, want)
	}
	skipped := map[Why]int{}
	for _, s := range m.Skipped {
		skipped[s.Why]++
	}
	if skipped[Trashed] != 1 || skipped[Damaged] != 3 || len(m.Skipped) != 4 {
		t.Errorf("skipped %v", m.Skipped)
	}
	// Flags and sizes in names change; the unique-ids don't.
	before := uids(m)
	noError(t, os.Rename(filepath.Join(d.dir, "new/1700000002.M1P1.h"), filepath.Join(d.dir, "cur/1700000002.M1P1.h,S=9,W=9:2,RS")))
	if after := uids(d.read(MaildirOptions{})); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// A message is the same delivery whenever it is moved, and another one than a
// message with the same octets, or under the same unique-id with others.
func TestEnvelope(t *testing.T) {
	d := newDrop(t)
	d.put("new/1.a", "same\n")
	d.put("new/2.b", "same\n")
	envelopes := func() []maildrop.Envelope {
		var all []maildrop.Envelope
		for _, message := range d.read(MaildirOptions{}).Messages {
			content, err := message.Measure()
			noError(t, err)
			all = append(all, content.Envelope("anna@example.com", "s"))
		}
		return all
	}
	first, again := envelopes(), envelopes()
	if !slices.Equal(first, again) {
		t.Errorf("%+v became %+v", first, again)
	}
	if first[0].ID == first[1].ID || first[0].UID == first[1].UID || first[0].UID == "" || first[0].Received.IsZero() {
		t.Errorf("%+v", first)
	}
	d.put("new/1.a", "other\n")
	if other := envelopes(); other[0].ID == first[0].ID || other[0].UID != first[0].UID {
		t.Errorf("%+v became %+v", first[0], other[0])
	}
}

// A Maildir in use renames files whenever flags change, and removes them.
func TestMaildirInUse(t *testing.T) {
	d := newDrop(t, "new/1.a", "cur/2.b:2,", "cur/3.c:2,")
	m := d.read(MaildirOptions{})
	noError(t, os.Rename(filepath.Join(d.dir, "new/1.a"), filepath.Join(d.dir, "cur/1.a:2,S")))
	noError(t, os.Rename(filepath.Join(d.dir, "cur/2.b:2,"), filepath.Join(d.dir, "cur/2.b:2,FS")))
	noError(t, os.Remove(filepath.Join(d.dir, "cur/3.c:2,")))
	for _, message := range m.Messages[:2] {
		if _, err := message.Measure(); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.Messages[2].Measure(); !errors.Is(err, ErrVanished) {
		t.Errorf("%v, want ErrVanished", err)
	}
	// What was a file may be none any more.
	link := filepath.Join(d.dir, "cur/3.c:2,")
	noError(t, os.Symlink("/etc/passwd", link))
	if _, err := m.Messages[2].Measure(); err == nil || errors.Is(err, ErrVanished) {
		t.Errorf("a link in place of the file: %v", err)
	}
	noError(t, os.Remove(link))
	noError(t, syscall.Mkfifo(link, 0o600))
	if _, err := m.Messages[2].Measure(); err == nil || errors.Is(err, ErrVanished) {
		t.Errorf("a pipe in place of the file: %v", err)
	}
}

func TestArrival(t *testing.T) {
	then := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, c := range []struct {
		modified time.Time
		name     string
		want     time.Time
	}{
		{then, "1700000000.x", then},
		{time.Unix(0, 0), "1700000000.x", time.Unix(1700000000, 0)},
		{time.Unix(-5, 0), "x", noon},
		{time.Unix(0, 0), "99999999999999999999.x", noon},
		{noon.Add(time.Hour), "1700000000.x", noon},
	} {
		if got := arrival(c.modified, c.name, noon); !got.Equal(c.want) {
			t.Errorf("%v %s: %v, want %v", c.modified, c.name, got, c.want)
		}
	}
}

func TestNoMaildir(t *testing.T) {
	dir := t.TempDir()
	for _, missing := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := OpenMaildir(missing, MaildirOptions{}); err == nil {
			t.Errorf("%s was read", missing)
		}
	}
}

func TestLists(t *testing.T) {
	const dovecotList, courierList = "3 V9 N5\n3 :1.a\n4 :2.b\n", "/2 7 8\n2.b:2, 9 5:8\n1.a:2, 9 6:8\n"
	for _, c := range []struct {
		name    string
		options MaildirOptions
		files   map[string]string
		want    string // unique-ids, or "!" and a part of the error
	}{
		{"both", MaildirOptions{}, map[string]string{dovecotFile: dovecotList, courierFile: courierList}, "0000000300000009 0000000400000009"},
		{"Courier's alone", MaildirOptions{}, map[string]string{courierFile: courierList}, "UID6-8 UID5-8"},
		{"Courier's asked for", MaildirOptions{Lists: ListsCourier}, map[string]string{dovecotFile: dovecotList, courierFile: courierList}, "UID6-8 UID5-8"},
		{"Dovecot's missing", MaildirOptions{Lists: ListsDovecot}, map[string]string{courierFile: courierList}, "!no such file"},
		{"Dovecot's broken", MaildirOptions{}, map[string]string{dovecotFile: "3 V9\n", courierFile: courierList}, "!dovecot-uidlist: line 1: expected 3 V"},
		{"names", MaildirOptions{Lists: ListsNames}, map[string]string{dovecotFile: "3 V9\n"}, uids(newDrop(t, "cur/1.a:2,", "cur/2.b:2,").read(MaildirOptions{}))},
		{"nonsense", MaildirOptions{Lists: "x"}, nil, "!expected auto"},

		{"version 1", MaildirOptions{}, map[string]string{dovecotFile: "1 9 5\n3 1.a\n4 2.b:2,S\n"}, "0000000300000009 0000000400000009"},
		{"all is unlisted", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5 Gx Z\n"}, "0000000500000009 0000000600000009"},
		{"next below the last", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N1\n8 :2.b\n"}, "0000000800000009 0000000900000009"},
		{"still being written", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 :1.a\n4 :2."}, "0000000300000009 0000000500000009"},
		{"order", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 :1.a\n4 O1 Pzz :2.b\n"}, "zz 0000000300000009"},
		{"name as unique-id", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 P :1.a\n4 W5  P Gx :2.b\n"}, "1.a 2.b"},
		{"a name listed twice", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 :1.a\n4 :1.a:2,S\n"}, "0000000400000009 0000000500000009"},
		{"uids go down", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n4 :1.a\n3 :2.b\n"}, "!line 3: uid 3 behind 4"},
		{"no uid", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\nx :1.a\n"}, "!line 2: expected a uid"},
		{"uid too large", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n4294967295 :1.a\n"}, "!line 2: expected a uid"},
		{"no colon", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 1.a\n"}, "!line 2: expected a colon"},
		{"no name", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 :\n"}, "!line 2: expected the name"},
		{"a path", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 :../1.a\n"}, "!line 2: expected the name"},
		{"bad order", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 Ox :1.a\n"}, "!line 2: expected a number behind O"},
		{"version 2", MaildirOptions{}, map[string]string{dovecotFile: "2 V9 N5\n"}, "!line 1: expected 3 V"},
		{"empty", MaildirOptions{}, map[string]string{dovecotFile: ""}, "!dovecot-uidlist: expected 3 V"},
		{"no validity", MaildirOptions{}, map[string]string{dovecotFile: "3 V0 N5\n"}, "!line 1: expected 3 V"},
		{"a line too long", MaildirOptions{}, map[string]string{dovecotFile: "3 V9 N5\n3 P" + strings.Repeat("x", maxListLine) + " :1.a\n"}, "!line 2: longer than"},

		{"version 3", MaildirOptions{}, map[string]string{courierFile: "/3 7 8\n1.a:2,S 9 5:8:1\n"}, "UID5-8 UID7-8"},
		{"all is unlisted by Courier", MaildirOptions{}, map[string]string{courierFile: "/2 7 8\n"}, "UID7-8 UID8-8"},
		{"version 1 of Courier", MaildirOptions{}, map[string]string{courierFile: "/1 7\n1.a:2,S 9 5\n"}, "UID5 UID7"},
		{"version 0 of Courier", MaildirOptions{}, map[string]string{courierFile: "1.a:2,S 9\n"}, "1.a 2.b"},
		{"no number, no validity", MaildirOptions{}, map[string]string{courierFile: "/2 7 8\n1.a 9 0:0\n2.b 9 3:0\n"}, "1.a UID3"},
		{"next below the last of Courier", MaildirOptions{}, map[string]string{courierFile: "/2 3 8\n1.a 9 3:8\n"}, "UID3-8 UID4-8"},
		{"version 4", MaildirOptions{}, map[string]string{courierFile: "/4 7 8\n"}, "!line 1: expected /<version>"},
		{"no version", MaildirOptions{}, map[string]string{courierFile: "/\n"}, "!line 1: expected /<version>"},
		{"no number", MaildirOptions{}, map[string]string{courierFile: "/2 7 8\n1.a 9 x:8\n"}, "!line 2: expected a file, its size"},
		{"version 3 in 2", MaildirOptions{}, map[string]string{courierFile: "/2 7 8\n1.a 9 5:8:0\n"}, "!line 2: expected a file, its size"},
		{"no size", MaildirOptions{}, map[string]string{courierFile: "/2 7 8\n1.a 5:8\n"}, "!line 2: expected a file, its size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDrop(t, "cur/1.a:2,", "cur/2.b:2,")
			for name, content := range c.files {
				d.put(name, content)
			}
			c.options.Now = noon
			m, err := OpenMaildir(d.dir, c.options)
			if err != nil {
				if part, wanted := strings.CutPrefix(c.want, "!"); !wanted || !strings.Contains(err.Error(), part) {
					t.Errorf("%v, want %s", err, c.want)
				}
				return
			}
			defer m.Close()
			if got := uids(m); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Unique-ids that a maildrop can't have are replaced, by the same ones each time.
func TestReplaced(t *testing.T) {
	d := newDrop(t, "cur/1.a:2,", "cur/2.b:2,", "cur/3.c:2,")
	d.put(dovecotFile, "3 V9 N9\n3 Px\xe4 :1.a\n4 Psame :2.b\n5 Psame :3.c\n")
	m := d.read(MaildirOptions{})
	if m.Replaced != 2 || m.Messages[1].UID != "same" || !m.Messages[0].UID.Valid() || !m.Messages[2].UID.Valid() || m.Messages[2].UID == "same" {
		t.Errorf("%d replaced: %s", m.Replaced, uids(m))
	}
	if again := d.read(MaildirOptions{}); uids(again) != uids(m) {
		t.Errorf("%s became %s", uids(m), uids(again))
	}
}

func TestUIDFormat(t *testing.T) {
	for format, want := range map[string]string{
		DefaultUIDFormat: "0000000a6553f163", "%u": "10", "%v.%u": "1700000099.10", "%f": "name", "%g-%%": "GUID-%", "%08Xu": "0000000a",
		"%Xv": "6553f163", "%UXv": "6553F163", "%Ug": "GUID", "%Lg": "guid", "%05u": "00010", "x": "x",
	} {
		f, err := ParseUIDFormat(format)
		if got := f.expand(1700000099, 10, "name", "GUID"); err != nil || got != want {
			t.Errorf("%s makes %s, want %s (%v)", format, got, want, err)
		}
	}
	if got := (UIDFormat{}).expand(1700000099, 10, "", ""); got != "0000000a6553f163" {
		t.Errorf("the default makes %s", got)
	}
	for _, format := range []string{"", "%", "%m", "%8u", "%099u", "%x", "%08Xf", "%X", strings.Repeat("x", 65)} {
		if _, err := ParseUIDFormat(format); err == nil {
			t.Errorf("%q was taken", format)
		}
	}
}
