package movein

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// lineReader reads lines of any length, in pieces.
type lineReader struct {
	r     *bufio.Reader
	again bool // the next piece goes on with the same line
}

// linePiece is a line, or of a long one a piece. It is valid until the next.
type linePiece struct {
	text  []byte // with the line's end
	first bool   // it is at the line's begin
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, readBuffer)}
}

// next reads on. The last line may have no end; io.EOF comes behind it.
func (l *lineReader) next() (linePiece, error) {
	text, err := l.r.ReadSlice('\n')
	piece := linePiece{text, !l.again}
	l.again = errors.Is(err, bufio.ErrBufferFull)
	if l.again || errors.Is(err, io.EOF) && len(text) > 0 {
		err = nil
	}
	return piece, err
}

// notes are the header fields in which a mailbox keeps notes of its own.
var notes = []string{"status", "x-status", "x-keywords", "x-uid", "x-imap", "x-imapbase"}

// isNote reports whether a header line is a note of the mailbox.
func isNote(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return false
	}
	for _, note := range notes {
		if strings.EqualFold(note, string(bytes.TrimRight(name, " \t"))) {
			return true
		}
	}
	return false
}

// mboxContent is a message of an mbox as it was before it was put there: without
// the mailbox's notes, and without the quotation of "From ".
type mboxContent struct {
	lines  *lineReader
	plain  bool // mboxo
	header bool
	note   bool // in a note
	out    []byte
	err    error
}

func newMboxContent(r io.Reader, plain bool) *mboxContent {
	return &mboxContent{lines: newLineReader(r), plain: plain, header: true}
}

// Read implements io.Reader.
func (c *mboxContent) Read(p []byte) (int, error) {
	for len(c.out) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		var line linePiece
		if line, c.err = c.lines.next(); c.err == nil {
			c.out = c.take(line)
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// take is what is left of a piece.
func (c *mboxContent) take(line linePiece) []byte {
	text := line.text
	if line.first {
		folded := c.note && (text[0] == ' ' || text[0] == '\t')
		c.header = c.header && len(bytes.TrimRight(text, "\r\n")) > 0
		c.note = c.header && (folded || isNote(text))
		if c.quoted(text) {
			text = text[1:]
		}
	}
	if c.note {
		return nil
	}
	return text
}

// quoted reports whether a line is ">From ", or in mboxrd ">>From " and so on.
func (c *mboxContent) quoted(line []byte) bool {
	rest := bytes.TrimLeft(line, ">")
	marks := len(line) - len(rest)
	return bytes.HasPrefix(rest, []byte("From ")) && (marks == 1 || marks > 1 && !c.plain)
}
