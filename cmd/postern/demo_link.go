package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
)

// Links of each region of a demo. What goes through one can be cut, as a cable is.
const (
	linkGateway  = "gateway"       // from other regions to its gateway
	linkGlobal   = "global-etcd"   // from its processes
	linkRegional = "regional-etcd" // likewise
)

const (
	linkBuffer  = 64 << 10              // octets of one direction of a connection
	linkLook    = 20 * time.Millisecond // how often one that is cut looks whether it still is
	switchLimit = 64                    // octets of a switch's file
)

// demoLink is a way between processes of a demo: an address that stands for another one. While its
// switch is on it moves nothing: connections stay, and nobody hears of the other end.
type demoLink struct {
	name       string
	listen, to config.HostPort
	cut        string // the switch's file
}

// linkSwitch is the file that says until when a region's link is cut.
func linkSwitch(dir, region, link string) string { return filepath.Join(dir, region, "cut-"+link) }

// storeSwitch is the file that says until when a region's store is late, and by how much.
func storeSwitch(dir, region string) string { return filepath.Join(dir, region, "store-delay") }

// switchedOn reports whether a switch is on. Its file holds the time until which it is, so that
// none stays on for ever because whoever turned it was killed.
func switchedOn(file string, now time.Time) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, switchLimit))
	if err != nil {
		return false
	}
	until, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	return err == nil && now.Before(until)
}

func (l *demoLayout) links() []*demoLink {
	var links []*demoLink
	for _, r := range l.regions {
		region := string(r.Name)
		for _, link := range []demoLink{{linkGateway, r.Gateway, r.gateway, ""}, {linkGlobal, r.global, l.etcd, ""}, {linkRegional, r.regional, l.etcd, ""}} {
			link.cut = linkSwitch(l.dir, region, link.name)
			link.name = region + " link to " + link.name
			links = append(links, &link)
		}
	}
	return links
}

// start opens the link until the process stops.
func (l *demoLink) start(ctx context.Context, p *run.Process) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", string(l.listen))
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	p.Go(ctx, l.name, func(ctx context.Context) error { return l.serve(ctx, listener) })
	return nil
}

func (l *demoLink) serve(ctx context.Context, listener net.Listener) error {
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		near, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		connections.Go(func() { l.carry(ctx, near) })
	}
}

// carry moves octets between a connection and one of its own, both ways.
func (l *demoLink) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	if !l.passable(ctx) {
		return
	}
	far, err := new(net.Dialer).DialContext(ctx, "tcp", string(l.to))
	if err != nil {
		return
	}
	closeBoth := func() { near.Close(); far.Close() }
	defer closeBoth()
	defer context.AfterFunc(ctx, closeBoth)()
	var back sync.WaitGroup
	back.Go(func() { l.move(ctx, near, far, closeBoth) })
	l.move(ctx, far, near, closeBoth)
	back.Wait()
}

// move moves one direction, to its end; an end of another kind is both directions'.
func (l *demoLink) move(ctx context.Context, to, from net.Conn, closeBoth func()) {
	buffer := make([]byte, linkBuffer)
	for {
		n, err := from.Read(buffer)
		if !l.passable(ctx) {
			break
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			_ = to.(*net.TCPConn).CloseWrite() // an error says that it has ended: fine too
			return
		}
		if err != nil {
			break
		}
	}
	closeBoth()
}

// passable waits while the link is cut, and reports whether ctx let it.
func (l *demoLink) passable(ctx context.Context) bool {
	for switchedOn(l.cut, time.Now()) {
		if !sleep(ctx, linkLook) {
			return false
		}
	}
	return ctx.Err() == nil
}
