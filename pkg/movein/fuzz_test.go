package movein

import (
	"io"
	"strings"
	"testing"
)

// keptText is an mbox in memory.
type keptText struct{ *strings.Reader }

func (keptText) Close() error { return nil }

func FuzzMbox(f *testing.F) {
	f.Add(from+"Subject: a\n\n>From b\n\n"+from+"Status: x\n y\n\n.\n", true)
	f.Add("\r\n"+strings.ReplaceAll(from+from+"\n\n", "\n", "\r\n"), false)
	f.Add(from+"a\n\nFrom x\ny: z\n", false)
	f.Fuzz(func(t *testing.T, text string, plain bool) {
		found, err := scanMbox(strings.NewReader(text))
		if err != nil {
			return
		}
		at := int64(0)
		for _, message := range found {
			if message.begin <= at && at > 0 || message.end < message.begin || message.end > int64(len(text)) {
				t.Fatalf("a message from %d to %d, behind %d, of %d octets", message.begin, message.end, at, len(text))
			}
			at = message.end
		}
		m, err := readMbox(keptText{strings.NewReader(text)}, MboxOptions{Plain: plain, Now: noon})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, message := range m.Messages {
			if !message.UID.Valid() || seen[string(message.UID)] || message.Received.After(noon) {
				t.Fatalf("%+v", message)
			}
			seen[string(message.UID)] = true
			kept, _ := message.open()
			octets, err := io.ReadAll(kept)
			if err != nil {
				t.Fatal(err)
			}
			if got := read1(t, message); got != plainWireForm(string(octets)) {
				t.Fatalf("%q became %q", octets, got)
			}
		}
	})
}

// fuzzFiles are files that lists may name.
var fuzzFiles = []maildirFile{{dir: "new", name: "1.a"}, {dir: "cur", name: "2.M5P6.b,S=5:2,S"}, {dir: "cur", name: "3.c d:2,"}, {dir: "cur", name: "x\xff:2,"}}

func FuzzDovecot(f *testing.F) {
	f.Add("3 V9 N5 G12\n3 W5 Pxyz O3 :1.a\n4 P :2.M5P6.b,S=5:2,\n", "%08Xu%08Xv")
	f.Add("1 9 5\n3 1.a\n", "%Uf%g%%")
	f.Fuzz(func(t *testing.T, text, format string) {
		list, err := parseDovecot(strings.NewReader(text))
		if err != nil {
			return
		}
		if list.validity == 0 || list.next == 0 {
			t.Fatalf("%+v", list)
		}
		if list.format, err = ParseUIDFormat(format); err != nil {
			list.format = UIDFormat{}
		}
		holdsListing(t, list)
	})
}

func FuzzCourier(f *testing.F) {
	f.Add("/2 7 8\n1.a:2, 9 5:8\n3.c d 1 0:0\n")
	f.Add("/3 7 8\n1.a:2, 9 5:8:1\n")
	f.Add("/1 7\n1.a 5 6\n")
	f.Add("1.a 5\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseCourier(strings.NewReader(text))
		if err == nil {
			holdsListing(t, list)
		}
	})
}

// holdsListing: every file is listed once, and every unique-id is one in the end.
func holdsListing(t *testing.T, list uidList) {
	m := &Maildrop{}
	seen := map[string]bool{}
	var names []string
	for _, l := range list.listing(fuzzFiles) {
		seen[l.file.name] = true
		m.Messages = append(m.Messages, &Message{UID: l.uid})
		names = append(names, l.file.name)
	}
	if len(seen) != len(fuzzFiles) || len(m.Messages) != len(fuzzFiles) {
		t.Fatalf("listed %q", names)
	}
	m.settle(names)
	for _, message := range m.Messages {
		if !message.UID.Valid() || seen["uid "+string(message.UID)] {
			t.Fatalf("unique-id %q", message.UID)
		}
		seen["uid "+string(message.UID)] = true
	}
}

func FuzzUIDFormat(f *testing.F) {
	f.Add("%08Xu%08Xv")
	f.Fuzz(func(t *testing.T, s string) {
		format, err := ParseUIDFormat(s)
		if err == nil && len(format.expand(1<<32-1, 1<<32-1, "name", "guid")) > len(s)*maxFormat {
			t.Fatalf("%q expands beyond bounds", s)
		}
	})
}
