package shard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

const ledgerPart = "/ledger/"

// slow is a store whose ledger appends take a second.
func slow(call blobtest.Call) blobtest.Fault {
	if call.Op == blobtest.OpCreate && strings.Contains(call.Key, ledgerPart) {
		return blobtest.Fault{Delay: time.Second}
	}
	return blobtest.Fault{}
}

// refusing is a store that fails every ledger append with err.
func refusing(err error) blobtest.Plan {
	return func(call blobtest.Call) blobtest.Fault {
		if call.Op == blobtest.OpCreate && strings.Contains(call.Key, ledgerPart) {
			return blobtest.Fault{Before: err}
		}
		return blobtest.Fault{}
	}
}

// bench is a shard with one user over a store that can misbehave.
type bench struct {
	*testing.T
	store *blobtest.Faulty
	shard *Shard
}

// inBubble runs a test with fake time.
func inBubble(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, store: blobtest.NewFaulty(blobtest.NewMemory(), nil)}
		b.shard = open(t, testConfig(b.store))
		for range ledger.MaxInFlight { // a ledger's first appends are written one by one
			user(t, b.shard, anna)
		}
		test(b)
	})
}

func (b *bench) objects() int { return int(b.shard.ledger.Stats().Objects) }

func (b *bench) deliver(ctx context.Context, body maildrop.Body) error {
	return b.shard.Deliver(ctx, envelope(anna), body)
}

func (b *bench) count() int {
	b.Helper()
	return login(b, b.shard, anna).Info().Count
}

// A lone delivery doesn't wait for company; what comes while it is being
// written is gathered until that is done.
func TestGroupCommit(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		b.primed()
		before, began := b.objects(), time.Now()
		var calls sync.WaitGroup
		calls.Go(func() {
			if err := b.deliver(b.Context(), maildroptest.Text("first")); err != nil || time.Since(began) != time.Second {
				b.Errorf("%v after %v", err, time.Since(began))
			}
		})
		synctest.Wait()
		for i := range 100 {
			calls.Go(func() {
				if err := b.deliver(b.Context(), maildroptest.Text(fmt.Sprint(i))); err != nil || time.Since(began) != 2*time.Second {
					b.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		calls.Wait()
		if got := b.objects() - before; got != 2 {
			b.Errorf("%d objects, want 2", got)
		}
		if got := b.count(); got != 101 {
			b.Errorf("%d messages, want 101", got)
		}
	})
}

// primed lets the committer know how slow the store is.
func (b *bench) primed() {
	b.Helper()
	for b.shard.commits.flying.recent < time.Second {
		user(b, b.shard, "ben@local.example")
		b.shard.commits.flying.recent = time.Second
	}
}

func TestBatchesAreBounded(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		before := b.objects()
		var calls sync.WaitGroup
		for i := range 60 {
			calls.Go(func() { ok(b, b.deliver(b.Context(), maildroptest.Filled(1<<19+1, byte(i)))) })
			synctest.Wait()
		}
		calls.Wait()
		// Four at once, then the rest in batches of 15, a little more than 512 KiB each.
		if got := b.objects() - before; got < 8 || got > 10 {
			b.Errorf("%d objects, want about 9", got)
		}
		for info, err := range b.store.List(b.Context(), "", "") {
			ok(b, err)
			if info.Size > maxBatchOctets+1<<16 {
				b.Errorf("%s has %d octets", info.Key, info.Size)
			}
		}
	})
}

// Nothing is visible before it is durable.
func TestVisibleOnlyWhenDurable(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		b.primed()
		done := make(chan error)
		go func() { done <- b.deliver(b.Context(), maildroptest.Text("x")) }()
		synctest.Wait()
		if got := b.count(); got != 0 {
			b.Errorf("%d messages before the commit", got)
		}
		ok(b, <-done)
		if got := b.count(); got != 1 {
			b.Errorf("%d messages after it", got)
		}
	})
}

// Who leaves while his message is being written gets Maybe, and it is stored;
// who leaves before gets Canceled, and it is not.
func TestLeaving(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		b.primed()
		ctx, cancel := context.WithCancel(b.Context())
		sent, queued := make(chan error, 1), make(chan error, 1)
		go func() { sent <- b.deliver(ctx, maildroptest.Text("sent")) }()
		synctest.Wait()
		go func() { queued <- b.deliver(ctx, maildroptest.Text("queued")) }()
		synctest.Wait()
		cancel()
		wants(b, <-sent, maildrop.Maybe)
		wants(b, <-queued, maildrop.Canceled)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		if got := b.count(); got != 1 {
			b.Errorf("%d messages, want the one that was sent", got)
		}
		balanced(b, b.shard)
	})
}

// balanced wants nothing to be reserved or waited for any more.
func balanced(t testing.TB, s *Shard) {
	t.Helper()
	c := &s.commits
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := s.config.Budget.left; left != DefaultBudget {
		t.Errorf("the budget lacks %d octets", DefaultBudget-left)
	}
	if len(s.space.flying) != 0 || c.waiting != 0 {
		t.Errorf("left behind: %v flying, %d octets waiting", s.space.flying, c.waiting)
	}
	if c.held != 0 || c.count != 0 || len(c.pending) != 0 || len(c.queue) != 0 {
		t.Errorf("left on the books: %d octets, %d reservations, %d deliveries, %d requests", c.held, c.count, len(c.pending), len(c.queue))
	}
}

// A repetition joins the delivery that is on its way, and may leave it without
// taking it along.
func TestRepetitionJoins(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		b.primed()
		go func() { _ = b.deliver(b.Context(), maildroptest.Text("keeps the committer busy")) }()
		synctest.Wait()
		e, body := envelope(anna), maildroptest.Text("joined")
		ctx, cancel := context.WithCancel(b.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- b.shard.Deliver(ctx, e, body) }()
		synctest.Wait()
		go func() { second <- b.shard.Deliver(b.Context(), e, body) }()
		synctest.Wait()
		cancel()
		wants(b, <-first, maildrop.Maybe) // the other one keeps it on its way
		ok(b, <-second)
		began := time.Now()
		ok(b, b.shard.Deliver(b.Context(), e, body))
		if time.Since(began) != 0 {
			b.Error("a repetition of what is stored waits")
		}
		if got := b.count(); got != 2 {
			b.Errorf("%d messages, want 2", got)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		var calls sync.WaitGroup
		var mu sync.Mutex
		results := make(map[string]int)
		body := maildroptest.Filled(900<<10, 1)
		for range 100 {
			calls.Go(func() {
				err := b.deliver(b.Context(), body)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					results["ok"]++
				} else {
					results[maildrop.KindOf(err).String()]++
				}
			})
		}
		calls.Wait()
		room := maxHeld / (int(body.Wire()) + requestOverhead)
		if results["ok"] != room || results["busy"] != 100-room {
			b.Errorf("%v, want %d ok and the others busy", results, room)
		}
		ok(b, b.deliver(b.Context(), body)) // there is room again
	})
}

func TestStoreRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		fault error
		kind  maildrop.Kind
		lost  bool
		took  time.Duration
	}{
		"full":            {blob.ErrFull, maildrop.Full, false, 0},
		"read-only":       {blob.ErrReadOnly, maildrop.ReadOnly, false, 0},
		"for now":         {blobtest.ErrInjected, maildrop.Transient, false, appendTimeout},
		"without a word":  {blob.ErrMaybe, maildrop.Maybe, true, appendTimeout},
		"with ErrExists?": {blob.ErrExists, maildrop.Maybe, true, 0}, // and nothing is there
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.store.SetPlan(refusing(c.fault))
				e := envelope(anna)
				began := time.Now()
				err := b.shard.Deliver(b.Context(), e, maildroptest.Text("x"))
				wants(b, err, c.kind)
				if took := time.Since(began); took != c.took {
					b.Errorf("the answer took %v, want %v", took, c.took)
				}
				b.store.SetPlan(nil)
				synctest.Wait()
				select {
				case <-b.shard.Done():
					if !c.lost {
						b.Fatal("the shard gave up")
					}
					wants(b, b.shard.Deliver(b.Context(), e, maildroptest.Text("x")), maildrop.NotOwner)
					b.shard = open(b, testConfig(b.store))
				default:
					if c.lost {
						b.Fatal("the shard goes on after an unknown outcome")
					}
				}
				ok(b, b.shard.Deliver(b.Context(), e, maildroptest.Text("x")))
				if got := b.count(); got != 1 {
					b.Errorf("%d messages, want 1", got)
				}
			})
		})
	}
}

// A newer owner ends the older one: it acknowledges nothing any more, and
// loses nothing that it acknowledged.
func TestNewerOwnerFences(t *testing.T) {
	inBubble(t, func(b *bench) {
		ok(b, b.deliver(b.Context(), maildroptest.Text("by the older")))
		old, session := b.shard, login(b, b.shard, anna)
		b.shard = open(b, testConfig(b.store))
		if b.shard.Epoch() <= old.Epoch() {
			b.Errorf("epoch %d after %d", b.shard.Epoch(), old.Epoch())
		}
		wants(b, old.Deliver(b.Context(), envelope(anna), maildroptest.Text("lost")), maildrop.NotOwner)
		<-old.Done()
		for name, err := range map[string]error{
			"Deliver":       old.Deliver(b.Context(), envelope(anna), maildroptest.Text("lost")),
			"Accept":        old.Accept(b.Context(), maildrop.Recipient{Address: anna}),
			"Remove":        session.Remove(b.Context(), nil),
			"Check":         session.Check(b.Context()),
			"PutAddress":    old.PutAddress(b.Context(), maildrop.AddressRecord{Address: anna, Account: "customer"}),
			"RemoveAddress": old.RemoveAddress(b.Context(), anna),
			"List":          second(session.List(b.Context())),
			"Read":          second(session.Read(b.Context(), "x", 0, nil)),
			"Open":          second(old.Open(b.Context(), maildrop.Login{Address: anna, Password: password})),
			"Resume":        second(old.Resume(b.Context(), session.Info(), session.Token())),
			"Address":       second(old.Address(b.Context(), anna)),
			"Addresses":     second(old.Addresses(b.Context(), "customer")),
		} {
			if err == nil || maildrop.KindOf(err) != maildrop.NotOwner {
				b.Errorf("%s of the older owner gives %v", name, err)
			}
		}
		if got := b.count(); got != 1 {
			b.Errorf("%d messages, want 1", got)
		}
	})
}

// An owner that has been replaced and writes nothing (it was cut off, or slept)
// does not go on telling of a past: soon after, it is asked in vain.
func TestReplacedOwnerStopsAnswering(t *testing.T) {
	for name, ask := range map[string]func(b *bench, old *Shard, session maildrop.Drop) error{
		"Open": func(b *bench, old *Shard, _ maildrop.Drop) error {
			return second(old.Open(b.Context(), maildrop.Login{Address: anna, Password: password}))
		},
		"Check": func(b *bench, _ *Shard, session maildrop.Drop) error { return session.Check(b.Context()) },
		"Accept": func(b *bench, old *Shard, _ maildrop.Drop) error {
			return old.Accept(b.Context(), maildrop.Recipient{Address: "new@local.example"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				old, session := b.shard, login(b, b.shard, anna)
				b.shard = open(b, testConfig(b.store))
				ok(b, b.deliver(b.Context(), maildroptest.Text("by the newer")))
				time.Sleep(proofAge)
				wants(b, ask(b, old, session), maildrop.NotOwner)
				<-old.Done()
			})
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestEpochIsAtLeast(t *testing.T) {
	s, err := Open(t.Context(), testConfig(blobtest.NewMemory()), 42)
	ok(t, err)
	defer s.Close(t.Context())
	if s.Epoch() != 42 {
		t.Errorf("epoch %d", s.Epoch())
	}
}

// Close finishes what is being written and refuses what waits.
func TestClose(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		b.primed()
		sent, queued, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { sent <- b.deliver(b.Context(), maildroptest.Text("sent")) }()
		synctest.Wait()
		go func() { queued <- b.deliver(b.Context(), maildroptest.Text("queued")) }()
		synctest.Wait()
		go func() { closed <- b.shard.Close(b.Context()) }()
		ok(b, <-sent)
		wants(b, <-queued, maildrop.NotOwner)
		ok(b, <-closed)
		<-b.shard.Done()
		wants(b, b.deliver(b.Context(), maildroptest.Text("late")), maildrop.NotOwner)
		ok(b, b.shard.Close(b.Context())) // twice is fine
		b.store.SetPlan(nil)
		b.shard = open(b, testConfig(b.store))
		if got := b.count(); got != 1 {
			b.Errorf("%d messages, want 1", got)
		}
	})
}

// Close doesn't wait longer than it may for a store that doesn't answer.
func TestCloseInTrouble(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(func(blobtest.Call) blobtest.Fault { return blobtest.Fault{Delay: time.Hour} })
		sent := make(chan error, 1)
		go func() { sent <- b.deliver(b.Context(), maildroptest.Text("sent")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		ok(b, b.shard.Close(ctx))
		if took := time.Since(began); took > 6*time.Second {
			b.Errorf("it took %v", took)
		}
		if err := <-sent; err == nil {
			b.Error("acknowledged what was not stored")
		}
	})
}

// An entry that can't be applied would leave the memory behind the ledger.
func TestUnappliableEntryEndsTheShard(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.shard.mu.Lock()
		b.shard.state.last = 1 << 60
		b.shard.mu.Unlock()
		err := b.deliver(b.Context(), maildroptest.Text("x"))
		wants(b, err, maildrop.Maybe)
		if !errors.Is(err, errOrder) {
			b.Errorf("the cause is lost in %v", err)
		}
		<-b.shard.Done()
	})
}
