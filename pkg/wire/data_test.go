package wire

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// outcome is all that can be seen of reading one content.
type outcome struct {
	wire string
	size uint64
	sum  [32]byte
	rest string // what was left in the source
	err  error
}

// reference says the same as Data in the plainest way: whole input at hand,
// one octet after the other, content first and stuffing afterwards.
func reference(in string) outcome {
	var content []byte
	lineStart, err := true, io.ErrUnexpectedEOF
	i := 0
	for i < len(in) {
		if lineStart && strings.HasPrefix(in[i:], ".\r\n") {
			i, err = i+3, nil
			break
		}
		if lineStart && in[i] == '.' {
			if rest := in[i+1:]; rest == "" || rest == "\r" {
				i = len(in)
				break // cut: it could still become the end
			}
			i++
		}
		lineStart = false
		switch {
		case strings.HasPrefix(in[i:], "\r\n"):
			content = append(content, "\r\n"...)
			i += 2
			lineStart = true
			continue
		case in[i] == '\n':
			content = append(content, "\r\n"...)
		default:
			content = append(content, in[i])
		}
		i++
	}
	return outcome{wire: stuffed(content), size: uint64(len(content)), sum: sha256.Sum256(content), rest: in[i:], err: err}
}

// stuffed is the wire form of canonical content.
func stuffed(content []byte) string {
	s := strings.ReplaceAll("\r\n"+string(content), "\r\n.", "\r\n..")
	return s[2:]
}

// observe reads one content through a Reader with a buffer of the given size,
// into pieces of the given size (0: by WriteTo).
func observe(src io.Reader, buffer, piece int) outcome {
	r := NewReader(src, buffer)
	d := r.Data()
	var b bytes.Buffer
	var err error
	if piece == 0 {
		_, err = d.WriteTo(&b)
	} else {
		_, err = io.CopyBuffer(&b, struct{ io.Reader }{d}, make([]byte, piece))
	}
	if uint64(b.Len()) != d.Wire() {
		err = fmt.Errorf("Wire says %d of %d octets", d.Wire(), b.Len())
	}
	if err == nil {
		if n, again := d.Read(make([]byte, 1)); n != 0 || !errors.Is(again, io.EOF) {
			err = fmt.Errorf("after the end: %d, %w", n, again)
		}
	}
	rest, _ := io.ReadAll(io.MultiReader(bytes.NewReader(r.buf[r.r:r.w]), src))
	return outcome{wire: b.String(), size: d.Size(), sum: d.Sum(), rest: string(rest), err: err}
}

// same compares; of a content that was cut only the error and a common begin
// count, since nobody may use it.
func same(got, want outcome) error {
	if !errors.Is(got.err, want.err) {
		return fmt.Errorf("error %w, want %v", got.err, want.err)
	}
	if want.err != nil {
		if !strings.HasPrefix(want.wire, got.wire) && !strings.HasPrefix(got.wire, want.wire) {
			return fmt.Errorf("cut content %q, want %q", got.wire, want.wire)
		}
		return nil
	}
	if got != want {
		return fmt.Errorf("got %q (%d) rest %q, want %q (%d) rest %q", got.wire, got.size, got.rest, want.wire, want.size, want.rest)
	}
	return nil
}

// splitAt is a source that ends a Read at one point and then goes on.
func splitAt(s string, at int) io.Reader {
	return io.MultiReader(strings.NewReader(s[:at]), strings.NewReader(s[at:]))
}

// awkward are contents with, behind them, a command that must stay unread.
var awkward = []struct{ name, in, wire string }{
	{"empty", ".\r\n", ""},
	{"one empty line", "\r\n.\r\n", "\r\n"},
	{"plain", "a: b\r\n\r\nc\r\n.\r\n", "a: b\r\n\r\nc\r\n"},
	{"dot as the very first octet", "..\r\n.\r\n", "..\r\n"},
	{"stuffed dots", "..x\r\n...\r\n.\r\n", "..x\r\n...\r\n"},
	{"stuffing that was not needed", ".x\r\n.\r\n", "x\r\n"},
	{"a dot within and at the end of a line", "a.\r\nb.c\r\n.\r\n", "a.\r\nb.c\r\n"},
	{"bare LF", "a\nb\n\r\n.\r\n", "a\r\nb\r\n\r\n"},
	{"only bare LF", "\n\n\r\n.\r\n", "\r\n\r\n\r\n"},
	{"bare CR", "a\rb\r\r\n.\r\n", "a\rb\r\r\n"},
	{"only CRs", "\r\r\r\n.\r\n", "\r\r\r\n"},
	{"CR CR LF before the end", "a\r\r\n.\r\n", "a\r\r\n"},
	{"smuggled LF.LF", "a\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"},
	{"smuggled LF.CRLF", "a\n.\r\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"},
	{"smuggled CRLF.LF", "a\r\n.\nb\r\n.\r\n", "a\r\n\r\nb\r\n"},
	{"smuggled CR.CR", "a\r.\rb\r\n.\r\n", "a\r.\rb\r\n"},
	{"smuggled CRLF.CR", "a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n"},
	{"smuggled CRLF.CR CRLF", "a\r\n.\r\r\nb\r\n.\r\n", "a\r\n\r\r\nb\r\n"},
	{"dot after bare LF", "\n.x\n..\r\n.\r\n", "\r\n..x\r\n...\r\n"},
	{"NUL and 8 bit", "\x00\xff\x80.\x00\r\n\x00.\r\n.\r\n", "\x00\xff\x80.\x00\r\n\x00.\r\n"},
	{"dots only", "..\r\n..\r\n..\r\n.\r\n", "..\r\n..\r\n..\r\n"},
	{"long line", strings.Repeat("x", 5000) + "\r\n.\r\n", strings.Repeat("x", 5000) + "\r\n"},
}

func TestDataTable(t *testing.T) {
	const next = "QUIT\r\n.\r\n"
	for _, c := range awkward {
		t.Run(c.name, func(t *testing.T) {
			if ref := reference(c.in + next); ref.wire != c.wire || ref.rest != next || ref.err != nil {
				t.Fatalf("the reference disagrees with the table: %+v", ref)
			}
			if err := same(observe(strings.NewReader(c.in+next), 4096, 512), reference(c.in+next)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDataAnySplitAnyBuffer: the output depends neither on where the source
// splits the input nor on the size of any buffer.
func TestDataAnySplitAnyBuffer(t *testing.T) {
	for _, c := range awkward {
		in := c.in + "NOOP\r\n"
		if len(in) > 200 {
			continue // its turn is in the random test
		}
		want := reference(in)
		for buffer := 1; buffer <= 9; buffer++ {
			for piece := range 5 {
				if err := same(observe(iotest.OneByteReader(strings.NewReader(in)), buffer, piece), want); err != nil {
					t.Fatalf("%s, octet by octet, buffer %d, piece %d: %v", c.name, buffer, piece, err)
				}
				for at := 0; at <= len(in); at++ {
					if err := same(observe(splitAt(in, at), buffer, piece), want); err != nil {
						t.Fatalf("%s, split at %d, buffer %d, piece %d: %v", c.name, at, buffer, piece, err)
					}
				}
			}
		}
	}
}

// TestDataAtBufferEnd puts every awkward end at every phase of a buffer of
// usual size.
func TestDataAtBufferEnd(t *testing.T) {
	const size = 4096
	for _, c := range awkward {
		for before := size - 12; before <= size+2; before++ {
			in := strings.Repeat("x", before-2) + "\r\n" + c.in + "RSET\r\n"
			if err := same(observe(strings.NewReader(in), size, 0), reference(in)); err != nil {
				t.Fatalf("%s behind %d octets: %v", c.name, before, err)
			}
		}
	}
}

// content draws input in which everything that matters is frequent.
func content() *rapid.Generator[string] {
	token := rapid.SampledFrom([]string{"\r", "\n", ".", "\r\n", "\r\n.", "\r\n.\r\n", "a", "\x00", "\xff", "abcdefgh"})
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(token, 0, 40).Draw(t, "tokens"), "")
	})
}

func TestDataProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := content().Draw(t, "in")
		at := rapid.IntRange(0, len(in)).Draw(t, "at")
		buffer := rapid.IntRange(1, 64).Draw(t, "buffer")
		piece := rapid.IntRange(0, 16).Draw(t, "piece")
		src := splitAt(in, at)
		if rapid.Bool().Draw(t, "error comes with data") {
			src = iotest.DataErrReader(src)
		}
		if err := same(observe(src, buffer, piece), reference(in)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDataCanonicalIsAFixedPoint: canonical octets, sent again, come out as
// they are. What is stored can be delivered once more without a change.
func TestDataCanonicalIsAFixedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := reference(content().Draw(t, "in") + "\r\n.\r\n")
		second := observe(strings.NewReader(first.wire+".\r\n"), 16, 0)
		if second.wire != first.wire || second.size != first.size || second.sum != first.sum || second.err != nil {
			t.Fatalf("%q became %q (%v)", first.wire, second.wire, second.err)
		}
	})
}

// TestDataErrors: a source's error comes through, and reading goes on where it
// stopped if the source does.
func TestDataErrors(t *testing.T) {
	const in = "a\r\n..b\r\n.\r\nQUIT\r\n"
	for at := range len(in) - len("QUIT\r\n") {
		src := io.MultiReader(strings.NewReader(in[:at]), iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(in[at:]))))
		d := NewReader(src, 16).Data()
		var b bytes.Buffer
		_, err := d.WriteTo(&b)
		if at < len(in)-len("QUIT\r\n")-1 && !errors.Is(err, iotest.ErrTimeout) {
			t.Fatalf("split at %d: %v, want the timeout", at, err)
		}
		if _, err := d.WriteTo(&b); err != nil || b.String() != "a\r\n..b\r\n" {
			t.Fatalf("split at %d: %q, %v", at, b.String(), err)
		}
	}
}

func TestDataWriterError(t *testing.T) {
	in := strings.Repeat("line\r\n..\r\n", 20) + ".\r\n"
	want := reference(in).wire
	for limit := range len(want) {
		d := NewReader(strings.NewReader(in), 7).Data()
		var got bytes.Buffer
		n, err := d.WriteTo(&stingy{w: &got, n: limit})
		if !errors.Is(err, io.ErrShortWrite) || n != int64(limit) || d.Wire() != uint64(limit) {
			t.Fatalf("limit %d: %d, %v, Wire %d", limit, n, err, d.Wire())
		}
		if _, err := d.WriteTo(&got); err != nil || got.String() != want {
			t.Fatalf("limit %d: going on gave %q, %v", limit, got.String(), err)
		}
	}
}

// stingy takes n octets and then no more.
type stingy struct {
	w io.Writer
	n int
}

func (s *stingy) Write(p []byte) (int, error) {
	m := min(s.n, len(p))
	s.n -= m
	s.w.Write(p[:m])
	if m < len(p) {
		return m, io.ErrShortWrite
	}
	return m, nil
}

func TestDataAllocates(t *testing.T) {
	in := []byte(strings.Repeat("..\r\n\nplain text\r\n", 1000) + ".\r\n")
	src := bytes.NewReader(nil)
	r := NewReader(src, 4096)
	allocs := testing.AllocsPerRun(20, func() {
		src.Reset(in)
		r.Reset(src)
		if _, err := r.Data().WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 3 { // the Data and its hash, whatever the size
		t.Errorf("%v allocations for a message, want 3 at most", allocs)
	}
}

func FuzzData(f *testing.F) {
	for _, c := range awkward {
		f.Add(c.in+"QUIT\r\n", uint16(3), uint8(4), uint8(0))
	}
	f.Fuzz(func(t *testing.T, in string, at uint16, buffer, piece uint8) {
		src := splitAt(in, min(int(at), len(in)))
		if err := same(observe(src, int(buffer), int(piece)), reference(in)); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkData(b *testing.B) {
	for name, line := range map[string]string{"text": strings.Repeat("x", 76) + "\r\n", "dots": "..\r\n"} {
		in := []byte(strings.Repeat(line, 1<<20/len(line)) + ".\r\n")
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			src := bytes.NewReader(nil)
			r := NewReader(src, 64<<10)
			for b.Loop() {
				src.Reset(in)
				r.Reset(src)
				r.Data().WriteTo(io.Discard)
			}
		})
	}
}
