package placement

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Registration is a node's presence in its region, kept alive by a lease.
//
//	registered ──lease lost──▶ (try again) ──▶ registered
//	                             │    ▲
//	                   successor │    │ successor gone
//	                             ▼    │
//	                            replaced
//
// A process registers over an older one of its name, which died or should
// have; the older one, should it come back, finds itself replaced and stays so.
type Registration struct {
	client *clientv3.Client
	space  space
	ttl    time.Duration
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	node  Node
	lease clientv3.LeaseID
}

// errReplaced: another process has registered under our name since.
var errReplaced = errors.New("another process is registered under this node's name")

// Register makes the node known and keeps it so until Close. ctx bounds the
// first registration only. ttl is rounded up to seconds; 0 means DefaultTTL. An
// empty Instance is filled in. Errors: Transient, and Invalid for a node that
// can't be right.
func Register(ctx context.Context, client *clientv3.Client, region string, node Node, ttl time.Duration, log *slog.Logger) (*Registration, error) {
	const op = "placement.register"
	space, err := spaceOf(op, region)
	if err != nil {
		return nil, err
	}
	if !nameForm.MatchString(node.Name) {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("node %q: %w", node.Name, errName)}
	}
	if node.Instance == "" {
		node.Instance = rand.Text()
	}
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	r := &Registration{client: client, space: space, ttl: ttl, log: log, node: node, done: make(chan struct{})}
	if err := r.register(ctx, true); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	go r.run(background)
	return r, nil
}

// Node is what is registered.
func (r *Registration) Node() Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node
}

// Drain says that the node wants no more shards, nor those it has.
func (r *Registration) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.node.Draining = true // stays said also if it has to be said again, with another lease
	node, lease := r.node, r.lease
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := r.space.node(node.Name)
	resp, err := r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(key), "=", lease)).
		Then(clientv3.OpPut(key, encode(node), clientv3.WithLease(lease))).Commit()
	if err != nil {
		return &maildrop.Error{Op: "placement.drain", Kind: maildrop.Maybe, Err: err}
	}
	if !resp.Succeeded {
		return &maildrop.Error{Op: "placement.drain", Kind: maildrop.NotOwner, Err: errors.New("not registered")}
	}
	return nil
}

// Close ends the registration: the others see it at once if etcd can be told,
// and after the lease's time else.
func (r *Registration) Close(ctx context.Context) error {
	r.stop()
	<-r.done
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := r.client.Revoke(ctx, r.leaseID()); err != nil {
		return &maildrop.Error{Op: "placement.deregister", Kind: maildrop.Maybe, Err: err}
	}
	return nil
}

func (r *Registration) leaseID() clientv3.LeaseID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lease
}

// run keeps the lease alive, and takes a new one whenever it was lost.
func (r *Registration) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil {
		r.keepAlive(ctx)
		wait := retryMin
		for ctx.Err() == nil {
			err := r.register(ctx, false)
			if err == nil {
				r.log.Info("placement: registered again", "node", r.Node().Name)
				break
			}
			if errors.Is(err, errReplaced) {
				wait = replacedInterval
			}
			r.log.Warn("placement: not registered", "node", r.Node().Name, "error", err)
			pause(ctx, wait)
			wait = min(2*wait, retryMax)
		}
	}
}

// keepAlive returns when the lease is lost, or the node's key is not ours any
// more: its lease can live on without it.
func (r *Registration) keepAlive(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats, err := r.client.KeepAlive(ctx, r.leaseID())
	if err != nil {
		return
	}
	for range beats {
		if gone := r.confirm(ctx); gone {
			return
		}
	}
}

// confirm asks etcd whether we are registered. Only a plain no counts.
func (r *Registration) confirm(ctx context.Context) (gone bool) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := r.client.Get(ctx, r.space.node(r.Node().Name))
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(resp.Kvs) == 0 || clientv3.LeaseID(resp.Kvs[0].Lease) != r.lease
}

// register writes the node's key with a new lease. Only the first time may it
// write over another process's.
func (r *Registration) register(ctx context.Context, first bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	lease, err := r.client.Grant(ctx, int64((r.ttl+time.Second-1)/time.Second))
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.lease = lease.ID
	node := r.node
	r.mu.Unlock()
	for written := false; !written; {
		if written, err = r.write(ctx, node, lease.ID, first); err != nil {
			return err
		}
	}
	return nil
}

// write is one attempt to set the node's key to what was asked, if nobody else
// writes it at the same time.
func (r *Registration) write(ctx context.Context, node Node, lease clientv3.LeaseID, first bool) (bool, error) {
	key := r.space.node(node.Name)
	resp, err := r.client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	var revision int64
	if len(resp.Kvs) > 0 {
		revision = resp.Kvs[0].ModRevision
		var other Node
		if json.Unmarshal(resp.Kvs[0].Value, &other) == nil && other.Instance != node.Instance && !first {
			return false, errReplaced
		}
	}
	txn, err := r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, encode(node), clientv3.WithLease(lease))).Commit()
	return err == nil && txn.Succeeded, err
}
