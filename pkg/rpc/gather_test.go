package rpc

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/credentials"
)

// records stands for TLS: it writes in pieces of a record, and says something
// when it is closed.
type records struct {
	credentials.TransportCredentials
}

func (records) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return recordConn{raw}, nil, nil
}

func (records) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return recordConn{raw}, nil, nil
}

type recordConn struct{ net.Conn }

func (c recordConn) Write(b []byte) (n int, err error) {
	for err == nil && n < len(b) {
		var k int
		k, err = c.Conn.Write(b[n:min(len(b), n+16<<10)])
		n += k
	}
	return n, err
}

func (c recordConn) Close() error {
	_, _ = io.WriteString(c.Conn, "alert")
	return c.Conn.Close()
}

// counted counts what would be system calls.
type counted struct {
	net.Conn
	writes *atomic.Int32
}

func (c counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// ends are both ends of a gathered connection, and how often they have written.
func ends(t *testing.T) (client, server net.Conn, writes *atomic.Int32) {
	t.Helper()
	near, far := net.Pipe()
	writes = &atomic.Int32{}
	creds := gathering{records{}}
	client, _, err := creds.ClientHandshake(t.Context(), "", counted{near, writes})
	if err != nil {
		t.Fatal(err)
	}
	server, _, err = creds.ServerHandshake(counted{far, writes})
	if err != nil {
		t.Fatal(err)
	}
	return client, server, writes
}

func TestGatheredRecordsAreOneWrite(t *testing.T) {
	client, server, writes := ends(t)
	for i, pair := range [][2]net.Conn{{client, server}, {client, server}, {server, client}, {server, client}} {
		sent := bytes.Repeat([]byte("0123456789abcde\n"), 100<<10/16+i)
		failed := make(chan error, 1)
		go func() { _, err := pair[0].Write(sent); failed <- err }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(pair[1], got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("other octets: %v", err)
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
		if n := writes.Swap(0); n != 1 {
			t.Errorf("%d octets took %d writes", len(sent), n)
		}
	}
}

func TestGatheredCloseDoesNotWaitForThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _ := ends(t)
		failed := make(chan error, 1)
		go func() { _, err := client.Write([]byte("nobody reads this")); failed <- err }()
		synctest.Wait()
		client.Close()
		if err := <-failed; err == nil {
			t.Error("a write that nobody read succeeded")
		}
		server.Close()
	})
}

// TestGatheredWriteFails: what couldn't be sent isn't said to be.
func TestGatheredWriteFails(t *testing.T) {
	client, server, _ := ends(t)
	server.(*gathered).pipe.Conn.Close()
	if n, err := client.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("%d octets written, %v", n, err)
	}
	client.Close()
}
