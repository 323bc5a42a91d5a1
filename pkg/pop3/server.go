package pop3

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/throttle"
)

const (
	// minIdle and maxPreLogin bound the settings: RFC 1939 section 3 asks for at
	// least 10 minutes.
	minIdle = 10 * time.Minute

	defaultPreLogin = 60 * time.Second

	// acceptPause is how long Serve waits when the system has no more descriptors.
	acceptPause = 50 * time.Millisecond
	// hardStop is how long after Shutdown's context ended the connections may take to
	// say their last words, and a Remove to end.
	hardStop = 5 * time.Second
)

// Config is what a Server is made of.
type Config struct {
	Opener     maildrop.Opener
	TLS        *tls.Config   // see TLSConfig; never cloned
	Region     string        // shows in the greeting
	Hostname   string        // shows in the greeting
	Mechanisms []string      // SASL mechanisms that are offered; none: DefaultMechanisms
	Anonymous  bool          // CAPA has no IMPLEMENTATION, and the greeting doesn't name the product
	Idle       time.Duration // silence in TRANSACTION until the connection is closed; 0: 10 minutes, the least
	PreLogin   time.Duration // for each line before login; 0: 60 s
	Limits     *Limits       // nil: DefaultLimits
	Addresses  Addresses     // nil: ClearAddresses
	// LoginDelay is the longest that any user has to wait between two logins, for CAPA
	// (RFC 2449 section 6.5); nil: nobody has to. It is asked at each connection.
	LoginDelay func() time.Duration
	// Refused is told what is refused to a user whose mailbox's owner wasn't asked, or
	// doesn't remember it. It must not wait. nil: nobody is told.
	Refused    func(maildrop.Address, maildrop.Attempt)
	Log        *slog.Logger // nil: none
	Registerer prometheus.Registerer
}

// implementation is what the server calls itself.
func (c *Config) implementation() string {
	if c.Anonymous {
		return ""
	}
	return product
}

// Validate says what is wrong, and fills in what was left out.
func (c *Config) Validate() error {
	c.Idle = cmp.Or(c.Idle, minIdle)
	c.PreLogin = cmp.Or(c.PreLogin, defaultPreLogin)
	if c.Addresses == nil {
		c.Addresses = ClearAddresses()
	}
	if c.Limits == nil {
		c.Limits = DefaultLimits()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Opener == nil:
		return errors.New("pop3: no Opener")
	case c.TLS == nil:
		return errors.New("pop3: no TLS configuration: passwords are not taken in the clear")
	case c.Idle < minIdle:
		return fmt.Errorf("pop3: idle timeout %v: RFC 1939 section 3 asks for at least %v", c.Idle, minIdle)
	case c.PreLogin < time.Second:
		return fmt.Errorf("pop3: pre-login timeout %v: at least 1s", c.PreLogin)
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	if err := CheckMechanisms(c.Mechanisms); err != nil {
		return fmt.Errorf("pop3: %w", err)
	}
	return nil
}

// Server serves POP3S, and POP3 with STLS.
type Server struct {
	config   Config
	protocol *Protocol
	log      *slog.Logger
	metrics  *metrics
	gate     *throttle.Gate
	failures failures

	records  sync.Pool       // *[recordSize]byte, for the sessions that have something to say
	hard     context.Context //nolint:containedctx // the server's own: of calls that outlive a hang-up
	hardStop context.CancelFunc
	done     sync.WaitGroup // the connections' goroutines

	mu        sync.Mutex // guards closed and all that is counted
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	refusing  int                      // of conns, those that are only told that there are too many
	delayed   int                      // of conns, those whose login waits
	sessions  map[maildrop.Address]int // open at once, where they are limited
}

// NewServer makes a Server; Serve starts it.
func NewServer(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		config:    config,
		protocol:  newProtocol(config.Hostname, config.Region, config.implementation(), config.Mechanisms),
		log:       config.Log,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		sessions:  make(map[maildrop.Address]int),
		gate:      throttle.NewGate(config.Limits.sources()),
	}
	s.protocol.maxLines, s.protocol.maxFailed = config.Limits.LinesBeforeLogin, config.Limits.FailedLogins
	var err error
	if s.metrics, err = newMetrics(config.Registerer, s.protocol, config.Region); err != nil {
		return nil, err
	}
	s.records.New = func() any { return new([recordSize]byte) }
	s.metrics.limit.Set(float64(config.Limits.Connections))
	s.hard, s.hardStop = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts connections, TLS from the first octet (RFC 8314 section 3.3), until
// Shutdown, then returns nil. It may be called for several listeners at a time, and
// closes its own.
func (s *Server) Serve(l net.Listener) error { return s.accept(l, s.admit) }

// ServeCleartext is Serve for connections that begin without TLS and go on by STLS
// (RFC 2595 section 4).
func (s *Server) ServeCleartext(l net.Listener) error { return s.accept(l, s.admitCleartext) }

func (s *Server) accept(l net.Listener, admit func(net.Conn)) error {
	defer l.Close()
	if !s.listen(l) {
		return nil
	}
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			admit(raw)
		case s.isClosed():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, or the client was gone already
			s.log.Warn("accept", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.hard.Done():
			}
		}
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.listeners[l] = struct{}{}
	}
	return !s.closed
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) admit(raw net.Conn)          { s.start(raw, false) }
func (s *Server) admitCleartext(raw net.Conn) { s.start(raw, true) }

// start starts a connection's goroutine, if there is room.
func (s *Server) start(raw net.Conn, cleartext bool) {
	ctx, cancel := context.WithCancel(s.hard)
	c := &conn{server: s, raw: raw, clear: cleartext, id: sessionID(), remote: addressOf(raw), started: time.Now()}
	c.halting.conn, c.halting.cancel = raw, cancel
	result := s.add(c)
	s.metrics.connections.WithLabelValues(result).Inc()
	if result != resultAccepted && c.refuse == "" {
		cancel()
		raw.Close()
		return
	}
	go func() {
		defer s.remove(c)
		defer cancel()
		defer s.survive(c)
		c.serve(ctx)
	}()
}

// survive keeps a bug that one session meets from ending all of them.
func (s *Server) survive(c *conn) {
	if r := recover(); r != nil {
		c.raw.Close()
		c.close()
		s.metrics.ended(endPanic, c.started)
		s.log.Error("panic", "session", c.id, "remote", c.remote.String(), "end", string(endPanic), "seconds", time.Since(c.started).Seconds(), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	}
}

// Shutdown stops accepting and turns away who hasn't logged in; sessions go on until
// they end. When ctx ends, the remaining ones are told between two commands that the
// server restarts, and a few seconds later everything is closed. It returns when no
// session is left: nil, or ctx's error if it had to end some. Nothing is removed
// that no QUIT asked for.
func (s *Server) Shutdown(ctx context.Context) error {
	s.metrics.draining.Set(1)
	s.close()
	gone := make(chan struct{})
	go func() {
		s.done.Wait()
		s.hardStop()
		close(gone)
	}()
	s.stopAll(drain)
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.stopAll(hasten)
	limit := time.AfterFunc(hardStop, s.closeAll)
	defer limit.Stop()
	<-gone
	return ctx.Err()
}

func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
}

func (s *Server) stopAll(how halt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.stop(how)
	}
}

func (s *Server) closeAll() {
	s.hardStop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.raw.Close()
	}
}

// sessionID is 80 random bits.
func sessionID() string {
	var b [10]byte
	rand.Read(b[:]) // never fails
	return base32.HexEncoding.EncodeToString(b[:])
}

func addressOf(raw net.Conn) netip.Addr {
	if t, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
