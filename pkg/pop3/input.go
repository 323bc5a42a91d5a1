package pop3

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	// watchAfter is how long a call to the back end lasts before somebody looks
	// whether the client is still there. Most calls end sooner and cost nothing.
	watchAfter = 200 * time.Millisecond
	// aheadSize is how many octets of pipelined commands are taken in while watching.
	aheadSize = 2 << 10
)

// stream is the connection below TLS. crypto/tls says io.EOF for a close_notify and
// for a FIN without one; only here they can be told apart.
type stream struct {
	net.Conn
	fin         bool   // the connection itself has ended
	came        bool   // the client has sent something
	certificate []byte // what the client was shown, in DER
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.came = s.came || n > 0
	s.fin = s.fin || errors.Is(err, io.EOF)
	return n, err
}

// input reads from the client. While a call to the back end lasts it can watch for
// a hang-up; commands that come meanwhile are kept for later.
type input struct {
	conn      net.Conn
	below     *stream
	before    func() error // called before reading from the connection
	interrupt func()       // sets a read deadline in the past
	octets    uint64       // received
	ahead     []byte       // read while watching
	err       error        // what watching ended with
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if len(in.ahead) > 0 {
		n := copy(p, in.ahead)
		if in.ahead = in.ahead[n:]; len(in.ahead) == 0 {
			in.ahead = nil
		}
		return n, nil
	}
	if in.err != nil {
		return 0, in.err
	}
	if err := in.before(); err != nil {
		return 0, err
	}
	n, err := in.conn.Read(p)
	in.octets += uint64(n)
	return n, err
}

// watch calls gone if the client hangs up before stop is called. A close_notify alone
// is no hang-up: the client can still read (RFC 8446 section 6.1). Neither is anything
// while commands are waiting: they are to be run. Between watch and the end
// of stop nobody may Read.
func (in *input) watch(waiting bool, gone func()) (stop func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(done)
		if err := in.listen(); err != nil {
			in.err = err
			if !waiting && len(in.ahead) == 0 && (in.below.fin || !errors.Is(err, io.EOF)) {
				gone()
			}
		}
	})
	return func() {
		if timer.Stop() {
			return
		}
		in.interrupt()
		<-done
	}
}

// listen reads ahead until it is interrupted, has read enough, or there is no more.
func (in *input) listen() error {
	var buf [512]byte
	for in.err == nil && len(in.ahead) < aheadSize {
		n, err := in.conn.Read(buf[:])
		in.ahead = append(in.ahead, buf[:n]...)
		in.octets += uint64(n)
		if timeout(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// timeout reports whether an error is a deadline's.
func timeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
