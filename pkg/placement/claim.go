package placement

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// errClaim: somebody wrote the claim since it was seen, or this process isn't
// registered.
var errClaim = errors.New("the claim is another's, or this process isn't registered")

// TakeClaim makes this process the owner of a shard, on the claim as it was
// seen, in the next epoch. NotOwner: the claim has changed since or we aren't
// registered; nothing happened. Transient: it did not happen, or not yet. Maybe:
// not even that could be found out; the view will tell.
func (r *Registration) TakeClaim(ctx context.Context, seen Claim) (Claim, error) {
	const op = "placement.take"
	r.mu.Lock()
	node, lease := r.node, r.lease
	r.mu.Unlock()
	want := Claim{
		Shard: seen.Shard, Owner: node.Name, Instance: node.Instance,
		Address: node.Address, Epoch: seen.Epoch + 1, Ledger: seen.Ledger, Fenced: seen.Fenced,
	}
	alive := clientv3.Compare(clientv3.LeaseValue(r.space.node(node.Name)), "=", lease)
	got, done, err := r.exchange(ctx, op, seen.Revision, want, alive)
	if err != nil || done {
		return got, err
	}
	return Claim{}, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errClaim}
}

// ReleaseClaim frees a shard that this process owns, and returns the free
// claim. One that isn't ours any more needs no release: that is no error, and
// the answer is the zero Claim. It works after Close, too.
func (r *Registration) ReleaseClaim(ctx context.Context, held Claim) (Claim, error) {
	free, err := r.revise(ctx, "placement.release", held, func(c *Claim) {
		c.Owner, c.Instance, c.Address = "", "", ""
	})
	if err != nil && maildrop.KindOf(err) == maildrop.NotOwner {
		return Claim{}, nil
	}
	return free, err
}

// Opened writes down which ledger a shard that this process owns has, and in which
// epoch it was opened, which may be higher than claimed. Errors are those of TakeClaim.
func (r *Registration) Opened(ctx context.Context, held Claim, epoch uint64, ledger uint32) (Claim, error) {
	return r.revise(ctx, "placement.opened", held, func(c *Claim) {
		c.Epoch, c.Ledger, c.Fenced = max(c.Epoch, epoch), ledger, max(c.Fenced, epoch)
	})
}

// revise changes a claim as long as it is ours, whatever its revision.
func (r *Registration) revise(ctx context.Context, op string, held Claim, change func(*Claim)) (Claim, error) {
	node := r.Node()
	for held.by(node) {
		want := held
		change(&want)
		got, done, err := r.exchange(ctx, op, held.Revision, want)
		if err != nil || done {
			return got, err
		}
		held = got
	}
	return Claim{}, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errClaim}
}

// exchange writes a claim over the one of a revision, under further
// conditions, and answers with what is there now and whether that is want.
func (r *Registration) exchange(ctx context.Context, op string, revision int64, want Claim, conditions ...clientv3.Cmp) (Claim, bool, error) {
	key := r.space.shard(want.Shard)
	request, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := r.client.Txn(request).
		If(append(conditions, clientv3.Compare(clientv3.ModRevision(key), "=", revision))...).
		Then(clientv3.OpPut(key, encode(want))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return r.resolve(ctx, op, revision, want, err)
	}
	if resp.Succeeded {
		want.Revision = resp.Header.Revision
		return want, true, nil
	}
	now := Claim{Shard: want.Shard}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		now, _ = decodeClaim(want.Shard, kvs[0]) // a damaged claim counts as free
	}
	return now, now.same(want), nil
}

// resolve finds out what became of a transaction whose answer was lost. It
// reads also when the caller's context has ended: the answer matters beyond it.
func (r *Registration) resolve(ctx context.Context, op string, revision int64, want Claim, cause error) (Claim, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	resp, err := r.client.Get(ctx, r.space.shard(want.Shard))
	if err != nil {
		return Claim{}, false, &maildrop.Error{Op: op, Kind: maildrop.Maybe, Err: errors.Join(cause, err)}
	}
	now := Claim{Shard: want.Shard}
	if len(resp.Kvs) > 0 {
		now, _ = decodeClaim(want.Shard, resp.Kvs[0])
	}
	if now.Revision == revision {
		return now, false, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: cause}
	}
	return now, now.same(want), nil
}

// same compares all but the revisions.
func (c Claim) same(other Claim) bool {
	c.Revision, other.Revision = 0, 0
	return c == other
}
