package mailclient

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// script is a server that says its greeting and, when a command has come, the
// rest; then it hangs up.
func script(t *testing.T, greeting, rest string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		io.WriteString(far, greeting)
		if rest == "" {
			return
		}
		commands := bufio.NewReader(far)
		if _, err := commands.ReadString('\n'); err != nil {
			return
		}
		go io.Copy(io.Discard, commands)
		io.WriteString(far, rest)
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

func TestPOPShowsMessagesAsTheyAre(t *testing.T) {
	long := strings.Repeat("x", 3*bufferSize) + "."
	conn := script(t, "+OK ready\r\n", "+OK\r\n..\r\nA: b\r\n\r\n..dot\r\n"+long+"\r\nbare\rcr\r\n.\r\n")
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
}

func TestPOPChallenge(t *testing.T) {
	for answer, want := range map[string]string{
		"+ dGV4dA==": "text", "+ ": "", "-ERR no": "AUTH: -ERR no", "+OK": "AUTH: +OK", "+ !": "AUTH: not the protocol: \"+ !\"",
	} {
		p, err := NewPOP(script(t, "+OK\r\n", answer+"\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		octets, err := p.Challenge("AUTH PLAIN")
		if got := string(octets); err != nil && err.Error() != want || err == nil && got != want {
			t.Errorf("%q: %q, %v", answer, got, err)
		}
	}
}

func TestPOPRefusal(t *testing.T) {
	p, err := NewPOP(script(t, "+OK\r\n", "-ERR no\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var refused *ReplyError
	if err := p.Dele(1); !errors.As(err, &refused) || refused.Error() != "DELE: -ERR no" {
		t.Fatal(err)
	}
}

func TestPOPIsStrict(t *testing.T) {
	for _, server := range []string{"", "+OK", "+OK no CR\n", "+OKAY\r\n", "* OK imap\r\n", "+ok small\r\n"} {
		if _, err := NewPOP(script(t, server, "")); err == nil {
			t.Errorf("took %q for a greeting", server)
		}
	}
	p, err := NewPOP(script(t, "+OK\r\n", "+OK\r\ncut off"))
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
		p, err := NewPOP(script(t, "+OK\r\n", "+OK\r\n"+string(stuffed([]byte(message)))))
		if err != nil {
			rt.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := p.Retr(1, &got); err != nil || got.String() != message {
			rt.Fatalf("%q came back as %q, %v", message, got.String(), err)
		}
	})
}
