package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/pires/go-proxyproto"
)

const (
	// maxV1 is the longest header of version 1, CRLF included (section 2.1).
	maxV1 = 107
	// startV2 is the fixed part of a header of version 2, of which the last two octets
	// are the length of the rest (section 2.2).
	startV2 = 16
	// maxV2 is the longest rest: addresses, and TLVs such as a client's certificate.
	maxV2 = 4096
)

// errHeader says that what came is no header.
var errHeader = errors.New("not a PROXY header")

// readHeader takes the header from the begin of a connection, and not an octet more.
// client is nil when it names none. Errors other than errHeader are the connection's.
func readHeader(r io.Reader) (client net.Addr, err error) {
	text, err := gather(r)
	if err != nil {
		return nil, err
	}
	header, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(text), len(text)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHeader, err)
	}
	if _, err := header.TLVs(); err != nil {
		return nil, fmt.Errorf("%w: %w", errHeader, err)
	}
	if header.Command.IsLocal() { // also UNKNOWN of version 1
		return nil, nil
	}
	source, _, ok := header.TCPAddrs()
	if !ok {
		return nil, fmt.Errorf("%w: not of TCP", errHeader)
	}
	return source, nil
}

// gather reads up to the header's end, in however many pieces it comes (section 2:
// "Recommendation is to be tolerant").
func gather(r io.Reader) ([]byte, error) {
	text := make([]byte, len(proxyproto.SIGV2), maxV1)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(text, proxyproto.SIGV2):
		return gatherV2(r, text)
	case bytes.HasPrefix(text, proxyproto.SIGV1) && !bytes.Contains(text, []byte("\n")):
		return gatherV1(r, text)
	}
	return nil, errHeader
}

// gatherV1 reads a line. What is behind it is the client's, so each octet is read by
// itself.
func gatherV1(r io.Reader, text []byte) ([]byte, error) {
	for !bytes.HasSuffix(text, []byte("\n")) {
		if len(text) == maxV1 {
			return nil, errHeader
		}
		text = text[:len(text)+1]
		if _, err := io.ReadFull(r, text[len(text)-1:]); err != nil {
			return nil, err
		}
	}
	return text, nil
}

func gatherV2(r io.Reader, text []byte) ([]byte, error) {
	signature := len(text)
	text = text[:startV2]
	if _, err := io.ReadFull(r, text[signature:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(text[startV2-2:]))
	if length > maxV2 {
		return nil, errHeader
	}
	whole := make([]byte, startV2+length)
	copy(whole, text)
	_, err := io.ReadFull(r, whole[startV2:])
	return whole, err
}
