package movein

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// MboxOptions say how to read an mbox.
type MboxOptions struct {
	// Plain is for the form mboxo, where only "From " was quoted, and not
	// ">From ": so ">>From " is what was sent. Without it the form is mboxrd.
	Plain bool
	Now   time.Time // no message arrived after it
}

// mboxMessage is where one message of an mbox is, and what its head says.
type mboxMessage struct {
	begin, end int64 // octets of the file: behind its From_ line, before the empty line at its end
	from       time.Time
	date, uidl string // header fields
	internal   bool   // the mailbox's own, no mail
}

// MalformedError says where a file is no mbox.
type MalformedError struct {
	Offset int64 // in octets
	Text   string
}

// Error implements error.
func (e *MalformedError) Error() string { return fmt.Sprintf("octet %d: %s", e.Offset, e.Text) }

// OpenMbox reads what an mbox file has.
func OpenMbox(file string, options MboxOptions) (*Maildrop, error) {
	opened, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	m, err := readMbox(opened, options)
	if err != nil {
		opened.Close()
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// kept is a file with an mbox in it.
type kept interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

func readMbox(file kept, options MboxOptions) (*Maildrop, error) {
	found, err := scanMbox(file)
	if err != nil {
		return nil, err
	}
	m := &Maildrop{closer: file, Listed: "X-UIDL, and hashes of messages without"}
	var names []string
	for i, f := range found {
		message := &Message{
			Name: "message " + strconv.Itoa(i+1) + " at octet " + strconv.FormatInt(f.begin, 10),
			UID:  maildrop.UID(f.uidl), Received: f.arrival(options.Now),
			open: func() (io.ReadCloser, error) {
				return io.NopCloser(newMboxContent(io.NewSectionReader(file, f.begin, f.end-f.begin), options.Plain)), nil
			},
		}
		if f.internal {
			m.Skipped = append(m.Skipped, Skip{message.Name, Internal, "the mailbox's own, for its server"})
			continue
		}
		m.Messages = append(m.Messages, message)
		names = append(names, "")
	}
	return m, m.name(names)
}

// name gives messages without an X-UIDL of their own unique-ids of their
// content. Two with the same octets differ in how many went before.
func (m *Maildrop) name(names []string) error {
	before := make(map[string]int)
	said := make(map[maildrop.UID]int)
	for _, message := range m.Messages {
		said[message.UID]++
	}
	for i, message := range m.Messages {
		if message.UID.Valid() && said[message.UID] == 1 {
			continue
		}
		content, err := message.Measure()
		if err != nil {
			return err
		}
		sum := hex.EncodeToString(content.sum[:])
		names[i] = sum + " " + strconv.Itoa(before[sum])
		before[sum]++
		if message.UID != "" {
			m.Replaced++
		}
		message.UID = hashed("mbox", names[i])
	}
	m.settle(names)
	return nil
}

// arrival is when the message arrived: as its From_ line says (RFC 4155, in
// UTC), else its Date.
func (f mboxMessage) arrival(now time.Time) time.Time {
	at := f.from
	if at.Unix() <= 0 {
		at = now
		if date, err := mail.ParseDate(f.date); err == nil {
			at = date
		}
	}
	if at.After(now) || at.Unix() <= 0 {
		return now
	}
	return at
}

// mboxScan finds messages in lines that come one after the other.
type mboxScan struct {
	found   []mboxMessage
	offset  int64 // of the line
	empty   bool  // the line before is empty
	begin   int64 // of the line before
	header  bool  // in a message's head
	suspect int64 // where a line "From " without a date is, just before; -1
}

// scanMbox reads a file through.
func scanMbox(r io.Reader) ([]mboxMessage, error) {
	s := &mboxScan{empty: true, suspect: -1}
	lines := newLineReader(r)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && line.first {
			err = s.take(line.text)
		}
		if err != nil {
			return nil, err
		}
		s.offset += int64(len(line.text))
	}
	s.finish(s.offset)
	return s.found, nil
}

// take takes a line, or of a very long one its begin.
func (s *mboxScan) take(line []byte) error {
	text := strings.TrimRight(string(line[:min(len(line), maxField)]), "\r\n")
	suspect := s.suspect
	s.suspect = -1
	if s.empty && strings.HasPrefix(text, "From ") {
		at, ok := fromDate(text)
		if ok {
			return s.message(at, int64(len(line)))
		}
		s.suspect = s.offset
	}
	switch {
	case len(s.found) == 0 && text == "": // before the first message
	case len(s.found) == 0:
		return &MalformedError{s.offset, `expected a line "From <sender> <date>": it is no mbox`}
	case suspect >= 0 && isField(text):
		return &MalformedError{suspect, `a line "From " whose date cannot be read: what follows looks like another message`}
	case s.header:
		s.headerLine(text)
	}
	s.empty, s.begin = text == "" && len(line) <= 2, s.offset
	return nil
}

// message begins the next message, behind its From_ line.
func (s *mboxScan) message(at time.Time, length int64) error {
	s.finish(s.offset)
	if len(s.found) == maxMessages {
		return fmt.Errorf("more than %d messages", maxMessages)
	}
	s.found = append(s.found, mboxMessage{begin: s.offset + length, from: at})
	s.header, s.empty = true, false
	s.begin = s.offset + length
	return nil
}

// finish ends the last message. The empty line before the next one is part of
// the mbox and not of the message.
func (s *mboxScan) finish(end int64) {
	if len(s.found) == 0 {
		return
	}
	last := &s.found[len(s.found)-1]
	if s.empty && s.begin >= last.begin {
		end = s.begin
	}
	last.end = max(end, last.begin)
}

func (s *mboxScan) headerLine(text string) {
	if text == "" {
		s.header = false
		return
	}
	if text[0] == ' ' || text[0] == '\t' {
		return
	}
	name, value, _ := strings.Cut(text, ":")
	value = strings.TrimSpace(value)
	last := &s.found[len(s.found)-1]
	switch strings.ToLower(strings.TrimRight(name, " \t")) {
	case "date":
		last.date = value
	case "x-uidl":
		last.uidl = value
	case "subject":
		last.internal = last.internal || len(s.found) == 1 && strings.Contains(value, "FOLDER INTERNAL DATA")
	}
}

// isField reports whether a line looks like a header field.
func isField(line string) bool {
	name, _, ok := strings.Cut(line, ":")
	return ok && name != "" && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}

// fromDate is the date of a From_ line: asctime's, with seconds or without, and
// perhaps a zone before or behind the year, which RFC 4155 doesn't have and is
// not looked at.
func fromDate(line string) (time.Time, bool) {
	fields := strings.Fields(line)
	for i := 1; i+4 <= len(fields); i++ { // a sender may have spaces, or be missing
		if at, ok := asctime(fields[i:]); ok {
			return at, true
		}
	}
	return time.Time{}, false
}

func asctime(fields []string) (time.Time, bool) {
	for _, year := range []int{4, 5} { // 5: a zone before it
		if year >= len(fields) {
			break
		}
		text := strings.Join(append(append([]string{}, fields[:4]...), fields[year]), " ")
		for _, layout := range []string{"Mon Jan 2 15:04:05 2006", "Mon Jan 2 15:04 2006"} {
			if at, err := time.Parse(layout, text); err == nil {
				return at, true
			}
		}
	}
	return time.Time{}, false
}
