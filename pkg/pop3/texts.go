package pop3

import (
	"strconv"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// text is something that a reply can say. Each language has its words for it: to
// add one, name it here and give it to every table in english.go and its neighbours.
type text uint8

const (
	textNone text = iota // nothing to say

	// Of any state.
	textCapabilities
	textTooLong
	textUnknown
	textNoArguments
	textGoodbye
	textLanguages
	textLanguage
	textNoLanguage
	textUTF8
	textUTF8Late

	// Of AUTHORIZATION.
	textStranger
	textNeedTLS
	textTLSOn
	textBeginTLS
	textTrailing
	textLogInFirst
	textUserWanted
	textSendPass
	textSendUser
	textPasswordWanted
	textMechanisms
	textNoMechanism
	textCancelled
	textNotBase64
	textNotPlain
	textNotLogin
	textNotScram
	textWelcome
	textWelcomeKept

	// Of TRANSACTION.
	textLoggedIn
	textNumberWanted
	textLinesWanted
	textNoSuchMessage
	textMarkedMessage
	textCensus       // how many messages there are
	textCensusMarked // goes on: how many of them are marked
	textListing
	textOctets
	textTop
	textMarked
	textReset
	textNoop
	textGone

	// Of UPDATE.
	textNothingRemoved
	textRemoved

	texts // how many there are
)

// values fill the placeholders of a text: {messages}, {octets} and {days} are a
// number with its noun, {number} is one without, {census} is how many messages there
// are and how many of them are marked. {text} and {wait} are those of a refusal: see
// maildrop.Meaning.
type values struct {
	messages, octets, days uint64
	number                 uint64
	text                   string
	wait                   time.Duration
}

// phrase is a text with its values.
type phrase struct {
	text   text
	values values
}

// noun is something counted.
type noun struct{ one, many string }

// language is all that the server can say in one language. A table is complete:
// a test holds them against each other.
type language struct {
	tag  string // RFC 5646
	name string // in the language itself
	// zeroIsOne: the noun of 0 has the form of 1.
	zeroIsOne bool

	messages, octets, days noun

	texts [texts]string
	// reasons are why somebody is refused. English has none: maildrop's table has the
	// words.
	reasons map[maildrop.Reason]string
}

// languages are all that LANG offers. The first is the one that replies are in
// until LANG says otherwise, and that "LANG *" means (RFC 6856 section 3).
var languages = [...]*language{&english, &german, &french, &dutch, &afrikaans}

// append adds a text to b.
func (l *language) append(b []byte, t text, v values) []byte { return l.expand(b, l.texts[t], v) }

// expand adds words with their placeholders filled in.
func (l *language) expand(b []byte, words string, v values) []byte {
	for {
		before, after, found := strings.Cut(words, "{")
		b = append(b, before...)
		if !found {
			return b
		}
		var placeholder string
		placeholder, words, _ = strings.Cut(after, "}")
		b = l.fill(b, placeholder, v)
	}
}

func (l *language) fill(b []byte, placeholder string, v values) []byte {
	switch placeholder {
	case "messages":
		return l.count(b, v.messages, l.messages)
	case "octets":
		return l.count(b, v.octets, l.octets)
	case "days":
		return l.count(b, v.days, l.days)
	case "number":
		return strconv.AppendUint(b, v.number, 10)
	case "census":
		if b = l.append(b, textCensus, v); v.number > 0 {
			b = l.append(b, textCensusMarked, v)
		}
		return b
	case "text":
		return append(b, v.text...)
	case "wait":
		return append(b, waiting(v.wait)...)
	}
	return b
}

// count adds "1 message", "2 messages".
func (l *language) count(b []byte, n uint64, of noun) []byte {
	b = append(strconv.AppendUint(b, n, 10), ' ')
	if n == 1 || n == 0 && l.zeroIsOne {
		return append(b, of.one...)
	}
	return append(b, of.many...)
}
