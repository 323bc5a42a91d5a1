package ledger

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// usurp is what another owner may do while one sleeps: take over, write,
// checkpoint, and an hour later delete all that the checkpoints cover.
func usurp(t testing.TB, store blob.Store, c *clock, numbers ...uint64) *Ledger {
	t.Helper()
	l, h := openAt(t, store, c)
	all := h.numbers()
	for _, n := range numbers {
		add(t, l, n)
		all = append(all, n)
	}
	writeCheckpoint(t, l, all...)
	writeCheckpoint(t, l, all...)
	c.now += 2 * time.Hour
	if _, err := l.Trim(context.Background(), func(uint64) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if left := keys(t, store, "ledger"); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	return l
}

// An owner that slept while another one's objects came and were deleted
// acknowledges nothing, wherever it slept.
func TestStalledWriter(t *testing.T) {
	for name, sleep := range map[string]func(t *testing.T, memory *blobtest.Memory, store *blobtest.Faulty, old *Ledger, c *clock) error{
		"between appends": func(t *testing.T, memory *blobtest.Memory, _ *blobtest.Faulty, old *Ledger, c *clock) error {
			usurp(t, memory, c, 10)
			_, err := old.Append(context.Background(), []Draft{message(99)})
			return err
		},
		"in an append": func(t *testing.T, memory *blobtest.Memory, store *blobtest.Faulty, old *Ledger, c *clock) error {
			store.SetPlan(once(blobtest.OpCreate, func() { usurp(t, memory, c, 10) }))
			_, err := old.Append(context.Background(), []Draft{message(99)})
			return err
		},
		"before Confirm": func(t *testing.T, memory *blobtest.Memory, _ *blobtest.Faulty, old *Ledger, c *clock) error {
			usurp(t, memory, c, 10)
			return old.Confirm(context.Background())
		},
		"in Confirm": func(t *testing.T, memory *blobtest.Memory, store *blobtest.Faulty, old *Ledger, c *clock) error {
			store.SetPlan(once(blobtest.OpRead, func() { usurp(t, memory, c, 10) }))
			return old.Confirm(context.Background())
		},
		"after a Confirm": func(t *testing.T, memory *blobtest.Memory, _ *blobtest.Faulty, old *Ledger, c *clock) error {
			if err := old.Confirm(context.Background()); err != nil {
				t.Error(err)
			}
			usurp(t, memory, c, 10)
			_, err := old.Append(context.Background(), []Draft{message(99)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			memory, c := blobtest.NewMemory(), &clock{}
			store := blobtest.NewFaulty(memory, nil)
			old, _ := openAt(t, store, c)
			add(t, old, 1)
			err := sleep(t, memory, store, old, c)
			if !errors.Is(err, ErrFenced) || maildrop.KindOf(err) != maildrop.NotOwner {
				t.Errorf("%v; want ErrFenced", err)
			}
			if _, err := old.Append(context.Background(), []Draft{message(98)}); !errors.Is(err, ErrFenced) {
				t.Errorf("the next append: %v", err)
			}
			_, h := openAt(t, memory, c)
			wantNumbers(t, h, "[1 10]")
		})
	}
}

// once lets something happen before the next call of an op is done.
func once(op blobtest.Op, do func()) blobtest.Plan {
	done := false
	return func(call blobtest.Call) blobtest.Fault {
		if call.Op == op && !done {
			done = true
			do()
		}
		return blobtest.Fault{}
	}
}

// A would-be owner that slept between its list and its fence starts over: its
// fence stands in a past that nobody reads.
func TestStalledOpening(t *testing.T) {
	for name, op := range map[string]blobtest.Op{"before its fence": blobtest.OpCreate, "before its list": blobtest.OpList, "while it read": blobtest.OpRead} {
		t.Run(name, func(t *testing.T) {
			memory, c := blobtest.NewMemory(), &clock{}
			store := blobtest.NewFaulty(memory, nil)
			old, _ := openAt(t, store, c)
			add(t, old, 1)
			var other *Ledger
			store.SetPlan(once(op, func() { other = usurp(t, memory, c, 10, 11) }))
			l, h := openAt(t, store, c)
			store.SetPlan(nil)
			wantNumbers(t, h, "[1 10 11]")
			if l.Epoch() <= other.Epoch() {
				t.Errorf("epoch %d, the other's is %d", l.Epoch(), other.Epoch())
			}
			add(t, l, 12)
			if _, err := other.Append(context.Background(), []Draft{message(99)}); !errors.Is(err, ErrFenced) {
				t.Errorf("the other's append: %v", err)
			}
			_, h = openAt(t, memory, c)
			wantNumbers(t, h, "[1 10 11 12]")
		})
	}
}

// What an owner trims while a newcomer reads isn't taken for damage.
func TestTrimmedWhileOpening(t *testing.T) {
	opened := map[string]func(store blob.Store, c *clock) (*history, uint64){
		"Open": func(store blob.Store, c *clock) (*history, uint64) {
			l, h := openAt(t, store, c)
			return h, l.Stats().Damaged
		},
		"Read": func(store blob.Store, _ *clock) (*history, uint64) {
			r, h, err := read(store)
			if err != nil {
				t.Fatal(err)
			}
			return h, uint64(len(r.Damage()))
		},
	}
	for name, open := range opened {
		for when := range 10 { // before which call of the store it happens
			memory, c := blobtest.NewMemory(), &clock{}
			store := blobtest.NewFaulty(memory, nil)
			l := usurp(t, memory, c, 0)
			for n := range uint64(4) {
				add(t, l, 1+n)
			}
			n := 0
			store.SetPlan(func(blobtest.Call) blobtest.Fault {
				if n++; n == when+1 {
					writeCheckpoint(t, l, 0, 1, 2, 3, 4)
					writeCheckpoint(t, l, 0, 1, 2, 3, 4)
					c.now += 2 * time.Hour
					if _, err := l.Trim(context.Background(), nothing); err != nil {
						t.Error(err)
					}
				}
				return blobtest.Fault{}
			})
			h, damaged := open(store, c)
			if n > when {
				wantNumbers(t, h, "[0 1 2 3 4]")
			}
			if damaged != 0 {
				t.Errorf("%s: trimmed before call %d: %d are said to be damaged", name, when, damaged)
			}
		}
	}
}

// An owner that wakes up as the only one goes on, and asks for proof no more
// often than it must.
func TestSleepAlone(t *testing.T) {
	memory, c := blobtest.NewMemory(), &clock{}
	store := blobtest.NewFaulty(memory, nil)
	l, _ := openAt(t, store, c)
	lists := 0
	store.SetPlan(func(call blobtest.Call) blobtest.Fault {
		if call.Op == blobtest.OpList {
			lists++
		}
		return blobtest.Fault{}
	})
	for n := range uint64(10) {
		c.now += proofAge
		add(t, l, n)
	}
	if lists != 0 {
		t.Errorf("%d lists although each append proves enough", lists)
	}
	c.now += 5 * time.Hour
	add(t, l, 10)
	writeCheckpoint(t, l, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10) // its own doesn't fence it
	c.now += 5 * time.Hour
	if err := l.Confirm(context.Background()); err != nil {
		t.Error(err)
	}
	add(t, l, 11)
	if lists != 2 {
		t.Errorf("%d lists for two long sleeps", lists)
	}
}

// An append proves what was when it began, not when its answer came.
func TestProofIsAsOfTheBeginning(t *testing.T) {
	memory, c := blobtest.NewMemory(), &clock{}
	store := blobtest.NewFaulty(memory, nil)
	l, _ := openAt(t, store, c)
	store.SetPlan(once(blobtest.OpCreate, func() { c.now += 20 * time.Minute }))
	add(t, l, 1)
	c.now += 15 * time.Minute
	lists := 0
	store.SetPlan(func(call blobtest.Call) blobtest.Fault {
		if call.Op == blobtest.OpList {
			lists++
		}
		return blobtest.Fault{}
	})
	add(t, l, 2)
	if lists != 1 {
		t.Errorf("%d lists 35 minutes after the last proof", lists)
	}
}

// When the proof can't be had the outcome is unknown, and nothing is said to be
// stored.
func TestNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, c := blobtest.NewMemory(), &clock{}
		store := blobtest.NewFaulty(memory, nil)
		l, _ := openAt(t, store, c)
		c.now += time.Hour
		store.SetPlan(onOp(blobtest.OpList, blobtest.Fault{Before: blobtest.ErrInjected}))
		if err := l.Confirm(context.Background()); maildrop.KindOf(err) != maildrop.Transient {
			t.Errorf("Confirm: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := l.Append(ctx, []Draft{message(1)}); !errors.Is(err, ErrBroken) || maildrop.KindOf(err) != maildrop.Maybe {
			t.Errorf("Append: %v", err)
		}
	})
}

// Confirm looks past what a dead owner left behind our fence.
func TestConfirmLooksPastJunk(t *testing.T) {
	store := blobtest.NewMemory()
	dead, _ := open(t, store)
	l, _ := open(t, store)
	leave(t, store, dead, 3, message(66))
	leave(t, store, dead, 4, message(67))
	if err := l.Confirm(context.Background()); err != nil {
		t.Errorf("behind two dead objects: %v", err)
	}
	entries := add(t, l, 1)
	if entries[0].Position != At(5, 0) || l.Stats().Skipped != 2 || l.Last() != 5 {
		t.Errorf("appended at %s, skipped %d", entries[0].Position, l.Stats().Skipped)
	}
	checkBody(t, l, entries[0])
	if h, err := l.files.readHeader(context.Background(), l.files.object(5)); err != nil || h.durable != 4 {
		t.Errorf("durable to %d, error %v; what was skipped is there", h.durable, err)
	}
	leave(t, store, dead, 6, message(68)) // too far behind to be a sound owner's
	if _, err := l.Append(context.Background(), []Draft{message(2)}); !errors.Is(err, ErrBroken) {
		t.Errorf("behind an object that can't be: %v", err)
	}
	newer, h := open(t, store)
	wantNumbers(t, h, "[1]")
	if err := l.Confirm(context.Background()); !errors.Is(err, ErrBroken) {
		t.Errorf("broken: %v", err)
	}
	open(t, store)
	if err := newer.Confirm(context.Background()); !errors.Is(err, ErrFenced) {
		t.Errorf("fenced: %v", err)
	}
	if err := newer.Confirm(context.Background()); !errors.Is(err, ErrFenced) {
		t.Errorf("fenced, asked again: %v", err)
	}
}

// leave puts an object of an owner at a sequence, as one in flight that the
// store takes when the owner is gone.
func leave(t testing.TB, store blob.Store, l *Ledger, sequence uint64, draft Draft) {
	t.Helper()
	object, _, err := encodeObject(l.header(&flight{sequence: sequence, durable: l.Last()}), []Draft{draft})
	if err != nil {
		t.Fatal(err)
	}
	f := files{store: store, prefix: prefix}
	if err := f.commit(context.Background(), f.object(sequence), object, headerSize, nil, l.log); err != nil {
		t.Fatal(err)
	}
}
