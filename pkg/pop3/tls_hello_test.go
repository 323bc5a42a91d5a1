package pop3

import (
	"bufio"
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// hello is a ClientHello (RFC 5246 section 7.4.1.2) as no library would write it.
type hello struct {
	record, version uint16 // of the record layer and of the hello
	suites          []uint16
	compressions    []byte
	extensions      []byte
}

// A hello for TLS 1.2 with everything that a client of today offers.
func modernHello() hello {
	return hello{record: tls.VersionTLS10, version: tls.VersionTLS12, suites: allowedSuites(), compressions: []byte{0}, extensions: usualExtensions()}
}

func allowedSuites() []uint16 { return TLSConfig(nil).CipherSuites }

func extension(kind uint16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// usualExtensions are groups, point formats and signature algorithms of every kind.
func usualExtensions() []byte {
	return slices.Concat(
		extension(10, 0, 8, 0, 23, 0, 24, 0, 25, 0, 29),          // supported_groups
		extension(11, 1, 0),                                      // ec_point_formats
		extension(13, 0, 12, 4, 3, 5, 3, 6, 3, 8, 4, 4, 1, 2, 1), // signature_algorithms
	)
}

// octets is the hello on the wire.
func (h hello) octets() []byte {
	body := binary.BigEndian.AppendUint16(nil, h.version)
	var random [32]byte
	rand.Read(random[:])
	body = append(append(body, random[:]...), 0) // no session id
	body = binary.BigEndian.AppendUint16(body, uint16(2*len(h.suites)))
	for _, suite := range h.suites {
		body = binary.BigEndian.AppendUint16(body, suite)
	}
	body = append(append(body, byte(len(h.compressions))), h.compressions...)
	if len(h.extensions) > 0 {
		body = binary.BigEndian.AppendUint16(body, uint16(len(h.extensions)))
		body = append(body, h.extensions...)
	}
	message := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	record := binary.BigEndian.AppendUint16([]byte{22}, h.record)
	record = binary.BigEndian.AppendUint16(record, uint16(len(message)))
	return append(record, message...)
}

// serverHello is what a server answers, as far as it matters here.
type serverHello struct {
	version, suite uint16
	compression    byte
	extensions     map[uint16][]byte
}

// alert is the server's refusal.
type alert byte

// errProtocolVersion refuses for the version alone, whatever suites there are.
const errProtocolVersion = alert(70)

func (a alert) Error() string { return tls.AlertError(a).Error() }

// greet sends octets on a new connection and reads the first record. No answer but an
// end or an alert is an error.
func greet(t *testing.T, address string, octets []byte) (serverHello, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(octets); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 5)
	if _, err := io.ReadFull(conn, header); err != nil {
		if timeout(err) {
			t.Fatal("no answer, and not closed either")
		}
		return serverHello{}, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(conn, body); err != nil {
		t.Fatal(err)
	}
	switch header[0] {
	case 21:
		return serverHello{}, alert(body[1])
	case 22:
		return parseServerHello(t, body), nil
	}
	t.Fatalf("a record of type %d: %q", header[0], body)
	return serverHello{}, nil
}

func parseServerHello(t *testing.T, message []byte) serverHello {
	t.Helper()
	if message[0] != 2 {
		t.Fatalf("handshake message %d", message[0])
	}
	body := message[4:]
	h := serverHello{version: binary.BigEndian.Uint16(body), extensions: map[uint16][]byte{}}
	body = body[2+32:]
	body = body[1+int(body[0]):]
	h.suite, h.compression, body = binary.BigEndian.Uint16(body), body[2], body[3:]
	if len(body) < 2 {
		return h
	}
	all := body[2 : 2+int(binary.BigEndian.Uint16(body))]
	for len(all) >= 4 {
		size := int(binary.BigEndian.Uint16(all[2:]))
		h.extensions[binary.BigEndian.Uint16(all)] = all[4 : 4+size]
		all = all[4+size:]
	}
	return h
}

// TestOldProtocols is TLS-05 and TLS-06 (RFC 8996 for TLS 1.0 and 1.1, RFC 7568 for SSL
// 3.0, RFC 6176 for SSL 2.0): a hello of theirs gets an alert or the end, and no ServerHello.
func TestOldProtocols(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	var everything []uint16
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		everything = append(everything, suite.ID)
	}
	for name, version := range map[string]uint16{"SSL 3.0": 0x0300, "TLS 1.0": tls.VersionTLS10, "TLS 1.1": tls.VersionTLS11} {
		h := modernHello()
		h.record, h.version, h.suites = min(version, tls.VersionTLS10), version, everything
		if got, err := greet(t, address, h.octets()); !errors.Is(err, errProtocolVersion) {
			t.Errorf("%s: version %x, %v", name, got.version, err)
		}
		// RFC 8446 section 4.2.1: the version that the extension says counts.
		h = modernHello()
		h.extensions = append(h.extensions, extension(43, 2, byte(version>>8), byte(version))...)
		if got, err := greet(t, address, h.octets()); !errors.Is(err, errProtocolVersion) {
			t.Errorf("%s as the only supported_versions: version %x, %v", name, got.version, err)
		}
	}
	// RFC 6101 appendix E: an SSL 2.0 CLIENT-HELLO, also one that speaks of TLS 1.2.
	for _, version := range []uint16{0x0002, tls.VersionTLS12} {
		body := append([]byte{1, byte(version >> 8), byte(version), 0, 9, 0, 0, 0, 16, 1, 0, 0x80, 7, 0, 0xc0, 3, 0, 0x80}, make([]byte, 16)...)
		octets := append([]byte{0x80, byte(len(body))}, body...)
		if got, err := greet(t, address, octets); !errors.Is(err, errProtocolVersion) {
			t.Errorf("SSL 2.0 hello: version %x, %v", got.version, err)
		}
	}
}

// TestSuites is RFC 9325 section 4.2: of all 65,536 numbers that a suite of TLS 1.2 can
// have, only those with forward secrecy and AEAD are ever chosen: no NULL, anonymous,
// export, RC4, DES, CBC, or RSA key transport (so nothing for ROBOT), also none that Go
// will know one day.
func TestSuites(t *testing.T) {
	doors := map[bool]string{true: listen(t, newBox("five"), nil), false: listen(t, newBox("five"), withRSA(t))}
	allowed := allowedSuites()
	var others []uint16
	for suite := range 1 << 16 {
		// 0x5600 is RFC 7507's signal, 0x00FF RFC 5746's; neither is a suite.
		if s := uint16(suite); !slices.Contains(allowed, s) && s != 0x5600 && s != 0x00FF {
			others = append(others, s)
		}
	}
	for ecdsa, address := range doors {
		for chunk := range slices.Chunk(others, 8000) { // as many as a record holds
			h := modernHello()
			h.suites = chunk
			if got, err := greet(t, address, h.octets()); err == nil {
				t.Errorf("suite %04x was chosen", got.suite)
			} else if !errors.Is(err, alert(40)) { // handshake_failure
				t.Errorf("refused with %v", err)
			}
		}
		for _, suite := range allowed {
			h := modernHello()
			h.suites = []uint16{suite}
			got, err := greet(t, address, h.octets())
			fits := strings.Contains(tls.CipherSuiteName(suite), "_ECDSA_") == ecdsa
			if (err == nil) != fits || err == nil && (got.suite != suite || got.version != tls.VersionTLS12) {
				t.Errorf("%s: %+v, %v", tls.CipherSuiteName(suite), got, err)
			}
		}
	}
}

// withRSA changes a server's certificate for one with an RSA key.
func withRSA(t *testing.T) func(*Config) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"eu-pop.example.com"}, NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	shown := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func(c *Config) {
		c.TLS = TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown, nil })
	}
}

// TestExtras: no compression (CRIME, RFC 9325 section 3.3), no heartbeat (RFC 6520,
// Heartbleed), secure renegotiation signalled (RFC 5746 section 3.6), no fallback below what
// both can do (RFC 7507 section 3), and the point format that all understand.
func TestExtras(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	h := modernHello()
	h.compressions = []byte{1, 64, 0}                         // DEFLATE, LZS, none
	h.suites = append(slices.Clone(h.suites), 0x00FF)         // TLS_EMPTY_RENEGOTIATION_INFO_SCSV
	h.extensions = append(h.extensions, extension(15, 1)...)  // heartbeat
	h.extensions = append(h.extensions, extension(13172)...)  // next protocol negotiation
	h.extensions = append(h.extensions, extension(0x0023)...) // session ticket
	got, err := greet(t, address, h.octets())
	if err != nil {
		t.Fatal(err)
	}
	if got.compression != 0 {
		t.Errorf("compression %d", got.compression)
	}
	for _, kind := range []uint16{15, 13172} {
		if _, there := got.extensions[kind]; there {
			t.Errorf("extension %d is answered", kind)
		}
	}
	if info, there := got.extensions[0xFF01]; !there || !bytes.Equal(info, []byte{0}) {
		t.Errorf("renegotiation_info %x", info)
	}
	h = modernHello()
	h.compressions = []byte{1}
	if _, err := greet(t, address, h.octets()); err == nil {
		t.Error("a client that wants nothing but compression")
	}
	h = modernHello()
	h.suites = append(slices.Clone(h.suites), 0x5600) // TLS_FALLBACK_SCSV, though 1.3 was possible
	if _, err := greet(t, address, h.octets()); !errors.Is(err, alert(86)) {
		t.Errorf("an inappropriate fallback: %v", err)
	}
}

// TestPreference: TLS 1.3 wherever the client knows it (RFC 9325 section 3.1.1), and our
// order of suites before the client's.
func TestPreference(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := modernHello()
	h.suites = append([]uint16{tls.TLS_AES_128_GCM_SHA256}, h.suites...)
	share := append([]byte{0, 69, 0, 23, 0, 65}, key.PublicKey().Bytes()...)
	h.extensions = slices.Concat(h.extensions, extension(43, 4, 3, 3, 3, 4), extension(51, share...))
	got, err := greet(t, address, h.octets())
	if err != nil || !bytes.Equal(got.extensions[43], []byte{3, 4}) {
		t.Errorf("supported_versions %x, %v", got.extensions[43], err)
	}
	const small, large = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	for _, suites := range [][]uint16{{small, large}, {large, small}} {
		h := modernHello()
		h.suites = suites
		if got, err := greet(t, address, h.octets()); err != nil || got.suite != small {
			t.Errorf("chose %s, %v", tls.CipherSuiteName(got.suite), err)
		}
	}
}

// TestNoRenegotiation: a client can't make the server do the work of a handshake again
// and again on one connection (RFC 9325 section 3.5). Only another library can ask for it.
func TestNoRenegotiation(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("POSTERN_TOOLS") == "required" {
			t.Fatal("no openssl here, so nobody asks for a renegotiation: install openssl")
		}
		t.Skip("NOT TESTED: no openssl")
	}
	cmd := exec.Command(openssl, "s_client", "-tls1_2", "-connect", listen(t, newBox("five"), nil))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "+OK ") {
		// what openssl says of the handshake
	}
	if _, err := io.WriteString(in, "R\n"); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "+OK ") {
			t.Errorf("after a renegotiation: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(complaint.String(), "alert") {
		t.Errorf("%v: %s", err, complaint.String())
	}
}
