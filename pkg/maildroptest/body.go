package maildroptest

import (
	"bytes"
	"io"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Body is a message in memory. It implements maildrop.Body.
type Body struct {
	wire []byte
	size uint64
}

var _ maildrop.Body = Body{}

// NewBody makes the wire form of a message that has CRLF line ends: a dot at a
// line's begin is doubled, and a CRLF ends it unless it is empty.
func NewBody(content []byte) Body {
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\r\n")) {
		content = append(bytes.Clone(content), "\r\n"...)
	}
	wire := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(wire, []byte(".")) {
		wire = append([]byte("."), wire...)
	}
	return Body{wire: wire, size: uint64(len(content))}
}

// Text is NewBody of a text.
func Text(content string) Body { return NewBody([]byte(content)) }

// Filled is a message of exactly size octets, at least 2, that differ with the
// seed and include every value but CR and LF, lines with dots at their begin among
// them.
func Filled(size int, seed byte) Body {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i*7+i/251) ^ seed
		if content[i] == '\r' || content[i] == '\n' {
			content[i] = '.'
		}
	}
	for i := 70; i+5 < size; i += 76 {
		copy(content[i:], "\r\n.")
	}
	copy(content[size-2:], "\r\n")
	return NewBody(content)
}

// Octets are the message in wire form.
func (b Body) Octets() []byte { return b.wire }

// Open implements maildrop.Body.
func (b Body) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.wire)), nil }

// Wire implements maildrop.Body.
func (b Body) Wire() uint64 { return uint64(len(b.wire)) }

// Size implements maildrop.Body.
func (b Body) Size() uint64 { return b.size }
