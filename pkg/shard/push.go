package shard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

const (
	pushAtOnce    = 8                // mailboxes of one shard
	pushPatience  = 20 * time.Second // for one call of the other region
	pushPause     = 100 * time.Millisecond
	pushPauseMost = 2 * time.Second
	pushMention   = time.Second // between words about progress
	withdrawNamed = 4096        // unique-ids in one call
	lateExpiry    = time.Hour   // what expires so soon may be gone over there already
)

var errDiffers = errors.New("the other region's mailbox isn't the same after all was sent")

// pushes remember which mailboxes were brought to another region, and how they stood:
// those that are as they were then need no look over there. It is lost with the owner.
type pushes struct {
	mu    sync.Mutex
	marks map[maildrop.Address]mark
}

// mark says how a mailbox stood when it was pushed.
type mark struct {
	move     maildrop.Move
	at       ledger.Position // the state's last entry
	recorded bool            // it had a record
}

func (p *pushes) note(address maildrop.Address, m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.marks == nil {
		p.marks = make(map[maildrop.Address]mark)
	}
	p.marks[address] = m
}

func (p *pushes) of(address maildrop.Address) mark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.marks[address]
}

func (p *pushes) forget(move maildrop.Move) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, m := range p.marks {
		if m.move.Account == move.Account {
			delete(p.marks, address)
		}
	}
}

// Peers answers who receives mailboxes in another region.
type Peers func(region string) (maildrop.Receiver, error)

// Push brings the region that the account moves to up to what this shard has. final: the
// account must be sealed here, and what is there afterwards is held against what is here.
func (s *Shard) Push(ctx context.Context, move maildrop.Move, final bool, peers Peers, progress func(maildrop.Pushed)) (maildrop.Pushed, error) {
	const op = "shard.push"
	p := &push{shard: s, move: move, final: final, progress: progress}
	if err := s.owned(ctx, op); err != nil {
		return p.sum, err
	}
	if err := s.confirm(ctx, op); err != nil {
		return p.sum, err
	}
	moving, err := s.moving(move)
	if err == nil {
		err = s.mayPush(move, moving, final)
	}
	if err == nil {
		p.to, err = peers(moving.To)
	}
	if err != nil {
		return p.sum, failed(op, err)
	}
	err = p.run(ctx)
	return p.sum, failed(op, err)
}

// mayPush holds mail back from any region but the one that the account's record names.
func (s *Shard) mayPush(move maildrop.Move, m policy.Moving, final bool) error {
	if m.From != s.config.Region || m.Phase != policy.MoveCopying && m.Phase != policy.MoveSealed {
		return behind(move, fmt.Sprintf("phase %q, from %q, is no ground to push from %s", m.Phase, m.From, s.config.Region))
	}
	if final && s.gates.at(move.Account).moved != (moved{move.ID, maildrop.StageLeaving}) {
		return behind(move, "the account isn't sealed here yet")
	}
	return nil
}

// push is one pass over the mailboxes.
type push struct {
	shard    *Shard
	move     maildrop.Move
	final    bool
	to       maildrop.Receiver
	progress func(maildrop.Pushed)

	mu        sync.Mutex
	sum       maildrop.Pushed
	mentioned time.Time
}

// run pushes a few mailboxes at a time. The first error ends it.
func (p *push) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel(nil)
	watcher.Go(func() { // a shard that is lost has nothing more to say
		select {
		case <-p.shard.done:
			cancel(&maildrop.Error{Op: "shard.push", Kind: maildrop.NotOwner, Err: errStopped})
		case <-ctx.Done():
		}
	})
	addresses := make(chan maildrop.Address)
	var workers sync.WaitGroup
	for range pushAtOnce {
		workers.Go(func() {
			for address := range addresses {
				if err := p.mailbox(ctx, address); err != nil {
					cancel(fmt.Errorf("%s: %w", address, err))
				}
			}
		})
	}
	for _, address := range p.shard.mailboxesOf(p.move.Account) {
		select {
		case addresses <- address:
		case <-ctx.Done():
		}
	}
	close(addresses)
	workers.Wait()
	return context.Cause(ctx)
}

func (p *push) add(some maildrop.Pushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum.Add(some)
	if now := time.Now(); p.progress != nil && now.Sub(p.mentioned) >= pushMention {
		p.mentioned = now
		p.progress(p.sum)
	}
}

// mailbox brings one mailbox up to date over there. What is there is asked for before
// the look at what is here: so whatever is there alone was removed here.
func (p *push) mailbox(ctx context.Context, address maildrop.Address) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.shard.asMarked(address, p.move) {
		p.add(maildrop.Pushed{Mailboxes: 1})
		return nil
	}
	there, err := p.inventory(ctx, address)
	if err != nil {
		return err
	}
	here := p.shard.stock(address, p.move)
	done, err := p.record(ctx, here)
	if err != nil {
		return err
	}
	p.add(done)
	extra := here.beyond(there)
	if err := p.withdraw(ctx, address, extra); err != nil {
		return err
	}
	p.add(maildrop.Pushed{Withdrawn: uint64(len(extra))})
	damaged, err := p.messages(ctx, here, there)
	if err != nil {
		return err
	}
	if p.final {
		if err := p.verify(ctx, here, damaged); err != nil {
			return err
		}
	}
	if len(damaged) == 0 {
		p.shard.pushes.note(address, here.mark)
	}
	p.add(maildrop.Pushed{Mailboxes: 1, Damaged: uint64(len(damaged))})
	return nil
}

// stock is what a mailbox has.
type stock struct {
	address  maildrop.Address
	record   maildrop.AddressRecord // without an account: there is none
	messages []found
	mark     mark
}

func (s *Shard) stock(address maildrop.Address, move maildrop.Move) stock {
	now := time.Now().Unix()
	s.mu.RLock()
	defer s.mu.RUnlock()
	here := stock{address: address, record: maildrop.AddressRecord{Address: address}, mark: mark{move: move, at: s.state.last}}
	box := s.state.box(address)
	if box == nil {
		return here
	}
	if box.record.exists() {
		here.record, here.mark.recorded = box.record.whole(address), true
	}
	for i := range box.messages {
		if m := &box.messages[i]; m.flags&flagRemoved == 0 && m.expires() > now {
			here.messages = append(here.messages, s.found(m))
		}
	}
	return here
}

// found is a message with its place. s.mu is held.
func (s *Shard) found(m *message) found {
	f := found{message: *m, uid: s.state.uid(m), object: s.state.objects[m.position]}
	place, ok := s.state.place(m)
	f.place, f.lost = place, !ok
	return f
}

// asMarked reports whether a mailbox is as it was when it was pushed in this move.
func (s *Shard) asMarked(address maildrop.Address, move maildrop.Move) bool {
	m := s.pushes.of(address)
	if m.move != move {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	box := s.state.box(address)
	if box == nil || box.record.exists() != m.recorded || box.record.revision > m.at {
		return false
	}
	for i := range box.messages {
		one := &box.messages[i]
		if one.position > m.at || one.flags&flagRemoved != 0 && s.state.removals[one.position].at > m.at {
			return false
		}
	}
	return true
}

// beyond are the unique-ids that are there and not here.
func (h stock) beyond(there map[maildrop.UID]uint64) (extra []maildrop.UID) {
	left := make(map[maildrop.UID]bool, len(there))
	for uid := range there {
		left[uid] = true
	}
	for i := range h.messages {
		delete(left, h.messages[i].uid)
	}
	for uid := range left {
		extra = append(extra, uid)
	}
	return extra
}

func (p *push) inventory(ctx context.Context, address maildrop.Address) (map[maildrop.UID]uint64, error) {
	var listing *maildrop.Listing
	err := patiently(ctx, func(ctx context.Context) (err error) {
		listing, err = p.to.Inventory(ctx, p.move, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	there := make(map[maildrop.UID]uint64, listing.Len())
	for i := range listing.Len() {
		there[listing.UID(i)] = listing.Size(i)
	}
	return there, nil
}

// record sends the address's record, unless this was the last thing that was sent of it.
func (p *push) record(ctx context.Context, here stock) (maildrop.Pushed, error) {
	if was := p.shard.pushes.of(here.address); was.move == p.move && was.recorded == here.mark.recorded &&
		p.shard.unchanged(here.address, was.at) {
		return maildrop.Pushed{}, nil
	}
	err := patiently(ctx, func(ctx context.Context) error { return p.to.ReceiveAddress(ctx, p.move, here.record) })
	return maildrop.Pushed{Records: 1}, err
}

// unchanged reports whether the address's record is as it was at a position.
func (s *Shard) unchanged(address maildrop.Address, at ledger.Position) bool {
	r, _ := s.record(address)
	return r.revision <= at
}

func (p *push) withdraw(ctx context.Context, address maildrop.Address, uids []maildrop.UID) error {
	for len(uids) > 0 {
		some := uids[:min(len(uids), withdrawNamed)]
		err := patiently(ctx, func(ctx context.Context) error { return p.to.Withdraw(ctx, p.move, address, some) })
		if err != nil {
			return err
		}
		uids = uids[len(some):]
	}
	return nil
}

// messages sends those that aren't there, in order of arrival. It answers with those
// that can't be read.
func (p *push) messages(ctx context.Context, here stock, there map[maildrop.UID]uint64) (damaged map[maildrop.UID]bool, err error) {
	damaged = make(map[maildrop.UID]bool)
	for i := range here.messages {
		f := here.messages[i]
		if _, has := there[f.uid]; has {
			continue
		}
		err := p.message(ctx, here.address, f)
		switch {
		case err == nil:
			p.add(maildrop.Pushed{Messages: 1, Octets: uint64(f.wire)})
		case errors.Is(err, errRemoved):
		case errors.Is(err, ledger.ErrCorrupt):
			p.shard.noteDamage(f, 0, err)
			damaged[f.uid] = true
		default:
			return damaged, err
		}
	}
	return damaged, nil
}

// errRemoved is no trouble: the message was removed since.
var errRemoved = errors.New("the message was removed meanwhile")

func (p *push) message(ctx context.Context, address maildrop.Address, f found) error {
	body, err := p.shard.leaving(ctx, address, f)
	if err != nil {
		return err
	}
	arrival := maildrop.Arrival{Class: f.class, Envelope: maildrop.Envelope{
		ID: p.shard.identify(body, f), To: address, UID: f.uid, Received: time.Unix(int64(f.received), 0).UTC(),
	}}
	return patiently(ctx, func(ctx context.Context) error { return p.to.Receive(ctx, p.move, arrival, body) })
}

// verify holds what is there against what is here, now that nothing changes any more.
// What is about to expire counts as the same.
func (p *push) verify(ctx context.Context, here stock, damaged map[maildrop.UID]bool) error {
	there, err := p.inventory(ctx, here.address)
	if err != nil {
		return err
	}
	soon := time.Now().Add(lateExpiry).Unix()
	for i := range here.messages {
		f := &here.messages[i]
		if size, has := there[f.uid]; (!has || size != uint64(f.size)) && !damaged[f.uid] && f.expires() > soon {
			return fmt.Errorf("message %s: %w", f.uid, errDiffers)
		}
	}
	if extra := here.beyond(there); len(extra) > 0 {
		return fmt.Errorf("message %s: %w", extra[0], errDiffers)
	}
	return nil
}

// identify finds the ID that a message was delivered with, so that a gateway's repetition
// is known over there. After a day none counts, and any will do.
func (s *Shard) identify(body *leavingBody, f found) maildrop.EnvelopeID {
	if s.config.Identify != nil && within(f.received, seconds(time.Now()), windowSeconds+slackSeconds) {
		if r, err := body.Open(); err == nil {
			defer r.Close()
			if id, ok := s.config.Identify(r); ok {
				return id
			}
		}
	}
	sum := sha256.Sum256([]byte("postern move\x00" + string(f.uid)))
	return maildrop.EnvelopeID(sum[:16])
}

// leavingBody is a stored message on its way to another region.
type leavingBody struct {
	found
	whole []byte                        // of an inline one
	read  func() (io.ReadCloser, error) // of a large one
}

// Open implements maildrop.Body.
func (b *leavingBody) Open() (io.ReadCloser, error) {
	if b.read != nil {
		return b.read()
	}
	return io.NopCloser(bytes.NewReader(b.whole)), nil
}

// Wire implements maildrop.Body.
func (b *leavingBody) Wire() uint64 { return uint64(b.wire) }

// Size implements maildrop.Body.
func (b *leavingBody) Size() uint64 { return uint64(b.size) }

// Whole is all of it, if it is in memory.
func (b *leavingBody) Whole() []byte { return b.whole }

// leaving reads a message. Octets that are gone may have moved, or the message was
// removed; else that is damage.
func (s *Shard) leaving(ctx context.Context, address maildrop.Address, f found) (*leavingBody, error) {
	b := &leavingBody{found: f}
	var err error
	switch {
	case f.object != "":
		b.read = func() (io.ReadCloser, error) {
			r, err := s.ledger.OpenBody(ctx, f.object, uint64(f.wire), 0)
			return r, s.left(ctx, address, f, err)
		}
	case f.wire > 0:
		if b.whole, err = s.body(ctx, f); errors.Is(err, ledger.ErrGone) {
			if again, there := s.again(address, f.position); there {
				b.whole, err = s.body(ctx, again)
			}
		}
	}
	return b, s.left(ctx, address, f, err)
}

// left finds out why octets aren't there: the shard is another's by now, the message was
// removed, or it is damage.
func (s *Shard) left(ctx context.Context, address maildrop.Address, f found, err error) error {
	if !errors.Is(err, ledger.ErrGone) {
		return err
	}
	if fenced := s.ask(ctx); errors.Is(fenced, ledger.ErrFenced) {
		return fenced
	}
	if _, there := s.again(address, f.position); !there {
		return errRemoved
	}
	return fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
}

// again finds a message once more, unless it was removed.
func (s *Shard) again(address maildrop.Address, position ledger.Position) (found, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	box := s.state.box(address)
	if box == nil {
		return found{}, false
	}
	m := box.message(position)
	if m == nil || m.flags&flagRemoved != 0 {
		return found{}, false
	}
	return s.found(m), true
}

// patiently repeats a call of the other region until it is answered, or time is up.
func patiently(ctx context.Context, call func(context.Context) error) error {
	pause, until := pushPause, time.Now().Add(pushPatience)
	for {
		err := call(ctx)
		settled := err == nil || errors.Is(err, ledger.ErrCorrupt) || errors.Is(err, errRemoved) || !passes(err)
		if settled || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // chance, no secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause = min(2*pause, pushPauseMost)
	}
}

// passes reports whether an error of the other region may pass by itself.
func passes(err error) bool {
	kind := maildrop.KindOf(err)
	return kind.Temporary() || kind == maildrop.Canceled
}
