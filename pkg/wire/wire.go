// Package wire is the octets of the mail protocols: bounded command lines in,
// message content in, the head of a message out. It knows no command and does
// no I/O but on the reader or writer it was given.
//
// A message has one form in all of Postern, its wire form, and this is where
// it gets it, once, at the door: every line ends with CRLF, a line that begins
// with a dot has one more (RFC 5321 section 4.5.2, RFC 1939 section 3), a
// message that isn't empty ends with CRLF, and the final ".CRLF" is not part of
// it. From then on octets are copied, never rewritten.
//
//	          source (a connection)
//	                │
//	             Reader ── Line    commands, at most limit octets
//	                └───── Data    DATA's content, made canonical
//	                         │
//	                     wire form ── spool ── store ── RETR (a copy)
//	                         └────────────────── Top ── TOP  (its first lines)
//
//	Data, by what went before the octet:
//
//	            CRLF, or nothing          bare LF         other
//	  "."       held back                 "..", text      "."
//	  "." CRLF  the end                   content         content
//	  "." x     the dot goes: x           "..x"           ".x"
//	  LF        CRLF                      CRLF            LF after CR, else CRLF
//	  other     kept, octet for octet (CR, NUL and 8-bit ones too)
//
// # Decisions
//
//   - 2026-11-23: content ends at CRLF . CRLF and at nothing else (RFC 5321
//     section 4.1.1.4). LF.LF, LF.CRLF, CRLF.LF, CR.CR and CRLF.CR are content: a
//     reader that takes one of them for the end lets a sender smuggle a second
//     message through a gateway that doesn't.
//   - 2026-11-23: a bare LF becomes CRLF. Refused: to keep it (POP3 clients
//     count and cut lines in ways of their own, and sizes differ from LIST's), and to
//     refuse the message (the gateway has taken it already; it would bounce). A bare
//     CR, CR CR LF and NUL are kept: they harm no client that counts octets.
//   - 2026-11-23: a dot after a bare LF is content, since the sender, whose
//     lines end with CRLF, can't have put it there for transparency. It is stuffed,
//     because the line it begins is a line from now on.
//   - 2026-11-23: net/textproto was refused: its DotReader ends at LF.LF and
//     makes LF of CRLF, its DotWriter doubles a CR and makes a line of an empty message.
//   - 2026-11-23: bufio was refused: Data hands out pieces of the buffer itself,
//     and an overlong line must be thrown away while it comes, without being kept.
package wire

import (
	"bytes"
	"errors"
	"io"
)

// MaxFlood is how many octets without a line end are thrown away before the
// line is given up with ErrFlood.
const MaxFlood = 64 << 10

// maxEmptyReads is how often a source may answer with neither octets nor an
// error before it is taken for broken.
const maxEmptyReads = 100

var (
	// ErrLineTooLong says that the line was longer than allowed. It was thrown
	// away up to and with its end, so the session may go on.
	ErrLineTooLong = errors.New("line too long")
	// ErrFlood says that MaxFlood octets came without a line end. The rest of the
	// line is still to come: close the connection.
	ErrFlood = errors.New("flood: no line end in sight")
)

// Reader reads command lines and message content from one source. It is for
// one goroutine at a time.
type Reader struct {
	src     io.Reader
	buf     []byte
	r, w    int   // buf[r:w] is read from src and not yet consumed
	skipped int   // octets of an overlong line thrown away so far
	err     error // what src said with its last octets; told when they are consumed
}

// NewReader returns a Reader with a buffer of size octets. The buffer grows if
// Line is asked for longer lines, to at most their maximum.
func NewReader(src io.Reader, size int) *Reader {
	return &Reader{src: src, buf: make([]byte, max(size, 1))}
}

// Line reads a line and returns it without its line end, which is CRLF or, as
// some clients have it, a bare LF. With it the line has at most limit octets. The
// line is valid until the next call of any method.
//
// Besides the source's own errors, after which Line may be called again if the
// source allows, it returns ErrLineTooLong, ErrFlood, io.EOF between lines and
// io.ErrUnexpectedEOF within one.
func (r *Reader) Line(limit int) ([]byte, error) {
	seen := 0 // octets of the buffer known to hold no LF
	for {
		if i := bytes.IndexByte(r.buf[r.r+seen:r.w], '\n'); i >= 0 {
			return r.take(seen+i+1, limit)
		}
		seen = r.Buffered()
		if seen >= limit || r.skipped > 0 {
			r.skipped += seen
			r.r, r.w, seen = 0, 0, 0
		}
		if r.skipped >= MaxFlood {
			return nil, ErrFlood
		}
		r.makeRoom(limit)
		if err := r.fill(); err != nil {
			return nil, r.cut(err)
		}
	}
}

// take consumes n octets, which end with the line's LF, and returns the line.
func (r *Reader) take(n, limit int) ([]byte, error) {
	line := r.buf[r.r : r.r+n-1]
	r.r += n
	if r.skipped > 0 || n > limit {
		r.skipped = 0
		return nil, ErrLineTooLong
	}
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	return line, nil
}

// makeRoom lets a line of limit octets fit into the buffer.
func (r *Reader) makeRoom(limit int) {
	if r.w < len(r.buf) {
		return
	}
	if r.r == 0 && len(r.buf) < limit {
		buf := make([]byte, min(limit, 2*len(r.buf)))
		copy(buf, r.buf[:r.w])
		r.buf = buf
		return
	}
	r.w = copy(r.buf, r.buf[r.r:r.w])
	r.r = 0
}

// fill reads once from the source, into the room behind what is buffered.
func (r *Reader) fill() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	for range maxEmptyReads {
		if err := r.err; err != nil {
			r.err = nil
			return err
		}
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		r.err = err
		if n > 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// cut tells the source's end within a line from its end between two.
func (r *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) && (r.Buffered() > 0 || r.skipped > 0) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Buffered is how many octets were read from the source and not yet consumed.
// A server flushes its replies when there are none: the client is waiting
// (RFC 2920 section 3.2).
func (r *Reader) Buffered() int { return r.w - r.r }

// Discard throws away what is buffered. What a client sent before the TLS
// handshake must not be taken for part of the session inside it.
func (r *Reader) Discard() { r.r, r.w, r.skipped = 0, 0, 0 }

// Reset makes the Reader as good as new on another source. Nothing that was
// buffered is kept.
func (r *Reader) Reset(src io.Reader) {
	r.Discard()
	r.src, r.err = src, nil
}
