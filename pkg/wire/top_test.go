package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plainTop says the same as Top with the whole message at hand.
func plainTop(message string, lines uint64) (string, bool) {
	i := 0
	if !strings.HasPrefix(message, "\r\n") {
		if i = strings.Index(message, "\n\r\n"); i < 0 {
			return message, false
		}
		i++
	}
	i += 2
	for ; lines > 0; lines-- {
		j := strings.IndexByte(message[i:], '\n')
		if j < 0 {
			return message, false
		}
		i += j + 1
	}
	return message[:i], true
}

// checkTop writes the message to a Top in two pieces, and then octet by octet.
func checkTop(t interface{ Fatalf(string, ...any) }, message string, lines uint64, at int) {
	want, done := plainTop(message, lines)
	var b bytes.Buffer
	top := NewTop(&b, lines)
	n, err := top.Write([]byte(message[:at]))
	if err == nil {
		var m int
		m, err = top.Write([]byte(message[at:]))
		n += m
	}
	if b.String() != want || n != len(want) || top.Done() != done || errors.Is(err, ErrTopDone) != done || !done && err != nil {
		t.Fatalf("TOP %d of %q split at %d: %q, %d, %v, %v; want %q, done %v", lines, message, at, b.String(), n, top.Done(), err, want, done)
	}
	if n, err := top.Write([]byte("x")); done && (n != 0 || !errors.Is(err, ErrTopDone)) {
		t.Fatalf("a write after the end: %d, %v", n, err)
	}
	b.Reset()
	top = NewTop(&b, lines)
	for i := range len(message) {
		if _, err := top.Write([]byte{message[i]}); err != nil {
			break
		}
	}
	if b.String() != want || len(message) > 0 && top.Done() != done {
		t.Fatalf("TOP %d of %q octet by octet: %q, want %q", lines, message, b.String(), want)
	}
}

func TestTopTable(t *testing.T) {
	for _, c := range []struct {
		message, want string
		lines         uint64
	}{
		{"A: b\r\n\r\n1\r\n2\r\n3\r\n", "A: b\r\n\r\n", 0},
		{"A: b\r\n\r\n1\r\n2\r\n3\r\n", "A: b\r\n\r\n1\r\n2\r\n", 2},
		{"A: b\r\n\r\n1\r\n2\r\n3\r\n", "A: b\r\n\r\n1\r\n2\r\n3\r\n", math.MaxUint64},
		{"\r\n1\r\n2\r\n", "\r\n1\r\n", 1},
		{"A: b\r\nC: d\r\n", "A: b\r\nC: d\r\n", 0},
		{"A: b\r\n \r\n\r\nx\r\n", "A: b\r\n \r\n\r\n", 0},
		{"A\r\r\n\r\r\n\r\nx\r\n", "A\r\r\n\r\r\n\r\n", 0},
		{"A\r\n\r\n\r\n\r\n..\r\n", "A\r\n\r\n\r\n\r\n", 2},
		{"", "", 5},
	} {
		if got, _ := plainTop(c.message, c.lines); got != c.want {
			t.Fatalf("the reference disagrees with the table: %q, want %q", got, c.want)
		}
		for at := range len(c.message) + 1 {
			checkTop(t, c.message, c.lines, at)
		}
	}
}

func TestTopProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		message := reference(content().Draw(t, "in") + "\r\n.\r\n").wire
		at := rapid.IntRange(0, len(message)).Draw(t, "at")
		checkTop(t, message, rapid.Uint64Range(0, 8).Draw(t, "lines"), at)
	})
}

func TestTopWriterError(t *testing.T) {
	n, err := NewTop(&stingy{w: io.Discard, n: 3}, 1).Write([]byte("A: b\r\n\r\nx\r\ny\r\n"))
	if n != 3 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%d, %v; want 3 and the writer's error", n, err)
	}
}

func FuzzTop(f *testing.F) {
	f.Add("A: b\r\n\r\n1\r\n2\r\n", uint64(1), uint16(3))
	f.Fuzz(func(t *testing.T, in string, lines uint64, at uint16) {
		message := reference(in + "\r\n.\r\n").wire
		checkTop(t, message, lines, min(int(at), len(message)))
	})
}
