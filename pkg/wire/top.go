package wire

import (
	"bytes"
	"errors"
	"io"
)

// ErrTopDone says that all that TOP shows has been written. It is a success,
// made an error so that whoever writes can stop early.
var ErrTopDone = errors.New("top: all lines written")

// topPlace is where in the head of a message a Top is.
type topPlace uint8

const (
	topLineStart topPlace = iota // before a header line, or before the empty line
	topCR                        // a line that is CR so far
	topInLine                    // within a header line
	topBody                      // behind the empty line
	topDone                      // behind the last line wanted
)

// Top passes the header, the empty line and a number of body lines of a
// message in wire form (RFC 1939 section 7, TOP) to a writer.
type Top struct {
	w     io.Writer
	lines uint64 // body lines still wanted
	place topPlace
}

// NewTop returns a Top that passes on to w. A message without an empty line is
// all header, and passes whole.
func NewTop(w io.Writer, lines uint64) *Top { return &Top{w: w, lines: lines} }

// Done reports whether everything wanted has been passed on. It is false for a
// message that ended before.
func (t *Top) Done() bool { return t.place == topDone }

// Write takes the message's next octets, in pieces of any size. It returns
// ErrTopDone as soon as the last line wanted is written, with the number of
// octets up to there; any other error is the writer's.
func (t *Top) Write(p []byte) (int, error) {
	n := 0
	if t.place < topBody {
		n = t.header(p)
	}
	if t.place == topBody {
		n += t.body(p[n:])
	}
	if n > 0 {
		if m, err := t.w.Write(p[:n]); err != nil {
			return m, err
		}
	}
	if t.place == topDone {
		return n, ErrTopDone
	}
	return n, nil
}

// header is the number of octets up to and with the empty line.
func (t *Top) header(p []byte) int {
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case c == '\n' && t.place == topCR:
			t.place = topBody
			return i + 1
		case c == '\r' && t.place == topLineStart:
			t.place = topCR
			i++
		default:
			t.place = topInLine
			j := bytes.IndexByte(p[i:], '\n')
			if j < 0 {
				return len(p)
			}
			t.place = topLineStart
			i += j + 1
		}
	}
	return len(p)
}

// body is the number of octets up to the end of the last line wanted.
func (t *Top) body(p []byte) int {
	if have := uint64(bytes.Count(p, crlf[1:])); have < t.lines {
		t.lines -= have
		return len(p)
	}
	n := 0
	for ; t.lines > 0; t.lines-- {
		n += bytes.IndexByte(p[n:], '\n') + 1
	}
	t.place = topDone
	return n
}
