package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// ErrInjected is a fault of the kind that passes, without an effect.
var ErrInjected = errors.New("injected fault")

// Op names a method of a Store.
type Op string

// The methods.
const (
	OpCreate Op = "create"
	OpRead   Op = "read"
	OpList   Op = "list"
	OpDelete Op = "delete"
)

// Call is one call of a Faulty.
type Call struct {
	Op  Op
	Key string // for OpList the prefix
	N   int    // its number among all calls, from 1
}

// Fault says what goes wrong in a call; the zero Fault is none.
type Fault struct {
	Delay  time.Duration // before anything else; a context that ends cuts it short
	Before error         // returned, and nothing done
	After  error         // returned, after the call was done
	// Late is for creates: the call returns ErrMaybe at once, and is done when so
	// many more calls have begun, or at Flush.
	Late int
}

// Plan decides what goes wrong. It is asked by one call at a time.
type Plan func(Call) Fault

// Faulty is a Store's hostile twin. It does what real stores do at their
// worst, and nothing that package blob's contract excludes, but for one thing: a lost
// answer to a create may come out as ErrExists, as where a client library repeats by
// itself.
type Faulty struct {
	store blob.Store

	mu    sync.Mutex
	plan  Plan
	calls int
	late  []lateCreate
}

type lateCreate struct {
	due  int
	key  string
	body []byte
}

// NewFaulty wraps a store. A nil plan is no faults.
func NewFaulty(store blob.Store, plan Plan) *Faulty { return &Faulty{store: store, plan: plan} }

// SetPlan changes the plan.
func (f *Faulty) SetPlan(plan Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = plan
}

// Calls is how many calls there were.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Flush does all late creates now.
func (f *Faulty) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(func(lateCreate) bool { return true })
}

// begin counts a call, does what is due, and says what goes wrong.
func (f *Faulty) begin(ctx context.Context, op Op, key string) (Fault, error) {
	f.mu.Lock()
	f.calls++
	f.settle(func(l lateCreate) bool { return l.due <= f.calls })
	var fault Fault
	if f.plan != nil {
		fault = f.plan(Call{Op: op, Key: key, N: f.calls})
	}
	f.mu.Unlock()
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return fault, ctx.Err() // before any effect
		case <-timer.C:
		}
	}
	return fault, nil
}

// settle does the late creates that are due. Their outcome interests nobody:
// whoever asked for them has gone.
func (f *Faulty) settle(due func(lateCreate) bool) {
	kept := f.late[:0]
	for _, l := range f.late {
		if !due(l) {
			kept = append(kept, l)
			continue
		}
		_ = f.store.Create(context.Background(), l.key, bytes.NewReader(l.body), int64(len(l.body)))
	}
	f.late = kept
}

// Create implements blob.Store.
func (f *Faulty) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	fault, err := f.begin(ctx, OpCreate, key)
	switch {
	case err != nil:
		return err
	case fault.Before != nil:
		return fmt.Errorf("create %s: %w", key, fault.Before)
	case fault.Late > 0:
		return f.postpone(key, body, size, fault.Late)
	}
	err = f.store.Create(ctx, key, body, size)
	if fault.After != nil {
		return fmt.Errorf("create %s: %w", key, fault.After)
	}
	return err
}

func (f *Faulty) postpone(key string, body io.Reader, size int64, after int) error {
	content, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if int64(len(content)) != size {
		return fmt.Errorf("create %s: body has not %d octets", key, size)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = append(f.late, lateCreate{due: f.calls + after, key: key, body: content})
	return fmt.Errorf("create %s: %w", key, blob.ErrMaybe)
}

// ReadAt implements blob.Store.
func (f *Faulty) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	fault, err := f.begin(ctx, OpRead, key)
	if err = errors.Join(err, fault.Before, fault.After); err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return f.store.ReadAt(ctx, key, p, offset)
}

// List implements blob.Store. With After it fails behind its first object.
func (f *Faulty) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		fault, err := f.begin(ctx, OpList, prefix)
		if err = errors.Join(err, fault.Before); err != nil {
			yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		for info, err := range f.store.List(ctx, prefix, after) {
			if !yield(info, err) || err != nil {
				return
			}
			if fault.After != nil {
				yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, fault.After))
				return
			}
		}
	}
}

// Delete implements blob.Store.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	fault, err := f.begin(ctx, OpDelete, key)
	if err = errors.Join(err, fault.Before); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return errors.Join(f.store.Delete(ctx, key), fault.After)
}

// Seeded is a plan in which a call goes wrong with the given probability, in
// all the ways there are.
func Seeded(seed uint64, rate float64) Plan {
	random := rand.New(rand.NewPCG(seed, 0))
	return func(call Call) Fault {
		if random.Float64() >= rate {
			return Fault{}
		}
		if call.Op != OpCreate {
			return []Fault{{Before: ErrInjected}, {After: ErrInjected}}[random.IntN(2)]
		}
		return []Fault{
			{Before: ErrInjected},
			{Before: blob.ErrFull},
			{Before: blob.ErrMaybe},
			{After: blob.ErrMaybe},
			{After: blob.ErrExists},
			{Late: 1 + random.IntN(12)},
		}[random.IntN(6)]
	}
}
