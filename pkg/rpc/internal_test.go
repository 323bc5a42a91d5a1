package rpc

import (
	"bytes"
	"crypto/x509"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/pki"
)

// A keepalive that the server's enforcement doesn't allow ends healthy
// connections with "too many pings".
func TestServerAllowsTheClientsPings(t *testing.T) {
	if clientPing < serverPingMin || clientPing < 10*time.Second {
		t.Errorf("client pings every %v, server allows %v, gRPC raises it to 10 s", clientPing, serverPingMin)
	}
	if connectTimeout >= 5*time.Second || clientPingWait >= 5*time.Second {
		t.Error("an unreachable region must be known as such within 5 s")
	}
}

func TestParseIdentity(t *testing.T) {
	for uri, want := range map[string]Identity{
		"postern://eu/front/eu-front-1":      {"eu", RoleFront, "eu-front-1"},
		"postern://global/operator/a.b":      {"global", RoleOperator, "a.b"},
		"postern://eu/mailbox/":              {},
		"postern://eu/mailbox":               {},
		"postern:///mailbox/m1":              {},
		"postern://eu/root/m1":               {},
		"postern://eu/mailbox/m1/x":          {},
		"postern://EU/mailbox/m1":            {},
		"postern://eu:1/mailbox/m1":          {},
		"postern://u@eu/mailbox/m1":          {},
		"postern://eu/mailbox/m1?role=front": {},
		"postern://eu/mailbox/m1#x":          {},
		"https://eu/mailbox/m1":              {},
	} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseIdentity(&x509.Certificate{URIs: []*url.URL{u}})
		if got != want || (err == nil) != want.Valid() {
			t.Errorf("%s is %+v (%v), want %+v", uri, got, err, want)
		}
		if want.Valid() && got.String() != uri {
			t.Errorf("%s is written %s", uri, got)
		}
	}
	u := Identity{"eu", RoleFront, "f"}.URI()
	for _, cert := range []*x509.Certificate{nil, {}, {URIs: []*url.URL{u, u}}} {
		if id, err := ParseIdentity(cert); err == nil {
			t.Errorf("certificate without one identity is %s", id)
		}
	}
}

// Replaced files are used within a second, files that can't be used never.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	a, err := pki.Open(filepath.Join(dir, "ca"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pairs := map[string]pki.Pair{}
	for _, name := range []string{"one", "two"} {
		id := Identity{"eu", RoleFront, name}
		if pairs[name], err = a.Issue(pki.Subject{Name: name, URI: id.URI(), Server: true, Client: true}); err != nil {
			t.Fatal(err)
		}
	}
	files := TLSFiles{CA: a.CA(), Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "c.key")}
	stamp := time.Now().Add(-time.Hour)
	install := func(from, to string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		stamp = stamp.Add(time.Second)
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(to, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	install(pairs["one"].Cert, files.Cert)
	install(pairs["one"].Key, files.Key)
	k, err := newKeeper(files)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when, want string) {
		t.Helper()
		id, _ := ParseIdentity(k.current().cert.Leaf)
		if id.Name != want {
			t.Errorf("%s: %q is in use, want %q", when, id.Name, want)
		}
	}
	elapse := func() { k.looked = time.Time{} }

	install(pairs["two"].Cert, files.Cert)
	expect("within the second", "one")
	elapse()
	expect("certificate replaced, key not yet", "one")
	install(pairs["two"].Key, files.Key)
	elapse()
	expect("both replaced", "two")
	install(os.DevNull, files.Cert)
	elapse()
	expect("certificate empty", "two")
	if err := os.Remove(files.Key); err != nil {
		t.Fatal(err)
	}
	elapse()
	expect("key gone", "two")
}

// frames is a stream that yields the given octets, and then the error.
type frames struct {
	pieces [][]byte
	end    error
}

func (f *frames) RecvMsg(m any) error {
	if len(f.pieces) == 0 {
		return f.end
	}
	message := (&frame{field: fieldDeliverData, data: mem.SliceBuffer(f.pieces[0])}).encode()
	f.pieces = f.pieces[1:]
	return m.(*frame).decode(message)
}

func TestArrivalHoldsTheDeclaredLength(t *testing.T) {
	abc := func() [][]byte { return [][]byte{[]byte("ab"), {}, []byte("c")} }
	for _, c := range []struct {
		name string
		wire uint64
		end  error
		want maildrop.Kind
		ok   bool
	}{
		{"exact", 3, io.EOF, 0, true},
		{"short", 4, io.EOF, maildrop.Invalid, false},
		{"long", 2, io.EOF, maildrop.Invalid, false},
		{"empty, but not", 0, io.EOF, maildrop.Invalid, false},
		{"broken", 4, io.ErrUnexpectedEOF, maildrop.Internal, false},
		{"broken at the end", 3, io.ErrUnexpectedEOF, maildrop.Internal, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(how string, got []byte, err error) {
				t.Helper()
				if c.ok && (err != nil || string(got) != "abc") {
					t.Errorf("%s: %q, %v", how, got, err)
				}
				if !c.ok && (err == nil || maildrop.KindOf(err) != c.want) {
					t.Errorf("%s: %q, %v; want %v", how, got, err, c.want)
				}
			}
			streamed := &arrival{stream: &frames{abc(), c.end}, wire: c.wire}
			r := arrivalReader{streamed}
			got, err := io.ReadAll(struct{ io.Reader }{r})
			check("read", got, err)

			var b bytes.Buffer
			_, err = arrivalReader{&arrival{stream: &frames{abc(), c.end}, wire: c.wire}}.WriteTo(&b)
			check("written", b.Bytes(), err)

			whole := &arrival{stream: &frames{abc(), c.end}, wire: c.wire}
			err = whole.readAll()
			check("whole", whole.whole, err)
		})
	}
}

func TestRoom(t *testing.T) {
	r := room{limit: 10}
	if !r.take(6) || !r.take(4) || r.take(1) {
		t.Error("room of 10 isn't 10")
	}
	r.give(4)
	if !r.take(3) || r.take(2) {
		t.Error("room isn't given back as it was taken")
	}
}
