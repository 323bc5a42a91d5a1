package rpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// PoolConfig is what a Pool is made of.
type PoolConfig struct {
	TLS *tls.Config // of ClientTLS
	// Accept says whether a server is one to talk to; an error refuses. nil: any
	// mailbox node or front. Passwords are sent to whoever is accepted.
	Accept func(server Identity) error
	// Feeds says that many deliveries are to be made: they and the questions before
	// them share a stream to each server, see [maildropServer.Feed].
	Feeds      bool
	Log        *slog.Logger          // nil: silence
	Registerer prometheus.Registerer // nil: no metrics
}

// Pool is the connections of one process to others: one to each address, made
// when it is first used, shared by all, closed when nobody used it for a while.
type Pool struct {
	config  PoolConfig
	meter   *meter
	options []grpc.DialOption // of a connection with wide windows
	narrow  []grpc.DialOption // and with narrow ones
	chunks  *chunks
	wide    chan struct{} // a place for each message that is read through a wide window

	mu      sync.Mutex
	clients map[string]*Client
	closed  bool

	stop chan struct{}
	done chan struct{} // closed when the sweeper has ended
}

var errPoolClosed = errors.New("connections are closed: the process ends")

// NewPool makes a pool without connections. Close it.
func NewPool(config PoolConfig) *Pool {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Accept == nil {
		config.Accept = acceptServers
	}
	p := &Pool{
		config: config, meter: newMeter(config.Registerer, "client", config.Log), chunks: &chunks{size: chunkOctets}, wide: make(chan struct{}, maxWide),
		clients: map[string]*Client{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	p.options, p.narrow = p.dialOptions(streamWindow), p.dialOptions(narrowWindow)
	go p.sweep()
	return p
}

func acceptServers(id Identity) error {
	if id.Role == RoleMailbox || id.Role == RoleFront {
		return nil
	}
	return fmt.Errorf("%s is neither a mailbox node nor a front", id)
}

func (p *Pool) dialOptions(window int32) []grpc.DialOption {
	config := p.config.TLS.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if err := p.config.TLS.VerifyConnection(state); err != nil {
			return err
		}
		id, err := ParseIdentity(state.PeerCertificates[0])
		if err != nil {
			return err
		}
		return p.config.Accept(id)
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(gathering{credentials.NewTLS(config)}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0), // the pool's own sweeper does that
		grpc.WithMaxHeaderListSize(maxHeader),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(transportBuffer),
		grpc.WithWriteBufferSize(transportBuffer),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: clientPing, Timeout: clientPingWait, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffBase, Multiplier: 2, Jitter: 0.3, MaxDelay: backoffMax},
			MinConnectTimeout: connectTimeout,
		}),
	}
}

// Client is the client of the server at address, host:port. It connects when it
// is first called, and may be kept as long as the pool lives.
func (p *Pool) Client(address string) *Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[address]
	if c == nil {
		c = &Client{pool: p, address: address, closed: p.closed}
		p.clients[address] = c
	}
	return c
}

// Close closes all connections, and with them the calls that run. Later calls
// are Transient.
func (p *Pool) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.mu.Unlock()
	close(p.stop)
	<-p.done
	for _, c := range p.all() {
		c.close()
		c.feeds.Wait()
	}
}

func (p *Pool) all() []*Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Client, 0, len(p.clients))
	for _, c := range p.clients {
		all = append(all, c)
	}
	return all
}

// sweep closes what nobody uses any more.
func (p *Pool) sweep() {
	defer close(p.done)
	tick := time.NewTicker(poolSweep)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		for _, c := range p.all() {
			c.closeUnused()
		}
	}
}

// acquire is one of the client's connections, made if there is none. It is held
// until release.
func (c *Client) acquire(op string, narrow bool) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: errPoolClosed}
	}
	slot, options := &c.conn, c.pool.options
	if narrow {
		slot, options = &c.narrow, c.pool.narrow
	}
	if *slot == nil {
		conn, err := grpc.NewClient("passthrough:///"+c.address, options...)
		if err != nil {
			return nil, &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: err}
		}
		*slot = conn
	}
	c.calls++
	return *slot, nil
}

func (c *Client) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls--
	c.used = time.Now()
}

// closeUnused closes a connection that was last used a while ago.
func (c *Client) closeUnused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == 0 && time.Since(c.used) > poolIdle {
		c.hangUp()
	}
}

func (c *Client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.hangUp()
}

// hangUp closes the connections that there are.
func (c *Client) hangUp() {
	for _, slot := range []**grpc.ClientConn{&c.conn, &c.narrow} {
		if *slot != nil {
			(*slot).Close()
			*slot = nil
		}
	}
}

// widen takes a place for a message that is read through a wide window; false: there
// is none at the moment. It is given back by narrowDown.
func (p *Pool) widen() bool {
	select {
	case p.wide <- struct{}{}:
		return true
	default:
		return false
	}
}

func (p *Pool) narrowDown() { <-p.wide }
