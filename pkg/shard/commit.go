package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits of what waits to be written.
const (
	maxBatchRecords = 4096
	maxBatchOctets  = 8 << 20
	maxQueued       = 16384            // requests
	maxHeld         = 64 << 20         // octets of their bodies
	requestOverhead = 512              // octets that any request counts as
	appendTimeout   = 20 * time.Second // then an unknown outcome is left to the next owner
)

// Why nothing was written.
var (
	errQueueFull = errors.New("too much waits to be written")
	errStopped   = errors.New("the shard is not owned here any more")
)

// request is one record on its way into the ledger, with everybody who waits
// for it. Its fields below draft are guarded by committer.mu.
type request struct {
	draft  ledger.Draft
	octets int64     // reserved
	key    *delivery // of a delivery, for repetitions

	waiting int           // callers
	sent    bool          // in the batch that is being written: it can't be taken back
	done    chan struct{} // closed when err is set
	err     error
}

// committer writes requests in batches: the first one at once, and what comes
// while a batch is being written together in the next.
//
//	submit ──▶ queued ──▶ sent ──▶ done (nil: durable and applied)
//	             └─ all callers left: taken back, Canceled
type committer struct {
	append  func(context.Context, []ledger.Draft) ([]ledger.Entry, error)
	applied func([]ledger.Entry, []ledger.Draft) error // makes a batch visible; before its callers are answered
	known   func(delivery) bool                        // whether a delivery is visible already
	log     *slog.Logger
	metrics *Metrics

	wake chan struct{} // something is queued, or stop was called

	mu      sync.Mutex
	queue   []*request
	pending map[delivery]*request // deliveries queued or sent
	held    int64                 // octets reserved
	count   int                   // reservations
	closed  bool
}

// start makes the committer ready for submit. It then needs run.
func (c *committer) start() {
	c.wake = make(chan struct{}, 1)
	c.pending = make(map[delivery]*request)
}

// reserve makes room for octets, before they are read into memory.
func (c *committer) reserve(octets int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return &maildrop.Error{Op: "shard.commit", Kind: maildrop.NotOwner, Err: errStopped}
	case c.count >= maxQueued || c.held+octets > maxHeld:
		return &maildrop.Error{Op: "shard.commit", Kind: maildrop.Busy, Err: errQueueFull}
	}
	c.hold(octets, 1)
	return nil
}

func (c *committer) release(octets int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(-octets, -1)
}

func (c *committer) hold(octets int64, count int) {
	c.held += octets
	c.count += count
	c.metrics.queueHolds(octets)
}

// commit submits a request, whose octets are reserved, and waits for it.
func (c *committer) commit(ctx context.Context, r *request) error {
	r, err := c.submit(r)
	if r == nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return c.leave(ctx, r)
	}
}

// submit queues the request, or joins an equal one that is on its way. It
// returns no request when nothing is to be waited for. The reservation is the
// committer's from here on.
func (c *committer) submit(r *request) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.key != nil {
		if first := c.pending[*r.key]; first != nil {
			c.hold(-r.octets, -1)
			first.waiting++
			return first, nil
		}
		if c.known(*r.key) { // after pending: it is applied before it is taken from there
			c.hold(-r.octets, -1)
			return nil, nil
		}
	}
	if c.closed {
		c.hold(-r.octets, -1)
		return nil, &maildrop.Error{Op: "shard.commit", Kind: maildrop.NotOwner, Err: errStopped}
	}
	r.waiting, r.done = 1, make(chan struct{})
	c.queue = append(c.queue, r)
	if r.key != nil {
		c.pending[*r.key] = r
	}
	c.signal()
	return r, nil
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// leave is for a caller whose context ended. A request that nobody else waits
// for and that isn't being written is taken back.
func (c *committer) leave(ctx context.Context, r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	default:
	}
	r.waiting--
	kind := maildrop.Maybe
	if r.waiting == 0 && !r.sent {
		kind = maildrop.Canceled
		c.queue = slices.DeleteFunc(c.queue, func(q *request) bool { return q == r })
		c.settle(r)
	}
	return &maildrop.Error{Op: "shard.commit", Kind: kind, Err: ctx.Err()}
}

// settle takes a request off the books.
func (c *committer) settle(r *request) {
	c.hold(-r.octets, -1)
	if r.key != nil {
		delete(c.pending, *r.key)
	}
}

// run writes batches until stop is called or the ledger is lost. ctx ends what
// is being written: only when it may take no longer.
func (c *committer) run(ctx context.Context) {
	for range c.wake {
		for batch := c.take(); len(batch) > 0; batch = c.take() {
			err := c.write(ctx, batch)
			c.answer(batch, err)
			if errors.Is(err, ledger.ErrFenced) || errors.Is(err, ledger.ErrBroken) {
				c.stop()
			}
		}
		if c.refuseRest() {
			return
		}
	}
}

// take takes the next batch off the queue; none when nothing waits or when
// nothing may be written any more.
func (c *committer) take() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	n, octets := 0, int64(0)
	for n < len(c.queue) && n < maxBatchRecords && (n == 0 || octets+c.queue[n].octets <= maxBatchOctets) {
		c.queue[n].sent = true
		octets += c.queue[n].octets
		n++
	}
	batch := slices.Clone(c.queue[:n])
	c.queue = slices.Delete(c.queue, 0, n) // clears the tail: no body is held by it
	return batch
}

func (c *committer) write(ctx context.Context, batch []*request) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	drafts := make([]ledger.Draft, len(batch))
	for i, r := range batch {
		drafts[i] = r.draft
	}
	began := time.Now()
	entries, err := c.append(ctx, drafts)
	c.metrics.committed(commitResult(err), len(batch), time.Since(began))
	if err != nil {
		c.log.Warn("append to the ledger failed", "records", len(batch), "error", err)
		return appendError(err)
	}
	if err := c.applied(entries, drafts); err != nil {
		c.log.Error("an entry of our own can't be applied", "error", err)
		return &maildrop.Error{Op: "shard.apply", Kind: maildrop.Maybe, Err: fmt.Errorf("%w: %w", ledger.ErrBroken, err)}
	}
	return nil
}

// appendError is what a batch's callers hear. That the append ran out of time
// is no matter of theirs.
func appendError(err error) error {
	kind := maildrop.KindOf(err)
	if kind == maildrop.Canceled {
		kind = maildrop.Transient
	}
	return &maildrop.Error{Op: "shard.commit", Kind: kind, Err: err}
}

func commitResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ledger.ErrFenced):
		return "fenced"
	case errors.Is(err, ledger.ErrBroken):
		return "broken"
	case maildrop.KindOf(err) == maildrop.Full:
		return "full"
	}
	return "error"
}

func (c *committer) answer(batch []*request, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range batch {
		r.err = err
		c.settle(r)
		close(r.done)
	}
}

// stop begins the end: what is being written is finished, nothing else is begun.
func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
}

// refuseRest answers everybody who waits, once stop was called.
func (c *committer) refuseRest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		return false
	}
	for _, r := range c.queue {
		r.err = &maildrop.Error{Op: "shard.commit", Kind: maildrop.NotOwner, Err: errStopped}
		c.settle(r)
		close(r.done)
	}
	c.queue = nil
	return true
}
