// Package proxy is a door for load balancers that say, ahead of each connection, who
// their client is: the PROXY protocol, version 1 or 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, cited here by its
// sections). It promises: a connection that comes out of Accept is one of a balancer's
// networks, its header was whole and right, and RemoteAddr is the client's address, or
// the balancer's own where the header names no client; whoever isn't of the networks is
// refused without a read; nobody who is slow with a header holds up anybody else.
//
//	accept ── of the networks? ──▶ header, in a goroutine of its own ──▶ Accept
//	               │ no                │ late, wrong, gone
//	               ▼                   ▼
//	             closed              closed            each counted, none a line of log
//
// # Decisions
//
//   - 2026-11-25: one door speaks the PROXY protocol only, and always. Refused: to look
//     whether a header is there (section 5 forbids it: a client could bring one).
//   - 2026-11-25: the library parses; the header is gathered here, octet for octet, up to
//     its end. Its own reader refuses a header of version 1 that doesn't come in one
//     piece, which section 2 advises against; its listener reads where RemoteAddr is
//     called, so that a slow header would stop the accepting.
//   - 2026-11-25: a header with UDP or Unix addresses is refused. No balancer of TCP
//     sends it, and whoever is behind it has no address that limits could count.
//   - 2026-11-25: a LOCAL connection is passed on under the balancer's address. It is the
//     balancer's own look at the service (section 2.2), so it gets a greeting as any
//     client does.
package proxy

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// headerTimeout is for the whole header, from the accept on. A balancer sends it at
	// once.
	headerTimeout = 5 * time.Second
	// maxPending is how many connections may be in front of their header's end.
	maxPending = 4096
	// acceptPause is how long accepting waits when the system has no more descriptors.
	acceptPause = 50 * time.Millisecond
)

// Config is what a Listener is made of.
type Config struct {
	Networks   []netip.Prefix        // the balancers'; nobody else gets in
	Registerer prometheus.Registerer // nil: none
}

// Listener accepts connections of balancers. It is a net.Listener.
type Listener struct {
	inner    net.Listener
	networks []netip.Prefix
	results  *prometheus.CounterVec

	ready chan net.Conn
	done  chan struct{} // closed: nothing is accepted any more
	slots chan struct{} // one for each connection in front of its header's end
	work  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	pending map[net.Conn]struct{}
	err     error // why accepting ended
}

var _ net.Listener = (*Listener)(nil)

// The results of a connection.
const (
	resultOK        = "ok"
	resultLocal     = "local"
	resultNetwork   = "network"   // not a balancer
	resultMalformed = "malformed" // a wrong header, or none
	resultTimeout   = "timeout"
	resultGone      = "closed" // before the header's end
	resultBusy      = "busy"   // too many at once
)

// Listen makes a door of a listener, which it closes when it is closed.
func Listen(inner net.Listener, config Config) (*Listener, error) {
	if len(config.Networks) == 0 {
		return nil, errors.New("proxy: no networks: anybody could say to be any client")
	}
	l := &Listener{
		inner: inner, networks: config.Networks,
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_front_proxy_connections_total", Help: "Connections at a door for load balancers by what came of their PROXY header.",
		}, []string{"result"}),
		ready: make(chan net.Conn), done: make(chan struct{}), slots: make(chan struct{}, maxPending),
		pending: map[net.Conn]struct{}{},
	}
	for _, result := range []string{resultOK, resultLocal, resultNetwork, resultMalformed, resultTimeout, resultGone, resultBusy} {
		l.results.WithLabelValues(result)
	}
	if config.Registerer != nil {
		if err := config.Registerer.Register(l.results); err != nil {
			return nil, err
		}
	}
	l.work.Go(l.run)
	return l, nil
}

// Accept is the next connection whose header has come. Its error is the inner
// listener's.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, l.err
	}
}

// Addr is where the door is.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close ends the accepting, and the connections that Accept hasn't given out.
func (l *Listener) Close() error {
	err := l.inner.Close()
	l.mu.Lock()
	l.closed = true
	for conn := range l.pending {
		conn.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
	return err
}

// run accepts until the inner listener is closed.
func (l *Listener) run() {
	defer close(l.done)
	for {
		conn, err := l.inner.Accept()
		switch {
		case err == nil:
			l.take(conn)
		case errors.Is(err, net.ErrClosed):
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			return
		default: // out of descriptors, or the client was gone already
			<-time.After(acceptPause)
		}
	}
}

// take lets a balancer's connection wait for its header.
func (l *Listener) take(conn net.Conn) {
	if !l.balancer(conn.RemoteAddr()) {
		l.refuse(conn, resultNetwork)
		return
	}
	select {
	case l.slots <- struct{}{}:
	default:
		l.refuse(conn, resultBusy)
		return
	}
	if !l.add(conn) {
		<-l.slots
		conn.Close()
		return
	}
	l.work.Go(func() {
		defer l.remove(conn)
		l.introduce(conn)
	})
}

func (l *Listener) balancer(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, network := range l.networks {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// add and remove keep what Close has to end.
func (l *Listener) add(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.pending[conn] = struct{}{}
	}
	return !l.closed
}

func (l *Listener) remove(conn net.Conn) {
	l.mu.Lock()
	delete(l.pending, conn)
	l.mu.Unlock()
	<-l.slots
}

// introduce reads the header and hands the connection on.
func (l *Listener) introduce(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(headerTimeout))
	client, err := readHeader(conn)
	if err != nil {
		l.refuse(conn, resultOf(err))
		return
	}
	conn.SetReadDeadline(time.Time{})
	result := resultOK
	if client == nil {
		result, client = resultLocal, conn.RemoteAddr()
	}
	l.results.WithLabelValues(result).Inc()
	select {
	case l.ready <- &introduced{Conn: conn, client: client}:
	case <-l.done:
		conn.Close()
	}
}

func resultOf(err error) string {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return resultTimeout
	case errors.Is(err, errHeader):
		return resultMalformed
	}
	return resultGone
}

func (l *Listener) refuse(conn net.Conn, result string) {
	l.results.WithLabelValues(result).Inc()
	conn.Close()
}

// introduced is a connection whose client is known.
type introduced struct {
	net.Conn
	client net.Addr
}

// RemoteAddr is the client's address, as the balancer says.
func (c *introduced) RemoteAddr() net.Addr { return c.client }

// CloseWrite and SetLinger are those of TCP.

func (c *introduced) CloseWrite() error {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *introduced) SetLinger(seconds int) error {
	if t, ok := c.Conn.(interface{ SetLinger(seconds int) error }); ok {
		return t.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}
