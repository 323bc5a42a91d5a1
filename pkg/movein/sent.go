package movein

import (
	"bytes"
	"errors"
	"io"
)

// sent reads content as a gateway sends it behind DATA (RFC 5321 section 4.5.2),
// so that package wire takes it as it takes every message: a dot at the begin of
// a line doubled, and CRLF.CRLF behind it. A bare LF stays one, but for the last:
// there it is a line's end, and no content before the final CRLF.
type sent struct {
	src   io.Reader
	in    []byte
	made  []byte // of what was read last
	out   []byte // the part of it yet to be read
	done  bool
	begin bool // at the content's begin, or behind CRLF
	bare  bool // a bare LF is held back
	last  byte
}

func newSent(src io.Reader) *sent {
	return &sent{src: src, in: make([]byte, readBuffer/2), begin: true}
}

// Read implements io.Reader.
func (s *sent) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.done {
			return 0, io.EOF
		}
		n, err := s.src.Read(s.in)
		s.made = s.made[:0]
		s.take(s.in[:n])
		if errors.Is(err, io.EOF) {
			s.end()
		} else if err != nil {
			return 0, err
		}
		s.out = s.made
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *sent) take(in []byte) {
	for len(in) > 0 {
		line := in
		if i := bytes.IndexByte(in, '\n'); i >= 0 {
			line = in[:i+1]
		}
		s.line(line)
		in = in[len(line):]
	}
}

// line takes a line, or a piece of one.
func (s *sent) line(text []byte) {
	if s.bare {
		s.made, s.bare = append(s.made, '\n'), false
	}
	if s.begin && text[0] == '.' {
		s.made = append(s.made, '.')
	}
	before, end := s.last, len(text)-1
	if end > 0 {
		before = text[end-1]
	}
	s.last = text[end]
	s.bare = s.last == '\n' && before != '\r'
	s.begin = s.last == '\n' && !s.bare
	if s.bare {
		text = text[:end]
	}
	s.made = append(s.made, text...)
}

func (s *sent) end() {
	s.done = true
	if !s.begin {
		s.made = append(s.made, "\r\n"...)
	}
	s.made = append(s.made, ".\r\n"...)
}
