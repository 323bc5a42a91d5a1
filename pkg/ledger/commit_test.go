package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// What an append makes of the store's answers: of a script of faults for its
// calls, one after the other; the last one stays.
func TestAppendOutcomes(t *testing.T) {
	type fault = blobtest.Fault
	lost := fault{After: blob.ErrMaybe}    // done, and the answer lost
	unsent := fault{Before: blob.ErrMaybe} // not done, and nobody knows
	down := fault{Before: blobtest.ErrInjected}
	full := fault{Before: blob.ErrFull}
	readOnly := fault{Before: blob.ErrReadOnly}
	itself := fault{After: blob.ErrExists} // done, and repeated by the client library
	fine := fault{}
	for _, c := range []struct {
		name   string
		script []fault // create, or create and read back
		want   error   // nil: appended
		kind   maildrop.Kind
		stored bool // in the end
		usable bool
	}{
		{"fine", []fault{fine}, nil, 0, true, true},
		{"answer lost", []fault{lost, fine}, nil, 0, true, true},
		{"answers lost", []fault{lost, lost, lost, fine}, nil, 0, true, true},
		{"request lost", []fault{unsent, unsent, fine}, nil, 0, true, true},
		{"down, then up", []fault{down, down, down, fine}, nil, 0, true, true},
		{"repeated by itself", []fault{itself, fine}, nil, 0, true, true},
		{"can't be read back at once", []fault{itself, down, down, fine}, nil, 0, true, true},
		{"late", []fault{{Late: 3}, unsent, unsent, fine}, nil, 0, true, true},
		{"down", []fault{down}, blobtest.ErrInjected, maildrop.Transient, false, true},
		{"full", []fault{full}, blob.ErrFull, maildrop.Full, false, true},
		{"down, then full", []fault{down, full}, blob.ErrFull, maildrop.Full, false, true},
		{"read-only", []fault{readOnly}, blob.ErrReadOnly, maildrop.ReadOnly, false, true},
		{"down, then read-only", []fault{down, readOnly}, blob.ErrReadOnly, maildrop.ReadOnly, false, true},
		{"lost, then read-only", []fault{lost, readOnly}, ErrBroken, maildrop.Maybe, true, false},
		{"lost, read-only, then fine", []fault{lost, readOnly, readOnly, fine}, nil, 0, true, true},
		{"lost by a store gone read-only", []fault{{After: errors.Join(blob.ErrMaybe, blob.ErrReadOnly)}, readOnly}, ErrBroken, maildrop.Maybe, true, false},
		{"slow", []fault{{Delay: time.Hour}}, context.DeadlineExceeded, maildrop.Canceled, false, true},
		{"lost, then full", []fault{lost, full}, ErrBroken, maildrop.Maybe, true, false},
		{"lost, then down", []fault{lost, down}, ErrBroken, maildrop.Maybe, true, false},
		{"lost, then slow", []fault{lost, {Delay: time.Hour}}, ErrBroken, maildrop.Maybe, true, false},
		{"unsent for ever", []fault{unsent}, ErrBroken, maildrop.Maybe, false, false},
		{"never read back", []fault{itself, down}, ErrBroken, maildrop.Maybe, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := blobtest.NewMemory()
				store := blobtest.NewFaulty(memory, nil)
				l, _ := open(t, store)
				store.SetPlan(script(c.script, store.Calls()))
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				entries, err := l.Append(ctx, []Draft{message(1)})
				if !errors.Is(err, c.want) || (err != nil && maildrop.KindOf(err) != c.kind) || (err == nil) != (len(entries) == 1) {
					t.Errorf("Append: %v, %v", entries, err)
				}
				store.SetPlan(nil)
				if _, err := l.Append(context.Background(), []Draft{message(2)}); (err == nil) != c.usable {
					t.Errorf("the next append: %v; usable: %v", err, c.usable)
				}
				_, h := open(t, memory)
				want := "[]"
				switch {
				case c.stored && c.usable:
					want = "[1 2]"
				case c.stored:
					want = "[1]"
				case c.usable:
					want = "[2]"
				}
				if got := fmt.Sprint(h.numbers()); got != want {
					t.Errorf("replayed %s, want %s", got, want)
				}
			})
		})
	}
}

func script(faults []blobtest.Fault, from int) blobtest.Plan {
	return func(call blobtest.Call) blobtest.Fault {
		return faults[min(call.N-from, len(faults))-1]
	}
}

// An owner whose answer was lost and whose sequence a newer owner's fence then
// took is fenced: its append was not written, and it knows.
func TestLostRequestThenFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		store := blobtest.NewFaulty(memory, nil)
		old, _ := open(t, store)
		from := store.Calls()
		store.SetPlan(func(call blobtest.Call) blobtest.Fault {
			if call.N == from+1 {
				return blobtest.Fault{Before: blob.ErrMaybe}
			}
			if call.N == from+2 {
				open(t, memory)
			}
			return blobtest.Fault{}
		})
		_, err := old.Append(context.Background(), []Draft{message(1)})
		if !errors.Is(err, ErrFenced) || maildrop.KindOf(err) != maildrop.NotOwner {
			t.Errorf("Append: %v; want ErrFenced", err)
		}
	})
}

// A sequence that was taken and is free again has been cleaned up: writing
// there would acknowledge what nobody reads.
func TestFreedSequenceIsNeverFilled(t *testing.T) {
	memory := blobtest.NewMemory()
	store := blobtest.NewFaulty(memory, nil)
	old, _ := open(t, store)
	open(t, memory)
	store.SetPlan(func(call blobtest.Call) blobtest.Fault {
		if call.Op == blobtest.OpRead {
			if err := memory.Delete(context.Background(), call.Key); err != nil {
				t.Error(err)
			}
		}
		return blobtest.Fault{}
	})
	_, err := old.Append(context.Background(), []Draft{message(1)})
	if !errors.Is(err, ErrBroken) {
		t.Errorf("Append: %v; want ErrBroken", err)
	}
	for info := range memory.List(context.Background(), prefix, "") {
		if info.Key == old.files.object(2) {
			t.Error("the sequence was filled")
		}
	}
}

// Open when the store answers as badly.
func TestOpenOutcomes(t *testing.T) {
	type fault = blobtest.Fault
	for _, c := range []struct {
		name string
		plan blobtest.Plan
		kind maildrop.Kind
		want error
	}{
		{"list", onOp(blobtest.OpList, fault{Before: blobtest.ErrInjected}), maildrop.Transient, blobtest.ErrInjected},
		{"read", onOp(blobtest.OpRead, fault{Before: blobtest.ErrInjected}), maildrop.Transient, blobtest.ErrInjected},
		{"full", onOp(blobtest.OpCreate, fault{Before: blob.ErrFull}), maildrop.Full, blob.ErrFull},
		{"down", onOp(blobtest.OpCreate, fault{Before: blobtest.ErrInjected}), maildrop.Transient, blobtest.ErrInjected},
		{"read-only", onOp(blobtest.OpCreate, fault{Before: blob.ErrReadOnly}), maildrop.ReadOnly, blob.ErrReadOnly},
		{"maybe", onOp(blobtest.OpCreate, fault{Before: blob.ErrMaybe}), maildrop.Maybe, blob.ErrMaybe},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
				old, _ := open(t, store)
				add(t, old, 1)
				store.SetPlan(c.plan)
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				_, err := Open(ctx, Config{Store: store, Prefix: prefix}, (&history{}).begin)
				if !errors.Is(err, c.want) || maildrop.KindOf(err) != c.kind {
					t.Errorf("Open: %v (%s)", err, maildrop.KindOf(err))
				}
				store.SetPlan(nil)
				add(t, old, 2) // nobody has fenced it
			})
		})
	}
}

// What passes is waited for, and a list goes on where it was cut.
func TestOpenIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		old, _ := open(t, store)
		add(t, old, 0, 1)
		writeCheckpoint(t, old, 0, 1)
		for n := range uint64(5) {
			add(t, old, 2+n)
		}
		for range 2 {
			calls := 0
			store.SetPlan(func(blobtest.Call) blobtest.Fault {
				if calls++; calls%3 != 0 {
					return []blobtest.Fault{{Before: blobtest.ErrInjected}, {After: blob.ErrMaybe}}[calls%2]
				}
				return blobtest.Fault{}
			})
			_, h := open(t, store)
			if got := fmt.Sprint(h.numbers()); got != "[0 1 2 3 4 5 6]" {
				t.Errorf("replayed %s", got)
			}
			store.SetPlan(nil)
		}
	})
}

func onOp(op blobtest.Op, fault blobtest.Fault) blobtest.Plan {
	return func(call blobtest.Call) blobtest.Fault {
		if call.Op == op {
			return fault
		}
		return blobtest.Fault{}
	}
}
