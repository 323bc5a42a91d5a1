package wire

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
)

// place is what went before the next octet of the content. The package
// comment has the table.
type place uint8

const (
	lineStart   place = iota // the content's begin, or CRLF
	bareStart                // a LF without CR
	heldDot                  // lineStart and a dot, not yet passed on
	heldDotCR                // heldDot and CR, not yet passed on
	inLine                   // any other octet
	afterCR                  // CR, passed on
	contentDone              // the final CRLF.CRLF
)

var (
	crlf = []byte("\r\n")
	dot  = []byte(".")
)

// Data is the content of one DATA command (RFC 5321 section 4.1.1.4): a reader
// of its wire form. Read returns io.EOF once the final CRLF.CRLF was consumed,
// io.ErrUnexpectedEOF if the source ends before it. Nothing behind it is
// consumed.
type Data struct {
	r     *Reader
	place place
	chunk []byte // canonical octets not yet handed out; mostly a piece of r.buf
	wire  uint64
	size  uint64
	sum   hash.Hash
}

// Data begins to read the content that follows a DATA command. Use the Reader
// for nothing else until the Data has returned io.EOF.
func (r *Reader) Data() *Data {
	return &Data{r: r, sum: sha256.New()}
}

// Wire is the number of octets of wire form read so far.
func (d *Data) Wire() uint64 { return d.wire - uint64(len(d.chunk)) }

// Size is the number of octets without dot-stuffing: what LIST says of the
// message (RFC 1939 section 11). Final once Read returned io.EOF; until then it
// may run ahead of Wire by one buffer.
func (d *Data) Size() uint64 { return d.size }

// Sum is the SHA-256 of the octets that Size counts.
func (d *Data) Sum() (sum [sha256.Size]byte) {
	d.sum.Sum(sum[:0])
	return sum
}

// Read implements io.Reader.
func (d *Data) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(d.chunk) == 0 {
			if n > 0 && d.r.Buffered() == 0 {
				return n, nil // don't wait for more with octets in hand
			}
			if err := d.next(); err != nil {
				if n > 0 {
					return n, nil // the error comes again
				}
				return 0, err
			}
		}
		m := copy(p[n:], d.chunk)
		d.chunk = d.chunk[m:]
		n += m
	}
	return n, nil
}

// WriteTo implements io.WriterTo. Content goes from the Reader's buffer to w
// without a copy between.
func (d *Data) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(d.chunk) == 0 {
			err := d.next()
			if errors.Is(err, io.EOF) {
				return total, nil
			}
			if err != nil {
				return total, err
			}
		}
		n, err := w.Write(d.chunk)
		total += int64(n)
		d.chunk = d.chunk[n:]
		if err != nil {
			return total, err
		}
	}
}

// next puts the next canonical octets into d.chunk, at least one.
func (d *Data) next() error {
	for len(d.chunk) == 0 {
		if d.place == contentDone {
			return io.EOF
		}
		if d.r.Buffered() == 0 {
			if err := d.r.fill(); errors.Is(err, io.EOF) {
				d.r.err = err // ended for good, also for whoever asks again
				return io.ErrUnexpectedEOF
			} else if err != nil {
				return err
			}
		}
		d.step(d.r.buf[d.r.r:d.r.w])
	}
	return nil
}

// step goes on with what is buffered, at least one octet.
func (d *Data) step(in []byte) {
	c := in[0]
	switch d.place {
	case lineStart:
		d.place = inLine
		if c == '.' {
			d.place = heldDot
			d.r.r++
		}
	case bareStart:
		d.place = inLine
		if c == '.' {
			d.stuff()
		}
	case heldDot:
		switch c {
		case '\r':
			d.place = heldDotCR
			d.r.r++
		case '.':
			d.place = inLine
			d.stuff()
		default: // the dot was the sender's stuffing
			d.place = inLine
		}
	case heldDotCR:
		if c == '\n' {
			d.place = contentDone
			d.r.r++
		} else { // the dot was stuffing, and CR is content
			d.place = afterCR
			d.emit(crlf[:1])
		}
	default:
		d.text(in)
	}
}

// text passes on as much as is in wire form already, or makes CRLF of the bare
// LF that in begins with.
func (d *Data) text(in []byte) {
	if in[0] == '\n' && d.place != afterCR {
		d.place = bareStart
		d.r.r++
		d.emit(crlf)
		return
	}
	n := d.run(in)
	d.chunk = in[:n]
	d.wire += uint64(n)
	d.r.r += n
}

// run is the number of octets at the begin of in that are passed on as they
// are. It counts them, without their stuffing, and sets the place behind them. It
// stops before a bare LF and before a line's single dot. in doesn't begin with a
// bare LF.
func (d *Data) run(in []byte) int {
	counted := 0
	for i := 0; ; {
		j := bytes.IndexByte(in[i:], '\n')
		if j < 0 {
			d.place = inLine
			if in[len(in)-1] == '\r' {
				d.place = afterCR
			}
			d.count(in[counted:])
			return len(in)
		}
		i += j
		if i > 0 && in[i-1] != '\r' || i == 0 && d.place != afterCR {
			d.place = inLine
			d.count(in[counted:i])
			return i
		}
		i++
		if i+1 < len(in) && in[i] == '.' && in[i+1] == '.' { // the first one is stuffing, there and here
			d.count(in[counted:i])
			i++
			counted = i
		} else if i == len(in) || in[i] == '.' {
			d.place = lineStart
			d.count(in[counted:i])
			return i
		}
	}
}

// count counts content.
func (d *Data) count(octets []byte) {
	d.size += uint64(len(octets))
	d.sum.Write(octets)
}

// emit hands content out.
func (d *Data) emit(octets []byte) {
	d.chunk = octets
	d.wire += uint64(len(octets))
	d.count(octets)
}

// stuff hands out the dot that goes before a content's dot.
func (d *Data) stuff() {
	d.chunk = dot
	d.wire++
}
