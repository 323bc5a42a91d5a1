package router_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/router"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/shard"
)

// cluster is a region with real nodes, shards, connections and certificates; who
// owns what is the test's decision.
type cluster struct {
	t        testing.TB
	ca       *pki.Authority
	store    blob.Store
	rules    policy.Rules
	verifier *auth.Verifier
	owners   map[string]*owners // by region
	nodes    map[string]*cell   // by address
	regions  atlas
	hold     time.Duration // of its routers; 0: as usual
}

func newCluster(t testing.TB, rules policy.Rules) *cluster {
	t.Helper()
	ca, err := pki.Open(filepath.Join(t.TempDir(), "ca"), "router test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, ca: ca, store: blobtest.NewMemory(), rules: rules, verifier: auth.New(auth.Config{}),
		owners: map[string]*owners{"eu": newOwners(shards, ""), "us": newOwners(shards, "")}, nodes: map[string]*cell{}, regions: newAtlas(),
	}
	t.Cleanup(c.verifier.Close)
	return c
}

// Domain, Account and Region make the cluster a router.Directory. Every account
// is at home in eu.
func (c *cluster) Domain(name string) (policy.Domain, policy.Account, bool) {
	return c.rules.Domain(name)
}
func (c *cluster) Account(name string) (policy.Account, bool) {
	return policy.Account{Name: name, Region: "eu"}, true
}
func (c *cluster) Region(name string) (directory.Region, bool) { return c.regions.Region(name) }

func (c *cluster) files(region, role, name string) rpc.TLSFiles {
	c.t.Helper()
	id := rpc.Identity{Region: region, Role: role, Name: name}
	pair, err := c.ca.Issue(pki.Subject{Name: region + "-" + role + "-" + name, URI: id.URI(), Server: true, Client: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return rpc.TLSFiles{CA: c.ca.CA(), Cert: pair.Cert, Key: pair.Key}
}

// serve serves a service as the given process.
func (c *cluster) serve(files rpc.TLSFiles, service maildrop.Service, allow func(rpc.Identity, string) error) (*rpc.Server, string) {
	c.t.Helper()
	config, err := rpc.ServerTLS(files)
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerConfig{TLS: config, Service: service, Allow: allow})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c.t.Cleanup(func() {
		kill(s)
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// kill cuts all connections of a server.
func kill(s *rpc.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
}

// process is the router of a front or an intake.
func (c *cluster) process(region, role string) *router.Router {
	c.t.Helper()
	config, err := rpc.ClientTLS(c.files(region, role, "1"))
	if err != nil {
		c.t.Fatal(err)
	}
	pool := rpc.NewPool(rpc.PoolConfig{TLS: config})
	c.t.Cleanup(pool.Close)
	return router.New(router.Config{
		Region: region, Shards: shards, Directory: c, Owners: c.owners[region], Hold: c.hold,
		Dial: func(address string) maildrop.Service { return pool.Client(address) },
	})
}

// region is a whole region's doors: sessions and administration by its front,
// deliveries by its intake.
func (c *cluster) region(name string) maildrop.Service {
	return region{c.process(name, rpc.RoleFront), c.process(name, rpc.RoleIntake)}
}

type region struct {
	maildrop.Service
	intake maildrop.Deliverer
}

func (r region) Accept(ctx context.Context, to maildrop.Recipient) error {
	return r.intake.Accept(ctx, to)
}
func (r region) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	return r.intake.Deliver(ctx, e, b)
}

// gateway opens eu's gateway.
func (c *cluster) gateway() {
	c.t.Helper()
	local := c.process("eu", rpc.RoleFront).Local()
	_, address := c.serve(c.files("eu", rpc.RoleFront, "gateway"), local, rpc.GatewayAllow("eu"))
	eu := c.regions["eu"]
	eu.Gateway = address
	c.regions["eu"] = eu
}

// node starts a mailbox node that owns nothing yet.
func (c *cluster) node(region, name string) (*rpc.Server, string) {
	n := &cell{cluster: c, region: region, name: name, owned: map[int]*shard.Shard{}}
	server, address := c.serve(c.files(region, rpc.RoleMailbox, name), n, rpc.NodeAllow(region))
	c.nodes[address] = n
	c.t.Cleanup(n.close)
	return server, address
}

// give lets a node take a shard over from whoever has it, and says so.
func (c *cluster) give(number int, address string) {
	n := c.nodes[address]
	n.take(number)
	c.owners[n.region].give(number, address)
}

// cell is a mailbox node as far as a router sees one.
type cell struct {
	cluster *cluster
	region  string
	name    string

	mu    sync.Mutex
	owned map[int]*shard.Shard
}

func (n *cell) take(number int) {
	s, err := shard.Open(context.Background(), shard.Config{
		Region: n.region, Number: number, Node: n.name, Store: n.cluster.store, Rules: n.cluster.rules, Verify: n.cluster.verifier.Verify,
	}, 0)
	if err != nil {
		n.cluster.t.Error(err)
		return
	}
	n.mu.Lock()
	former := n.owned[number]
	n.owned[number] = s
	n.mu.Unlock()
	if former != nil {
		former.Close(context.Background())
	}
}

func (n *cell) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.owned {
		s.Close(context.Background())
	}
}

func (n *cell) at(a maildrop.Address) (*shard.Shard, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.owned[a.Shard(shards)]; s != nil {
		return s, nil
	}
	return nil, &maildrop.Error{Op: "cell", Kind: maildrop.NotOwner}
}

func (n *cell) Challenge(ctx context.Context, l maildrop.Login) (maildrop.Challenge, error) {
	s, err := n.at(l.Address)
	if err != nil {
		return maildrop.Challenge{}, err
	}
	return s.Challenge(ctx, l)
}

func (n *cell) Open(ctx context.Context, l maildrop.Login) (maildrop.Drop, error) {
	s, err := n.at(l.Address)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, l)
}

func (n *cell) Resume(ctx context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	s, err := n.at(info.Address)
	if err != nil {
		return nil, err
	}
	return s.Resume(ctx, info, token)
}

func (n *cell) Accept(ctx context.Context, to maildrop.Recipient) error {
	s, err := n.at(to.Address)
	if err != nil {
		return err
	}
	return s.Accept(ctx, to)
}

func (n *cell) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	s, err := n.at(e.To)
	if err != nil {
		return err
	}
	return s.Deliver(ctx, e, b)
}

func (n *cell) PutAddress(ctx context.Context, r maildrop.AddressRecord) error {
	s, err := n.at(r.Address)
	if err != nil {
		return err
	}
	return s.PutAddress(ctx, r)
}

func (n *cell) Address(ctx context.Context, a maildrop.Address) (maildrop.AddressRecord, error) {
	s, err := n.at(a)
	if err != nil {
		return maildrop.AddressRecord{}, err
	}
	return s.Address(ctx, a)
}

func (n *cell) RemoveAddress(ctx context.Context, a maildrop.Address) error {
	s, err := n.at(a)
	if err != nil {
		return err
	}
	return s.RemoveAddress(ctx, a)
}

func (n *cell) Addresses(ctx context.Context, account string) (all []maildrop.AddressRecord, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.owned {
		some, err := s.Addresses(ctx, account)
		if err != nil && maildrop.KindOf(err) != maildrop.NotOwner {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (n *cell) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	s, err := n.at(q.Address)
	if err != nil {
		return maildrop.Explanation{}, err
	}
	return s.Explain(ctx, q)
}

func (n *cell) Tell(ctx context.Context, a maildrop.Address, refused []maildrop.Attempt) error {
	s, err := n.at(a)
	if err != nil {
		return err
	}
	return s.Tell(ctx, a, refused)
}

func (n *cell) Unlock(ctx context.Context, a maildrop.Address) (bool, error) {
	s, err := n.at(a)
	if err != nil {
		return false, err
	}
	return s.Unlock(ctx, a)
}

// A router keeps every promise, in the region where mailboxes are at home and
// through its gateway from another one.
func TestConformance(t *testing.T) {
	for _, name := range []string{"eu", "us"} {
		t.Run("from "+name, func(t *testing.T) {
			maildroptest.Run(t, func(outer testing.TB, rules policy.Rules) maildroptest.Harness {
				c := newCluster(outer, rules)
				c.hold = time.Hour // a password on a busy machine takes what it takes
				_, one := c.node("eu", "m1")
				_, two := c.node("eu", "m2")
				_, abroad := c.node("us", "m3") // for domains that nobody knows
				for number := range shards {
					c.give(number, []string{one, two}[number%2])
					c.give(number, abroad)
				}
				c.gateway()
				turn := 0
				return maildroptest.Harness{
					Service: c.region(name), ResolvesAliases: true,
					TakeOver: func(testing.TB) {
						turn++
						for number := range shards {
							c.give(number, []string{one, two}[(number+turn)%2])
						}
					},
				}
			})
		})
	}
}

// slowWriter takes octets, and calls stop when it has so many.
type slowWriter struct {
	bytes.Buffer
	at   int
	stop func()
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.stop != nil && w.Len()+len(p) > w.at {
		w.stop()
		w.stop = nil
	}
	return w.Buffer.Write(p)
}

// A node that dies in mid-message costs its reader a pause: the message goes on
// at the next owner, at the octet where it broke. So does the session.
func TestNodeDiesWhileReading(t *testing.T) {
	const size = 24 << 20 // more than connections and buffers hold
	for _, from := range []string{"eu", "us"} {
		t.Run("from "+from, func(t *testing.T) {
			rules := maildroptest.NewRules()
			rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
			rules.PutDomain(policy.Domain{Name: "eu.example", Account: "customer", Kind: policy.DomainLocal})
			c := newCluster(t, rules)
			first, one := c.node("eu", "m1")
			_, two := c.node("eu", "m2")
			for number := range shards {
				c.give(number, one)
			}
			c.gateway()
			s := c.region(from)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(s.PutAddress(t.Context(), maildrop.AddressRecord{Address: anna, Account: "customer", Hash: maildroptest.Hash}))
			message := maildroptest.Filled(size, 7)
			must(s.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, message))
			drop, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: maildroptest.Password})
			must(err)
			entries, err := maildrop.Entries(t.Context(), drop)
			must(err)

			var wait sync.WaitGroup
			w := &slowWriter{at: size / 3, stop: func() {
				kill(first)
				wait.Go(func() { c.give(anna.Shard(shards), two) })
			}}
			n, err := drop.Read(t.Context(), entries[0].UID, 0, w)
			wait.Wait()
			if err != nil || n != message.Wire() || !bytes.Equal(w.Bytes(), message.Octets()) {
				t.Fatalf("%d octets of %d, %v", n, message.Wire(), err)
			}
			must(drop.Check(t.Context()))
			must(drop.Remove(t.Context(), []maildrop.UID{entries[0].UID}))
			again, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: maildroptest.Password})
			must(err)
			if again.Info().Count != 0 || again.Info().Node != "m2" {
				t.Errorf("after removal: %+v", again.Info())
			}
		})
	}
}

// A region that can't be reached is asked again for a while, and then said to be
// away. (TestHold has the 5 s.)
func TestRegionAway(t *testing.T) {
	c := newCluster(t, maildroptest.NewRules())
	c.hold = time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	us := c.regions["us"]
	us.Gateway = l.Addr().String()
	c.regions["us"] = us
	r := c.process("eu", rpc.RoleFront)
	c.rules.(*maildroptest.Rules).PutAccount(policy.Account{Name: "customer", Region: "us"})
	c.rules.(*maildroptest.Rules).PutDomain(policy.Domain{Name: "us.example", Account: "customer", Kind: policy.DomainLocal})
	start := time.Now()
	_, err = r.Open(t.Context(), maildrop.Login{Address: bill})
	kindIs(t, "open", err, maildrop.Transient)
	took(t, "open", start, time.Second, 5*time.Second)
	if maildrop.TextOf(err) != "Region us, where this mailbox is at home, is not available at the moment" {
		t.Error(err)
	}
}

// The door of a region that refuses is closed for others, by their
// certificates, and open for its own.
func TestGatewayOfARegionThatRefuses(t *testing.T) {
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
	rules.PutDomain(policy.Domain{Name: "eu.example", Account: "customer", Kind: policy.DomainLocal})
	c := newCluster(t, rules)
	_, one := c.node("eu", "m1")
	for number := range shards {
		c.give(number, one)
	}
	c.gateway()
	eu := c.regions["eu"]
	eu.CrossRegion = directory.CrossRegionRefuse
	c.regions["eu"] = eu
	for name, want := range map[string]maildrop.Reason{"us": maildrop.ReasonRegion, "eu": maildrop.ReasonCredentials} {
		config, err := rpc.ClientTLS(c.files(name, rpc.RoleFront, "stale"))
		if err != nil {
			t.Fatal(err)
		}
		pool := rpc.NewPool(rpc.PoolConfig{TLS: config})
		defer pool.Close()
		_, err = pool.Client(eu.Gateway).Open(t.Context(), maildrop.Login{Address: anna, Password: "x"})
		if maildrop.ReasonOf(err) != want {
			t.Errorf("a front of %s: %v, want %s", name, err, want)
		}
	}
}
