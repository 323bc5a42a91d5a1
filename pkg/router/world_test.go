package router_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owners are router.Owners that a test writes.
type owners struct {
	mu      sync.Mutex
	shards  []string // "": none
	changed chan struct{}
}

func newOwners(shards int, address string) *owners {
	o := &owners{shards: make([]string, shards), changed: make(chan struct{})}
	for i := range o.shards {
		o.shards[i] = address
	}
	return o
}

func (o *owners) Owner(shard int) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.shards[shard], o.shards[shard] != ""
}

func (o *owners) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// give gives a shard, or all for -1, to an owner.
func (o *owners) give(shard int, address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.shards {
		if shard < 0 || shard == i {
			o.shards[i] = address
		}
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// atlas is a router.Directory: domains are named after their home region.
type atlas map[string]directory.Region

func newAtlas() atlas {
	a := atlas{}
	for _, name := range []string{"eu", "us", "je"} {
		a[name] = directory.Region{
			Name: name, Hostname: name + "-pop.example.net", Shards: 4, Gateway: "gateway." + name, CrossRegion: directory.CrossRegionRelay,
		}
	}
	je := a["je"]
	je.CrossRegion = directory.CrossRegionRefuse
	a["je"] = je
	return a
}

func (a atlas) Region(name string) (directory.Region, bool) {
	r, ok := a[name]
	return r, ok
}

func (a atlas) Account(name string) (policy.Account, bool) {
	if len(name) < 2 {
		return policy.Account{}, false
	}
	return policy.Account{Name: name, Region: name[:2]}, name[2:] == "-customer"
}

func (a atlas) Domain(name string) (policy.Domain, policy.Account, bool) {
	account, ok := a.Account(name[:2] + "-customer")
	return policy.Domain{Name: name, Account: account.Name, Kind: policy.DomainLocal}, account, ok && name[2:] == ".example"
}

// service is a maildrop.Service, and its own Drop, that ends every call as the
// test says. Its calls are counted.
type service struct {
	name  string
	end   func(ctx context.Context, call int) error // nil: no error
	read  func(ctx context.Context, offset uint64, w io.Writer) (uint64, error)
	token func() []byte
	list  []maildrop.AddressRecord

	mu    sync.Mutex
	calls []string
}

func (s *service) call(ctx context.Context, what string) error {
	s.mu.Lock()
	s.calls = append(s.calls, what)
	n := len(s.calls)
	s.mu.Unlock()
	if s.end == nil {
		return nil
	}
	return s.end(ctx, n)
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *service) Challenge(ctx context.Context, l maildrop.Login) (maildrop.Challenge, error) {
	return maildrop.Challenge{Nonce: "xyz"}, s.call(ctx, "challenge "+string(l.Address))
}

func (s *service) Open(ctx context.Context, l maildrop.Login) (maildrop.Drop, error) {
	if err := s.call(ctx, "open "+string(l.Address)); err != nil {
		return nil, err
	}
	return &opened{s, l.Address, []byte("opened")}, nil
}

func (s *service) Resume(_ context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return &opened{s, info.Address, token}, nil
}

func (s *service) Accept(ctx context.Context, to maildrop.Recipient) error {
	return s.call(ctx, "accept "+string(to.Address))
}

func (s *service) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	r, err := b.Open()
	if err != nil {
		return &maildrop.Error{Op: "test.deliver", Kind: maildrop.Internal, Err: err}
	}
	defer r.Close()
	octets, _ := io.ReadAll(r)
	return s.call(ctx, fmt.Sprintf("deliver %s %d", e.To, len(octets)))
}

func (s *service) PutAddress(ctx context.Context, r maildrop.AddressRecord) error {
	return s.call(ctx, "put "+string(r.Address))
}

func (s *service) Address(ctx context.Context, a maildrop.Address) (maildrop.AddressRecord, error) {
	return maildrop.AddressRecord{Address: a}, s.call(ctx, "address "+string(a))
}

func (s *service) RemoveAddress(ctx context.Context, a maildrop.Address) error {
	return s.call(ctx, "remove-address "+string(a))
}

func (s *service) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	return s.list, s.call(ctx, "addresses "+account)
}

func (s *service) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	return maildrop.Explanation{Address: q.Address}, s.call(ctx, "explain "+string(q.Address))
}

func (s *service) Tell(ctx context.Context, a maildrop.Address, _ []maildrop.Attempt) error {
	return s.call(ctx, "tell "+string(a))
}

func (s *service) Unlock(ctx context.Context, a maildrop.Address) (bool, error) {
	return true, s.call(ctx, "unlock "+string(a))
}

// opened is a Drop of a service.
type opened struct {
	*service
	address maildrop.Address
	shown   []byte
}

func (d *opened) Info() maildrop.Info { return maildrop.Info{Address: d.address, Node: d.name} }
func (d *opened) Token() []byte       { return d.shown }
func (d *opened) Close() error        { return nil }
func (d *opened) List(ctx context.Context) (*maildrop.Listing, error) {
	return maildrop.ListingOf(maildrop.Entry{UID: "u", Size: 1}), d.call(ctx, "list "+string(d.shown))
}
func (d *opened) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	if d.read != nil {
		return d.read(ctx, offset, w)
	}
	return 0, d.call(ctx, "read "+string(d.shown))
}
func (d *opened) Remove(ctx context.Context, uids []maildrop.UID) error {
	return d.call(ctx, "remove "+string(d.shown))
}
func (d *opened) Check(ctx context.Context) error {
	if err := d.call(ctx, "check "+string(d.shown)); err != nil {
		return err
	}
	if d.token != nil {
		d.shown = d.token()
	}
	return nil
}

// world is a router in eu between services.
type world struct {
	*router.Router
	owners   *owners
	services map[string]*service
}

const shards = 4

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	w := &world{owners: newOwners(shards, names[0]), services: map[string]*service{}}
	for _, name := range names {
		w.services[name] = &service{name: name}
	}
	w.Router = router.New(router.Config{
		Region: "eu", Shards: shards, Directory: newAtlas(), Owners: w.owners,
		Dial: func(address string) maildrop.Service {
			s, ok := w.services[address]
			if !ok {
				t.Errorf("calls %q", address)
			}
			return s
		},
	})
	return w
}

const (
	anna = maildrop.Address("anna@eu.example")
	bill = maildrop.Address("bill@us.example")
	jane = maildrop.Address("jane@je.example")
)

func fault(kind maildrop.Kind) error { return &maildrop.Error{Op: "test", Kind: kind} }

// after is an end that fails with each of the errors in turn, and then succeeds.
func after(errs ...error) func(context.Context, int) error {
	return func(_ context.Context, call int) error {
		if call <= len(errs) {
			return errs[call-1]
		}
		return nil
	}
}

// body is a maildrop.Body.
type body string

func (b body) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(b))), nil }
func (b body) Wire() uint64                 { return uint64(len(b)) }
func (b body) Size() uint64                 { return uint64(len(b)) }

// each are all the calls that are repeated, by name, for an address.
func each(ctx context.Context, s maildrop.Service, address maildrop.Address) map[string]func() error {
	drop, _ := s.Resume(ctx, maildrop.Info{Address: address}, []byte("resumed"))
	return map[string]func() error{
		"open":           func() error { _, err := s.Open(ctx, maildrop.Login{Address: address}); return err },
		"list":           func() error { _, err := drop.List(ctx); return err },
		"read":           func() error { _, err := drop.Read(ctx, "u", 0, io.Discard); return err },
		"remove":         func() error { return drop.Remove(ctx, []maildrop.UID{"u"}) },
		"accept":         func() error { return s.Accept(ctx, maildrop.Recipient{Address: address}) },
		"deliver":        func() error { return s.Deliver(ctx, maildrop.Envelope{To: address}, body("x\r\n")) },
		"put":            func() error { return s.PutAddress(ctx, maildrop.AddressRecord{Address: address}) },
		"address":        func() error { _, err := s.Address(ctx, address); return err },
		"remove-address": func() error { return s.RemoveAddress(ctx, address) },
		"explain":        func() error { _, err := s.Explain(ctx, maildrop.Question{Address: address}); return err },
		"unlock":         func() error { _, err := s.Unlock(ctx, address); return err },
	}
}

var changing = map[string]bool{"remove": true, "deliver": true, "put": true, "remove-address": true, "unlock": true}

// administration are the calls of each that no region refuses.
var administration = []string{"put", "address", "remove-address", "explain", "unlock"}

func kindIs(t testing.TB, what string, err error, want maildrop.Kind) {
	t.Helper()
	if err == nil || maildrop.KindOf(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// took holds that something began at start and took about so long.
func took(t testing.TB, what string, start time.Time, want, slack time.Duration) {
	t.Helper()
	if got := time.Since(start); got < want || got > want+slack {
		t.Errorf("%s took %v, want %v to %v", what, got, want, want+slack)
	}
}
