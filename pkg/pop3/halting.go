package pop3

import (
	"context"
	"net"
	"sync"
	"time"
)

// halt is how urgently a connection is to end.
type halt uint8

const (
	goOn   halt = iota
	drain       // who hasn't logged in, at once; who has, when he likes
	hasten      // at the next command or while idle; calls are cancelled
)

// past wakes whoever waits for the client.
var past = time.Unix(1, 0)

// halting is a connection's deadlines, which Shutdown overrides from outside.
type halting struct {
	conn   net.Conn
	cancel context.CancelFunc // ends the calls under way

	mu     sync.Mutex
	halt   halt
	inside bool      // logged in
	last   time.Time // no write after it; zero: no limit
}

// stop asks the connection to end.
func (h *halting) stop(how halt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if how <= h.halt {
		return
	}
	h.halt = how
	if h.halted() {
		h.conn.SetReadDeadline(past)
	}
	if how == hasten {
		h.last = time.Now().Add(hardStop)
		h.conn.SetWriteDeadline(h.last)
		h.cancel()
	}
}

func (h *halting) halted() bool {
	return h.halt == hasten || h.halt == drain && !h.inside
}

// stopped reports whether the connection is to end before the next command.
func (h *halting) stopped() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.halted()
}

// enter notes that the user has logged in.
func (h *halting) enter() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inside = true
}

// exit takes enter back.
func (h *halting) exit() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inside = false
}

// setRead limits the wait for the client.
func (h *halting) setRead(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.halted() {
		t = past
	}
	h.conn.SetReadDeadline(t)
}

// interrupt ends a read that is under way.
func (h *halting) interrupt() { h.setRead(past) }

// setWrite limits the wait for the client to take octets.
func (h *halting) setWrite(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.last.IsZero() && (t.IsZero() || t.After(h.last)) {
		t = h.last
	}
	h.conn.SetWriteDeadline(t)
}
