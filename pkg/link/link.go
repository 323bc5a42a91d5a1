// Package link puts a cable between processes on loopback: an address that stands for another
// one, by TCP and UDP, and that can be cut, be cut one way, or be slow. It is for tests only.
//
//	near ──▶ Link ──▶ far        Open ── Set(State) ── Close
//
// # Decisions
//
//   - 2026-11-25: octets that a cable doesn't let through wait, and go on when it does again: TCP
//     would repeat them, and a connection outlives an outage. A Broken cable ends them instead,
//     as a firewall that answers does. Datagrams are lost in both cases.
//   - 2026-11-25: refused: network namespaces and netem, which need root and a kernel that has them.
//     What this can't do is a connection attempt that is lost: it is made, and nothing follows.
package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const bufferSize = 64 << 10 // octets of one direction of a connection; of the largest datagram

// State is what a cable does. The zero State passes everything on.
type State struct {
	Broken bool          // connections end, and new ones too
	Out    bool          // nothing passes from near to far
	Back   bool          // nothing passes from far to near
	Delay  time.Duration // of each piece that passes, in each direction
}

// Link is one cable.
type Link struct {
	far      string
	listener net.Listener
	datagram *net.UDPConn // nil: TCP only
	lost     atomic.Int64 // datagrams
	end      context.CancelFunc
	work     sync.WaitGroup

	mu      sync.Mutex
	state   State
	changed chan struct{} // closed with the next change
}

// Open opens a cable to a host:port; with UDP it is one of the same port for datagrams, too.
func Open(far string, udp bool) (*Link, error) {
	ctx, end := context.WithCancel(context.Background())
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		end()
		return nil, err
	}
	l := &Link{far: far, listener: listener, end: end, changed: make(chan struct{})}
	if udp {
		at := listener.Addr().(*net.TCPAddr)
		if l.datagram, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port}); err != nil {
			end()
			return nil, errors.Join(err, listener.Close())
		}
		l.work.Go(func() { l.datagrams(ctx) })
	}
	l.work.Go(func() { l.accept(ctx) })
	return l, nil
}

// Address is where the near end connects, host:port.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Set changes what the cable does, for connections that exist, too.
func (l *Link) Set(s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close ends the cable, and all that goes through it.
func (l *Link) Close() {
	l.end()
	l.listener.Close()
	if l.datagram != nil {
		l.datagram.Close()
	}
	l.work.Wait()
}

func (l *Link) now() (State, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}

func (l *Link) accept(ctx context.Context) {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.work.Go(func() { l.carry(ctx, near) })
	}
}

// carry moves octets of one connection, both ways, to the end of one of them.
func (l *Link) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	ctx, end := context.WithCancel(ctx)
	defer end()
	if !l.passable(ctx, func(s State) bool { return s.Out || s.Back }) {
		return
	}
	far, err := new(net.Dialer).DialContext(ctx, "tcp", l.far)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var ways sync.WaitGroup
	ways.Go(func() { l.endWhenBroken(ctx, end) })
	ways.Go(func() { defer end(); l.move(ctx, far, near, func(s State) bool { return s.Out }) })
	ways.Go(func() { defer end(); l.move(ctx, near, far, func(s State) bool { return s.Back }) })
	ways.Wait()
}

// endWhenBroken ends a connection as soon as its cable breaks.
func (l *Link) endWhenBroken(ctx context.Context, end func()) {
	for {
		state, changed := l.now()
		if state.Broken {
			end()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// passable waits while the cable lets nothing through, and reports whether it does at last.
func (l *Link) passable(ctx context.Context, held func(State) bool) bool {
	for {
		state, changed := l.now()
		switch {
		case state.Broken:
			return false
		case !held(state):
			return state.Delay == 0 || rest(ctx, state.Delay)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (l *Link) move(ctx context.Context, to io.Writer, from io.Reader, held func(State) bool) {
	buffer := make([]byte, bufferSize)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !l.passable(ctx, held) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil { // an end is news, too
			l.passable(ctx, held)
			return
		}
	}
}

// datagrams passes datagrams to the far end. What answers does so at the near end's own address.
func (l *Link) datagrams(ctx context.Context) {
	buffer := make([]byte, bufferSize)
	for {
		n, err := l.datagram.Read(buffer)
		if ctx.Err() != nil {
			return
		}
		if state, _ := l.now(); err != nil || state.Broken || state.Out {
			l.lost.Add(1)
			continue
		}
		l.pass(ctx, buffer[:n])
	}
}

// pass sends one datagram on. One that can't be sent is lost, as datagrams are.
func (l *Link) pass(ctx context.Context, datagram []byte) {
	to, err := new(net.Dialer).DialContext(ctx, "udp", l.far)
	if err != nil {
		return
	}
	defer to.Close()
	_, _ = to.Write(datagram)
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
