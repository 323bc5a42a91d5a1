package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
)

// keeper runs a node's loop: it looks, plans, and starts what is to be done.
type keeper struct {
	node         *Node
	me           placement.Node
	holdings     *holdings
	metrics      *metrics
	log          *slog.Logger
	watcher      *placement.Watcher
	registration *placement.Registration
	troubles     *troubles
	wake         chan struct{}  // something ended: look again
	work         sync.WaitGroup // take-overs, releases, drops
	guards       sync.WaitGroup // one for each shard that is served

	// Of the loop's goroutine alone.
	crowd     crowd
	suspicion suspicion
	absences  *absences
	revision  int64 // of the last view
}

func newKeeper(n *Node, w *placement.Watcher, r *placement.Registration) *keeper {
	return &keeper{
		node: n, me: r.Node(), holdings: n.holdings, metrics: n.metrics, log: n.config.Log,
		watcher: w, registration: r, troubles: n.troubles, wake: make(chan struct{}, 1),
		suspicion: suspicion{}, absences: newAbsences(),
	}
}

// run looks whenever something may have changed, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(planInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		changed := k.watcher.Changed()
		var gossiped <-chan struct{} // nil without gossip: never ready
		if k.node.config.Gossip != nil {
			gossiped = k.node.config.Gossip.Changed()
		}
		k.look(ctx, time.Now())
		select {
		case <-changed:
		case <-gossiped:
		case <-k.wake:
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// look plans on what is known now.
func (k *keeper) look(ctx context.Context, now time.Time) {
	view := k.watcher.View()
	if view.Revision < k.revision {
		k.log.Warn("node: etcd went back in time", "from", k.revision, "to", view.Revision)
		k.holdings.forgetRevisions()
	}
	k.revision = view.Revision
	k.metrics.recovering(k.troubles.recovering(now))
	k.forgetReasons(view)
	k.holdings.cool(now)
	view = k.present(view, now)
	suspects := k.suspicion.observe(view, k.me.Name, k.gone)
	stable := k.crowd.observe(view, suspects, now) >= k.node.config.Stable
	for _, action := range placement.Plan(view, k.me, k.holdings.owned(), suspects, stable) {
		if k.holdings.sees(action.Claim.Shard, view.Revision) {
			k.begin(ctx, action, now)
		}
	}
}

// present is the view with those in their places whose leases only seem to
// have ended with them. Without gossip nobody can tell.
func (k *keeper) present(view placement.View, now time.Time) placement.View {
	if k.node.config.Gossip == nil {
		return view
	}
	before := k.absences.trouble
	view = k.absences.observe(view, k.me.Name, k.gone, now)
	k.metrics.absent(len(k.absences.since))
	switch {
	case k.absences.trouble && !before:
		k.log.Warn("node: many leases ended while their nodes live: etcd's trouble; nothing is taken over from them for a while",
			"absent", len(k.absences.since), "of", len(k.absences.known), "grace_seconds", etcdGrace.Seconds())
	case before && !k.absences.trouble:
		k.log.Info("node: no lease is missing any more")
	}
	return view
}

// forgetReasons leaves it to other owners to say what their shards wait for.
func (k *keeper) forgetReasons(view placement.View) {
	for number := range k.troubles.reasons() {
		if owner := view.Claims[number].Owner; owner != "" && owner != k.me.Name {
			k.troubles.waits(number, nil)
			k.metrics.waits(number, "")
		}
	}
}

func (k *keeper) gone(name, instance string) bool {
	return k.node.config.Gossip != nil && k.node.config.Gossip.Gone(name, instance)
}

// begin starts an action, unless one on the same shard is under way.
func (k *keeper) begin(ctx context.Context, action placement.Action, now time.Time) {
	number := action.Claim.Shard
	switch action.Do {
	case placement.Take:
		if k.troubles.waiting(number, now) {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		if s := k.holdings.begin(number, cancel); s != nil {
			k.work.Go(func() { defer cancel(); k.take(ctx, s, action) })
		} else {
			cancel()
		}
	case placement.Release:
		if !k.ready(ctx, action, now) {
			return
		}
		if s := k.holdings.retire(number); s != nil {
			k.work.Go(func() { k.release(context.WithoutCancel(ctx), s, action.Reason) })
		} else if !k.holdings.has(number) {
			k.disclaim(ctx, action)
		}
	case placement.Drop:
		if s := k.holdings.retire(number); s != nil {
			k.work.Go(func() { k.drop(context.WithoutCancel(ctx), s, action.Claim) })
		}
	}
}

// nudge makes the loop look again soon.
func (k *keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// take claims a shard, opens it and serves it.
func (k *keeper) take(ctx context.Context, s *slot, action placement.Action) {
	defer k.nudge()
	began := time.Now()
	shard, err := k.acquire(ctx, s, action.Claim)
	if err != nil {
		k.took(ctx, action, began, s, err) // before the slot is free: a look in between would try again at once
		k.holdings.end(s, placement.Claim{})
		return
	}
	if !k.holdings.serve(s, shard) {
		k.closeShard(context.WithoutCancel(ctx), s.number, shard)
		k.holdings.end(s, placement.Claim{})
		return
	}
	k.took(ctx, action, began, s, nil)
	k.guards.Go(func() { k.guard(context.WithoutCancel(ctx), s) })
}

// acquire is the part of take that can fail.
func (k *keeper) acquire(ctx context.Context, s *slot, seen placement.Claim) (owned, error) {
	from, ready := k.node.prepared.take(seen.Shard)
	if !ready {
		var err error
		if from.store, err = k.node.seal(ctx, seen.Shard); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	claim, err := k.registration.TakeClaim(ctx, seen)
	if err != nil {
		return nil, err
	}
	k.holdings.claimed(s, claim)
	k.metrics.phase("acquire", began)
	began = time.Now()
	shard, err := k.node.open(ctx, claim, from)
	if err != nil {
		return nil, err
	}
	if ready {
		k.metrics.phase("catch_up", began)
	} else {
		k.metrics.phase("replay", began)
	}
	opened, err := k.registration.Opened(ctx, claim, shard.Epoch(), shard.Ledger())
	if err == nil {
		k.holdings.claimed(s, opened)
		return shard, nil
	}
	if maildrop.KindOf(err) != maildrop.NotOwner && ctx.Err() == nil {
		// The next owner learns the epoch from the ledger, too.
		k.log.Warn("node: epoch and ledger not written to etcd", "shard", s.number, "epoch", shard.Epoch(), "error", err)
		return shard, nil
	}
	k.closeShard(context.WithoutCancel(ctx), s.number, shard)
	return nil, err
}

// took books the end of a take-over.
func (k *keeper) took(ctx context.Context, action placement.Action, began time.Time, s *slot, err error) {
	result := outcome(err)
	if ctx.Err() != nil {
		result = "lost" // whatever opening made of the cancellation
	}
	k.metrics.transition(gaining(action.Reason), action.Reason, result)
	log := k.log.With("shard", s.number, "reason", action.Reason, "claim_epoch", s.claim.Epoch, "seconds", time.Since(began).Seconds())
	switch result {
	case "ok":
		k.metrics.phase("total", began)
		k.troubles.waits(s.number, nil)
		k.metrics.waits(s.number, "")
		log.Info("node: shard taken", "epoch", s.shard.Epoch(), "from", action.Claim.Owner)
	case "lost":
		k.metrics.waits(s.number, "")
		k.troubles.pause(s.number, time.Now())
		log.Debug("node: shard went to another", "error", err)
	default:
		k.troubles.add(s.number, time.Now())
		if reason, ok := personal(err); ok {
			k.troubles.waits(s.number, err)
			k.metrics.waits(s.number, reason)
			log.Error("node: shard not taken, and nobody can take it before somebody acts", "waits_for", reason, "error", err)
			return
		}
		log.Warn("node: shard not taken", "error", err)
	}
}

// guard waits for the end of a served shard. One that ends by itself was fenced
// or broke.
func (k *keeper) guard(ctx context.Context, s *slot) {
	select {
	case <-s.gone:
		return
	case <-s.shard.Done():
	}
	if !k.holdings.retireSlot(s) {
		<-s.gone // it is being closed by us
		return
	}
	k.log.Warn("node: shard ended by itself", "shard", s.number, "epoch", s.shard.Epoch())
	k.closeShard(ctx, s.number, s.shard)
	if time.Since(s.since) > provenAfter {
		k.troubles.clear(s.number)
	}
	k.troubles.add(s.number, time.Now())
	k.holdings.end(s, placement.Claim{})
	k.nudge()
}

// release hands a shard over: no more calls, the last batch, then the claim.
func (k *keeper) release(ctx context.Context, s *slot, why placement.Reason) {
	defer k.nudge()
	k.closeShard(ctx, s.number, s.shard)
	free, err := k.registration.ReleaseClaim(ctx, s.claim)
	k.holdings.end(s, free)
	k.metrics.transition("release", why, outcome(err))
	if err != nil {
		k.log.Warn("node: claim not released", "shard", s.number, "error", err)
		return
	}
	k.troubles.clear(s.number)
	k.log.Info("node: shard released", "shard", s.number, "reason", why)
}

// disclaim frees a claim that is ours by name only.
func (k *keeper) disclaim(ctx context.Context, action placement.Action) {
	number := action.Claim.Shard
	if k.troubles.waiting(number, time.Now()) {
		return
	}
	k.troubles.pause(number, time.Now())
	k.work.Go(func() {
		if _, err := k.registration.ReleaseClaim(ctx, action.Claim); err != nil {
			k.log.Warn("node: claim not released", "shard", number, "error", err)
		}
	})
}

// drop ends the serving of a shard that is another's.
func (k *keeper) drop(ctx context.Context, s *slot, now placement.Claim) {
	defer k.nudge()
	k.log.Warn("node: shard lost to another", "shard", s.number, "owner", now.Owner, "epoch", now.Epoch)
	k.closeShard(ctx, s.number, s.shard)
	k.holdings.end(s, placement.Claim{})
	k.metrics.transition("release", placement.Failover, "lost")
}

// closeShard's failure changes nothing for the caller: the shard answers
// nobody any more, and a batch that hangs is the fence's affair.
func (k *keeper) closeShard(ctx context.Context, number int, shard owned) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := shard.Close(ctx); err != nil {
		k.log.Warn("node: shard not closed in order", "shard", number, "error", err)
	}
}
