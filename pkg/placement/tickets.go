package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

const (
	// ticketInterval is how often etcd is asked for ticket keys, whatever the watch says
	// or doesn't.
	ticketInterval = time.Minute
	// ticketPatience is how long a process that starts waits for the region's keys.
	ticketPatience = 3 * time.Second
	// ticketSlack is how much longer than needed a key stays in etcd, for clocks that
	// are slow.
	ticketSlack = time.Hour
	// maxTickets is how many keys are read at a time.
	maxTickets = 64
)

// TicketsConfig is what Tickets are made of.
type TicketsConfig struct {
	Region string
	// Secret is the region's own, at least 16 octets, that etcd doesn't hold. What is
	// in etcd is encrypted with a key that is derived of it.
	Secret []byte
	// Apply takes the keys in use whenever they change: the first encrypts, all decrypt.
	// tls.Config.SetSessionTicketKeys is one.
	Apply func(keys [][32]byte)
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
}

// Tickets follows the keys with which a region's fronts encrypt TLS session tickets
// (RFC 8446 section 2.2, RFC 5077), so that a client resumes at whichever front it comes
// to, and makes those that are missing.
type Tickets struct {
	client *clientv3.Client
	config TicketsConfig
	prefix string
	sealer sealer

	mu      sync.Mutex
	ring    ticketRing
	applied []TicketKey
}

// FollowTickets applies the region's keys, or within a few seconds one of this
// process's own: etcd need not be there. Run goes on from there. Its errors are Invalid.
func FollowTickets(ctx context.Context, client *clientv3.Client, config TicketsConfig) (*Tickets, error) {
	const op = "placement.tickets"
	if _, err := spaceOf(op, config.Region); err != nil {
		return nil, err
	}
	sealer, name, err := newSealer(config.Secret)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	t := &Tickets{
		client: client, config: config, sealer: sealer, ring: newTicketRing(),
		prefix: path.Join("/postern/v1/tickets", config.Region, name) + "/",
	}
	ctx, cancel := context.WithTimeout(ctx, ticketPatience)
	defer cancel()
	if _, err := t.refresh(ctx); err != nil {
		config.Log.Warn("placement: no session ticket keys from etcd, starting with one of our own", "error", err)
	}
	return t, nil
}

// Shared reports whether the key that encrypts is the region's, and when its time began.
func (t *Tickets) Shared() (shared bool, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ring.current(t.config.Now())
}

// Run follows the keys until ctx ends. While etcd is away it goes on with those at
// hand.
func (t *Tickets) Run(ctx context.Context) error {
	for wait := retryMin; ctx.Err() == nil; {
		began := time.Now()
		err := t.follow(ctx)
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		if err != nil && ctx.Err() == nil {
			t.config.Log.Warn("placement: no news of session ticket keys, keeping those at hand", "error", err)
			t.apply() // time goes on without etcd
			pause(ctx, wait)
			wait = min(2*wait, ticketInterval)
		}
	}
	return nil
}

// follow brings the keys up to date, and keeps them so until the watch ends or a minute
// has passed.
func (t *Tickets) follow(ctx context.Context) error {
	revision, err := t.refresh(ctx)
	if err != nil {
		return err
	}
	// Without asking for a leader, so that it isn't on one stream with the owners' watch,
	// which could say nothing while this one waits for a revision that hasn't come.
	ctx, cancel := context.WithTimeout(ctx, ticketInterval)
	defer cancel()
	for resp := range t.client.Watch(ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil && ctx.Err() == nil {
			return err
		}
		for _, event := range resp.Events {
			if event.Type == clientv3.EventTypePut {
				t.put(event.Kv)
			}
		}
		t.apply()
	}
	if ctx.Err() == nil {
		return errEnded
	}
	return nil
}

// refresh reads the keys, makes the present period's and the next one's where they are
// missing, and applies what there is, also when it fails.
func (t *Tickets) refresh(ctx context.Context) (revision int64, err error) {
	defer t.apply()
	request, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := t.client.Get(request, t.prefix, clientv3.WithPrefix(), clientv3.WithLimit(maxTickets))
	if err != nil {
		return 0, err
	}
	for _, kv := range resp.Kvs {
		t.put(kv)
	}
	now := periodOf(t.config.Now())
	for _, p := range []period{now, now + 1} {
		if !slices.ContainsFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == t.key(p) }) {
			err = errors.Join(err, t.make(ctx, p))
		}
	}
	return resp.Header.Revision, err
}

// make creates a period's key unless somebody else has; what is there then counts.
func (t *Tickets) make(ctx context.Context, p period) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	life := (p + 2).begin().Sub(t.config.Now()) + ticketSlack
	lease, err := t.client.Grant(ctx, int64(life/time.Second))
	if err != nil {
		return err
	}
	key := t.key(p)
	value := t.sealer.seal(key, newTicketKey())
	resp, err := t.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID)), clientv3.OpGet(key)).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return err // whatever became of it, the next look tells
	}
	if !resp.Succeeded {
		_, err = t.client.Revoke(ctx, lease.ID)
	}
	for _, kv := range resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs {
		t.put(kv)
	}
	return err
}

func (t *Tickets) key(p period) string { return fmt.Sprintf("%s%08d", t.prefix, int64(p)) }

// put takes an entry of etcd. One that can't be read changes nothing.
func (t *Tickets) put(kv *mvccpb.KeyValue) {
	n, err := strconv.ParseInt(strings.TrimPrefix(string(kv.Key), t.prefix), 10, 64)
	var key TicketKey
	if err == nil {
		key, err = t.sealer.open(string(kv.Key), kv.Value)
	}
	if err != nil {
		t.config.Log.Warn("placement: unreadable session ticket key in etcd", "key", string(kv.Key), "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring.shared[period(n)] = key
}

// apply hands out the keys in use if they have changed.
func (t *Tickets) apply() {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.ring.inUse(t.config.Now())
	if slices.Equal(keys, t.applied) {
		return
	}
	t.applied = keys
	plain := make([][32]byte, len(keys))
	for i, key := range keys {
		plain[i] = key
	}
	t.config.Apply(plain)
}
