package rpc

import (
	"bufio"
	"context"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// gathering is TLS whose records pass between process and network several at a
// time. crypto/tls makes a system call, and often two, of each record of 16 KiB,
// and on a body these calls cost more than its encryption.
//
//	gRPC ── 64 KiB ──▶ crypto/tls ── a record at a time ──▶ pipe ── 64 KiB ──▶ socket
type gathering struct {
	credentials.TransportCredentials
}

// ClientHandshake implements credentials.TransportCredentials.
func (g gathering) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := newPipe(raw)
	secured, info, err := g.TransportCredentials.ClientHandshake(ctx, authority, p)
	if err != nil {
		return nil, nil, err
	}
	return &gathered{Conn: secured, pipe: p}, info, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (g gathering) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := newPipe(raw)
	secured, info, err := g.TransportCredentials.ServerHandshake(p)
	if err != nil {
		return nil, nil, err
	}
	return &gathered{Conn: secured, pipe: p}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (g gathering) Clone() credentials.TransportCredentials {
	return gathering{g.TransportCredentials.Clone()}
}

// pipe is the connection that TLS sees: it reads ahead, and keeps what is
// written while a gathered Write lasts.
type pipe struct {
	net.Conn // the socket
	in       *bufio.Reader
	sending  atomic.Bool // kept octets are on their way out

	mu   sync.Mutex // guards what follows, and the order of what is written
	keep bool
	kept []byte
}

func newPipe(raw net.Conn) *pipe {
	return &pipe{Conn: raw, in: bufio.NewReaderSize(raw, transportBuffer)}
}

// Read implements io.Reader.
func (p *pipe) Read(b []byte) (int, error) { return p.in.Read(b) }

// Write implements io.Writer.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keep {
		p.kept = append(p.kept, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

// begin makes Write keep what it is given.
func (p *pipe) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = true
}

// end sends what was kept.
func (p *pipe) end() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = false
	if len(p.kept) == 0 {
		return nil
	}
	p.sending.Store(true)
	_, err := p.Conn.Write(p.kept)
	p.sending.Store(false)
	p.kept = p.kept[:0]
	return err
}

// gathered is the connection that gRPC sees. One goroutine at a time writes.
type gathered struct {
	net.Conn // TLS
	pipe     *pipe
}

// Write sends b, as many records as it takes, in one piece.
func (g *gathered) Write(b []byte) (int, error) {
	g.pipe.begin()
	n, err := g.Conn.Write(b)
	if sent := g.pipe.end(); err == nil && sent != nil {
		return 0, sent
	}
	return n, err
}

// Close doesn't wait for a peer that takes nothing any more: the last alert of
// TLS would queue up behind what is being sent.
func (g *gathered) Close() error {
	if g.pipe.sending.Load() {
		g.pipe.Conn.Close()
	}
	return g.Conn.Close()
}
