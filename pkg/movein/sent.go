package movein

import (
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
	out   []byte // yet to be read
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
		s.out = s.out[:0:cap(s.out)]
		for _, c := range s.in[:n] {
			s.take(c)
		}
		if errors.Is(err, io.EOF) {
			s.end()
		} else if err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *sent) take(c byte) {
	if s.bare {
		s.out, s.bare = append(s.out, '\n'), false
	}
	if c == '\n' && s.last != '\r' {
		s.bare, s.begin, s.last = true, false, c
		return
	}
	if c == '.' && s.begin {
		s.out = append(s.out, '.')
	}
	s.out = append(s.out, c)
	s.begin, s.last = c == '\n', c
}

func (s *sent) end() {
	s.done = true
	if !s.begin {
		s.out = append(s.out, "\r\n"...)
	}
	s.out = append(s.out, ".\r\n"...)
}
