package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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
	maxHeld         = 64 << 20         // octets of their bodies, of one shard
	requestOverhead = 512              // octets that any request counts as
	appendTimeout   = 20 * time.Second // then an unknown outcome is left to the next owner
)

// Why nothing was written.
var (
	errQueueFull = errors.New("too much waits to be written")
	errNodeFull  = errors.New("the node's memory for mail that waits to be written is full")
	errSameUID   = errors.New("another message with this unique-id is on its way")
	errStopped   = errors.New("the shard is not owned here any more")
)

// request is one record on its way into the ledger, with everybody who waits
// for it. Its fields below draft are guarded by committer.mu.
type request struct {
	draft  ledger.Draft
	octets int64     // reserved
	key    *delivery // of a delivery, for repetitions
	ended  func()    // called when the request is off the books; nil: nobody cares
	// passes is asked when the request is queued, and its error is the answer; nil: it passes.
	passes func() error
	// last: it is written when all that was queued before it has landed. Appends that are
	// under way at once may get their sequences in any order.
	last bool

	waiting int           // callers
	sent    bool          // in the batch that is being written: it can't be taken back
	done    chan struct{} // closed when err is set
	err     error
}

// committer writes requests in batches, a few of them at once: see pipeline.
//
//	submit ──▶ queued ──▶ sent ──▶ landed ──▶ done (nil: durable and applied)
//	             └─ all callers left: taken back, Canceled
type committer struct {
	append  func(context.Context, []ledger.Draft) ([]ledger.Entry, error)
	applied func(landing) error          // makes a batch visible; before its callers are answered
	known   func(delivery) (bool, error) // whether a delivery is visible already; errUsed
	tail    func() int                   // ledger objects that no checkpoint covers
	log     *slog.Logger
	metrics *Metrics
	budget  *Budget
	// refusals logs what the store refused.
	refusals *Refusals

	wake   chan struct{} // something is queued, a checkpoint was written, or stop was called
	flying pipeline      // of run's goroutine

	mu      sync.Mutex
	queue   []*request
	waiting int64                 // octets in the queue
	pending map[delivery]*request // deliveries queued or sent, by their slots
	held    int64                 // octets reserved
	count   int                   // reservations
	closed  bool
}

// start makes the committer ready for submit. It then needs run. next is the
// sequence that the first append gets.
func (c *committer) start(next uint64) {
	c.wake = make(chan struct{}, 1)
	c.pending = make(map[delivery]*request)
	c.flying = pipeline{landings: make(chan landing, maxInFlight), next: next}
}

// reserve makes room for octets, before they are read into memory.
func (c *committer) reserve(octets int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return &maildrop.Error{Op: "shard.commit", Kind: maildrop.NotOwner, Err: errStopped}
	case c.count >= maxQueued:
		return c.refuse(refusedQueue, errQueueFull)
	case c.held+octets > maxHeld:
		return c.refuse(refusedMemory, errQueueFull)
	case !c.budget.take(octets):
		return c.refuse(refusedMemory, errNodeFull)
	}
	c.hold(octets, 1)
	return nil
}

func (c *committer) refuse(reason string, err error) error {
	c.metrics.refused(reason)
	return &maildrop.Error{Op: "shard.commit", Kind: maildrop.Busy, Err: err}
}

func (c *committer) release(octets int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unhold(octets)
}

func (c *committer) hold(octets int64, count int) {
	c.held += octets
	c.count += count
	c.metrics.queueHolds(octets)
}

func (c *committer) unhold(octets int64) {
	c.hold(-octets, -1)
	c.budget.give(octets)
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
		first, done, err := c.meets(r.key)
		if done {
			c.strike(r)
			return first, err
		}
	}
	if c.closed {
		c.strike(r)
		return nil, &maildrop.Error{Op: "shard.commit", Kind: maildrop.NotOwner, Err: errStopped}
	}
	if r.passes != nil {
		if err := r.passes(); err != nil {
			c.strike(r)
			return nil, err
		}
	}
	r.waiting, r.done = 1, make(chan struct{})
	c.queue = append(c.queue, r)
	c.waiting += r.octets
	if r.key != nil {
		c.pending[r.key.slot()] = r
	}
	c.signal()
	return r, nil
}

// meets holds a delivery against those that are on their way and those that are
// visible: in this order, for one is applied before it is taken from there.
func (c *committer) meets(key *delivery) (first *request, done bool, err error) {
	if first = c.pending[key.slot()]; first != nil {
		if first.key.repeat != key.repeat {
			return nil, true, &maildrop.Error{Op: "shard.commit", Kind: maildrop.Busy, Err: errSameUID}
		}
		first.waiting++
		return first, true, nil
	}
	stored, err := c.known(*key)
	if err != nil {
		err = &maildrop.Error{Op: "shard.commit", Kind: maildrop.Invalid, Err: err}
	}
	return nil, stored || err != nil, err
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// strike ends a request's reservation.
func (c *committer) strike(r *request) {
	c.unhold(r.octets)
	if r.ended != nil {
		r.ended()
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
		c.waiting -= r.octets
		c.settle(r)
	}
	return &maildrop.Error{Op: "shard.commit", Kind: kind, Err: ctx.Err()}
}

// settle takes a request off the books.
func (c *committer) settle(r *request) {
	c.strike(r)
	if r.key != nil {
		delete(c.pending, r.key.slot())
	}
}

// run writes batches until stop was called, or the ledger is lost, and nothing
// is being written any more. ctx ends what is being written: only when it may take no
// longer.
func (c *committer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if pause := c.launch(ctx); pause > 0 {
			timer.Reset(pause)
		}
		if c.refuseRest() && c.flying.inFlight == 0 {
			return
		}
		select {
		case <-c.wake:
		case <-timer.C:
		case l := <-c.flying.landings:
			c.land(l)
		}
	}
}

// launch starts the appends that may be started now. It answers how long it is
// until the next one may; 0: that is not a matter of time.
func (c *committer) launch(ctx context.Context) time.Duration {
	for {
		queued, octets := c.load()
		if queued == 0 || c.tail() >= maxTail {
			return 0
		}
		if c.flying.inFlight > 0 && c.lastIsNext() {
			return 0
		}
		now := time.Now()
		pause, may := c.flying.pause(now, octets)
		if !may || pause > 0 {
			return pause
		}
		runtime.Gosched() // who is about to submit comes along: costs nothing but when there is much to do
		batch := c.take()
		if len(batch) == 0 {
			return 0
		}
		c.flying.inFlight++
		c.flying.started = now
		go func() { c.flying.landings <- c.write(ctx, batch) }()
	}
}

// lastIsNext reports whether what is written next has to wait for all before it.
func (c *committer) lastIsNext() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) > 0 && c.queue[0].last
}

func (c *committer) load() (requests int, octets int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue), c.waiting
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
	for n < len(c.queue) && n < maxBatchRecords && (n == 0 || !c.queue[n].last && octets+c.queue[n].octets <= maxBatchOctets) {
		c.queue[n].sent = true
		octets += c.queue[n].octets
		n++
	}
	batch := slices.Clone(c.queue[:n])
	c.queue = slices.Delete(c.queue, 0, n) // clears the tail: no body is held by it
	c.waiting -= octets
	return batch
}

// write is one append. It runs beside others.
func (c *committer) write(ctx context.Context, batch []*request) landing {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	l := landing{batch: batch, drafts: make([]ledger.Draft, len(batch)), began: time.Now()}
	for i, r := range batch {
		l.drafts[i] = r.draft
	}
	l.entries, l.err = c.append(ctx, l.drafts)
	l.took = time.Since(l.began)
	c.metrics.committed(commitResult(l.err), len(batch), l.took)
	switch {
	case l.err == nil:
	case ends(l.err):
		c.log.Warn("append to the ledger failed, the shard is given up", "records", len(batch), "error", l.err)
	default:
		c.refusals.say(c.log, len(batch), l.err)
	}
	return l
}

// land takes an append's outcome in, and applies and answers what is next.
func (c *committer) land(l landing) {
	c.flying.landed(l)
	if l.err != nil {
		if ends(l.err) {
			c.stop()
		}
		c.answer(l.batch, appendError(l.err))
	}
	for l, ok := c.flying.nextLanding(); ok; l, ok = c.flying.nextLanding() {
		c.answer(l.batch, c.apply(l))
	}
}

// ends reports whether nothing can be appended after an error.
func ends(err error) bool {
	return errors.Is(err, ledger.ErrFenced) || errors.Is(err, ledger.ErrBroken)
}

// apply makes a batch visible. After an entry of ours that can't be applied
// nothing is: the memory is not what the ledger says.
func (c *committer) apply(l landing) error {
	err := c.flying.lost
	if err == nil {
		err = c.applied(l)
	}
	if err == nil {
		return nil
	}
	if c.flying.lost == nil {
		c.log.Error("an entry of our own can't be applied", "error", err)
		c.flying.lost = err
		c.stop()
	}
	return &maildrop.Error{Op: "shard.apply", Kind: maildrop.Maybe, Err: fmt.Errorf("%w: %w", ledger.ErrBroken, err)}
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
	c.queue, c.waiting = nil, 0
	return true
}
