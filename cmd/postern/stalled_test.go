package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// TestStalledReaders: five hundred clients that ask for a message of 10 MB and take
// nothing of it leave the front's memory bounded, the garbage of passwords that the demo
// has just set included; a login beside them is as
// quick as ever, and the message is whole for one who goes on.
func TestStalledReaders(t *testing.T) {
	const readers, size, most = 500, 10 << 20, 400 << 20
	d := startDemo(t, t.TempDir(), freePorts(t), "--no-limits")
	region, user := d.region("eu"), d.makeUsers("eu", 1)[0]
	if err := deliverOnce(t.Context(), region.LMTP, user.Address, letterOf("stalled", size)); err != nil {
		t.Fatal(err)
	}
	d.login("eu", user)
	front := d.frontOf("eu")
	stalled := make([]*tls.Conn, readers)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range stalled {
		group.Go(func() (err error) {
			stalled[i], err = d.stall(t, region, user)
			return err
		})
	}
	defer func() {
		for _, conn := range stalled {
			if conn != nil {
				conn.NetConn().Close()
			}
		}
	}()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	memory := d.calm(t, front)
	began := time.Now()
	pop := d.login("eu", user)
	took := time.Since(began)
	t.Logf("with %d stalled readers the front has %d MiB; a login beside them took %v", readers, memory>>20, took)
	if memory >= most {
		t.Errorf("%d octets, want less than %d", memory, most)
	}
	if took > 5*time.Second {
		t.Errorf("a login took %v", took)
	}
	var whole bytes.Buffer
	if _, err := pop.Retr(1, &whole); err != nil || whole.Len() < size {
		t.Errorf("a message of %d octets beside them: %v", whole.Len(), err)
	}
}

// stall logs in, asks for the first message and takes nothing of it but its begin.
func (r *running) stall(t *testing.T, region demoRegionReport, user demoUser) (*tls.Conn, error) {
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", region.POP3S)
	if err != nil {
		return nil, err
	}
	if err := raw.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		return nil, err
	}
	conn := tls.Client(raw, r.tls(region))
	pop, err := mailclient.NewPOP(conn)
	if err != nil {
		return conn, err
	}
	if err := pop.Login(user.Address, user.Password); err != nil {
		return conn, err
	}
	if _, err = conn.Write([]byte("RETR 1\r\n")); err != nil {
		return conn, err
	}
	begin := make([]byte, 4)
	if _, err = io.ReadFull(conn, begin); err == nil && string(begin) != "+OK " {
		err = fmt.Errorf("RETR: %q", begin)
	}
	return conn, err
}

// calm is a process's memory when it has stopped growing.
func (r *running) calm(t *testing.T, pid int) (most int64) {
	for still := 0; still < 20; still++ {
		sleep(t.Context(), 100*time.Millisecond)
		if now := procOctets(t, pid, "status", "VmRSS:"); now > most+most/200 {
			most, still = now, 0
		}
	}
	return most
}
