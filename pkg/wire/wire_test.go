package wire

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// lines reads all lines with the given maximum, errors as "!…".
func lines(src io.Reader, buffer, limit int) (all []string) {
	r := NewReader(src, buffer)
	for {
		line, err := r.Line(limit)
		switch {
		case errors.Is(err, ErrLineTooLong):
			all = append(all, "!long")
		case errors.Is(err, ErrFlood):
			return append(all, "!flood")
		case err != nil:
			return append(all, "!"+err.Error())
		default:
			all = append(all, string(line))
		}
	}
}

// plainLines says the same as lines with the whole input at hand.
func plainLines(in string, limit int) (all []string) {
	for {
		i := strings.IndexByte(in, '\n')
		switch {
		case i < 0 && in == "":
			return append(all, "!EOF")
		case i < 0:
			return append(all, "!unexpected EOF")
		case i+1 > limit:
			all = append(all, "!long")
		default:
			all = append(all, strings.TrimSuffix(in[:i], "\r"))
		}
		in = in[i+1:]
	}
}

func equal(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }

func TestLineTable(t *testing.T) {
	long := strings.Repeat("x", 30)
	for _, c := range []struct{ name, in, want string }{
		{"two lines", "USER a\r\nPASS b\r\n", "USER a|PASS b|!EOF"},
		{"bare LF", "STAT\nQUIT\n", "STAT|QUIT|!EOF"},
		{"empty lines", "\r\n\n\r\n", "|||!EOF"},
		{"CR within and doubled", "a\rb\r\r\n", "a\rb\r|!EOF"},
		{"NUL", "a\x00b\r\n", "a\x00b|!EOF"},
		{"at the limit", strings.Repeat("x", 14) + "\r\nA\r\n", strings.Repeat("x", 14) + "|A|!EOF"},
		{"one over the limit", strings.Repeat("x", 15) + "\r\nA\r\n", "!long|A|!EOF"},
		{"far over the limit", long + " DELE 1\r\nA\r\n" + long + "\n", "!long|A|!long|!EOF"},
		{"cut", "QUI", "!unexpected EOF"},
		{"cut within a long line", long, "!unexpected EOF"},
		{"cut before LF", "QUIT\r", "!unexpected EOF"},
	} {
		want := strings.Split(c.want, "|")
		if got := plainLines(c.in, 16); !equal(got, want) {
			t.Fatalf("%s: the reference disagrees with the table: %q", c.name, got)
		}
		for buffer := 1; buffer < 20; buffer++ {
			for at := range c.in {
				if got := lines(splitAt(c.in, at), buffer, 16); !equal(got, want) {
					t.Errorf("%s, buffer %d, split at %d: %q", c.name, buffer, at, got)
				}
			}
		}
	}
}

func TestLineProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := content().Draw(t, "in")
		at := rapid.IntRange(0, len(in)).Draw(t, "at")
		buffer := rapid.IntRange(1, 64).Draw(t, "buffer")
		limit := rapid.IntRange(1, 64).Draw(t, "limit")
		if got, want := lines(splitAt(in, at), buffer, limit), plainLines(in, limit); !equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestLineFlood(t *testing.T) {
	for _, buffer := range []int{1, 512, 4096} {
		src := &endless{}
		r := NewReader(src, buffer)
		if _, err := r.Line(255); !errors.Is(err, ErrFlood) {
			t.Fatalf("buffer %d: %v, want ErrFlood", buffer, err)
		}
		if src.n > MaxFlood+2*4096 || len(r.buf) > max(buffer, 255) {
			t.Errorf("buffer %d: took %d octets, and its buffer has %d", buffer, src.n, len(r.buf))
		}
		if _, err := r.Line(255); !errors.Is(err, ErrFlood) {
			t.Errorf("asked again: %v, want ErrFlood", err)
		}
	}
	// A long line that does end is no flood.
	in := strings.Repeat("x", MaxFlood-300) + "\r\nNOOP\r\n"
	if got := lines(iotest.HalfReader(strings.NewReader(in)), 512, 255); !equal(got, []string{"!long", "NOOP", "!EOF"}) {
		t.Errorf("got %.80q", got)
	}
}

// endless is a source of x without end.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.n += len(p)
	return len(p), nil
}

// TestLineAfterTimeout: a read deadline that passes loses no octet, and doesn't
// turn the tail of an overlong line into a command.
func TestLineAfterTimeout(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"NO", "OP\r\n", "NOOP"},
		{strings.Repeat("x", 40), " DELE 1\r\nSTAT\r\n", "!long"},
	} {
		src := io.MultiReader(strings.NewReader(c.before), iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(c.after))))
		r := NewReader(src, 8)
		if _, err := r.Line(16); !errors.Is(err, iotest.ErrTimeout) {
			t.Fatalf("%v, want the timeout", err)
		}
		line, err := r.Line(16)
		if c.want == "!long" && !errors.Is(err, ErrLineTooLong) || c.want != "!long" && string(line) != c.want {
			t.Errorf("after %q: %q, %v", c.before, line, err)
		}
	}
}

func TestBufferedAndDiscard(t *testing.T) {
	r := NewReader(strings.NewReader("STLS\r\nCAPA\r\nQUI"), 64)
	if line, err := r.Line(16); err != nil || string(line) != "STLS" || r.Buffered() != len("CAPA\r\nQUI") {
		t.Fatalf("%q, %v, %d buffered", line, err, r.Buffered())
	}
	r.Discard()
	if _, err := r.Line(16); !errors.Is(err, io.EOF) || r.Buffered() != 0 {
		t.Errorf("after Discard: %v, %d buffered; want io.EOF and none", err, r.Buffered())
	}
	r.Reset(strings.NewReader("NOOP\r\n"))
	if line, err := r.Line(16); err != nil || string(line) != "NOOP" {
		t.Errorf("after Reset: %q, %v", line, err)
	}
}

func TestBrokenSource(t *testing.T) {
	if _, err := NewReader(idle{}, 8).Line(8); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("%v, want io.ErrNoProgress", err)
	}
}

// idle is a source that neither reads nor fails.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func FuzzLine(f *testing.F) {
	f.Add("USER a\r\nPASS\n\r\n"+strings.Repeat("x", 99), uint16(3), uint8(4), uint8(16))
	f.Fuzz(func(t *testing.T, in string, at uint16, buffer, limit uint8) {
		if len(in) > MaxFlood || limit == 0 {
			return
		}
		got, want := lines(splitAt(in, min(int(at), len(in))), int(buffer), int(limit)), plainLines(in, int(limit))
		if !equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// piecewise is a source that gives one piece at a time. With its last octets comes
// the end, or after them.
type piecewise struct {
	pieces []string
	early  bool
}

func (p *piecewise) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; p.pieces[0] == "" {
		p.pieces = p.pieces[1:]
	}
	if p.early && len(p.pieces) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// TestReaderAnyPieces: commands and contents in turn on one Reader, as sessions
// have them, are the same for any pieces, any buffer and any limit.
func TestReaderAnyPieces(t *testing.T) {
	part := rapid.OneOf(content(), rapid.Map(content(), func(s string) string { return "\nDATA\r\n" + s + "\r\n.\r\n" }))
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOfN(part, 0, 5).Draw(t, "session"), "")
		src := &piecewise{early: rapid.Bool().Draw(t, "the end comes with the last octets")}
		for rest := in; rest != ""; {
			n := min(len(rest), rapid.IntRange(1, 12).Draw(t, "piece"))
			src.pieces, rest = append(src.pieces, rest[:n]), rest[n:]
		}
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		r := NewReader(src, rapid.IntRange(1, 24).Draw(t, "buffer"))
		for {
			line, err := r.Line(limit)
			want, rest, found := strings.Cut(in, "\n")
			switch {
			case !found:
				if end := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[in == ""]; !errors.Is(err, end) {
					t.Fatalf("%v behind %q, want %v", err, in, end)
				}
				return
			case len(want) >= limit:
				if !errors.Is(err, ErrLineTooLong) {
					t.Fatalf("%q, %v for %q", line, err, want)
				}
			case err != nil || string(line) != strings.TrimSuffix(want, "\r"):
				t.Fatalf("%q, %v for %q", line, err, want)
			}
			in = rest
			if err != nil || string(line) != "DATA" {
				continue
			}
			plain := reference(in)
			var content strings.Builder
			d := r.Data()
			_, err = d.WriteTo(&content)
			got := outcome{wire: content.String(), size: d.Size(), sum: d.Sum(), rest: plain.rest, err: err}
			if err := same(got, plain); err != nil {
				t.Fatalf("%q: %v", in, err)
			}
			if plain.err != nil {
				return
			}
			in = plain.rest
		}
	})
}
