package lmtp

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

// stuffed is the wire form of content with CRLF line ends.
func stuffed(content string) string {
	return strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n..")[2:]
}

// traced is the header that deliveries of these tests carry, on top and once
// (LMTP-07, RFC 5321 section 4.4).
var traced = regexp.MustCompile(`\AReturn-Path: <s@example\.test>\r\nDelivered-To: a@example\.test\r\n` +
	`Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n\tby lmtp\.test with LMTP id [0-9a-v]{16}-[0-9]+\r\n` +
	`\tfor <a@example\.test>; [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} [+-][0-9]{4}\r\n`)

// check holds what was delivered against what was to be kept.
func check(d delivered, m corpus.Message) error {
	head := traced.Find(d.wire)
	switch {
	case head == nil:
		return fmt.Errorf("%s: trace header: %q", m.ID, d.wire[:min(len(d.wire), 300)])
	case string(d.wire[len(head):]) != m.Stored:
		return fmt.Errorf("%s: kept %d octets %.100q, want %d %.100q", m.ID, len(d.wire)-len(head), d.wire[len(head):], len(m.Stored), m.Stored)
	}
	size := len(head) + len(m.Octets())
	if d.size != uint64(size) {
		return fmt.Errorf("%s: Size %d, want %d", m.ID, d.size, size)
	}
	return nil
}

// TestCorpus delivers every message through a socket, all on one connection,
// each with a command pipelined behind it.
func TestCorpus(t *testing.T) {
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room})
	c := greeted(t, address)
	for _, m := range corpus.All() {
		c.envelope("s@example.test", "a@example.test")
		go io.WriteString(c.Conn, m.Sent+"NOOP\r\n") // its reading must not wait for our writing
		c.expect("250 2.1.5 ")
		c.expect("250 2.0.0 OK")
		got := room.take()
		if len(got) != 1 {
			t.Fatalf("%s: %d deliveries", m.ID, len(got))
		}
		if err := check(got[0], m); err != nil {
			t.Error(err)
		}
	}
}

// TestEverySplit sends whole pipelined sessions, cut into two packets at every
// point: replies and octets are the same everywhere.
func TestEverySplit(t *testing.T) {
	for _, m := range corpus.All() {
		if len(m.Sent) > 200 {
			continue
		}
		session := "LHLO client.test\r\nMAIL FROM:<s@example.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n" + m.Sent + "NOOP\r\nQUIT\r\n"
		for at := range len(session) {
			if testing.Short() && at%7 != 0 {
				continue
			}
			room := &mailroom{}
			replies := converse(t, room, session[:at], session[at:])
			got := room.take()
			if len(got) != 1 || !strings.HasSuffix(replies, "delivered\r\n250 2.0.0 OK\r\n221 2.0.0 Goodbye\r\n") {
				t.Fatalf("%s split at %d: %d deliveries, %q", m.ID, at, len(got), replies)
			}
			if err := check(got[0], m); err != nil {
				t.Fatalf("split at %d: %v", at, err)
			}
		}
	}
}

// TestRandomPieces does so with random contents in random pieces.
func TestRandomPieces(t *testing.T) {
	token := rapid.SampledFrom([]string{"\r", "\n", ".", "\r\n", "\r\n.", "a", "\x00", "Received: x\r\n", "abcdef"})
	rapid.Check(t, func(rt *rapid.T) {
		content := strings.Join(rapid.SliceOfN(token, 0, 30).Draw(rt, "content"), "")
		sent := stuffed(content) + "\r\n.\r\n"
		kept := stuffed(regexp.MustCompile(`(\r*)\n`).ReplaceAllStringFunc(content+"\r\n", func(s string) string {
			return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r") + "\r\n"
		}))
		session := "LHLO client.test\r\nMAIL FROM:<s@example.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n" + sent + "QUIT\r\n"
		var pieces []string
		for session != "" {
			n := rapid.IntRange(1, 40).Draw(rt, "piece")
			n = min(n, len(session))
			pieces, session = append(pieces, session[:n]), session[n:]
		}
		room := &mailroom{}
		replies := converse(t, room, pieces...)
		got := room.take()
		if len(got) != 1 || !strings.HasSuffix(replies, "221 2.0.0 Goodbye\r\n") {
			rt.Fatalf("%d deliveries, %q", len(got), replies)
		}
		if err := check(got[0], corpus.Message{ID: "random", Sent: sent, Stored: kept}); err != nil {
			rt.Fatal(err)
		}
	})
}

// addressed gives a pipe the address of a socket.
type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

// pipe connects a client to the server without a network.
func pipe(s *Server, from string) net.Conn {
	ours, theirs := net.Pipe()
	s.admit(addressed{theirs, net.TCPAddrFromAddrPort(addrPort(from))})
	return ours
}

// converse sends the pieces, each seen by one Read of the server at least, and
// returns all that it answers.
func converse(t testing.TB, room *mailroom, pieces ...string) string {
	t.Helper()
	s := server(t, Config{Deliverer: room, Spool: "unused"})
	nc := pipe(s, "127.0.0.1:2000")
	go func() {
		for _, p := range pieces {
			io.WriteString(nc, p)
		}
	}()
	replies, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.all.Wait()
	return string(replies)
}

// TestEnvelopeID: a repetition is known by its Received field, and only by that.
func TestEnvelopeID(t *testing.T) {
	room := &mailroom{}
	_, address := start(t, Config{Deliverer: room})
	ids := func(sender, content string, to ...string) (all []maildrop.EnvelopeID) {
		c := greeted(t, address)
		defer c.Close()
		c.envelope(sender, to...)
		c.send(content + ".\r\n")
		for range to {
			c.expect("250 ")
		}
		for _, d := range room.take() {
			all = append(all, d.envelope.ID)
		}
		return all
	}
	const with = "Received: x\r\n\r\n..\r\n"
	first := ids("s@example.test", with, "a@example.test", "b@example.test")
	again := ids("s@example.test", with, "b@example.test", "a@example.test")
	if first[0] != again[0] || first[1] != again[1] || first[0] == first[1] {
		t.Errorf("repeated: %x and %x", first, again)
	}
	if want := maildrop.RepeatableID("s@example.test", "a@example.test", sha256.Sum256([]byte("Received: x\r\n\r\n.\r\n"))); first[0] != want {
		t.Errorf("ID %x, want %x, of the octets before the trace header and without stuffing", first[0], want)
	}
	for name, other := range map[string][]maildrop.EnvelopeID{
		"another sender":  ids("t@example.test", with, "a@example.test"),
		"another content": ids("s@example.test", with+"x\r\n", "a@example.test"),
	} {
		if other[0] == first[0] {
			t.Errorf("%s: the same ID", name)
		}
	}
	const without = "Subject: x\r\n\r\nReceived: x\r\n"
	if one, two := ids("s@example.test", without, "a@example.test"), ids("s@example.test", without, "a@example.test"); one[0] == two[0] {
		t.Error("two messages without a Received field have one ID")
	}
}

// TestUnknownOutcome: Maybe is repeated under one ID before it is answered.
func TestUnknownOutcome(t *testing.T) {
	room := &mailroom{}
	inBubble(t, Config{Deliverer: room}, func(t *testing.T, _ *Server, c *client) {
		c.envelope("", "twice@example.test", "late-maybe@example.test")
		c.send(".\r\n")
		c.expect("250 2.1.5 ")
		c.expect("451 4.4.2 ")
	})
	var tries []int
	for _, n := range room.tried {
		tries = append(tries, n)
	}
	if got := room.take(); len(got) != 1 || len(tries) != 2 || tries[0]+tries[1] != 2+deliverTries {
		t.Errorf("%d deliveries, tries by ID %v", len(got), tries)
	}
}

// TestTraceHeader checks what the other tests' senders and clients don't show,
// the empty sender among it (LMTP-06, RFC 5321 section 4.5.5).
// LMTP-07 (RFC 5321 section 4.4) is that there is one, with the sender.
func TestTraceHeader(t *testing.T) {
	base := trace{sender: "s@example.test", to: "a@example.test", client: "[IPv6:::1]", remote: addrPort("[2001:db8::1]:1").Addr(), hostname: "h", id: "i"}
	for want, change := range map[string]func(*trace){
		"Return-Path: <>\r\n":                            func(t *trace) { t.sender = "" },
		"Received: from [IPv6:::1] ([IPv6:2001:db8::1])": func(t *trace) {},
		"with LMTPS id":                                  func(t *trace) { t.secured = true },
		"with LMTP id":                                   func(t *trace) {},
		"Delivered-To: \"john smith\"@example.test\r\n":  func(t *trace) { t.to = "john smith@example.test" },
		"for <\"a\\\"b\\\\c\"@example.test>;":            func(t *trace) { t.to = `a"b\c@example.test` },
		"Delivered-To: \".a\"@example.test\r\n":          func(t *trace) { t.to = ".a@example.test" },
	} {
		tr := base
		change(&tr)
		if got := tr.header(); !bytes.Contains(got, []byte(want)) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// TestHeaderScan finds Received fields of the header section, however the
// message is cut, and nothing else.
func TestHeaderScan(t *testing.T) {
	for text, want := range map[string]bool{
		"Received: x\r\n\r\n":                        true,
		"received:x\r\n":                             true,
		"RECEIVED \t: x\r\n":                         true,
		"Subject: a\r\n b\r\n\tc\r\nReceived: x\r\n": true,
		"..x: a\r\nReceived: x\r\n":                  true,
		"":                                           false,
		"Receive: x\r\nReceivedd: x\r\nXReceived:\r\n": false,
		"Subject: x\r\n Received: x\r\n":               false,
		"Subject: x\r\n\r\nReceived: x\r\n":            false,
		"\r\nReceived: x\r\n":                          false,
		"no header\r\nReceived: x\r\n":                 false,
		"From a b\r\nReceived: x\r\n":                  false,
		" folded\r\nReceived: x\r\n":                   false,
		": x\r\nReceived: x\r\n":                       false,
		"gr\xfc: x\r\nReceived: x\r\n":                 false,
		"Received x: x\r\nReceived: x\r\n":             false,
	} {
		for at := range len(text) + 1 {
			var h headerScan
			h.write([]byte(text[:at]))
			h.write([]byte(text[at:]))
			if h.found != want {
				t.Errorf("%q split at %d: %v, want %v", text, at, h.found, want)
			}
		}
	}
}
