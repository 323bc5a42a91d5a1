package pop3

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var placeholder = regexp.MustCompile(`\{[a-z]*\}`)

// placeholders are a text's, each once, sorted.
func placeholders(words string) []string {
	all := placeholder.FindAllString(words, -1)
	slices.Sort(all)
	return slices.Compact(all)
}

// fullest are the values that make a text longest.
var fullest = values{
	messages: math.MaxUint64, octets: math.MaxUint64, days: math.MaxUint64, number: math.MaxUint64,
	text: strings.Repeat("w", maxText), wait: math.MaxInt64,
}

// TestLanguages holds the tables against each other: every language has every text, with
// the placeholders that English has and that are filled in, in UTF-8 without control
// characters, and no reply is longer than a line may be (RFC 2449 section 4).
func TestLanguages(t *testing.T) {
	for _, l := range languages {
		check := func(what, words string) {
			t.Helper()
			if words == "" || words != strings.TrimSpace(words) || strings.HasPrefix(words, "[") {
				t.Errorf("%s: %s is %q", l.tag, what, words)
			}
			if !utf8.ValidString(words) || strings.ContainsFunc(words, func(r rune) bool { return r < ' ' || r == 0x7F || r == '<' || r == '>' }) {
				t.Errorf("%s: %s is not fit for a reply: %q", l.tag, what, words)
			}
			filled := string(l.expand(nil, words, fullest))
			if strings.ContainsAny(filled, "{}") {
				t.Errorf("%s: %s has a placeholder that nothing fills: %q", l.tag, what, filled)
			}
			if longest := len("-ERR [LOGIN-DELAY] ") + len(filled) + len(" (removal-unknown, reference )\r\n") + 64; longest > maxReply {
				t.Errorf("%s: %s makes a line of %d octets", l.tag, what, longest)
			}
		}
		for i := textNone + 1; i < texts; i++ {
			check(english.texts[i], strings.TrimPrefix(l.texts[i], ", ")) // textCensusMarked goes on with a sentence
			if got, want := placeholders(l.texts[i]), placeholders(english.texts[i]); !slices.Equal(got, want) {
				t.Errorf("%s: %q has the placeholders %v, want %v", l.tag, l.texts[i], got, want)
			}
		}
		for reason, words := range l.reasons {
			check(string(reason), words)
		}
		for _, n := range []noun{l.messages, l.octets, l.days} {
			check("a noun", n.one)
			check("a noun", n.many)
		}
		if strings.ContainsFunc(l.tag, func(r rune) bool { return r < 'a' || r > 'z' }) {
			t.Errorf("%q is no language tag", l.tag)
		}
	}
}

// TestEnglish: what a client reads that never said LANG is ASCII (RFC 6856 section 3).
func TestEnglish(t *testing.T) {
	all := strings.Join(english.texts[:], "") + english.name + english.messages.many + english.octets.many + english.days.many
	for i := range len(all) {
		if all[i] >= utf8.RuneSelf {
			t.Errorf("not ASCII: %q", all[max(0, i-20):min(len(all), i+20)])
		}
	}
}

// TestReasons: a refusal has words in every language, for every reason that there is, with
// the placeholders that it has in English; and what machines read is in no language.
func TestReasons(t *testing.T) {
	for _, l := range languages[1:] {
		if len(l.reasons) != len(maildrop.Meanings()) {
			t.Errorf("%s: words for %d reasons, want %d", l.tag, len(l.reasons), len(maildrop.Meanings()))
		}
		for _, m := range maildrop.Meanings() {
			words := l.reasons[m.Reason]
			if got, want := placeholders(words), placeholders(m.Words); words == "" || !slices.Equal(got, want) {
				t.Errorf("%s: %s: %q has the placeholders %v, want %v", l.tag, m.Reason, words, got, want)
			}
			reply := string(l.refusal(nil, m.Reason, "there", time.Hour, "REF"))
			if !strings.HasPrefix(reply, "-ERR ["+string(m.Response)+"] ") || !strings.HasSuffix(reply, " ("+string(m.Reason)+", reference REF)") {
				t.Errorf("%s: %q", l.tag, reply)
			}
		}
	}
}

// TestLookUp is RFC 4647 section 3.4.
func TestLookUp(t *testing.T) {
	for of, want := range map[string]string{
		"*": "en", "en": "en", "DE": "de", "de-CH-1996": "de", "Fr-fr": "fr", "nl-BE": "nl", "af-ZA": "af", "en-GB": "en",
	} {
		if l := lookUp(of); l == nil || l.tag != want {
			t.Errorf("%s: %v, want %s", of, l, want)
		}
	}
	for _, of := range []string{"", "-", "xx", "xx-nosuch", "d", "deu", "e", "en_GB", "i-default", "de ", "*-de", "de fr"} {
		if l := lookUp(of); l != nil {
			t.Errorf("%q: %s", of, l.tag)
		}
	}
}

// TestAppend: placeholders, and French zero.
func TestAppend(t *testing.T) {
	v := values{messages: 1, octets: 2, days: 60, number: 3}
	for _, test := range []struct {
		l    *language
		t    text
		v    values
		want string
	}{
		{&english, textWelcomeKept, v, "1 message, 2 octets, kept 60 days"},
		{&german, textWelcomeKept, v, "1 Nachricht, 2 Oktette, aufbewahrt 60 Tage"},
		{&french, textListing, values{}, "0 message"},
		{&english, textListing, values{}, "0 messages"},
		{&dutch, textNoSuchMessage, v, "dit bericht bestaat niet; de postbus heeft 1 bericht, waarvan 3 gemarkeerd om te verwijderen"},
		{&afrikaans, textNoSuchMessage, values{messages: 2}, "hierdie boodskap bestaan nie; die posbus het 2 boodskappe"},
	} {
		if got := string(test.l.append(nil, test.t, test.v)); got != test.want {
			t.Errorf("%s: %q, want %q", test.l.tag, got, test.want)
		}
	}
	buffer := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { german.append(buffer, textNoSuchMessage, v) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
