// Package placement says which mailbox node of a region owns which shard. The
// answer lives in the region's etcd, so every process of the region follows the
// same one, and a node changes it only by a transaction on what it has seen.
//
// Keys, below /postern/v1/region/<region>/:
//
//	nodes/<name>   a Node, with a lease: it is gone when its process is
//	shards/<%04d>  a Claim, without a lease: it outlives its owner
//	drains/<name>  an Order: the node shall have no shards
//	moves/<%04d>   an Order: the shard shall be that node's, while it is there
//
// And below /postern/v1/tickets/<region>/<secret>/, apart from the others so that etcd can
// let fronts alone read them:
//
//	<%08d>         a period's session ticket key, encrypted, with a lease
//
// And /postern/v1/turns/<region>, with a lease: the node that left last.
//
// The life of a claim:
//
//	(no key) ──take──▶ owned, epoch 1 ──release──▶ free, epoch 1
//	                      │      ▲                   │
//	             take by  │      └─────take──────────┘
//	             the heir ▼           epoch 2
//	                   owned, epoch 2
//
// The life of a ticket key, in periods of 6 hours:
//
//	made, by whoever is first ──▶ next ──▶ current: encrypts ──▶ previous ──▶ gone
//
// Five parts, which don't know each other:
//
//   - [Watcher] follows the keys and answers with a [View]. Fronts need no more.
//   - [Registration] is a node's presence, and what only a present node may do:
//     take, release and raise claims.
//   - [Tickets] follows the ticket keys, and makes them.
//   - [Orders] are an operator's: drain this node, move that shard.
//   - [Plan] decides. It is pure: a view in, actions out.
//
// A claim is who should own a shard. It is not what makes a second writer
// harmless: that is the fence in the shard's ledger, for which the epoch is
// handed on.
//
// # Decisions
//
//   - 2026-11-25: nodes that are told to leave together, as by an upgrade of all zones, take
//     turns, by one key that remembers the last one to leave until it is back. It is no
//     lock that anybody holds: the one who left can't release it, and its successor
//     needn't know of it. Who waits too long leaves out of turn.
//   - 2026-11-25: ticket keys are made a period ahead, each by create-if-absent, so that a
//     front whose clock is ahead, or that hears late of a rotation, still resumes what the
//     others gave out. Their time is each front's own clock's: a front whose clock is
//     far off harms nobody's sessions but its own.
//   - 2026-11-25: ticket keys are encrypted in etcd with a key that is derived of the
//     region's gossip key, which etcd never sees: its disks, backups and readers of
//     its other keys can't decrypt tickets. Refused: in the clear, guarded by etcd's
//     permissions alone, since with TLS 1.2 whoever has a ticket key reads every session
//     that resumed by it; and a key derived of the certificate's, which is another one
//     while certificates are replaced front by front. Mailbox nodes and intakes
//     have the gossip key as well; etcd's permissions keep the entries from them.
//   - 2026-11-25: an entry's name holds a name of its secret. When the gossip key is
//     replaced, process by process, each half shares keys of its own.
//   - 2026-11-25: a lease ends a key, not a front: fronts with a wrong clock could delete
//     what the others need.
//   - 2026-11-23: rendezvous hashing with a ceiling. Each pair of shard and node
//     has a score, and the highest scores choose first, up to a node's fair share
//     rounded up. Plain rendezvous hashing leaves one of five nodes more than
//     20 % away from the mean in two cases of five at 256 shards, and capacity is
//     bought for the fullest node. The price is that some shards besides those of
//     a lost node change their heir; they move later and one by one.
//   - 2026-11-23: the rightful heirs follow from what etcd says alone. A
//     suspicion only finds an heir for what its suspect should own, so a node that
//     is alone with its suspicion moves nothing else, and a free shard always
//     has an heir that knows it.
//   - 2026-11-23: a suspicion carries the revision at which it began, and
//     anything that the suspect wrote to etcd afterwards refutes it. Two nodes
//     that cannot hear each other, but both reach etcd, would otherwise take a
//     shard from each other for ever.
//   - 2026-11-23: a claim holds its owner's address too. When an owner's lease
//     ends because etcd was in trouble, its node key goes, while it keeps
//     serving; fronts then still know where to ask.
//   - 2026-11-25: a Watcher that etcd doesn't answer goes by the newest snapshot that
//     it can get, its own or another process's. An owner that has changed since
//     answers NotOwner, or nothing, and that is temporary. A node plans by no snapshot:
//     it takes nothing that etcd doesn't confirm.
//   - 2026-11-25: an operator's orders are keys without a lease, for the nodes' claim
//     loops to follow as they follow everything else: a drained node stays so over its
//     restarts, until it is undrained. A move names where a shard shall be as long as that
//     node is there and takes shards, and nothing else about it: when the node dies or
//     drains, the shard has an heir as any other.
//   - 2026-11-23: claims are taken by a method of Registration. The transaction
//     compares the node key's lease with the registration's own, so a process
//     that was replaced by its successor of the same name can take nothing.
package placement

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits and times of this package.
const (
	// MaxShards bounds what a region may be divided into.
	MaxShards = 4096
	// MaxWeight bounds a node's weight.
	MaxWeight = 1000
	// DefaultTTL is how long a node stays registered when it says nothing.
	DefaultTTL = 5 * time.Second
	// MaxReleases is how many shards one pass of Plan hands back.
	MaxReleases = 4

	requestTimeout   = 3 * time.Second        // one request to etcd
	resolveTimeout   = 2 * time.Second        // reading back after an unknown outcome
	progressInterval = 5 * time.Second        // a watch that is silent for two of them has stalled
	retryMin         = 100 * time.Millisecond // first wait before asking etcd again
	retryMax         = 5 * time.Second        // longest wait before asking etcd again
	replacedInterval = 5 * time.Second        // how often a replaced process looks whether its successor is gone
)

// Node is one mailbox node, as it registered.
type Node struct {
	Name     string `json:"name"`
	Address  string `json:"address"` // host:port of its gRPC service
	Zone     string `json:"zone,omitempty"`
	Weight   int    `json:"weight,omitempty"`   // its share of the shards against the others'; 0 means 1
	Draining bool   `json:"draining,omitempty"` // it wants no shards
	Instance string `json:"instance"`           // random, another one for each start of the process

	// Revision is that of the node's last write of this record.
	Revision int64 `json:"-"`
}

// weight is what the node's share is computed with.
func (n Node) weight() int { return min(max(n.Weight, 1), MaxWeight) }

// Claim is who owns a shard.
type Claim struct {
	Shard    int    `json:"-"`
	Owner    string `json:"owner"`              // node name; empty: released
	Instance string `json:"instance,omitempty"` // the owner's
	Address  string `json:"address,omitempty"`  // the owner's when it took the shard
	Epoch    uint64 `json:"epoch"`              // grows with each owner; what the ledger is opened with
	Ledger   uint32 `json:"ledger,omitempty"`   // the ledger's identity; 0: it was never opened
	Fenced   uint64 `json:"fenced,omitempty"`   // the last epoch that it was opened in, for certain

	// Revision is that of the claim's last write; 0: nobody ever claimed the shard.
	Revision int64 `json:"-"`
}

// by reports whether the claim is the very process's, not only its name's.
func (c Claim) by(n Node) bool {
	return c.Owner != "" && c.Owner == n.Name && c.Instance == n.Instance
}

// View is what the region's etcd said at one revision. It is shared: don't
// change its map and slice.
type View struct {
	Revision int64 // of the newest change in it
	Nodes    map[string]Node
	Claims   []Claim          // by shard; one for each
	Drains   map[string]Order // by node, which may not be there
	Moves    map[int]Order    // by shard
}

// Order is what an operator wants.
type Order struct {
	Node string    `json:"node"`
	By   string    `json:"by"` // who said so
	At   time.Time `json:"at"`
}

// Draining reports whether a node shall have no shards, by its own word or an
// operator's.
func (v View) Draining(name string) bool {
	_, ordered := v.Drains[name]
	return ordered || v.Nodes[name].Draining
}

// Lives reports whether the process is registered.
func (v View) Lives(name, instance string) bool {
	node, ok := v.Nodes[name]
	return ok && node.Instance == instance
}

// Owner is where a shard's owner serves. ok is false while the shard has no
// owner, or one that is known to be gone. An owner without a node key may have
// lost its lease and serve all the same: the answer is its last address.
func (v View) Owner(shard int) (address string, ok bool) {
	if shard < 0 || shard >= len(v.Claims) || v.Claims[shard].Owner == "" {
		return "", false
	}
	claim := v.Claims[shard]
	node, registered := v.Nodes[claim.Owner]
	switch {
	case !registered:
		return claim.Address, claim.Address != ""
	case node.Instance != claim.Instance:
		return "", false
	}
	return node.Address, true
}

func emptyView(shards int) View {
	v := View{Nodes: map[string]Node{}, Claims: make([]Claim, shards), Drains: map[string]Order{}, Moves: map[int]Order{}}
	for i := range v.Claims {
		v.Claims[i].Shard = i
	}
	return v
}

// Clone is a view of the caller's own, to change.
func (v View) Clone() View {
	v.Nodes, v.Claims = maps.Clone(v.Nodes), slices.Clone(v.Claims)
	v.Drains, v.Moves = maps.Clone(v.Drains), maps.Clone(v.Moves)
	return v
}

// put takes a key's new value into the view, which must be the caller's own.
// What is not understood changes nothing, but a claim's revision always counts:
// without it a damaged claim could not be taken over.
func (v *View) put(key string, kv *mvccpb.KeyValue) error {
	v.Revision = max(v.Revision, kv.ModRevision)
	if name, ok := strings.CutPrefix(key, "nodes/"); ok {
		node := Node{}
		if err := json.Unmarshal(kv.Value, &node); err != nil {
			return fmt.Errorf("node %q: %w", name, err)
		}
		node.Name, node.Revision = name, kv.ModRevision
		v.Nodes[name] = node
		return nil
	}
	if name, ok := strings.CutPrefix(key, "drains/"); ok {
		return putOrder(v.Drains, name, kv)
	}
	if shard, ok := v.shard(key, "moves/"); ok {
		return putOrder(v.Moves, shard, kv)
	}
	shard, ok := v.shard(key, "shards/")
	if !ok {
		return fmt.Errorf("unknown key %q", key)
	}
	claim, err := decodeClaim(shard, kv)
	v.Claims[shard] = claim
	return err
}

// take takes all keys of a region in.
func (v *View) take(below space, kvs []*mvccpb.KeyValue, unreadable func(error)) {
	for _, kv := range kvs {
		if err := v.put(strings.TrimPrefix(string(kv.Key), string(below)), kv); err != nil {
			unreadable(err)
		}
	}
}

// remove takes a key's deletion into the view.
func (v *View) remove(key string, revision int64) {
	v.Revision = max(v.Revision, revision)
	if name, ok := strings.CutPrefix(key, "nodes/"); ok {
		delete(v.Nodes, name)
	} else if name, ok := strings.CutPrefix(key, "drains/"); ok {
		delete(v.Drains, name)
	} else if shard, ok := v.shard(key, "moves/"); ok {
		delete(v.Moves, shard)
	} else if shard, ok := v.shard(key, "shards/"); ok {
		v.Claims[shard] = Claim{Shard: shard}
	}
}

// putOrder takes an order in. One that can't be read changes nothing.
func putOrder[K comparable](orders map[K]Order, key K, kv *mvccpb.KeyValue) error {
	var order Order
	if err := json.Unmarshal(kv.Value, &order); err != nil {
		return fmt.Errorf("order for %v: %w", key, err)
	}
	orders[key] = order
	return nil
}

func (v *View) shard(key, below string) (int, bool) {
	digits, ok := strings.CutPrefix(key, below)
	shard, err := strconv.Atoi(digits)
	return shard, ok && err == nil && shard >= 0 && shard < len(v.Claims)
}

// decodeClaim reads a claim. With an error it is free and has its revision.
func decodeClaim(shard int, kv *mvccpb.KeyValue) (Claim, error) {
	claim := Claim{}
	err := json.Unmarshal(kv.Value, &claim)
	if err != nil {
		claim, err = Claim{}, fmt.Errorf("shard %d: %w", shard, err)
	}
	claim.Shard, claim.Revision = shard, kv.ModRevision
	return claim, err
}

// space is a region's part of the key space.
type space string

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

var errName = errors.New("not a name: expected 1 to 63 of a-z, 0-9, dot and hyphen")

func spaceOf(op, region string) (space, error) {
	if !nameForm.MatchString(region) {
		return "", &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("region %q: %w", region, errName)}
	}
	return space(path.Join("/postern/v1/region", region) + "/"), nil
}

func (s space) node(name string) string { return string(s) + "nodes/" + name }

func (s space) shard(shard int) string { return fmt.Sprintf("%sshards/%04d", string(s), shard) }

func (s space) drain(name string) string { return string(s) + "drains/" + name }

func (s space) move(shard int) string { return fmt.Sprintf("%smoves/%04d", string(s), shard) }

// encode cannot fail: both types are made of strings and numbers.
func encode(v any) string {
	octets, _ := json.Marshal(v)
	return string(octets)
}
