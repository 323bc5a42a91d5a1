package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/throttle"
)

// Scanners fail thousands of handshakes. What the log has of it:
const (
	failurePeriod = time.Minute
	failureLines  = 100 // in a period, and of each source one
	failureText   = 200 // octets of an error's text: it may hold what the client sent
)

// failures counts the lines of log about failed handshakes.
type failures struct {
	mu       sync.Mutex
	began    time.Time // the period
	told     map[throttle.Source]struct{}
	unlogged int
}

// tell reports whether the log is to have a line about a failed handshake, and how
// many there were since the last one that have none.
func (f *failures) tell(now time.Time, s throttle.Source) (unlogged int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.began) >= failurePeriod {
		f.began, f.told = now, make(map[throttle.Source]struct{})
	}
	if _, told := f.told[s]; told || len(f.told) >= failureLines {
		f.unlogged++
		return 0, false
	}
	f.told[s] = struct{}{}
	unlogged, f.unlogged = f.unlogged, 0
	return unlogged, true
}

// reportFailure writes the line of a connection that never came to speak POP3. Who said
// nothing has none, as in report; neither has who is turned away by Shutdown.
func (c *conn) reportFailure() {
	if !c.below.came || c.stopped() {
		return
	}
	level := slog.LevelInfo
	unlogged, ok := c.server.failures.tell(time.Now(), throttle.SourceOf(c.remote))
	if !ok {
		level = slog.LevelDebug
	}
	attrs := append(c.reportOrigin(EndTLS), c.reportTLS()...)
	if unlogged > 0 {
		attrs = append(attrs, slog.Int("unlogged", unlogged))
	}
	c.server.log.LogAttrs(context.Background(), level, "session", attrs...)
}

// causeOf says in a word why a handshake failed. README has a table of them.
func causeOf(err error) string {
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case timeout(err):
		return "timeout"
	case errors.As(err, &record):
		return "not_tls"
	case errors.As(err, &op) && op.Op == "remote error": // so crypto/tls calls an alert that came
		return "alert"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "cut"
	}
	for _, c := range causes {
		if strings.HasPrefix(err.Error(), c.text) {
			return c.cause
		}
	}
	return "protocol"
}

// causes are told apart by crypto/tls's texts: it has no values for them. A test holds
// them against what it says.
var causes = []struct{ text, cause string }{
	{"tls: client offered only unsupported versions", "version"},
	{"tls: no cipher suite supported by both", "no_common_cipher"},
	{"tls: no key exchanges supported by both", "no_common_cipher"},
	{"tls: peer doesn't support any of the certificate's signature algorithms", "no_common_cipher"},
	{"tls: client requested unsupported application protocols", "alpn"},
}
