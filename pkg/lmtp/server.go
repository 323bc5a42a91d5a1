package lmtp

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Server takes connections of gateways.
type Server struct {
	config  Config
	metrics *metrics
	spooler *spooler
	closing chan struct{} // closed by Shutdown

	mu        sync.Mutex
	closed    bool // closing is closed; no connection is counted any more
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	refusing  int            // connections that are being told no
	all       sync.WaitGroup // of connections' goroutines
}

// NewServer makes a Server. It changes nothing outside but to register metrics.
func NewServer(config Config) (*Server, error) {
	const op = "lmtp.new"
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	config = config.withDefaults()
	metrics, err := newMetrics(config.Registerer)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	metrics.limit.Set(float64(config.MaxConnections))
	return &Server{
		config: config, metrics: metrics, spooler: newSpooler(config.Spool), closing: make(chan struct{}),
		listeners: map[net.Listener]bool{}, conns: map[*conn]bool{},
	}, nil
}

// Serve takes connections from the listener until Shutdown, and returns nil
// then, or until the listener fails for good. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.listen(l) {
		return nil
	}
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.admit(nc)
		case s.isClosed():
			return nil
		case !passes(err):
			return &maildrop.Error{Op: "lmtp.serve", Kind: maildrop.Internal, Err: err}
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.config.Log.Warn("accept failed", "err", err, "again_in_seconds", pause.Seconds())
			s.wait(pause)
		}
	}
}

// passes reports whether Accept may work again: the process or the machine is
// out of something.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// wait waits, or returns at Shutdown.
func (s *Server) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closing:
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.listeners[l] = true
	}
	return !s.closed
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit starts a connection's goroutine, also for those that only hear why they
// are refused. It is counted under the lock that guards closed, or Shutdown
// would miss it.
func (s *Server) admit(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	remote := remoteAddr(nc)
	permitted := s.permitted(remote)
	switch {
	case s.closed:
		s.metrics.connections.WithLabelValues("draining").Inc()
		nc.Close()
	case len(s.conns) >= s.config.MaxConnections:
		s.refuse(nc, "conn_limit", replyCrowd)
	case !permitted && s.config.TLS == nil:
		s.refuse(nc, "denied", replyStranger)
	default:
		s.metrics.connections.WithLabelValues("accepted").Inc()
		s.metrics.active.Inc()
		ctx, cancel := context.WithCancel(context.Background())
		c := newConn(s, nc, &session{config: s.config, metrics: s.metrics, id: newID(), remote: remote, gateway: permitted}, cancel)
		s.conns[c] = true
		s.all.Go(func() {
			c.serve(ctx)
			s.forget(c)
		})
	}
}

// refuse says in one line why, and closes. s.mu is held.
func (s *Server) refuse(nc net.Conn, result string, why reply) {
	s.metrics.connections.WithLabelValues(result).Inc()
	if s.refusing >= maxRefusing {
		nc.Close()
		return
	}
	s.refusing++
	s.all.Go(func() {
		nc.SetDeadline(time.Now().Add(refuseTime))
		_, _ = nc.Write(why.append(nil)) // whether it hears it or not, it goes
		nc.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refusing--
	})
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.metrics.active.Dec()
}

// permitted reports whether an address is in the networks of gateways.
func (s *Server) permitted(a netip.Addr) bool {
	for _, n := range s.config.Networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// remoteAddr is where a connection comes from, as an IPv4 address if it is one.
func remoteAddr(nc net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

// Shutdown lets every running transaction end, tells the clients 421 and
// returns nil when all connections are closed. If ctx ends before, deliveries
// are cancelled, connections closed, and its error returned; the goroutines of
// all connections have ended then too.
func (s *Server) Shutdown(ctx context.Context) error {
	s.begin()
	done := make(chan struct{})
	go func() {
		s.all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.kill()
	}
	s.mu.Unlock()
	<-done
	return &maildrop.Error{Op: "lmtp.shutdown", Kind: maildrop.Canceled, Err: ctx.Err()}
}

// begin begins the shutdown: no new connection, no new transaction.
func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.closing)
		s.metrics.draining.Set(1)
	}
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.drain()
	}
}

// newID is a session's id: 16 characters that occur nowhere else.
func newID() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return strings.ToLower(base32.HexEncoding.EncodeToString(b[:]))
}
