package rpc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a Service that does what a test says.
type script struct {
	maildrop.Service // nil: a call that the test didn't script is a bug of the test
	challenge        func(context.Context, maildrop.Login) (maildrop.Challenge, error)
	open             func(context.Context, maildrop.Login) (maildrop.Drop, error)
	drop             func(maildrop.Info, []byte) maildrop.Drop
	accept           func(context.Context, maildrop.Recipient) error
	deliver          func(context.Context, maildrop.Envelope, maildrop.Body) error
	put              func(context.Context, maildrop.AddressRecord) error
	address          func(context.Context, maildrop.Address) (maildrop.AddressRecord, error)
	remove           func(context.Context, maildrop.Address) error
	addresses        func(context.Context, string) ([]maildrop.AddressRecord, error)
}

func (s *script) Challenge(ctx context.Context, l maildrop.Login) (maildrop.Challenge, error) {
	return s.challenge(ctx, l)
}
func (s *script) Open(ctx context.Context, l maildrop.Login) (maildrop.Drop, error) {
	return s.open(ctx, l)
}
func (s *script) Resume(_ context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return s.drop(info, token), nil
}
func (s *script) Accept(ctx context.Context, to maildrop.Recipient) error { return s.accept(ctx, to) }
func (s *script) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	return s.deliver(ctx, e, b)
}
func (s *script) PutAddress(ctx context.Context, r maildrop.AddressRecord) error {
	return s.put(ctx, r)
}
func (s *script) Address(ctx context.Context, a maildrop.Address) (maildrop.AddressRecord, error) {
	return s.address(ctx, a)
}
func (s *script) RemoveAddress(ctx context.Context, a maildrop.Address) error {
	return s.remove(ctx, a)
}
func (s *script) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	return s.addresses(ctx, account)
}

// scriptDrop is a Drop that does what a test says.
type scriptDrop struct {
	info   maildrop.Info
	token  []byte
	list   func(context.Context) (*maildrop.Listing, error)
	read   func(context.Context, maildrop.UID, uint64, io.Writer) (uint64, error)
	remove func(context.Context, []maildrop.UID) error
	check  func(context.Context) error
}

func (d *scriptDrop) Info() maildrop.Info                                 { return d.info }
func (d *scriptDrop) Token() []byte                                       { return d.token }
func (d *scriptDrop) Close() error                                        { return nil }
func (d *scriptDrop) List(ctx context.Context) (*maildrop.Listing, error) { return d.list(ctx) }
func (d *scriptDrop) Remove(ctx context.Context, uids []maildrop.UID) error {
	return d.remove(ctx, uids)
}
func (d *scriptDrop) Check(ctx context.Context) error { return d.check(ctx) }
func (d *scriptDrop) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	return d.read(ctx, uid, offset, w)
}

// authority issues certificates of the test's own CA.
type authority struct {
	t  testing.TB
	ca *pki.Authority
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca, err := pki.Open(filepath.Join(t.TempDir(), "ca"), "rpc test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, ca}
}

// files are those of an identity "region/role/name", or of none for "".
func (a *authority) files(id rpc.Identity) rpc.TLSFiles {
	a.t.Helper()
	subject := pki.Subject{Name: id.Region + "-" + id.Role + "-" + id.Name, Server: true, Client: true}
	if id != (rpc.Identity{}) {
		subject.URI = id.URI()
	}
	pair, err := a.ca.Issue(subject)
	if err != nil {
		a.t.Fatal(err)
	}
	return rpc.TLSFiles{CA: a.ca.CA(), Cert: pair.Cert, Key: pair.Key}
}

func (a *authority) server(id rpc.Identity) *tls.Config {
	a.t.Helper()
	config, err := rpc.ServerTLS(a.files(id))
	if err != nil {
		a.t.Fatal(err)
	}
	return config
}

func (a *authority) client(id rpc.Identity) *tls.Config {
	a.t.Helper()
	config, err := rpc.ClientTLS(a.files(id))
	if err != nil {
		a.t.Fatal(err)
	}
	return config
}

var (
	node   = rpc.Identity{Region: "eu", Role: rpc.RoleMailbox, Name: "m1"}
	front  = rpc.Identity{Region: "eu", Role: rpc.RoleFront, Name: "f1"}
	intake = rpc.Identity{Region: "eu", Role: rpc.RoleIntake, Name: "i1"}
)

// serve serves a service on loopback until the test ends.
func serve(t testing.TB, config rpc.ServerConfig) (server *rpc.Server, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = rpc.NewServer(config)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // cut at once
		server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error("serve:", err)
		}
	})
	return server, l.Addr().String()
}

// connect is a client of a server with the service, both of them real.
func connect(t testing.TB, service maildrop.Service) *rpc.Client {
	t.Helper()
	return connector(false)(t, service)
}

// connector is connect for a client whose deliveries go by a feed, or by a stream each.
func connector(feeds bool) func(t testing.TB, service maildrop.Service) *rpc.Client {
	return func(t testing.TB, service maildrop.Service) *rpc.Client {
		t.Helper()
		a := newAuthority(t)
		everything := func(rpc.Identity, string) error { return nil }
		_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: everything})
		pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front), Feeds: feeds})
		t.Cleanup(pool.Close)
		return pool.Client(address)
	}
}

// bothWays runs a test for deliveries by a stream each, and by a feed.
func bothWays(t *testing.T, test func(t *testing.T, feeds bool)) {
	t.Helper()
	t.Run("a stream each", func(t *testing.T) { test(t, false) })
	t.Run("by feed", func(t *testing.T) { test(t, true) })
}

const anna = maildrop.Address("anna@example.com")

// body is a maildrop.Body in memory.
type body []byte

func (b body) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
func (b body) Wire() uint64                 { return uint64(len(b)) }
func (b body) Size() uint64                 { return uint64(len(b)) / 2 }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// calls are all calls of a Service and its Drop, by name.
func calls(ctx context.Context, c maildrop.Service) map[string]func() error {
	drop, _ := c.Resume(ctx, maildrop.Info{Address: anna}, []byte("token"))
	return map[string]func() error{
		"Open":      func() error { _, err := c.Open(ctx, maildrop.Login{Address: anna}); return err },
		"List":      func() error { _, err := drop.List(ctx); return err },
		"Read":      func() error { _, err := drop.Read(ctx, "u", 0, io.Discard); return err },
		"Remove":    func() error { return drop.Remove(ctx, []maildrop.UID{"u"}) },
		"Check":     func() error { return drop.Check(ctx) },
		"Accept":    func() error { return c.Accept(ctx, maildrop.Recipient{Address: anna}) },
		"Deliver":   func() error { return c.Deliver(ctx, maildrop.Envelope{To: anna}, body("x\r\n")) },
		"Import":    func() error { return c.Deliver(ctx, maildrop.Envelope{To: anna, UID: "u"}, body("x\r\n")) },
		"Put":       func() error { return c.PutAddress(ctx, maildrop.AddressRecord{Address: anna}) },
		"Address":   func() error { _, err := c.Address(ctx, anna); return err },
		"RemoveAdr": func() error { return c.RemoveAddress(ctx, anna) },
		"Addresses": func() error { _, err := c.Addresses(ctx, "acme"); return err },
	}
}

// changing are the calls whose outcome is Maybe when it isn't known.
var changing = map[string]bool{"Remove": true, "Deliver": true, "Import": true, "Put": true, "RemoveAdr": true}

// always is a Service that ends each call the same way.
func always(end func(context.Context) error) *script {
	return &script{
		open: func(ctx context.Context, _ maildrop.Login) (maildrop.Drop, error) { return nil, end(ctx) },
		drop: func(info maildrop.Info, token []byte) maildrop.Drop {
			return &scriptDrop{
				info: info, token: token,
				list:   func(ctx context.Context) (*maildrop.Listing, error) { return nil, end(ctx) },
				read:   func(ctx context.Context, _ maildrop.UID, _ uint64, _ io.Writer) (uint64, error) { return 0, end(ctx) },
				remove: func(ctx context.Context, _ []maildrop.UID) error { return end(ctx) },
				check:  end,
			}
		},
		accept:    func(ctx context.Context, _ maildrop.Recipient) error { return end(ctx) },
		deliver:   func(ctx context.Context, _ maildrop.Envelope, _ maildrop.Body) error { return end(ctx) },
		put:       func(ctx context.Context, _ maildrop.AddressRecord) error { return end(ctx) },
		address:   func(ctx context.Context, _ maildrop.Address) (r maildrop.AddressRecord, _ error) { return r, end(ctx) },
		remove:    func(ctx context.Context, _ maildrop.Address) error { return end(ctx) },
		addresses: func(ctx context.Context, _ string) ([]maildrop.AddressRecord, error) { return nil, end(ctx) },
	}
}

// A Kind that goes in comes out, with all that belongs to it, of every call.
func TestEveryKindComesOut(t *testing.T) { bothWays(t, testEveryKindComesOut) }

func testEveryKindComesOut(t *testing.T, feeds bool) {
	connect := connector(feeds)
	var sent *maildrop.Error
	c := connect(t, always(func(context.Context) error { return fmt.Errorf("around: %w", sent) }))
	for kind := maildrop.Internal; int(kind) < maildrop.Kinds; kind++ {
		sent = &maildrop.Error{
			Op: "test.op", Kind: kind, Reason: maildrop.ReasonBlocked, Text: "words for " + kind.String(),
			Primary: "primary@example.com", Err: errors.New("the cause \xff"),
		}
		for name, call := range calls(t.Context(), c) {
			var got *maildrop.Error
			if !errors.As(call(), &got) {
				t.Fatalf("%s: no error of ours for %v", name, kind)
			}
			if got.Kind != kind || got.Reason != sent.Reason || got.Text != sent.Text || got.Primary != sent.Primary {
				t.Errorf("%s: sent %+v, got %+v", name, sent, got)
			}
			if !bytes.Contains([]byte(got.Error()), []byte("the cause ?")) {
				t.Errorf("%s: the log would say %q", name, got)
			}
		}
	}
}

func TestBareErrors(t *testing.T) { bothWays(t, testBareErrors) }

func testBareErrors(t *testing.T, feeds bool) {
	connect := connector(feeds)
	var sent error
	c := connect(t, always(func(context.Context) error { return sent }))
	for _, c2 := range []struct {
		err  error
		want maildrop.Kind
	}{
		{errors.New("anything"), maildrop.Internal},
		{context.DeadlineExceeded, maildrop.Canceled},
	} {
		sent = c2.err
		for name, call := range calls(t.Context(), c) {
			if err := call(); err == nil || maildrop.KindOf(err) != c2.want {
				t.Errorf("%s: %v gave %v", name, c2.err, err)
			}
		}
	}
}

// The kind of a call whose server never was, went away, or takes too long.
func TestBrokenCalls(t *testing.T) { bothWays(t, testBrokenCalls) }

func testBrokenCalls(t *testing.T, feeds bool) {
	expect := func(t *testing.T, name string, err error, otherwise, change maildrop.Kind) {
		t.Helper()
		want := otherwise
		if changing[name] {
			want = change
		}
		if err == nil || maildrop.KindOf(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	a := newAuthority(t)
	newPool := func(t *testing.T) *rpc.Pool {
		pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front), Feeds: feeds})
		t.Cleanup(pool.Close)
		return pool
	}
	pool := newPool(t)
	t.Run("nobody there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		for name, call := range calls(t.Context(), pool.Client(l.Addr().String())) {
			expect(t, name, call(), maildrop.Transient, maildrop.Transient)
		}
	})
	entered := make(chan struct{})
	stuck := always(func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	everything := func(rpc.Identity, string) error { return nil }
	for name := range calls(t.Context(), pool.Client("unused")) {
		t.Run("cut in "+name, func(t *testing.T) {
			pool := newPool(t) // its own: a port may be given out again
			server, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: stuck, Allow: everything})
			go func() {
				<-entered
				now, cancel := context.WithCancel(context.Background())
				cancel()
				server.Stop(now)
			}()
			expect(t, name, calls(t.Context(), pool.Client(address))[name](), maildrop.Transient, maildrop.Maybe)
		})
		t.Run("hung up in "+name, func(t *testing.T) {
			pool := newPool(t)
			_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: stuck, Allow: everything})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-entered; cancel() }()
			expect(t, name, calls(ctx, pool.Client(address))[name](), maildrop.Canceled, maildrop.Maybe)
		})
	}
	t.Run("over before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range calls(ctx, pool.Client("127.0.0.1:1")) {
			expect(t, name, call(), maildrop.Canceled, maildrop.Canceled)
		}
	})
	t.Run("pool closed", func(t *testing.T) {
		pool.Close()
		for name, call := range calls(t.Context(), pool.Client("127.0.0.1:1")) {
			expect(t, name, call(), maildrop.Transient, maildrop.Transient)
		}
	})
}

// All that a call says arrives, odd passwords and senders included.
func TestRoundTrip(t *testing.T) {
	info := maildrop.Info{Address: anna, Class: maildrop.ClassContinuity, Count: 2, Octets: 1 << 40, Region: "eu", Node: "m1"}
	login := maildrop.Login{Address: anna, Password: "p\xe4 \x00ss", Remote: netip.MustParseAddr("2001:db8::7"), Session: "s1"}
	record := maildrop.AddressRecord{
		Address: anna, Account: "acme", Primary: "ben@example.com", Hash: "$argon2id$", Access: maildrop.AccessDeny,
		Groups: []string{"a", "b"}, Changed: time.Unix(12, 34).UTC(), Revision: 9,
	}
	entries := []maildrop.Entry{{UID: "a", Size: 1}, {UID: "b", Size: 1 << 40}}
	s := always(func(context.Context) error { return nil })
	s.open = func(_ context.Context, got maildrop.Login) (maildrop.Drop, error) {
		if got != login {
			t.Errorf("login %+v, sent %+v", got, login)
		}
		return &scriptDrop{info: info, token: []byte("one"), list: func(context.Context) (*maildrop.Listing, error) { return maildrop.ListingOf(entries...), nil }}, nil
	}
	s.drop = func(got maildrop.Info, token []byte) maildrop.Drop {
		if got.Address != anna || string(token) != "one" {
			t.Errorf("resumed %+v with %q", got, token)
		}
		d := &scriptDrop{info: got, token: token}
		d.check = func(context.Context) error { d.token = []byte("two"); return nil }
		d.remove = func(_ context.Context, uids []maildrop.UID) error {
			if !reflect.DeepEqual(uids, []maildrop.UID{"b", "a"}) {
				t.Errorf("removes %v", uids)
			}
			return nil
		}
		return d
	}
	s.put = func(_ context.Context, got maildrop.AddressRecord) error {
		if !reflect.DeepEqual(got, record) {
			t.Errorf("put %+v, sent %+v", got, record)
		}
		return nil
	}
	s.address = func(context.Context, maildrop.Address) (maildrop.AddressRecord, error) { return record, nil }
	s.addresses = func(_ context.Context, account string) ([]maildrop.AddressRecord, error) {
		return []maildrop.AddressRecord{record, {Address: "x@example.com", Account: account}}, nil
	}
	c := connect(t, s)
	drop, err := c.Open(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	if drop.Info() != info || string(drop.Token()) != "one" {
		t.Errorf("opened %+v, token %q", drop.Info(), drop.Token())
	}
	// The listing came with Open: the resumed Drop has no list to call.
	if got, err := maildrop.Entries(t.Context(), drop); err != nil || !reflect.DeepEqual(got, entries) {
		t.Errorf("listed %v, %v", got, err)
	}
	if err := drop.Remove(t.Context(), []maildrop.UID{"b", "a"}); err != nil {
		t.Error(err)
	}
	if err := drop.Check(t.Context()); err != nil || string(drop.Token()) != "two" {
		t.Errorf("checked: %v, token %q", err, drop.Token())
	}
	if err := c.PutAddress(t.Context(), record); err != nil {
		t.Error(err)
	}
	if got, err := c.Address(t.Context(), anna); err != nil || !reflect.DeepEqual(got, record) {
		t.Errorf("address %+v, %v", got, err)
	}
	if got, err := c.Addresses(t.Context(), "acme"); err != nil || len(got) != 2 || !reflect.DeepEqual(got[0], record) || got[1].Account != "acme" {
		t.Errorf("addresses %+v, %v", got, err)
	}
}

// A listing arrives whole, whether with Open, in one message or in many.
func TestListings(t *testing.T) {
	for _, n := range []int{0, 1, 256, 257, 4096, 4097, 20_000} {
		entries := make([]maildrop.Entry, n)
		for i := range entries {
			entries[i] = maildrop.Entry{UID: maildrop.UID(fmt.Sprintf("uid%015d", i)), Size: uint64(i) << 20}
		}
		d := &scriptDrop{info: maildrop.Info{Address: anna, Count: n}, list: func(context.Context) (*maildrop.Listing, error) { return maildrop.ListingOf(entries...), nil }}
		c := connect(t, &script{
			open: func(context.Context, maildrop.Login) (maildrop.Drop, error) { return d, nil },
			drop: func(maildrop.Info, []byte) maildrop.Drop { return d },
		})
		opened, err := c.Open(t.Context(), maildrop.Login{Address: anna})
		if err != nil {
			t.Fatal(err)
		}
		resumed, _ := c.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
		for _, drop := range []maildrop.Drop{opened, resumed} {
			if got, err := maildrop.Entries(t.Context(), drop); err != nil || len(got) != n || n > 0 && !reflect.DeepEqual(got, entries) {
				t.Errorf("listing of %d: got %d entries, %v", n, len(got), err)
			}
		}
	}
}

func TestMetrics(t *testing.T) { bothWays(t, testMetrics) }

func testMetrics(t *testing.T, feeds bool) {
	a := newAuthority(t)
	registry := prometheus.NewRegistry()
	service := always(func(context.Context) error { return &maildrop.Error{Kind: maildrop.Busy} })
	_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: rpc.NodeAllow("eu"), Registerer: registry})
	for range 2 { // two pools of one process share their series
		pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(intake), Registerer: registry, Feeds: feeds})
		defer pool.Close()
		pool.Client(address).Accept(t.Context(), maildrop.Recipient{Address: anna})
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() > 0 {
				counts[fmt.Sprint(f.GetName(), m.GetLabel())] = m.GetCounter().GetValue()
			}
		}
	}
	for _, side := range []string{"server", "client"} {
		key := fmt.Sprintf(`postern_rpc_%s_calls_total[name:"kind" value:"busy" name:"method" value:"Accept"]`, side)
		found := false
		for k, v := range counts {
			found = found || normal(k) == normal(key) && v == 2
		}
		if !found {
			t.Errorf("no %s = 2 in %v", key, counts)
		}
	}
}

// normal takes out the spaces, which protobuf's text form varies on purpose.
func normal(s string) string { return string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)) }
