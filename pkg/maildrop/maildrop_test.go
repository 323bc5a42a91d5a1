package maildrop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Address // empty: refused
	}{
		{"anna@example.com", "anna@example.com"},
		{"Anna@EXAMPLE.com", "anna@example.com"},
		{"anna@example.com.", "anna@example.com"},
		{"a b@example.com", "a b@example.com"},
		{"a@b@example.com", "a@b@example.com"},
		{`"anna"@example.com`, "anna@example.com"}, // quotes mean nothing: RFC 5321 section 4.1.2
		{`"a b"@example.com`, "a b@example.com"},
		{`"a@b"@example.com`, "a@b@example.com"},
		{`"a\\b"@example.com`, `a\b@example.com`},
		{`"a\"b"@example.com`, `a"b@example.com`},
		{`a"b@example.com`, `a"b@example.com`},
		{"\uff02anna\uff02@example.com", "anna@example.com"}, // full-width quotes
		{`""@example.com`, ""},
		{`"@example.com`, ""},
		{`"anna@example.com`, ""},
		{`"an"na"@example.com`, ""},
		{`"anna\"@example.com`, ""},
		{`"\"anna"@example.com`, ""},
		{"zoe\u0308@example.com", "zo\u00eb@example.com"}, // NFD and NFC are one mailbox
		{"ZO\u00cb@example.com", "zo\u00eb@example.com"},
		{"\uff21nna@example.com", "anna@example.com"},    // full-width A
		{"of\ufb01ce@example.com", "office@example.com"}, // a ligature
		{"anna@B\u00fccher.example", "anna@xn--bcher-kva.example"},
		{"anna@xn--bcher-kva.example", "anna@xn--bcher-kva.example"},
		{"", ""},
		{"anna", ""},
		{"@example.com", ""},
		{"anna@", ""},
		{"anna@.", ""},
		{"anna@a..b", ""},
		{"an\x00na@example.com", ""},
		{"an\nna@example.com", ""},
		{"an\xffna@example.com", ""},
		{strings.Repeat("a", 65) + "@example.com", ""},
		{strings.Repeat("a", 64) + "@example.com", Address(strings.Repeat("a", 64) + "@example.com")},
		{"a@" + strings.Repeat("b", 64) + ".com", ""},
	} {
		got, err := ParseAddress(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ParseAddress(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

// An address in canonical form is its own canonical form; else one mailbox
// would be looked for in two shards.
func TestParseAddressIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		once, err := ParseAddress(rapid.String().Draw(t, "local") + "@" + rapid.StringMatching(`[a-zA-Z0-9-]{1,12}(\.[a-zA-Z]{2,5}){1,2}`).Draw(t, "domain"))
		if err != nil {
			t.Skip("no address")
		}
		twice, err := ParseAddress(string(once))
		if err != nil || twice != once {
			t.Fatalf("%q became %q (%v)", once, twice, err)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b.example", "\u0130@example.com", "a@\u00df.example", "@", "a@xn--a.example", "\uff21\ufb01\ufdfa@example.com", "\u1e9e\u0345@example.com", `"a\b c"@d.example`, "\"e\\\u0301\"@d.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if len(a) > MaxAddress || a.Domain() == "" || a.Local() == "" {
			t.Fatalf("%q was taken as %q", s, a)
		}
		if again, err := ParseAddress(string(a)); err != nil || again != a {
			t.Fatalf("%q became %q, and that %q (%v)", s, a, again, err)
		}
	})
}

// The shard of an address is where its mail is stored: a change of the hash
// would lose all of it. The numbers were worked out once and are fixed.
func TestShardNeverChanges(t *testing.T) {
	for address, want := range map[Address]int{
		"anna@example.com": 2, "ben@example.com": 3, "zo\u00eb@xn--bcher-kva.example": 11,
	} {
		if got := address.Shard(16); got != want {
			t.Errorf("%s is in shard %d of 16, must be %d", address, got, want)
		}
	}
}

func TestShardsAreEven(t *testing.T) {
	const shards, addresses = 256, 256 * 400
	var count [shards]int
	for i := range addresses {
		count[Address(fmt.Sprintf("user%d@customer%d.example", i, i%97)).Shard(shards)]++
	}
	for shard, n := range count {
		if n < 280 || n > 520 { // six standard deviations about 400
			t.Errorf("shard %d has %d of %d addresses", shard, n, addresses)
		}
	}
}

func TestUIDValid(t *testing.T) {
	for uid, want := range map[UID]bool{
		"":                           false,
		"a":                          true,
		"!~":                         true,
		"a b":                        false,
		"a\x7f":                      false,
		"\u00e9":                     false,
		UID(strings.Repeat("x", 70)): true,
		UID(strings.Repeat("x", 71)): false,
	} {
		if uid.Valid() != want {
			t.Errorf("UID(%q).Valid() = %v", uid, !want)
		}
	}
}

func TestRepeatableID(t *testing.T) {
	sum := sha256.Sum256([]byte("octets"))
	base := RepeatableID("s@x", "r@x", sum)
	if base != RepeatableID("s@x", "r@x", sum) {
		t.Error("the same delivery has two IDs")
	}
	other := sha256.Sum256([]byte("other octets"))
	for what, id := range map[string]EnvelopeID{
		"sender":    RepeatableID("t@x", "r@x", sum),
		"recipient": RepeatableID("s@x", "q@x", sum),
		"octets":    RepeatableID("s@x", "r@x", other),
		"chance":    RandomID(),
	} {
		if id == base {
			t.Errorf("another %s gives the same ID", what)
		}
	}
}

func TestKindOf(t *testing.T) {
	denied := &Error{Op: "x", Kind: Denied, Reason: ReasonBlocked, Text: "words"}
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{denied, Denied},
		{fmt.Errorf("around: %w", denied), Denied},
		{&Error{Op: "y", Kind: Maybe, Err: denied}, Maybe}, // the outermost speaks
		{context.Canceled, Canceled},
		{fmt.Errorf("around: %w", context.DeadlineExceeded), Canceled},
		{errors.New("anything"), Internal},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if got := fmt.Sprint(denied); got != "x: denied (override-block): words" {
		t.Errorf("reads %q", got)
	}
	if TextOf(fmt.Errorf("around: %w", denied)) != "words" || ReasonOf(denied) != ReasonBlocked {
		t.Error("text or reason lost")
	}
}

// Every kind has a name of its own: they are labels of metrics.
func TestKindNames(t *testing.T) {
	seen := map[string]Kind{}
	for k := Internal; int(k) < Kinds; k++ {
		if was, twice := seen[k.String()]; twice {
			t.Errorf("kinds %d and %d are both %q", was, k, k)
		}
		seen[k.String()] = k
	}
}

func TestClasses(t *testing.T) {
	for class, days := range map[Class]int{ClassNone: 0, ClassLocal: 60, ClassContinuity: 5} {
		if class.Days() != days {
			t.Errorf("%v is kept %d days, must be %d", class, class.Days(), days)
		}
	}
}

func TestCounted(t *testing.T) {
	for n, want := range map[int]string{0: "0 minutes", 1: "1 minute", 15: "15 minutes"} {
		if got := Counted(n, "minute"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
