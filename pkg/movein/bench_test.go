package movein

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func BenchmarkMeasure(b *testing.B) {
	text := []byte(strings.Repeat("a line of a message of the usual length, of some seventy octets or so\n", 100_000))
	m := &Message{Name: "x", open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := m.Measure(); err != nil {
			b.Fatal(err)
		}
	}
}
