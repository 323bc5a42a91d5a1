package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/config"
)

// echo is a server that says what it hears, line by line, and says goodbye at the end.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
				io.WriteString(conn, "goodbye\n")
			}()
		}
	}()
	return listener.Addr().String()
}

func TestDemoLink(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	link := &demoLink{name: "link", to: config.HostPort(echo(t)), cut: cut}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- link.serve(ctx, listener) }()

	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	hears := func(want string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("heard %q, %v, want %q", got, err, want)
		}
	}
	io.WriteString(conn, "before\n")
	hears("before\n")

	if err := os.WriteFile(cut, []byte(time.Now().Add(time.Hour).Format(time.RFC3339)), 0o600); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "meanwhile\n")
	late, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	io.WriteString(late, "late\n")
	for _, c := range []net.Conn{conn, late} {
		c.SetReadDeadline(time.Now().Add(5 * linkLook))
		if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("through a cut link came %d octets, %v", n, err)
		}
	}

	if err := os.WriteFile(cut, []byte(time.Now().Add(-time.Hour).Format(time.RFC3339)), 0o600); err != nil {
		t.Fatal(err)
	}
	hears("meanwhile\n")
	conn.(*net.TCPConn).CloseWrite()
	hears("goodbye\n")
	late.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := bufio.NewReader(late).ReadString('\n'); err != nil || got != "late\n" {
		t.Errorf("heard %q, %v", got, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestSwitchedOn(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]bool{
		"2026-11-25T12:00:01Z\n":      true,
		"2026-11-25T14:00:01+02:00":   true,
		"2026-11-25T11:59:59Z":        false,
		"":                            false,
		"for ever":                    false,
		"2026-11-25T12:00:01Z 500 ms": false,
	} {
		file := filepath.Join(t.TempDir(), "switch")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := switchedOn(file, now); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if switchedOn(filepath.Join(t.TempDir(), "none"), now) {
		t.Error("on without a file")
	}
}
