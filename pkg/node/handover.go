package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/shard"
)

// How a shard's heir is made ready before the shard is handed over.
const (
	prepareTimeout = 10 * time.Second // the owner waits so long for it, and serves on
	partingTimeout = 2 * time.Second  // the same, of an owner whose process ends
	preparedFor    = time.Minute      // what is ready is kept, and counts as ready, for so long
	maxPrepared    = 16               // shards that a node is ready for at once: each is in memory
)

// source is what a shard is opened from.
type source struct {
	store blob.Store
	shard *shard.Prepared // nil: nothing was read yet
}

// preparations are shards that this node has read, for it is to have them soon.
type preparations struct {
	mu  sync.Mutex
	all map[int]*preparation
}

type preparation struct {
	source
	expiry *time.Timer // nil: it is still being read
}

// begin makes a place for a shard; false: it has one, or there are enough.
func (p *preparations) begin(number int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[number] != nil || len(p.all) >= maxPrepared {
		return false
	}
	if p.all == nil {
		p.all = map[int]*preparation{}
	}
	p.all[number] = &preparation{}
	return true
}

// end keeps what was read for a while, or gives the place back when reading failed.
func (p *preparations) end(number int, from source, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[number]
	switch {
	case one == nil: // taken, or forgotten, meanwhile
	case err != nil:
		delete(p.all, number)
	default:
		one.source = from
		one.expiry = time.AfterFunc(preparedFor, func() { p.expire(number, one) })
	}
}

func (p *preparations) expire(number int, one *preparation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[number] == one {
		delete(p.all, number)
	}
}

// take is what was read of a shard, once; ok is false if there is nothing.
func (p *preparations) take(number int) (from source, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[number]
	if one == nil {
		return source{}, false
	}
	delete(p.all, number)
	if one.expiry == nil {
		return source{}, false
	}
	one.expiry.Stop()
	return one.source, true
}

// forget lets all go.
func (p *preparations) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		if one.expiry != nil {
			one.expiry.Stop()
		}
	}
	p.all = nil
}

// Prepare reads a shard that this node is about to be handed, while its owner still serves
// it. Errors: Invalid for a number that the region doesn't have; Busy when enough
// is being prepared; those of shard.Prepare.
func (n *Node) Prepare(ctx context.Context, number int) error {
	const op = "node.prepare"
	switch {
	case number < 0 || number >= n.config.Shards:
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("shard %d of %d", number, n.config.Shards)}
	case n.holdings.has(number):
		return nil
	case !n.prepared.begin(number):
		return &maildrop.Error{Op: op, Kind: maildrop.Busy, Err: errors.New("it is prepared already, or others are")}
	}
	from := source{}
	var err error
	if from.store, err = n.seal(ctx, number); err == nil {
		from.shard, err = shard.Prepare(ctx, n.shardConfig(number, from.store))
	}
	n.prepared.end(number, from, err)
	return err
}

// warmth is how ready a shard's heir is.
type warmth uint8

const (
	cold    warmth = iota // whoever asks is to prepare it
	warming               // somebody does
	warm                  // it is, or has had its chance
)

// warmth asks how ready a process is for a shard that is served here.
func (h *holdings) warmth(number int, heir string, now time.Time) warmth {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.slots[number]
	switch {
	case s == nil || s.state != serving:
		return warm // nothing to wait for
	case s.heir != heir || !s.warm.IsZero() && now.Sub(s.warm) > preparedFor/2:
		s.heir, s.warm = heir, time.Time{}
		return cold
	case s.warm.IsZero():
		return warming
	}
	return warm
}

// warmed notes that a process is ready, or has had its chance.
func (h *holdings) warmed(number int, heir string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[number]; s != nil && s.heir == heir {
		s.warm = now
	}
}

// ready reports whether a shard can be handed to its heir now, and sees to it that it can
// be soon: until then it is served as ever.
func (k *keeper) ready(ctx context.Context, action placement.Action, now time.Time) bool {
	number, heir := action.Claim.Shard, action.Heir
	if k.node.config.Prepare == nil || heir.Address == "" {
		return true
	}
	switch k.holdings.warmth(number, heir.Instance, now) {
	case warm:
		return true
	case cold:
		k.work.Go(func() {
			defer k.nudge()
			k.prepare(ctx, number, heir, prepareTimeout)
			k.holdings.warmed(number, heir.Instance, time.Now())
		})
	case warming:
	}
	return false
}

// prepare makes a shard's heir ready, if it can.
func (k *keeper) prepare(ctx context.Context, number int, heir placement.Node, limit time.Duration) {
	if k.node.config.Prepare == nil || heir.Address == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	err := k.node.config.Prepare(ctx, heir.Address, number)
	k.metrics.phase("prepare", began)
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		k.log.Info("node: a shard's heir isn't ready for it, and will read it when it has it", "shard", number, "heir", heir.Name, "error", err)
	}
}
