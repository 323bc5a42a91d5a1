package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// world is several owners of one ledger on a store that fails in all the ways
// that stores fail, and what is known of each message.
type world struct {
	t      *testing.T
	random *rand.Rand
	memory *blobtest.Memory
	store  *blobtest.Faulty
	owners [3]*Ledger
	seen   [3][]uint64 // what each owner knows to be stored: its checkpoint
	began  time.Time

	prepared  [3]*Prepared // what each has read ahead
	histories [3]*history  // into

	mu      sync.Mutex
	next    uint64            // number of the next message
	newest  uint64            // epoch of the newest opening that succeeded
	trimmed int               // ledger objects deleted
	fate    map[uint64]string // of each message
}

const (
	stored  = "stored"  // acknowledged, or seen since
	never   = "never"   // cleanly failed, or found absent by a later opening
	unknown = "unknown" // the append said Maybe
)

// TestOnlyTheNewestAppends is the safety of it all, with many seeds: an append that
// begins after a newer opening never succeeds; what is acknowledged is
// replayed by all later openings, once, in order; what failed cleanly, or was absent at one opening,
// never appears.
func TestOnlyTheNewestAppends(t *testing.T) {
	seeds, first := 300, uint64(1)
	if s := os.Getenv("POSTERN_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		seeds = 1
	}
	trimmed := 0
	for seed := first; seed < first+uint64(seeds); seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			for range 60 {
				w.step()
			}
			w.settle()
			trimmed += w.trimmed
		})
		if t.Failed() {
			t.Fatalf("to repeat: POSTERN_SEED=%d", seed)
		}
	}
	if seeds > 1 && trimmed < seeds {
		t.Errorf("only %d objects were trimmed in all: the model doesn't reach what it should", trimmed)
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 1)), memory: blobtest.NewMemory(), fate: map[uint64]string{}, began: time.Now()}
	w.store = blobtest.NewFaulty(w.memory, blobtest.Seeded(seed, []float64{0, 0.1, 0.3, 0.6}[seed%4]))
	return w
}

func (w *world) step() {
	i, j := w.random.IntN(len(w.owners)), w.random.IntN(len(w.owners))
	patience := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 10 * time.Second}[w.random.IntN(3)]
	switch w.random.IntN(15) {
	case 14:
		w.prepare(i, patience)
	case 10:
		w.checkpoint(i, patience)
	case 11: // what an owner does about space, in two hours
		w.checkpoint(i, 10*time.Second)
		w.checkpoint(i, 10*time.Second)
		time.Sleep(2 * time.Hour)
		w.trim(i, 10*time.Second)
	case 12: // all sleep; who isn't asked for long is a writer that stalls
		time.Sleep([]time.Duration{10 * time.Minute, 40 * time.Minute, 2 * time.Hour}[w.random.IntN(3)])
	case 13:
		w.confirm(i, patience)
	case 0:
		w.open(i, patience)
	case 1: // an opening beside the appends of others
		var done sync.WaitGroup
		done.Go(func() { w.open(i, patience) })
		if i != j {
			done.Go(func() { w.append(j, patience, false) })
		}
		done.Wait()
	case 2: // two openings at once
		var done sync.WaitGroup
		done.Go(func() { w.open(i, patience) })
		if i != j {
			done.Go(func() { w.open(j, patience) })
		}
		done.Wait()
	case 3:
		w.store.Flush()
	case 4:
		w.owners[i] = nil // a crash
	default:
		w.append(i, patience, true)
	}
}

// append lets an owner append, a few at once; alone says that no opening runs
// beside it.
func (w *world) append(owner int, patience time.Duration, alone bool) {
	var done sync.WaitGroup
	for range 1 + w.random.IntN(MaxInFlight) {
		done.Go(func() { w.appendOne(owner, patience, alone) })
	}
	done.Wait()
}

func (w *world) appendOne(owner int, patience time.Duration, alone bool) {
	l := w.owners[owner]
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.mu.Lock()
	n := w.next
	w.next += 2
	newest := w.newest
	w.mu.Unlock()
	_, err := l.Append(ctx, []Draft{message(n), message(n + 1)})
	fate := never
	switch {
	case err == nil:
		fate = stored
		if alone && l.Epoch() < newest {
			w.t.Errorf("epoch %d appended after epoch %d had opened", l.Epoch(), newest)
		}
	case maildrop.KindOf(err) == maildrop.Maybe:
		fate = unknown
	}
	if errors.Is(err, ErrFenced) || errors.Is(err, ErrBroken) {
		if _, again := l.Append(context.Background(), []Draft{message(n)}); again == nil {
			w.t.Errorf("an append succeeded after %v", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fate[n], w.fate[n+1] = fate, fate
	if err == nil {
		w.seen[owner] = append(w.seen[owner], n, n+1)
	}
}

func (w *world) checkpoint(owner int, patience time.Duration) {
	if l := w.owners[owner]; l != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.WriteCheckpoint(ctx, l.Last(), partsOf(w.seen[owner])); err != nil && maildrop.KindOf(err) == maildrop.Invalid {
			w.t.Error(err)
		}
	}
}

func (w *world) trim(owner int, patience time.Duration) {
	if l := w.owners[owner]; l != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		n, _ := l.Trim(ctx, func(uint64) bool { return false })
		w.trimmed += n
	}
}

func (w *world) confirm(owner int, patience time.Duration) {
	if l := w.owners[owner]; l != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Confirm(ctx); err == nil && l.Epoch() < w.newest {
			w.t.Errorf("epoch %d was confirmed after epoch %d had opened", l.Epoch(), w.newest)
		}
	}
}

// prepare reads the ledger for an opening to come, perhaps much later.
func (w *world) prepare(owner int, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := &history{}
	var err error
	if w.prepared[owner], err = Prepare(ctx, w.config(nil), h.begin); errors.Is(err, ErrCorrupt) {
		w.t.Errorf("Prepare: %v", err)
	}
	w.histories[owner] = h
}

func (w *world) config(prepared *Prepared) Config {
	return Config{Store: w.store, Prefix: prefix, Clock: func() time.Duration { return time.Since(w.began) }, Prepared: prepared}
}

// open takes the ledger over and holds what it replays against what is known
// of messages whose appends had ended before.
func (w *world) open(owner int, patience time.Duration) {
	w.mu.Lock()
	known := make(map[uint64]string, len(w.fate))
	for n, fate := range w.fate {
		known[n] = fate
	}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := &history{}
	if w.prepared[owner] != nil {
		h = w.histories[owner]
	}
	l, err := Open(ctx, w.config(w.prepared[owner]), h.begin)
	w.prepared[owner], w.histories[owner] = nil, nil
	if err != nil {
		if errors.Is(err, ErrCorrupt) {
			w.t.Errorf("Open: %v", err)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.compare(h, known)
	w.newest = max(w.newest, l.Epoch())
	w.owners[owner], w.seen[owner] = l, h.numbers()
}

func (w *world) compare(h *history, known map[uint64]string) {
	seen := map[uint64]bool{}
	last := Position(0)
	for i, e := range h.entries {
		if e.Position <= last && i > 0 {
			w.t.Errorf("replay goes back from %s to %s", last, e.Position)
		}
		last = e.Position
	}
	for _, n := range h.numbers() {
		if seen[n] {
			w.t.Errorf("message %d is there twice", n)
		}
		seen[n] = true
		if known[n] == never {
			w.t.Errorf("message %d is there, and had failed cleanly or been absent", n)
		}
	}
	for n, fate := range known {
		switch {
		case fate == stored && !seen[n]:
			w.t.Errorf("message %d was acknowledged and is missing", n)
		case fate == unknown && seen[n]:
			w.fate[n] = stored
		case fate == unknown:
			w.fate[n] = never
		}
	}
}

// settle ends all trouble: then a new owner opens and appends at once.
func (w *world) settle() {
	w.store.SetPlan(nil)
	w.owners[1] = nil
	w.open(1, time.Second)
	if w.owners[1] == nil {
		w.t.Fatal("the store is well, and the ledger can't be opened")
	}
	w.store.Flush()
	if _, err := w.owners[1].Append(context.Background(), []Draft{message(1 << 40)}); err != nil {
		w.t.Errorf("the last owner's append: %v", err)
	}
	for _, i := range []int{0, 2} {
		w.append(i, time.Second, true)
	}
	w.open(0, time.Second)
}

// A process may end at any call of the store, before or after its effect. The
// next owner finds all that was acknowledged, and goes on.
func TestCrashAtEachCall(t *testing.T) {
	workload := func(store blob.Store, acknowledged map[uint64]bool) error {
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			l, err := Open(ctx, Config{Store: store, Prefix: prefix}, (&history{}).begin)
			if err != nil {
				return err
			}
			for range 3 {
				n := uint64(len(acknowledged))
				acknowledged[n] = false
				draft := message(n)
				name, err := l.PutBody(ctx, strings.NewReader(string(draft.Body)), uint64(len(draft.Body)))
				if err != nil {
					return err
				}
				draft.Record.(*Delivery).Object = name
				draft.Body = nil
				if _, err := l.Append(ctx, []Draft{draft}); err != nil {
					return err
				}
				acknowledged[n] = true
			}
		}
		return nil
	}
	counting := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	if err := workload(counting, map[uint64]bool{}); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= counting.Calls(); at++ {
		for _, after := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				memory := blobtest.NewMemory()
				acknowledged := map[uint64]bool{}
				err := workload(blobtest.NewFaulty(memory, crash(at, after)), acknowledged)
				if err == nil && at <= counting.Calls() && !after {
					t.Errorf("call %d failed and nobody noticed", at)
				}
				checkSurvivors(t, memory, acknowledged)
			})
		}
	}
}

// crash fails the call with the number, before or after its effect, and all later ones.
func crash(at int, after bool) blobtest.Plan {
	return func(call blobtest.Call) blobtest.Fault {
		switch {
		case call.N < at:
			return blobtest.Fault{}
		case call.N == at && after:
			return blobtest.Fault{After: blob.ErrMaybe}
		case call.Op == blobtest.OpCreate:
			return blobtest.Fault{Before: blob.ErrMaybe}
		}
		return blobtest.Fault{Before: blobtest.ErrInjected}
	}
}

func checkSurvivors(t *testing.T, memory *blobtest.Memory, acknowledged map[uint64]bool) {
	l, h := open(t, memory)
	there := map[uint64]bool{}
	for _, e := range h.entries {
		d, ok := e.Record.(*Delivery)
		if !ok {
			continue
		}
		there[number(d)] = true
		body, err := l.OpenBody(context.Background(), d.Object, d.Wire, 0)
		if err != nil {
			t.Errorf("a delivery's body isn't there: %v", err)
			continue
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	for n, ok := range acknowledged {
		if ok && !there[n] {
			t.Errorf("message %d was acknowledged and is missing", n)
		}
	}
	add(t, l, 1000)
}

// A record below a fence before it is skipped and counted: an append of a
// fenced owner that the store took all the same, as pipelined ones would be.
func TestObjectOfFencedOwnerIsSkipped(t *testing.T) {
	store := blobtest.NewMemory()
	old, _ := open(t, store)
	add(t, old, 1)
	current, _ := open(t, store)
	h := old.header(&flight{sequence: 4, durable: 2})
	object, _, err := encodeObject(h, []Draft{message(66)})
	if err != nil {
		t.Fatal(err)
	}
	if err := old.files.commit(context.Background(), old.files.object(4), object, headerSize, nil, current.log); err != nil {
		t.Fatal(err)
	}
	l, seen := open(t, store)
	if got := fmt.Sprint(seen.numbers()); got != "[1]" || l.Stats().Skipped != 1 {
		t.Errorf("replayed %s, skipped %d", got, l.Stats().Skipped)
	}
}
