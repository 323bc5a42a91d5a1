package pop3

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/throttle"
)

// pipeRaw connects somebody who needn't know TLS to the door that begins with it.
func pipeRaw(t testing.TB, s *Server, remote netip.Addr) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	s.admit(from{far, remote})
	return near
}

// shakes lets a client of crypto/tls try.
func shakes(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		config.ServerName = "eu-pop.example.com"
		_ = tls.Client(conn, config).Handshake() // the server's word counts
	}
}

// TestCauses: the log tells apart why a handshake failed, and README says what each word
// means.
func TestCauses(t *testing.T) {
	half := modernHello().octets()[:20]
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n| tls_failure | why |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented[row[1]] = true
	}
	for want, try := range map[string]func(net.Conn){
		"alert":            shakes(&tls.Config{}), // it doesn't know who issued the certificate
		"version":          shakes(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}),
		"no_common_cipher": shakes(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, InsecureSkipVerify: true}),
		"alpn":             shakes(&tls.Config{NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true}),
		"not_tls":          func(conn net.Conn) { _, _ = io.WriteString(conn, "USER anna@example.com\r\n") },
		"cut":              func(conn net.Conn) { _, _ = conn.Write(half); conn.Close() },
		"timeout":          func(conn net.Conn) { _, _ = conn.Write(half) },
		"protocol":         func(conn net.Conn) { _, _ = conn.Write([]byte{22, 3, 1, 0, 4, 99, 0, 0, 0}) },
	} {
		t.Run(want, func(t *testing.T) {
			line := failureOf(t, try)
			if line.End != string(EndTLS) || line.Remote != office.String() || line.Failure != want || line.Error == "" {
				t.Errorf("%+v", line)
			}
			if !documented[want] {
				t.Error("README doesn't say what it is")
			}
			delete(documented, want)
		})
	}
	for cause := range documented {
		t.Errorf("README has %s, which nothing causes", cause)
	}
}

// failureLine is what the log has of a handshake.
type failureLine struct {
	End     string
	Remote  string
	Failure string `json:"tls_failure"`
	Error   string `json:"tls_error"`
}

// failureOf is the line of log of a client that tries so.
func failureOf(t *testing.T, try func(net.Conn)) (line failureLine) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		server := testServer(t, newBox("five"), func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
		conn := pipeRaw(t, server, office)
		try(conn)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
		synctest.Wait()
		stop(t, server)
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Errorf("%v: %q", err, log.String())
		}
	})
	return line
}

// TestFailures: scanners don't fill the log, and what it doesn't have is counted.
func TestFailures(t *testing.T) {
	var f failures
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	source := func(i int) throttle.Source {
		return throttle.SourceOf(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	lines := 0
	for i := range 3 * failureLines {
		for range 2 {
			if _, ok := f.tell(now, source(i)); ok {
				lines++
			}
		}
	}
	if lines != failureLines || len(f.told) > failureLines {
		t.Errorf("%d lines, %d sources in memory", lines, len(f.told))
	}
	now = now.Add(failurePeriod)
	if unlogged, ok := f.tell(now, source(0)); !ok || unlogged != 4*failureLines+1 {
		t.Errorf("%t, %d", ok, unlogged)
	}
	if _, ok := f.tell(now, source(0)); ok {
		t.Error("a second line in a minute")
	}
	if unlogged, ok := f.tell(now, source(1)); !ok || unlogged != 1 {
		t.Errorf("%t, %d", ok, unlogged)
	}
}
