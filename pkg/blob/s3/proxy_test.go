package s3

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/postern-pop/postern/pkg/blob/s3test"
)

// cut is where a proxy loses the connection.
type cut string

const (
	nowhere     cut = "nowhere"
	atOnce      cut = "before a word"         // the server hears nothing
	inRequest   cut = "in mid-request"        // it hears half
	afterwards  cut = "after the request"     // it does its work, and its answer is lost
	inAnswer    cut = "in mid-answer"         // half of its answer is lost
	neverAnswer cut = "never, without a word" // it stays silent, and the connection stays
)

// proxy is between a store and its server, and loses connections.
type proxy struct {
	server   string
	listener net.Listener
	hold     chan struct{} // closed with the test
	served   sync.WaitGroup

	mu    sync.Mutex
	where cut
	times int            // so many connections, if not negative
	heard map[string]int // requests by method and path
}

// cut loses all connections from now on.
func (p *proxy) cut(where cut) { p.cutTimes(where, -1) }

// cutTimes loses the next connections, and not those after them.
func (p *proxy) cutTimes(where cut, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.where, p.times = where, times
}

func (p *proxy) next() cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.times == 0 {
		return nowhere
	}
	p.times--
	return p.where
}

func startProxy(t *testing.T, server *s3test.Server) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{server: server.Address(), listener: listener, where: nowhere, heard: make(map[string]int), hold: make(chan struct{})}
	p.served.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			p.served.Go(func() { p.serve(connection) })
		}
	})
	t.Cleanup(func() {
		close(p.hold)
		listener.Close()
		p.served.Wait()
	})
	return p
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) note(head []byte) {
	line, _, _ := strings.Cut(string(head), " HTTP/")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[line]++
}

// puts is how often an object was sent.
func (p *proxy) puts(s *Store, key string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard["PUT /"+s.cfg.Bucket+"/"+key]
}

// serve passes one request on, and its answer, as far as the connection lives.
func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	where := p.next()
	switch where {
	case atOnce:
		return
	case neverAnswer:
		<-p.hold
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	from := bufio.NewReader(client)
	head, length, err := readHead(from)
	if err != nil {
		return
	}
	p.note(head)
	if where == inRequest {
		length /= 2
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer client.Close() // ends the reading of a body that the server doesn't want
	sending.Go(func() {
		io.Copy(server, io.MultiReader(bytes.NewReader(head), io.LimitReader(from, length)))
		if where == inRequest {
			server.Close()
		}
	})
	p.answer(client, bufio.NewReader(server), where)
}

// answer passes the server's answer on, all of it before the connection is lost.
func (p *proxy) answer(client net.Conn, server *bufio.Reader, where cut) {
	head, _, err := readHead(server)
	if err == nil && bytes.HasPrefix(head, []byte("HTTP/1.1 100")) {
		client.Write(head)
		head, _, err = readHead(server)
	}
	body, err2 := io.ReadAll(server) // versitygw closes after each answer
	if err != nil || err2 != nil {
		return
	}
	switch {
	case where == inRequest, where == afterwards:
		return
	case where == inAnswer && len(body) > 0:
		body = body[:len(body)/2]
	case where == inAnswer:
		head = head[:len(head)/2]
	}
	client.Write(append(head, body...))
}

// readHead reads what comes before a body, and how long that is.
func readHead(r *bufio.Reader) (head []byte, length int64, err error) {
	for {
		line, err := r.ReadBytes('\n')
		head = append(head, line...)
		if err != nil || len(line) <= 2 {
			return head, length, err
		}
		if name, value, _ := strings.Cut(string(line), ":"); strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
				return nil, 0, err
			}
		}
	}
}
