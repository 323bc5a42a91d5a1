package pop3

import (
	"io"
	"net"
	"sync"
	"time"
)

// recordSize is the content of the largest TLS record (RFC 8446 section 5.1).
const recordSize = 16 << 10

// endSize is the end of a multi-line reply, CRLF.CRLF. Some clients look for it in
// what one read gives them, so it is never spread over two records.
const endSize = 5

// output gathers what is to be sent into full TLS records. It has a buffer only
// while it holds something.
type output struct {
	conn   net.Conn
	pool   *sync.Pool // *[recordSize]byte
	renew  func()     // a new write deadline: as long as the client takes octets, it lives
	buf    *[recordSize]byte
	n      int
	octets uint64 // sent
	err    error  // a write failed; nothing can be sent any more
}

// Write implements io.Writer. Its error is sticky.
func (o *output) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 && o.err == nil {
		if o.n == 0 && len(p) >= recordSize+endSize {
			o.send(p[:recordSize]) // no need to copy it
			p = p[recordSize:]
			continue
		}
		if o.buf == nil {
			o.buf = o.pool.Get().(*[recordSize]byte)
		}
		n := copy(o.buf[o.n:], p)
		o.n, p = o.n+n, p[n:]
		if len(p) > 0 {
			o.spill(len(p))
		}
	}
	if o.err != nil {
		return 0, o.err
	}
	return written, nil
}

// spill sends a full buffer when at least more octets are to follow, and keeps
// back what could be the begin of the end.
func (o *output) spill(more int) {
	keep := max(0, endSize-more)
	o.send(o.buf[:recordSize-keep])
	o.n = copy(o.buf[:], o.buf[recordSize-keep:])
}

// Flush sends what is held and gives the buffer back.
func (o *output) Flush() error {
	if o.n > 0 {
		o.send(o.buf[:o.n])
	}
	if o.buf != nil {
		o.n = 0
		o.pool.Put(o.buf)
		o.buf = nil
	}
	return o.err
}

// send writes one record. Each has its time: one limit for a whole message would cut
// slow readers of large ones.
func (o *output) send(p []byte) {
	if o.err != nil {
		return
	}
	o.renew()
	n, err := o.conn.Write(p)
	o.octets += uint64(n)
	o.err = err
}

// content passes a message on to the client. The preface goes before its first
// octet, in the same record.
type content struct {
	out     *output
	preface []byte
	begun   time.Time // of the first octet; zero: none came
	last    [2]byte
	stall   *time.Timer // stops the call when the back end says nothing for long
	limit   time.Duration
}

var _ io.Writer = (*content)(nil)

// Write implements io.Writer. While the client makes us wait the back end's time
// doesn't run.
func (c *content) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.stall.Stop()
	defer c.stall.Reset(c.limit)
	if c.begun.IsZero() {
		c.begun = time.Now()
		if _, err := c.out.Write(c.preface); err != nil {
			return 0, err
		}
	}
	if len(p) == 1 {
		c.last = [2]byte{c.last[1], p[0]}
	} else {
		c.last = [2]byte(p[len(p)-2:])
	}
	return c.out.Write(p)
}

// complete reports whether what came can be a message: it ends with CRLF unless it
// is empty.
func (c *content) complete() bool { return c.begun.IsZero() || string(c.last[:]) == "\r\n" }
