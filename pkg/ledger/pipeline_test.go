package ledger

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
	"github.com/postern-pop/postern/pkg/maildrop"
)

// answer is what came of an append.
type answer struct {
	entries []Entry
	err     error
	at      time.Time
}

// appendAll begins an append of a message each, in their order, and waits for
// all answers. It must be in a bubble.
func appendAll(l *Ledger, patience time.Duration, numbers ...uint64) []answer {
	answers := make([]answer, len(numbers))
	var done sync.WaitGroup
	for i, n := range numbers {
		done.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			entries, err := l.Append(ctx, []Draft{message(n)})
			answers[i] = answer{entries, err, time.Now()}
		})
		synctest.Wait() // it has its sequence
	}
	done.Wait()
	return answers
}

// bySequence is a plan in which creates of ledger objects go as their sequence
// says; reading one back fails where it says so.
func bySequence(l *Ledger, plans map[uint64]blobtest.Fault, blind map[uint64]bool) blobtest.Plan {
	return func(call blobtest.Call) blobtest.Fault {
		for sequence, fault := range plans {
			if call.Key != l.files.object(sequence) {
				continue
			}
			if call.Op == blobtest.OpCreate {
				return fault
			}
			if call.Op == blobtest.OpRead && blind[sequence] {
				return blobtest.Fault{Before: blobtest.ErrInjected}
			}
		}
		return blobtest.Fault{}
	}
}

// warm opens a ledger that pipelines: it has left the sequences behind where a
// dead owner's objects might be.
func warm(t testing.TB, store blob.Store) *Ledger {
	t.Helper()
	l, _ := open(t, store)
	for n := range uint64(MaxInFlight - 1) {
		add(t, l, 1000+n)
	}
	return l
}

// Four are written at once, answers come in order, and a fifth waits for a lane.
func TestAnswersComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		l := warm(t, store)
		first := l.Last() + 1
		began := time.Now()
		var starts []time.Duration
		store.SetPlan(func(call blobtest.Call) blobtest.Fault {
			if call.Op == blobtest.OpCreate {
				starts = append(starts, time.Since(began))
			}
			delays := map[string]time.Duration{l.files.object(first): 4 * time.Second, l.files.object(first + 1): time.Second, l.files.object(first + 2): 5 * time.Second}
			return blobtest.Fault{Delay: delays[call.Key]}
		})
		answers := appendAll(l, time.Minute, 0, 1, 2, 3, 4)
		for i, seconds := range []int{4, 4, 5, 5, 5} {
			a := answers[i]
			if a.err != nil || int(a.at.Sub(began)/time.Second) != seconds || a.entries[0].Position.Sequence() != first+uint64(i) {
				t.Errorf("append %d: answered after %s, error %v", i, a.at.Sub(began), a.err)
			}
		}
		if got := fmt.Sprint(starts); got != "[0s 0s 0s 0s 4s]" {
			t.Errorf("creates began after %s", got)
		}
		if l.Last() != first+4 {
			t.Errorf("last %d", l.Last())
		}
	})
}

// What may come of each of four appends in flight, all together: what was
// acknowledged is replayed, what failed cleanly is not, an answer is only good when all before
// it are; and a ledger that nothing was written behind a hole of goes on.
func TestEachOutcomeInFlight(t *testing.T) {
	const tick = 10 * time.Millisecond // so that all four have begun before the first one ends
	fates := map[string]blobtest.Fault{
		"ok":    {Delay: tick},
		"slow":  {Delay: time.Second},
		"down":  {Delay: tick, Before: blobtest.ErrInjected},
		"full":  {Delay: tick, Before: blob.ErrFull},
		"lost":  {Delay: tick, After: blob.ErrMaybe},  // written, never to be read back
		"maybe": {Delay: tick, Before: blob.ErrMaybe}, // not written, and nobody knows
	}
	names := []string{"ok", "slow", "down", "full", "lost", "maybe"}
	for which := range len(names) * len(names) * len(names) * len(names) {
		var four []string
		for n := which; len(four) < 4; n /= len(names) {
			four = append(four, names[n%len(names)])
		}
		synctest.Test(t, func(t *testing.T) { tryFates(t, four, fates) })
		if t.Failed() {
			t.Fatal(four)
		}
	}
}

func tryFates(t *testing.T, four []string, fates map[string]blobtest.Fault) {
	memory := blobtest.NewMemory()
	store := blobtest.NewFaulty(memory, nil)
	l := warm(t, store)
	plans, blind := map[uint64]blobtest.Fault{}, map[uint64]bool{}
	for i, fate := range four {
		sequence := l.Last() + 1 + uint64(i)
		plans[sequence], blind[sequence] = fates[fate], fate == "lost"
	}
	store.SetPlan(bySequence(l, plans, blind))
	answers := appendAll(l, 10*time.Second, 0, 1, 2, 3)
	store.SetPlan(nil)
	_, again := l.Append(context.Background(), []Draft{message(9)})
	checkFates(t, four, answers, again)
	_, h := open(t, memory)
	there := map[uint64]bool{}
	for _, n := range h.numbers() {
		there[n] = true
	}
	for n, a := range append(answers, answer{}, answer{}, answer{}, answer{}, answer{}, answer{err: again}) {
		if n == 9 || n < 4 {
			switch {
			case a.err == nil && !there[uint64(n)]:
				t.Errorf("%d was acknowledged and is missing", n)
			case a.err != nil && maildrop.KindOf(a.err) != maildrop.Maybe && there[uint64(n)]:
				t.Errorf("%d failed (%v) and is there", n, a.err)
			}
		}
	}
}

// checkFates holds the answers against what was to come of each append.
func checkFates(t *testing.T, four []string, answers []answer, again error) {
	hole, behind := -1, false
	for i, fate := range four {
		good := fate == "ok" || fate == "slow"
		clean := fate == "down" || fate == "full"
		kind := maildrop.KindOf(answers[i].err)
		switch {
		case hole < 0 && good && answers[i].err != nil, (hole >= 0 || !good) && answers[i].err == nil:
			t.Errorf("append %d: %v", i, answers[i].err)
		case clean && kind != maildrop.Transient && kind != maildrop.Full && kind != maildrop.Canceled:
			t.Errorf("append %d failed cleanly: %v", i, answers[i].err)
		case (fate == "lost" || fate == "maybe") && kind != maildrop.Maybe && !errors.Is(answers[i].err, errHole):
			t.Errorf("append %d is in doubt: %v", i, answers[i].err)
		case hole >= 0 && good && kind != maildrop.Maybe && !errors.Is(answers[i].err, errHole):
			t.Errorf("append %d is behind a hole: %v", i, answers[i].err)
		}
		if hole < 0 && !good {
			hole = i
		}
		behind = behind || (answers[i].err != nil && kind == maildrop.Maybe)
	}
	if (again == nil) == behind || behind && !errors.Is(again, ErrBroken) {
		t.Errorf("the next append: %v", again)
	}
}

// Behind one that failed no further try is begun: so the others mostly fail
// cleanly too, and soon, and the ledger goes on.
func TestLaterOnesGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		l := warm(t, store)
		first := l.Last() + 1
		down := blobtest.Fault{Before: blobtest.ErrInjected}
		store.SetPlan(bySequence(l, map[uint64]blobtest.Fault{first: {Delay: 3 * time.Second, Before: blob.ErrFull}, first + 1: down, first + 2: down}, nil))
		began := time.Now()
		for i, a := range appendAll(l, time.Hour, 0, 1, 2) {
			if kind := maildrop.KindOf(a.err); kind != maildrop.Full && kind != maildrop.Transient || a.at.Sub(began) > 4*time.Second {
				t.Errorf("append %d: %v after %s", i, a.err, a.at.Sub(began))
			}
		}
		store.SetPlan(nil)
		if e := add(t, l, 5); e[0].Position != At(first, 0) {
			t.Errorf("the next one is at %s", e[0].Position)
		}
	})
}

// A hole that a dead owner left is where the fence goes; what is behind it is
// replayed by nobody, also when it lands later. A hole that was durable is damage.
func TestHoles(t *testing.T) {
	store := blobtest.NewMemory()
	dead := warm(t, store)
	hole := dead.Last() + 1
	leave(t, store, dead, hole+1, message(66))
	leave(t, store, dead, hole+3, message(67))
	l, h := open(t, store)
	wantNumbers(t, h, "[1000 1001 1002]")
	if l.Last() != hole {
		t.Errorf("the fence is at %d, not in the hole at %d", l.Last(), hole)
	}
	leave(t, store, dead, hole+2, message(68)) // late
	if e := add(t, l, 1); e[0].Position != At(hole+4, 0) {
		t.Errorf("appended at %s", e[0].Position)
	}
	for range 5 {
		add(t, l, 2)
	}
	_, h = open(t, store)
	wantNumbers(t, h, "[1000 1001 1002 1 2 2 2 2 2]")
	for sequence := uint64(1); sequence <= hole+7; sequence++ {
		lossy := store.Clone()
		remove(t, lossy, l.files.object(sequence))
		if err := verify(lossy); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), l.files.object(sequence)) {
			t.Errorf("without %d: %v; want ErrCorrupt that names it", sequence, err)
		}
	}
}

// Where dead owners' objects may land there is no pipelining, so an order that
// was given stands.
func TestNoPipelineAmongJunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		store := blobtest.NewFaulty(memory, nil)
		dead := warm(t, store)
		l, _ := open(t, store)
		fence := l.Last()
		store.SetPlan(func(call blobtest.Call) blobtest.Fault {
			if call.Op == blobtest.OpCreate && call.Key == l.files.object(fence+2) {
				leaveOnce(t, memory, dead, fence+2)
				leaveOnce(t, memory, dead, fence+3)
			}
			return blobtest.Fault{Delay: time.Second}
		})
		var got []uint64
		for _, a := range appendAll(l, time.Minute, 0, 1, 2, 3, 4, 5) {
			if a.err != nil {
				t.Fatal(a.err)
			}
			got = append(got, a.entries[0].Position.Sequence()-fence)
		}
		if fmt.Sprint(got) != "[1 4 5 6 7 8]" {
			t.Errorf("appended at fence + %v", got)
		}
		_, h := open(t, memory)
		wantNumbers(t, h, "[1000 1001 1002 0 1 2 3 4 5]")
	})
}

func leaveOnce(t *testing.T, memory *blobtest.Memory, l *Ledger, sequence uint64) {
	if !memory.Alter(l.files.object(sequence), func(b []byte) []byte { return b }) {
		leave(t, memory, l, sequence, message(66))
	}
}

// A fence found by one of several in flight ends all of them, and none is said
// to be in doubt: nobody replays what is behind a fence.
func TestFencedInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		store := blobtest.NewFaulty(memory, nil)
		l := warm(t, store)
		first := l.Last() + 1
		store.SetPlan(bySequence(l, map[uint64]blobtest.Fault{first: {Delay: time.Second}}, nil))
		go func() {
			time.Sleep(time.Millisecond)
			open(t, memory) // its fence goes into the hole
		}()
		for i, a := range appendAll(l, time.Minute, 0, 1, 2) {
			if !errors.Is(a.err, ErrFenced) || maildrop.KindOf(a.err) != maildrop.NotOwner {
				t.Errorf("append %d: %v", i, a.err)
			}
		}
		_, h := open(t, memory)
		wantNumbers(t, h, "[1000 1001 1002]")
	})
}

// Who waits for a lane and goes away has written nothing.
func TestWaitingAppendIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		l := warm(t, store)
		store.SetPlan(onOp(blobtest.OpCreate, blobtest.Fault{Delay: 2 * time.Second}))
		var done sync.WaitGroup
		done.Go(func() {
			for i, a := range appendAll(l, time.Minute, 0, 1, 2, 3) {
				if a.err != nil {
					t.Errorf("append %d: %v", i, a.err)
				}
			}
		})
		time.Sleep(time.Millisecond)
		for range 2 { // the first holds the turn, the second waits for it
			done.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if _, err := l.Append(ctx, []Draft{message(9)}); maildrop.KindOf(err) != maildrop.Canceled {
					t.Errorf("Append: %v", err)
				}
			})
		}
		done.Wait()
		store.SetPlan(nil)
		add(t, l, 5)
	})
}
