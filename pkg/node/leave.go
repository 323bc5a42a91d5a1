package node

import (
	"context"
	"sync"

	"github.com/postern-pop/postern/pkg/placement"
)

// leave ends the node in order: nothing is begun any more, the others learn
// that it goes, each shard is closed and freed for its heir, and the
// registration ends. Without etcd the shards are closed, and that is all.
func (k *keeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	reachable := k.notice(ctx)
	k.work.Wait()
	k.farewell(ctx, reachable)
	k.guards.Wait()
	if !reachable {
		ctx, cancel = context.WithTimeout(ctx, lastTry)
		defer cancel()
	}
	if err := k.registration.Close(ctx); err != nil {
		k.log.Warn("node: not deregistered", "error", err)
	}
}

// notice tells the others, and finds out whether etcd listens.
func (k *keeper) notice(ctx context.Context) (reachable bool) {
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	err := k.registration.Drain(ctx)
	if err != nil {
		k.log.Warn("node: leaving without notice", "error", err)
	}
	return err == nil
}

// farewell makes the heirs of all shards ready and releases them, a few at a time.
func (k *keeper) farewell(ctx context.Context, reachable bool) {
	var all sync.WaitGroup
	places := make(chan struct{}, maxFarewells)
	heirs := placement.Heirs(k.watcher.View(), k.me.Name)
	for _, number := range k.holdings.serving() {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if reachable {
				k.prepare(ctx, number, heirs[number], partingTimeout)
			}
			s := k.holdings.retire(number)
			if s == nil {
				return // it has just ended by itself
			}
			if reachable && ctx.Err() == nil {
				k.release(ctx, s, placement.Draining)
				return
			}
			k.closeShard(ctx, s.number, s.shard)
			k.holdings.end(s, placement.Claim{})
		})
	}
	all.Wait()
}
