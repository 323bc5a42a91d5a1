package pop3

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// listen serves on a port of its own until the test ends.
func listen(t testing.TB, b maildrop.Opener, change func(*Config)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := testServer(t, b, change)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		stop(t, server)
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
	})
	return l.Addr().String()
}

// dial connects by TCP, with a limit so that no test hangs.
func dial(t testing.TB, address string, config *tls.Config) (*client, error) {
	t.Helper()
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	config.InsecureSkipVerify = true
	config.ServerName = "eu-pop.example.com"
	below := &stream{Conn: raw}
	c := &client{t: t, raw: below, Conn: tls.Client(below, config)}
	c.lines = bufio.NewReader(c.Conn)
	return c, c.Handshake()
}

func mustDial(t testing.TB, address string, config *tls.Config) *client {
	t.Helper()
	c, err := dial(t, address, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *client) quit() {
	c.t.Helper()
	c.expect("+OK *")
	c.say("QUIT\r\n")
	c.expect("+OK *")
	c.expectEnd()
}

// TestTLSVersions is TLS-03 (RFC 8314 section 4.1, RFC 9325 section 3.1.1), TLS-04 (RFC
// 8446), TLS-05 (RFC 8996), TLS-12 (close_notify: RFC 8446 section 6.1, RFC 5246 section
// 7.2.1) and the suites of RFC 9325 section 4.2.
func TestTLSVersions(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for _, test := range []struct {
		name   string
		config *tls.Config
		ok     bool
	}{
		{"1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, false},
		{"CBC", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, false},
		{"AES-GCM", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := dial(t, address, test.config)
			if (err == nil) != test.ok {
				t.Fatalf("handshake: %v", err)
			}
			if test.ok {
				c.quit()
			}
		})
	}
}

// TestALPN is TLS-13 and TLS-14 (RFC 7301 section 3.2, RFC 9325 section 3.8).
func TestALPN(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for _, test := range []struct {
		offered []string
		chosen  string
		ok      bool
	}{
		{nil, "", true}, {[]string{"pop3"}, "pop3", true}, {[]string{"imap", "pop3"}, "pop3", true},
		{[]string{"http/1.1"}, "", false}, {[]string{"h2", "http/1.1"}, "", false},
	} {
		c, err := dial(t, address, &tls.Config{NextProtos: test.offered})
		switch {
		case (err == nil) != test.ok:
			t.Errorf("%v: %v", test.offered, err)
		case err != nil && !strings.Contains(err.Error(), "no application protocol"):
			t.Errorf("%v: %v, want no_application_protocol", test.offered, err)
		case err == nil && c.ConnectionState().NegotiatedProtocol != test.chosen:
			t.Errorf("%v: chose %q", test.offered, c.ConnectionState().NegotiatedProtocol)
		}
	}
}

// TestResumption is TLS-11 and TLS-19 at one front (RFC 8446 section 2.2, RFC 5077).
func TestResumption(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := tls.NewLRUClientSessionCache(1)
		for i := range 11 {
			c := mustDial(t, address, &tls.Config{MinVersion: version, MaxVersion: version, ClientSessionCache: cache})
			c.quit()
			if resumed := c.ConnectionState().DidResume; resumed != (i > 0) {
				t.Errorf("%s, connection %d: resumed %v", tls.VersionName(version), i, resumed)
			}
		}
	}
}

// TestCleartext is TLS-10 (RFC 8314 section 3): no POP3 without TLS, and no waiting.
func TestCleartext(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(raw, "USER alice@example.com\r\n")
	answer, err := io.ReadAll(raw)
	if timeout(err) || bytes.Contains(answer, []byte("OK")) || bytes.Contains(answer, []byte("ERR")) {
		t.Errorf("answer %q, %v", answer, err)
	}
}

// TestLastWords: a reply before the server closes reaches a client that is still
// sending, as guessers and browsers do.
func TestLastWords(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for range 20 {
		c := mustDial(t, address, &tls.Config{})
		go io.WriteString(c.Conn, "GET / HTTP/1.1\r\n"+strings.Repeat("X-Padding: x\r\n", 8000))
		c.expect("+OK *", "-ERR this is a POP3 server")
		c.expectEnd()
		for range 100 { // still sending: an RST would make this fail, and could have overtaken the reply
			if _, err := c.raw.Write([]byte("more of it")); err != nil {
				t.Fatalf("after the last words: %v", err)
			}
		}
	}
}

// TestPipelinedLists is PIPE-03: 5000 commands in one write.
// See RFC 2449 section 6.6.
func TestPipelinedLists(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	c := mustDial(t, address, &tls.Config{})
	c.login()
	c.say(strings.Repeat("LIST 3\r\n", 5000))
	for range 5000 {
		c.expect("+OK 3 26")
	}
	c.say("QUIT\r\n")
	c.expect("+OK *")
	c.expectEnd()
}

// records reads what comes in one TLS record at a time, until the end is complete.
func (c *client) records(end string) (all []string) {
	c.t.Helper()
	var text strings.Builder
	buf := make([]byte, recordSize)
	for !strings.HasSuffix(text.String(), end) {
		n, err := c.Conn.Read(buf) // of one record at most
		if err != nil {
			c.t.Fatalf("after %d octets: %v", text.Len(), err)
		}
		text.Write(buf[:n])
		all = append(all, string(buf[:n]))
	}
	return all
}

// TestRecordEnds is ROB-10 and ROB-11: the end of a multi-line reply lies whole in
// the last record, and small replies are one record.
// See RFC 8446 section 5.1.
func TestRecordEnds(t *testing.T) {
	b := newBox("many")
	for i := range 64 {
		for _, power := range []int{11, 12, 13, 14, 15} {
			size := 1<<power - 48 + i
			b.wire = append(b.wire, "A: b\r\n\r\n"+strings.Repeat("x", size-10)+"\r\n")
			b.uids = append(b.uids, maildrop.UID(fmt.Sprintf("uid-%014d", len(b.uids))))
		}
	}
	address := listen(t, b, nil)
	c := mustDial(t, address, &tls.Config{})
	c.login()
	check := func(command string) {
		t.Helper()
		c.say(command + "\r\n")
		all := c.records("\r\n.\r\n")
		if last := all[len(all)-1]; !strings.HasSuffix(last, "\r\n.\r\n") {
			t.Fatalf("%s: the last of %d records is %q", command, len(all), last)
		}
		var total int
		for _, record := range all {
			total += len(record)
		}
		if len(all) > total/recordSize+2 || total < recordSize && len(all) > 1 {
			t.Errorf("%s: %d octets in %d records", command, total, len(all))
		}
	}
	for n := range b.wire {
		check(fmt.Sprintf("RETR %d", n+1))
	}
	for n := range b.wire { // listings of every length
		check("LIST")
		check("UIDL")
		c.say(fmt.Sprintf("DELE %d\r\n", n+1))
		c.records("\r\n")
	}
}

// TestGreeting is TLS-01 (RFC 8314 section 3.2, RFC 1939 section 4): once TLS is there
// the server speaks first, one line of at most 512 octets, and then waits.
func TestGreeting(t *testing.T) {
	for _, hostname := range []string{"eu-pop.example.com", strings.Repeat("long.", 50) + "example.com"} {
		address := listen(t, newBox("five"), func(c *Config) { c.Hostname = hostname })
		c := mustDial(t, address, &tls.Config{})
		line, err := c.lines.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK ") || !strings.HasSuffix(line, "\r\n") || len(line) > 512 || c.lines.Buffered() > 0 {
			t.Errorf("%q, %v", line, err)
		}
		c.say("QUIT\r\n")
		c.expect("+OK *")
		c.expectEnd()
	}
}
