package lmtp

import "bytes"

// headerPlace is where in a header section a headerScan is.
type headerPlace uint8

const (
	atField    headerPlace = iota // at the begin of a line
	inName                        // in a field's name
	behindName                    // in white space before the colon (RFC 5322 section 4.5)
	inField                       // behind the colon, or in a folded line
	headerDone                    // nothing more to learn
)

const received = "received"

// headerScan looks for a Received field in a message's header section, in
// content that comes in pieces. The section ends at the first line that is no
// field: if the scan took a body's line for one, two messages that are the same
// octet for octet could be taken for one delivery repeated, and the second lost.
type headerScan struct {
	place headerPlace
	any   bool // a field was seen, so a folded line may come
	name  int  // octets of the name so far
	match bool // they are those of "received"
	found bool
}

// write takes the next piece.
func (h *headerScan) write(p []byte) {
	for len(p) > 0 && h.place != headerDone {
		switch h.place {
		case inField:
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return
			}
			h.place, p = atField, p[i+1:]
		case atField:
			h.begin(p[0])
		default:
			h.take(p[0])
			p = p[1:]
		}
	}
}

// begin chooses by a line's first octet.
func (h *headerScan) begin(c byte) {
	switch {
	case c != ' ' && c != '\t':
		h.place, h.name, h.match = inName, 0, true
	case h.any:
		h.place = inField
	default:
		h.place = headerDone
	}
}

// take takes an octet of a name, or of the space behind it.
func (h *headerScan) take(c byte) {
	switch {
	case c == ':' && h.name > 0:
		h.any, h.place = true, inField
		if h.match && h.name == len(received) {
			h.found, h.place = true, headerDone
		}
	case (c == ' ' || c == '\t') && h.name > 0:
		h.place = behindName
	case h.place == behindName || c <= ' ' || c > '~' || c == ':':
		h.place = headerDone // the empty line, or a line that is no field
	default:
		h.match = h.match && h.name < len(received) && c|0x20 == received[h.name]
		h.name++
	}
}
