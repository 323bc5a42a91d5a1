package proxy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// v2 is a header of version 2: command and family, then the rest.
func v2(command, family byte, rest string) string {
	return signature + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func octets(t testing.TB, text string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// headers are what balancers send; an empty client is none.
func headers(t testing.TB) map[string]struct{ header, client string } {
	v4 := octets(t, "c6336401 0a000001 dea8 03e3")
	v6 := octets(t, "20010db8000000000000000000000007 20010db8000000000000000000000001 dea8 03e3")
	authority := "\x02\x00\x12eu-pop.example.com" // PP2_TYPE_AUTHORITY
	return map[string]struct{ header, client string }{
		"v1 TCP4":                   {"PROXY TCP4 198.51.100.1 10.0.0.1 57000 995\r\n", "198.51.100.1:57000"},
		"v1 TCP6":                   {"PROXY TCP6 2001:db8::7 2001:db8::1 57000 995\r\n", "[2001:db8::7]:57000"},
		"v1 UNKNOWN":                {"PROXY UNKNOWN\r\n", ""},
		"v1 UNKNOWN with addresses": {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", ""},
		"v2 TCP4":                   {v2(0x21, 0x11, v4), "198.51.100.1:57000"},
		"v2 TCP6":                   {v2(0x21, 0x21, v6), "[2001:db8::7]:57000"},
		"v2 with TLVs":              {v2(0x21, 0x11, v4+"\x04\x00\x03\x00\x00\x00"+authority), "198.51.100.1:57000"},
		"v2 with a long TLV":        {v2(0x21, 0x11, v4+"\x04\x0f\xe0"+strings.Repeat("\x00", 0xfe0)), "198.51.100.1:57000"},
		"v2 LOCAL":                  {v2(0x20, 0x00, ""), ""},
		"v2 LOCAL with addresses":   {v2(0x20, 0x11, v4), ""},
		"v2 LOCAL with anything":    {v2(0x20, 0x11, "\x01\x02\x03"), ""},
	}
}

// TestHeaders: what each header says, whole and in single octets; what is behind it
// is left to whoever reads next.
func TestHeaders(t *testing.T) {
	for name, test := range headers(t) {
		for _, pieces := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader} {
			const behind = "\x16\x03\x01CAPA\r\n"
			r := pieces(strings.NewReader(test.header + behind))
			client, err := readHeader(r)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := text(client); got != test.client {
				t.Errorf("%s: client %q, want %q", name, got, test.client)
			}
			if rest, _ := io.ReadAll(r); string(rest) != behind {
				t.Errorf("%s: left %q", name, rest)
			}
		}
	}
}

func text(address net.Addr) string {
	if address == nil {
		return ""
	}
	return address.String()
}

// TestMalformed: refused, and at once: nothing waits for more than it needs.
func TestMalformed(t *testing.T) {
	v4 := octets(t, "c6336401 0a000001 dea8 03e3")
	for name, header := range map[string]string{
		"TLS":                   "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
		"POP3":                  "USER alice\r\n\r\n",
		"HTTP":                  "GET / HTTP/1.1\r\n",
		"lower case":            "proxy TCP4 198.51.100.1 10.0.0.1 57000 995\r\n",
		"v1 UDP":                "PROXY UDP4 198.51.100.1 10.0.0.1 57000 995\r\n",
		"v1 name":               "PROXY TCP4 localhost 10.0.0.1 57000 995\r\n",
		"v1 families":           "PROXY TCP4 2001:db8::7 10.0.0.1 57000 995\r\n",
		"v1 zone":               "PROXY TCP6 fe80::1%eth0 2001:db8::1 57000 995\r\n",
		"v1 port":               "PROXY TCP4 198.51.100.1 10.0.0.1 65536 995\r\n",
		"v1 port with zeros":    "PROXY TCP4 198.51.100.1 10.0.0.1 057000 995\r\n",
		"v1 two spaces":         "PROXY  TCP4 198.51.100.1 10.0.0.1 57000 995\r\n",
		"v1 more":               "PROXY TCP4 198.51.100.1 10.0.0.1 57000 995 1\r\n",
		"v1 LF":                 "PROXY TCP4 198.51.100.1 10.0.0.1 57000 995\n",
		"v1 LF soon":            "PROXY\nUNKNOWN\r\n",
		"v1 glued":              "PROXYTCP4 198.51.100.1 10.0.0.1 57000 995\r\n",
		"v1 without end":        "PROXY UNKNOWN " + strings.Repeat("x", 200),
		"v2 version 1":          v2(0x11, 0x11, v4),
		"v2 command":            v2(0x22, 0x11, v4),
		"v2 family":             v2(0x21, 0x41, v4),
		"v2 transport":          v2(0x21, 0x13, v4),
		"v2 UNSPEC":             v2(0x21, 0x00, ""),
		"v2 UDP":                v2(0x21, 0x12, v4),
		"v2 Unix":               v2(0x21, 0x31, strings.Repeat("x", 216)),
		"v2 too short":          v2(0x21, 0x11, v4[:11]),
		"v2 IPv6 too short":     v2(0x21, 0x21, v4),
		"v2 too long":           signature + "\x21\x11\xff\xff" + v4,
		"v2 LOCAL too long":     signature + "\x20\x00\xff\xff",
		"v2 TLV without length": v2(0x21, 0x11, v4+"\x04\x00"),
		"v2 TLV cut":            v2(0x21, 0x11, v4+"\x04\x00\x09abc"),
		"v2 wrong signature":    strings.Replace(v2(0x21, 0x11, v4), "QUIT", "QUIX", 1),
	} {
		client, err := readHeader(strings.NewReader(header))
		if !errors.Is(err, errHeader) {
			t.Errorf("%s: client %v, %v", name, client, err)
		}
	}
	for _, cut := range []int{0, 1, 5, 11, 12, 15, 16, 20} {
		if _, err := readHeader(strings.NewReader(v2(0x21, 0x11, v4)[:cut])); err == nil || errors.Is(err, errHeader) {
			t.Errorf("%d octets and then the end: %v", cut, err)
		}
	}
}

// door is a Listener on connections in memory.
type door struct {
	*Listener
	t        *testing.T
	registry *prometheus.Registry
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.conns:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error { d.once.Do(func() { close(d.closed) }); return nil }

func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

type from struct {
	net.Conn
	address net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.address }

func openDoor(t *testing.T) *door {
	t.Helper()
	d := &door{t: t, registry: prometheus.NewPedanticRegistry(), conns: make(chan net.Conn), closed: make(chan struct{})}
	l, err := Listen(d, Config{
		Networks:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:1::/48")},
		Registerer: d.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Listener = l
	return d
}

// dial connects from an address.
func (d *door) dial(address string) net.Conn {
	near, far := net.Pipe()
	d.conns <- from{far, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))}
	return near
}

// expect is the next connection's client.
func (d *door) expect(client string) net.Conn {
	d.t.Helper()
	conn, err := d.Listener.Accept()
	if err != nil || conn.RemoteAddr().String() != client {
		d.t.Fatalf("%v, %v; want %s", conn, err, client)
	}
	return conn
}

func (d *door) counted(result string, want float64) {
	d.t.Helper()
	if got := testutil.ToFloat64(d.results.WithLabelValues(result)); got != want {
		d.t.Errorf("%s: %v, want %v", result, got, want)
	}
}

// TestDoor: who gets in, as whom, and how long others have to wait for it: never.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openDoor(t)
		began := time.Now()
		slow := d.dial("10.1.2.3:1000")
		io.WriteString(slow, "PROXY ")

		good := d.dial("10.1.2.3:1001")
		go io.WriteString(good, "PROXY TCP4 198.51.100.1 10.0.0.1 57000 995\r\nhello")
		conn := d.expect("198.51.100.1:57000")
		hello := make([]byte, 5)
		if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "hello" {
			t.Errorf("%q, %v", hello, err)
		}
		local := d.dial("[2001:db8:1::5]:1002")
		go io.WriteString(local, v2(0x20, 0, ""))
		d.expect("[2001:db8:1::5]:1002")
		mapped := d.dial("[::ffff:10.1.9.9]:1003")
		go io.WriteString(mapped, v2(0x21, 0x11, octets(t, "c6336402 0a000001 dea8 03e3")))
		d.expect("198.51.100.2:57000")

		for _, stranger := range []string{"10.2.0.1:1", "[2001:db8:2::1]:1", "127.0.0.1:1"} {
			if _, err := d.dial(stranger).Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: %v", stranger, err)
			}
		}
		wrong := d.dial("10.1.0.1:1")
		go io.WriteString(wrong, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00")
		if _, err := wrong.Read(make([]byte, 1)); err != io.EOF {
			t.Error("a wrong header:", err)
		}
		d.dial("10.1.0.1:2").Close()
		if time.Since(began) > 0 {
			t.Errorf("somebody waited %v", time.Since(began))
		}
		if _, err := slow.Read(make([]byte, 1)); err != io.EOF || time.Since(began) != headerTimeout {
			t.Errorf("half a header: %v after %v", err, time.Since(began))
		}
		synctest.Wait()
		for result, want := range map[string]float64{
			resultOK: 2, resultLocal: 1, resultNetwork: 3, resultMalformed: 1, resultTimeout: 1, resultGone: 1, resultBusy: 0,
		} {
			d.counted(result, want)
		}
		if err := d.Listener.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSplitHeader: one octet a time, also slowly, is a header as any.
func TestSplitHeader(t *testing.T) {
	for name, test := range headers(t) {
		if len(test.header) > 200 {
			continue // in four seconds
		}
		synctest.Test(t, func(t *testing.T) {
			d := openDoor(t)
			conn := d.dial("10.1.2.3:1000")
			go func() {
				for i := range len(test.header) {
					time.Sleep(4 * time.Second / time.Duration(len(test.header)))
					conn.Write([]byte{test.header[i]})
				}
			}()
			want := test.client
			if want == "" {
				want = "10.1.2.3:1000"
			}
			accepted := d.expect(want)
			go io.WriteString(conn, "CAPA\r\n")
			line := make([]byte, 6)
			time.Sleep(time.Hour) // the header's time isn't the connection's
			if _, err := io.ReadFull(accepted, line); err != nil || string(line) != "CAPA\r\n" {
				t.Errorf("%s: %q, %v", name, line, err)
			}
			if err := d.Listener.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFull: balancers that only connect are bounded in number, and Close ends all.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openDoor(t)
		waiting := make([]net.Conn, maxPending)
		for i := range waiting {
			waiting[i] = d.dial("10.1.0.1:1")
		}
		if _, err := d.dial("10.1.0.1:2").Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		d.counted(resultBusy, 1)
		ended := make(chan error)
		go func() { _, err := d.Listener.Accept(); ended <- err }()
		if err := d.Listener.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error("Accept:", err)
		}
		for _, conn := range waiting {
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
		}
	})
	if _, err := Listen(nil, Config{}); err == nil {
		t.Error("a door for everybody")
	}
}

// TestTCP: what the server needs of a TCP connection is there.
func TestTCP(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(inner, Config{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(20 * time.Second))
	header := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 7}, &net.TCPAddr{IP: net.ParseIP("192.0.2.2"), Port: 995})
	if _, err := header.WriteTo(client); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || conn.RemoteAddr().String() != "192.0.2.1:7" {
		t.Errorf("from %v", conn.RemoteAddr())
	}
	if err := conn.(interface{ SetLinger(int) error }).SetLinger(1); err != nil {
		t.Error(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(client); err != nil || len(rest) > 0 {
		t.Errorf("after CloseWrite: %q, %v", rest, err)
	}
	conn.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzHeader: nothing is taken for a header that the library doesn't, no more is read
// than the header has, and pieces make no difference.
func FuzzHeader(f *testing.F) {
	for _, test := range headers(f) {
		f.Add([]byte(test.header))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, pieces := bytes.NewReader(data), bytes.NewReader(data)
		client, err := readHeader(whole)
		again, err2 := readHeader(iotest.OneByteReader(pieces))
		if text(client) != text(again) || (err == nil) != (err2 == nil) || whole.Len() != pieces.Len() {
			t.Fatalf("%v, %v in one piece; %v, %v in many", client, err, again, err2)
		}
		if err != nil {
			return
		}
		if tcp, ok := client.(*net.TCPAddr); client != nil && (!ok || !tcp.AddrPort().IsValid()) {
			t.Fatalf("client %v", client)
		}
		if used := len(data) - whole.Len(); used > startV2+maxV2 {
			t.Fatalf("%d octets of header", used)
		}
	})
}
