package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// What is waited for. Each is measured until it succeeded, with all repetitions, but for a
// command, which is one question and its answer.
const (
	waitLogin    = "login"    // from connecting to an open maildrop
	waitCommand  = "command"  // any answer in a short session
	waitSession  = "session"  // one RETR of a session that stays
	waitDelivery = "delivery" // from connecting to 250
)

// waits are all of them, in the order of a report.
var waits = []string{waitSession, waitCommand, waitLogin, waitDelivery}

// meter knows how often something was asked for, how long it took, and what went wrong.
type meter struct {
	mayBreak bool // connections, in this scenario

	mu       sync.Mutex
	waits    map[string]*Wait
	failures map[string]*Failure
}

func newMeter(mayBreak bool) *meter {
	return &meter{mayBreak: mayBreak, waits: map[string]*Wait{}, failures: map[string]*Failure{}}
}

// took counts something that was done.
func (m *meter) took(what string, since time.Time) {
	took := time.Since(since)
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.waits[what]
	if w == nil {
		w = &Wait{What: what}
		m.waits[what] = w
	}
	w.Done++
	if milli := took.Milliseconds(); milli >= w.LongestMilli {
		w.LongestMilli, w.Since = milli, since
	}
}

// failed counts an error, unless it comes of the drill's own end.
func (m *meter) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	text := wording(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.failures[text]
	if f == nil {
		f = &Failure{Text: text, Allowed: temporary(err) || m.mayBreak && broken(err)}
		m.failures[text] = f
	}
	f.Count++
}

// Pulse is how the load goes.
type Pulse struct {
	Since     time.Duration // of load
	Delivered int
	Answered  int // commands, of sessions that stay and others
	Longest   time.Duration
	Errors    int
}

func (m *meter) pulse(since time.Duration) Pulse {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Pulse{Since: since}
	for what, w := range m.waits {
		if what == waitDelivery {
			p.Delivered += w.Done
		} else {
			p.Answered += w.Done
		}
		p.Longest = max(p.Longest, time.Duration(w.LongestMilli)*time.Millisecond)
	}
	for _, f := range m.failures {
		p.Errors += f.Count
	}
	return p
}

// temporary says that a server refused and said that the same may succeed later: [SYS/TEMP]
// in POP3 (RFC 3206 section 4), 4yz in LMTP (RFC 5321 section 4.2.1).
func temporary(err error) bool {
	var refused *mailclient.ReplyError
	return errors.As(err, &refused) && (strings.HasPrefix(refused.Reply, "-ERR [SYS/TEMP]") || strings.HasPrefix(refused.Reply, "4"))
}

// broken says that a connection ended or wasn't made. One on which nothing comes is not
// broken: that is silence, which is no answer at all.
func broken(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) && !network.Timeout()
}

// reference is the part of a refusal that is each session's own.
var reference = regexp.MustCompile(`, reference [^ )]+`)

// wording is an error without what differs each time, such as ports.
func wording(err error) string {
	var refused *mailclient.ReplyError
	var number syscall.Errno
	switch {
	case errors.As(err, &refused):
		return reference.ReplaceAllString(refused.Error(), "")
	case errors.As(err, &number):
		return "connection: " + number.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer for %v", mailclient.Patience)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection: closed"
	}
	return err.Error()
}

// fill brings a report up to date.
func (m *meter) fill(r *Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, what := range waits {
		if w := m.waits[what]; w != nil {
			w.SinceSeconds = w.Since.Sub(r.Began).Seconds()
			r.Waits = append(r.Waits, *w)
			r.LongestMilli = max(r.LongestMilli, w.LongestMilli)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(m.failures)) {
		r.Errors = append(r.Errors, *m.failures[text])
	}
}
