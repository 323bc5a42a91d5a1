package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/gossip"
	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/policy"
)

const (
	shards   = 8
	patience = 60 * time.Second // a loaded machine is slow, not broken
	password = "correct horse"
)

var (
	quiet    = slog.New(slog.DiscardHandler)
	passhash = sync.OnceValues(func() (string, error) { return auth.Hash(password) })
)

// acme owns example.com, a local domain.
type acme struct{}

func (acme) Domain(name string) (policy.Domain, policy.Account, bool) {
	return policy.Domain{Name: name, Account: "acme", Kind: policy.DomainLocal},
		policy.Account{Name: "acme", Region: "eu"}, name == "example.com"
}

// message is a short one in wire form.
type message string

func (m message) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader([]byte(m))), nil
}
func (m message) Wire() uint64 { return uint64(len(m)) }
func (m message) Size() uint64 { return uint64(len(m)) }

// region is one etcd and one store, for any number of nodes.
type region struct {
	*testing.T
	etcd    *etcdtest.Server
	store   blob.Store
	auth    *auth.Verifier
	watcher *placement.Watcher
}

func newRegion(t *testing.T) *region {
	t.Helper()
	store, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &region{T: t, etcd: etcdtest.New(t), store: store, auth: auth.New(auth.Config{Workers: 1})}
	t.Cleanup(r.auth.Close)
	if r.watcher, err = placement.Watch(t.Context(), r.etcd.Client(), "eu", shards, quiet); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.watcher.Close)
	return r
}

// runner is a node that runs, with an etcd client of its own.
type runner struct {
	*Node
	client *clientv3.Client
	stop   context.CancelFunc
	ended  chan error
}

func (r *region) config(name string, client *clientv3.Client) Config {
	return Config{
		Name: name, Region: "eu", Shards: shards, Store: r.store, Rules: acme{}, Auth: r.auth,
		Etcd: client, Address: name + ":1", LeaseTTL: time.Hour, Stable: 500 * time.Millisecond, Log: quiet,
	}
}

func (r *region) start(name string, adjust ...func(*Config)) *runner {
	r.Helper()
	client := r.etcd.Client()
	config := r.config(name, client)
	for _, change := range adjust {
		change(&config)
	}
	n, err := New(config)
	if err != nil {
		r.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	run := &runner{Node: n, client: client, stop: stop, ended: make(chan error, 1)}
	go func() { run.ended <- n.Run(ctx); close(run.ended) }()
	r.Cleanup(func() { stop(); <-run.ended })
	return run
}

// crash cuts a node off from etcd, and ends its lease: to the others it is as good as dead, and
// knows nothing of that.
func (r *region) crash(n *runner) {
	r.Helper()
	n.client.Close()
	r.endLease(r.etcd.Client(), n.config.Name)
}

// endLease ends a node's lease. Leases last longer than any test, so that no node of a slow
// machine seems to be dead.
func (r *region) endLease(client *clientv3.Client, name string) {
	r.Helper()
	resp, err := client.Get(r.Context(), "/postern/v1/region/eu/nodes/"+name)
	if err != nil || len(resp.Kvs) != 1 {
		r.Fatal(resp, err)
	}
	if _, err := client.Revoke(r.Context(), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		r.Fatal(err)
	}
}

// await waits until a condition of the region's view and of the nodes holds.
func (r *region) await(what string, holds func(placement.View) bool) placement.View {
	r.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(20 * time.Millisecond) // nodes serve a little after the view says so
	defer ticker.Stop()
	for time.Now().Before(deadline) {
		changed := r.watcher.Changed()
		if v := r.watcher.View(); holds(v) {
			return v
		}
		select {
		case <-changed:
		case <-ticker.C:
		}
	}
	r.Fatalf("%s: never; view: %+v", what, r.watcher.View())
	return placement.View{}
}

// served reports whether the nodes together serve each shard once, as claimed.
func served(v placement.View, nodes ...*runner) bool {
	for _, n := range nodes {
		mine := n.Shards()
		for _, c := range v.Claims {
			if (c.Owner == n.config.Name && c.Instance == n.instance) != slices.Contains(mine, c.Shard) {
				return false
			}
		}
	}
	return !slices.ContainsFunc(v.Claims, func(c placement.Claim) bool {
		return !slices.ContainsFunc(nodes, func(n *runner) bool { return c.Instance == n.instance })
	})
}

// holders are who holds which shard, and since which claim: what moves with
// a shard, without what its holder records later.
func holders(v placement.View) []placement.Claim {
	claims := slices.Clone(v.Claims)
	for i := range claims {
		claims[i].Ledger, claims[i].Fenced, claims[i].Revision = 0, 0, 0
	}
	return claims
}

func (r *region) awaitServed(what string, nodes ...*runner) placement.View {
	r.Helper()
	return r.await(what, func(v placement.View) bool { return served(v, nodes...) })
}

// settled reports whether, moreover, each node has what it should have: nothing
// moves any more.
func settled(v placement.View, nodes ...*runner) bool {
	rightful := placement.Assign(len(v.Claims), slices.Collect(maps.Values(v.Nodes)))
	for _, c := range v.Claims {
		if c.Owner != rightful[c.Shard] {
			return false
		}
	}
	return len(v.Nodes) == len(nodes) && served(v, nodes...)
}

func (r *region) awaitSettled(what string, nodes ...*runner) placement.View {
	r.Helper()
	return r.await(what, func(v placement.View) bool { return settled(v, nodes...) })
}

// user is an address of the given shard.
func user(shard int) maildrop.Address {
	for i := 0; ; i++ {
		if a := maildrop.Address(fmt.Sprintf("user%d@example.com", i)); a.Shard(shards) == shard {
			return a
		}
	}
}

func (r *region) enroll(at maildrop.Registrar, address maildrop.Address) {
	r.Helper()
	hash, err := passhash()
	if err != nil {
		r.Fatal(err)
	}
	if err := at.PutAddress(r.Context(), maildrop.AddressRecord{Address: address, Account: "acme", Hash: hash}); err != nil {
		r.Fatal(err)
	}
}

func deliver(ctx context.Context, at maildrop.Deliverer, to maildrop.Address, text string) error {
	return at.Deliver(ctx, maildrop.Envelope{
		ID: maildrop.RepeatableID("", to, sha256.Sum256([]byte(text))), To: to,
	}, message(text))
}

// count opens the maildrop and says how many messages are in it.
func (r *region) count(at maildrop.Opener, address maildrop.Address) int {
	r.Helper()
	drop, err := at.Open(r.Context(), maildrop.Login{Address: address, Password: password})
	if err != nil {
		r.Fatal(err)
	}
	defer drop.Close()
	return drop.Info().Count
}

func ownerOf(v placement.View, shard int, nodes ...*runner) (owner, other *runner) {
	for _, n := range nodes {
		if v.Claims[shard].Instance == n.instance {
			owner = n
		} else {
			other = n
		}
	}
	return owner, other
}

func (r *region) gossip(name string, seeds ...string) *gossip.Member {
	r.Helper()
	m, err := gossip.Join(gossip.Config{
		Name: name, Region: "eu", Role: "mailbox", Bind: "127.0.0.1:0",
		Keys: [][]byte{bytes.Repeat([]byte{1}, 32)}, Seeds: seeds, Log: quiet,
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { m.Close() })
	return m
}

// series counts a metric's series whose labels have all these values, and adds
// up their values.
func series(t *testing.T, from prometheus.Gatherer, name string, values ...string) (n int, sum float64) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var have []string
			for _, label := range m.GetLabel() {
				have = append(have, label.GetValue())
			}
			slices.Sort(have)
			if slices.Sort(values); family.GetName() == name && (len(values) == 0 || slices.Equal(have, values)) {
				n++
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return n, sum
}
