// Package node is a mailbox node: it claims shards of its region, opens and
// serves them, and hands them on.
//
//	        etcd's view ─┐
//	 gossip's suspicion ─┼─▶ placement.Plan ─▶ take, release, drop
//	    what is held now ┘                        │
//	                                              ▼
//	(none) ──take──▶ acquiring ──opened──▶ serving ──release, drop──▶ releasing ──▶ (none)
//	                    │                     │
//	                    └──failed, dropped──▶ └──fenced, broken──▶ (none), and planned anew
//
// Every node runs the same loop and needs no other's leave. What keeps two of
// them from both accepting mail for a shard is not in here: it is the fence in
// the shard's ledger. This package only sees to it that each shard is served, by
// the right node, soon.
//
// Node implements [maildrop.Service]: a call goes to the shard of its address,
// waits a little if that is just being opened, and is NotOwner otherwise.
//
// # Decisions
//
//   - 2026-11-23: a node that ends says that it drains, hands over its shards,
//     and deregisters last. Deregistering first would set the heirs on shards
//     that are still served: each open call would meet a fence instead of an
//     orderly end. A node that hangs on the way loses its lease, and that is
//     the same as a crash.
//   - 2026-11-23: a node that cannot reach etcd serves what it has, without an
//     end of its own making. If another node takes a shard from it, the fence
//     says so at the next write, and the watch as soon as etcd is back.
//   - 2026-11-23: a shard that fails to open, or breaks soon after, is tried
//     again by the same heir with growing pauses. Passing it on would let one
//     damaged object walk through the whole region.
//   - 2026-11-23: a claim names the shard's ledger, and a node that finds another
//     one in its store, none, or one from before its last owner, opens nothing there: a
//     disk that isn't mounted, a wrong bucket and an old copy look like a store with
//     less mail. To begin anew, or to go on from an old copy, delete the claims in etcd.
//   - 2026-11-25: a node whose lease ends while gossip hears it keeps its place for
//     3 s, and for 30 s when more than a third of the leases ended like that: then it
//     is etcd that is in trouble, and who came back first would take everything over
//     from owners that serve. Its place is put back into the view that Plan is asked
//     with, so Plan knows nothing of it. A death that gossip confirms is no such case and
//     waits for nothing.
//   - 2026-11-25: an owner that is to hand a shard over asks its heir to read the shard
//     first (Prepare), and serves on until that is done, for 10 s at most. What users wait for is
//     then the end of the ledger, the fence and etcd, however large the shard. Asked is
//     the heir itself, by a call, and what it has read it keeps for a minute: a word that is lost
//     costs time and nothing else. Refused: keys in etcd that say who is ready, two more
//     writes for each shard that moves; and heirs that read ahead of their own accord, who would have to
//     be waited for without knowing how long.
//   - 2026-11-23: the process has one instance, the one that it gossips with. So
//     news of a predecessor's death cannot be mistaken for its successor's.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/gossip"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/shard"
)

// Limits and times of this package.
const (
	// DefaultStable is how long membership must have been unchanged before shards
	// move for balance.
	DefaultStable = 10 * time.Second
	// DefaultCache is the memory for recent mail, of all shards together.
	DefaultCache = 256 << 20

	maxTakes      = 8                      // take-overs at once
	maxFarewells  = 16                     // releases at once when the node ends
	planInterval  = 500 * time.Millisecond // between looks when nothing is new
	openingWait   = 2 * time.Second        // how long a call waits for a shard that is being opened
	closeTimeout  = 5 * time.Second        // one shard's last batch
	leaveTimeout  = 7 * time.Second        // everything when the node ends
	noticeTimeout = 2 * time.Second        // telling etcd that the node ends
	lastTry       = 200 * time.Millisecond // the same, when etcd didn't listen before
	backoffMin    = 250 * time.Millisecond // first pause after a shard's failure
	backoffMax    = 30 * time.Second       // longest one
	provenAfter   = time.Minute            // a shard served for so long has no history of failure
)

// Config is what a Node is made of.
type Config struct {
	Name   string // unique in the region, the same at each start
	Region string
	Shards int // of the region; never changes
	Store  blob.Store
	// Seal encrypts what is below a prefix of the store, and tells found of damage that
	// it makes good; nil: nothing does.
	Seal  func(ctx context.Context, store blob.Store, prefix string, found func(key string, octet int64, what string)) (blob.Store, error)
	Rules policy.Rules
	Auth  *auth.Verifier
	// Account answers what is known of an account, of its moves between regions; nil: there
	// are none. Peers reaches the regions that accounts move to. Identify finds the ID that a
	// stored message was delivered with: see shard.Config.
	Account  func(name string) (policy.Account, bool)
	Peers    shard.Peers
	Identify func(body io.Reader) (maildrop.EnvelopeID, bool)

	Etcd   *clientv3.Client // the region's
	Gossip *gossip.Member   // nil: failures are seen by etcd's leases alone

	Address string // host:port of its gRPC, for the others
	Zone    string
	Weight  int // share of the shards against the others'; 0: 1

	LeaseTTL   time.Duration // 0: placement.DefaultTTL
	Stable     time.Duration // 0: DefaultStable
	CacheBytes int64         // 0: DefaultCache
	// BudgetBytes is the memory for mail that waits to be written, of all shards
	// together; 0: shard.DefaultBudget.
	BudgetBytes int64

	// Prepare asks the node at an address to make itself ready for a shard that it is
	// about to be handed, and returns when it is; nil: heirs begin cold.
	Prepare func(ctx context.Context, address string, shard int) error

	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case c.Name == "", c.Region == "", c.Address == "":
		return errors.New("name, region and address are required")
	case c.Shards < 1 || c.Shards > placement.MaxShards:
		return fmt.Errorf("%d shards: expected 1 to %d", c.Shards, placement.MaxShards)
	case c.Store == nil, c.Rules == nil, c.Auth == nil, c.Etcd == nil, c.Log == nil:
		return errors.New("store, rules, auth, etcd and log are required")
	}
	return nil
}

// Node is one mailbox node.
type Node struct {
	config   Config
	instance string
	open     opener
	holdings *holdings
	metrics  *metrics
	budget   *shard.Budget // of all shards, for mail that waits to be written
	refusals shard.Refusals
	repack   chan struct{} // a token for the one shard that repacks
	troubles *troubles
	prepared preparations
	started  atomic.Bool
}

// opener opens a claimed shard, in the claim's epoch or a higher one.
type opener func(ctx context.Context, claim placement.Claim, from source) (owned, error)

// owned is a shard that is ours until it says otherwise. *shard.Shard is one.
type owned interface {
	maildrop.Service
	maildrop.Receiver
	Survey(ctx context.Context, move maildrop.Move) (maildrop.Survey, error)
	Push(ctx context.Context, move maildrop.Move, final bool, peers shard.Peers, progress func(maildrop.Pushed)) (maildrop.Pushed, error)
	Stage(ctx context.Context, move maildrop.Move, stage maildrop.Stage) error
	Epoch() uint64
	Ledger() uint32
	Stats() shard.Stats
	Done() <-chan struct{}
	Close(ctx context.Context) error
}

// New makes a Node. It does nothing before Run.
func New(config Config) (*Node, error) {
	const op = "node.new"
	if config.Stable <= 0 {
		config.Stable = DefaultStable
	}
	if config.CacheBytes <= 0 {
		config.CacheBytes = DefaultCache
	}
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	metrics, err := newMetrics(config.Registerer, config.Shards)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	n := &Node{
		config: config, instance: rand.Text(), holdings: newHoldings(metrics), metrics: metrics,
		budget: shard.NewBudget(config.BudgetBytes), repack: make(chan struct{}, 1), troubles: newTroubles(),
	}
	if config.Gossip != nil {
		n.instance = config.Gossip.Self().Instance
	}
	n.open = n.openShard
	return n, nil
}

// openShard opens a shard for real. The cache is divided by the region's
// shards, so that the node that is left with all of them stays within it.
func (n *Node) openShard(ctx context.Context, claim placement.Claim, from source) (owned, error) {
	of := n.shardConfig(claim.Shard, from.store)
	of.Ledger, of.Fenced, of.Prepared = claim.Ledger, claim.Fenced, from.shard
	opened, err := shard.Open(ctx, of, claim.Epoch)
	if err != nil {
		return nil, err // not opened: a nil pointer in an interface is no nil
	}
	return opened, nil
}

func (n *Node) shardConfig(number int, store blob.Store) shard.Config {
	c := n.config
	return shard.Config{
		Region: c.Region, Number: number, Node: c.Name, Store: store, Rules: c.Rules, Verify: c.Auth.Verify,
		Log: c.Log, Metrics: n.metrics.shards, CacheBytes: c.CacheBytes / int64(c.Shards),
		Budget: n.budget, Refusals: &n.refusals, Repack: n.repack,
		Account: c.Account, Identify: c.Identify,
	}
}

// Run registers the node and serves until ctx ends; then it hands its shards
// over, within seven seconds. It waits for an etcd that isn't there yet. The
// error is nil unless the node's Config is refused by the region, or Run was
// called before.
func (n *Node) Run(ctx context.Context) error {
	if n.started.Swap(true) {
		return &maildrop.Error{Op: "node.run", Kind: maildrop.Invalid, Err: errors.New("a node runs once")}
	}
	watcher, err := persist(ctx, n, "view", func() (*placement.Watcher, error) {
		return placement.Watch(ctx, n.config.Etcd, n.config.Region, n.config.Shards, n.config.Log)
	})
	if watcher == nil {
		return err
	}
	defer watcher.Close()
	registration, err := persist(ctx, n, "registration", func() (*placement.Registration, error) {
		return placement.Register(ctx, n.config.Etcd, n.config.Region, n.self(), n.config.LeaseTTL, n.config.Log)
	})
	if registration == nil {
		return err
	}
	k := newKeeper(n, watcher, registration)
	k.run(ctx)
	n.prepared.forget()
	k.leave(context.WithoutCancel(ctx))
	return nil
}

// AwaitTurn waits until the node may leave its region without others having left before it
// that aren't back: see placement.AwaitTurn. It goes on serving meanwhile.
func (n *Node) AwaitTurn(ctx context.Context) error {
	return placement.AwaitTurn(ctx, n.config.Etcd, n.config.Region, n.self())
}

func (n *Node) self() placement.Node {
	return placement.Node{
		Name: n.config.Name, Address: n.config.Address, Zone: n.config.Zone,
		Weight: n.config.Weight, Instance: n.instance,
	}
}

// persist tries until it succeeds, ctx ends (nil, nil), or trying is in vain.
func persist[T any](ctx context.Context, n *Node, what string, try func() (*T, error)) (*T, error) {
	for wait := backoffMin; ctx.Err() == nil; wait = min(2*wait, backoffMax) {
		got, err := try()
		if err == nil {
			return got, nil
		}
		if !maildrop.KindOf(err).Temporary() {
			return nil, err
		}
		n.config.Log.Warn("node: waiting for the region's etcd", "for", what, "error", err)
		timer := time.NewTimer(jitter(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil, nil
}

// Shards are the numbers of those that the node serves now, sorted.
func (n *Node) Shards() []int { return n.holdings.serving() }
