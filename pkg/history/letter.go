package history

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Sizes of letters, in lines of some 60 octets.
const (
	shortLines = 120   // most have fewer
	longLines  = 3_000 // of each longEvery-th
	longEvery  = 20
)

// Letters are the messages of one run. Each is known again when it is fetched, and told
// from those of other runs and from all other mail.
type Letters struct {
	run string
	at  time.Time // their date
}

// NewLetters are those of a new run.
func NewLetters() Letters { return Letters{strings.ToLower(rand.Text()), time.Now()} }

// Letter is a message as a gateway hands it over: with a Received field that names
// its queue id, by which a repetition is known. It is the same whenever it is made.
func (l Letters) Letter(sender, mailbox string, number int) []byte {
	date := l.at.Format(time.RFC1123Z)
	var b bytes.Buffer
	fmt.Fprintf(&b, "Received: from letters.example by gate.example with ESMTPS id %s-%d-%s; %s\r\n", l.run, number, mailbox, date)
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nDate: %s\r\nSubject: %s\r\n\r\n", sender, mailbox, date, l.subject(mailbox, number))
	lines := number * 37 % shortLines
	if number%longEvery == 0 {
		lines = longLines
	}
	for i := range lines {
		// Dots at the beginning are stuffed on both ways (RFC 5321 section 4.5.2, RFC 1939 section 3).
		fmt.Fprintf(&b, "%s line %d of letter %d: octets that nobody may change\r\n", strings.Repeat(".", i%3), i, number)
	}
	return b.Bytes()
}

func (l Letters) subject(mailbox string, number int) string {
	return fmt.Sprintf("letter %d of %s to %s", number, l.run, mailbox)
}

var (
	subjectField = regexp.MustCompile(`(?m)^Subject: letter ([0-9]{1,9}) of ([0-9a-z]+) to ([^ \r\n]+)\r$`)
	traceFields  = regexp.MustCompile(`\A(?:(?:Return-Path|Delivered-To):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+Received:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*`)
)

// WithoutTrace is a fetched message without the fields that delivery put ahead of it
// (RFC 5321 section 4.4).
func WithoutTrace(fetched []byte) []byte { return fetched[len(traceFields.Find(fetched)):] }

// Identify says which letter to a mailbox was fetched, and sums it as it was sent. The number is 0
// for a message that is none.
func (l Letters) Identify(mailbox string, fetched []byte) (number int, sum Sum) {
	sent := WithoutTrace(fetched)
	head, _, _ := bytes.Cut(sent, []byte("\r\n\r\n"))
	found := subjectField.FindSubmatch(append(head[:len(head):len(head)], "\r\n"...))
	if found != nil && string(found[2]) == l.run && string(found[3]) == mailbox {
		number, _ = strconv.Atoi(string(found[1])) // nine digits at most
	}
	return number, sha256.Sum256(sent)
}
