package pop3

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/wire"
)

// pieces is a connection on which each Read gets one piece at most.
type pieces struct {
	net.Conn
	text []string
	come int // how many pieces come before the deadline passes
}

func (p *pieces) Read(b []byte) (int, error) {
	switch {
	case p.come == 0:
		return 0, os.ErrDeadlineExceeded
	case len(p.text) == 0:
		return 0, io.EOF
	}
	p.come--
	n := copy(b, p.text[0])
	if p.text[0] = p.text[0][n:]; p.text[0] == "" {
		p.text = p.text[1:]
	}
	return n, nil
}

// TestInputAnyPieces: the commands are the same wherever the network cuts them,
// whatever the buffers' sizes, and whether they were read or came while a call
// lasted.
func TestInputAnyPieces(t *testing.T) {
	token := rapid.SampledFrom([]string{"\r\n", "\n", "\r", "DELE 1", "x", " ", "QUIT\r\n", strings.Repeat("y", 300), "\x00"})
	rapid.Check(t, func(t *rapid.T) {
		conn := pieces{come: -1}
		var text string
		for _, piece := range rapid.SliceOf(token).Draw(t, "pieces") {
			conn.text = append(conn.text, piece)
			text += piece
		}
		below := &stream{Conn: &conn}
		in := &input{conn: below, below: below, before: func() error { return nil }, interrupt: func() {}}
		r := wire.NewReader(in, rapid.IntRange(1, 600).Draw(t, "buffer"))
		var got []string
		for {
			if rapid.Bool().Draw(t, "a call lasts") {
				conn.come = rapid.IntRange(0, 3).Draw(t, "pieces that come meanwhile")
				if err := in.listen(); err != nil {
					in.err = err
				}
				conn.come = -1
			}
			line, err := r.Line(255)
			switch {
			case errors.Is(err, wire.ErrLineTooLong):
				got = append(got, "too long")
				continue
			case err != nil:
				checkLines(t, text, got, err)
				if in.octets != uint64(len(text)) {
					t.Fatalf("counted %d octets of %d", in.octets, len(text))
				}
				return
			}
			got = append(got, string(line))
		}
	})
}

// checkLines holds what was read against the whole text at once.
func checkLines(t *rapid.T, text string, got []string, end error) {
	var want []string
	for line := range strings.Lines(text) {
		bare, ended := strings.CutSuffix(line, "\n")
		switch {
		case !ended:
			if !errors.Is(end, io.ErrUnexpectedEOF) {
				t.Fatalf("ended with %v within a line", end)
			}
		case len(line) > 255:
			want = append(want, "too long")
		default:
			want = append(want, strings.TrimSuffix(bare, "\r"))
		}
	}
	if (text == "" || strings.HasSuffix(text, "\n")) && !errors.Is(end, io.EOF) {
		t.Fatalf("ended with %v between lines", end)
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("%q is %q, want %q", text, got, want)
	}
}

// TestScriptsInTwo sends each conversation in two pieces, each its own TLS record
// (RFC 8446 section 5.1), cut at every fifth point, another fifth in the next one:
// a handshake for each is much. TestInputAnyPieces cuts everywhere.
func TestScriptsInTwo(t *testing.T) {
	step := 5
	if testing.Short() {
		step = 29
	}
	for i, s := range scripts(t) {
		if !s.pure() {
			continue
		}
		said, want := s.talk()
		for at := 1 + i%step; at < len(said); at += step {
			s.runPieces(t, []string{said[:at], said[at:]}, want)
			if t.Failed() {
				t.Fatalf("%s, cut at octet %d", s.name, at)
			}
		}
	}
}
