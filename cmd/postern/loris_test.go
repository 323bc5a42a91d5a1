package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestHalfOpenConnections: two thousand connections of clients that go on no further cost
// the front less than 64 MB, and keep nobody out. A third each is silent from the
// begin, sends half of a TLS hello, and says nothing behind a whole handshake.
func TestHalfOpenConnections(t *testing.T) {
	const connections, most = 2000, 64 << 20
	d := startDemo(t, t.TempDir(), freePorts(t))
	region, user := d.region("eu"), d.user("eu", kindLocal)
	d.login("eu", user)
	front := d.frontOf("eu")
	before := procOctets(t, front, "status", "VmRSS:")
	stages := []func(net.Conn) error{
		func(net.Conn) error { return nil },
		func(conn net.Conn) error { _, err := conn.Write(helloOf(t)[:100]); return err },
		func(conn net.Conn) error { return tls.Client(conn, d.tls(region)).HandshakeContext(t.Context()) },
	}
	var group errgroup.Group
	group.SetLimit(8)
	held := make([]net.Conn, connections)
	for i := range held {
		group.Go(func() (err error) {
			from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%50))} // each has 40 connections
			dialer := net.Dialer{LocalAddr: from}
			if held[i], err = dialer.DialContext(t.Context(), "tcp", region.POP3S); err != nil {
				return err
			}
			return stages[i%len(stages)](held[i])
		})
	}
	defer func() {
		for _, conn := range held {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	cost := procOctets(t, front, "status", "VmRSS:") - before
	began := time.Now()
	pop := d.login("eu", user)
	took := time.Since(began)
	t.Logf("%d connections cost %d KiB, %d each; a login beside them took %v", connections, cost>>10, cost/connections, took)
	if cost >= most {
		t.Errorf("%d octets, want less than %d", cost, most)
	}
	if took > 5*time.Second {
		t.Errorf("a login took %v", took)
	}
	if err := pop.Quit(); err != nil {
		t.Error(err)
	}
	// They are still there: what was measured were connections, not their ends.
	for i := 0; i < connections; i += connections / 20 {
		held[i].SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := held[i].Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			t.Errorf("connection %d has ended", i)
		}
	}
}

// frontOf is the process of a region's front.
func (r *running) frontOf(region string) int {
	r.t.Helper()
	for _, process := range r.region(region).Processes {
		if process.Role == "front" {
			return process.PID
		}
	}
	r.t.Fatal("no front")
	return 0
}

// helloOf is the begin of a TLS handshake.
func helloOf(t testing.TB) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: "localhost"}).HandshakeContext(t.Context()) // it gets no answer
		near.Close()
	}()
	hello := make([]byte, 150)
	if _, err := io.ReadFull(far, hello); err != nil {
		panic(fmt.Sprint("no hello: ", err))
	}
	return hello
}
