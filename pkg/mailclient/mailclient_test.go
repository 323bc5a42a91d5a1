package mailclient

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// script serves fixed octets and keeps what the client sent.
func script(t *testing.T, server string) (net.Conn, *bytes.Buffer) {
	t.Helper()
	near, far := net.Pipe()
	var sent bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		go func() { io.WriteString(far, server); far.Close() }()
		io.Copy(&sent, far)
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return near, &sent
}

func TestPOPShowsMessagesAsTheyAre(t *testing.T) {
	long := strings.Repeat("x", 3*bufferSize) + "."
	conn, _ := script(t, "+OK ready\r\n+OK\r\n..\r\nA: b\r\n\r\n..dot\r\n"+long+"\r\nbare\rcr\r\n.\r\n-ERR no\r\n")
	p, err := NewPOP(conn)
	if err != nil || p.Greeting != "ready" {
		t.Fatal(p, err)
	}
	var got bytes.Buffer
	octets, err := p.Retr(1, &got)
	want := ".\r\nA: b\r\n\r\n.dot\r\n" + long + "\r\nbare\rcr\r\n"
	if err != nil || got.String() != want || octets != uint64(len(want)) {
		t.Fatalf("%q, %d, %v", got.String(), octets, err)
	}
	var refused *ReplyError
	if err := p.Dele(1); !errors.As(err, &refused) || refused.Reply != "-ERR no" {
		t.Fatal(err)
	}
}

func TestPOPIsStrict(t *testing.T) {
	for _, server := range []string{"", "+OK", "+OK no CR\n", "+OKAY\r\n", "* OK imap\r\n", "+ok small\r\n"} {
		conn, _ := script(t, server)
		if _, err := NewPOP(conn); err == nil {
			t.Errorf("took %q for a greeting", server)
		}
	}
	conn, _ := script(t, "+OK\r\n+OK\r\ncut off")
	p, err := NewPOP(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Retr(1, io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message cut off ended with %v", err)
	}
}

// What is stuffed comes back as it was, when it ends with CRLF.
func TestStuffedIsUndoneByPOP(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		message := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{".", "..", "\r\n", "a", "\r", "x.y"})).Draw(rt, "parts"), "") + "\r\n"
		conn, _ := script(t, "+OK\r\n+OK\r\n"+string(stuffed([]byte(message))))
		p, err := NewPOP(conn)
		if err != nil {
			rt.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := p.Retr(1, &got); err != nil || got.String() != message {
			rt.Fatalf("%q came back as %q, %v", message, got.String(), err)
		}
	})
}
