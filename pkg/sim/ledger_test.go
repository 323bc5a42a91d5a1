package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
)

// facts are a State as small as one can be: which text stands at which
// position. Its checkpoints are as fuzzy as a shard's: they hold what was
// applied while they were written.
type facts struct {
	mu    sync.Mutex
	texts map[ledger.Position]string
}

func newFacts() *facts { return &facts{texts: make(map[ledger.Position]string)} }

// Load implements ledger.State.
func (f *facts) Load(part []byte) error {
	var texts map[ledger.Position]string
	if err := json.Unmarshal(part, &texts); err != nil {
		return fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.texts, texts)
	return nil
}

// Apply implements ledger.State.
func (f *facts) Apply(e ledger.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a, ok := e.Record.(*ledger.Address); ok {
		f.texts[e.Position] = a.Address
	}
	return nil
}

// parts are a checkpoint's, by positions modulo their number. Time passes between
// them.
func (f *facts) parts(pause func()) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		const number = 3
		for part := range number {
			f.mu.Lock()
			some := make(map[ledger.Position]string)
			for position, text := range f.texts {
				if int(position.Sequence())%number == part {
					some[position] = text
				}
			}
			f.mu.Unlock()
			b, err := json.Marshal(some)
			pause()
			if !yield(b, err) {
				return
			}
		}
	}
}

// chronicle is a run of bare ledgers: owners append facts, several at once, write
// checkpoints and trim; and all that was said must agree.
type chronicle struct {
	*world
	owners sync.WaitGroup
	agreed map[ledger.Position]said // guarded by account
	fences []fence                  // of owners that opened, guarded by account
}

// said is who has said a fact first.
type said struct {
	text  string
	epoch uint64
	by    string
	at    time.Time
}

type fence struct {
	epoch    uint64
	sequence uint64
	by       string
	texts    map[ledger.Position]string // that it opened with
}

// runLedger is a seed's life of bare ledgers.
func runLedger(t *testing.T, seed uint64) (found []string) {
	synctest.Test(t, func(*testing.T) {
		c := &chronicle{world: newWorld(seed), agreed: make(map[ledger.Position]said)}
		c.note("world", nil, "%+v", c.temper)
		t := c.dice.roll("chronicle")
		for i := range 3 + t.IntN(8) {
			time.Sleep(t.between(0, c.temper.gap))
			c.owners.Go(func() { c.reign(i) })
		}
		c.owners.Wait()
		time.Sleep(c.temper.late)
		c.healed = true
		c.reign(100)
		c.reign(101)
		c.others.Wait()
		found = c.verdict()
	})
	return found
}

// reign is one owner's life.
func (c *chronicle) reign(i int) {
	o := c.incarnate(string(rune('a' + i%3)))
	defer o.kill()
	t := c.dice.roll("reign", o.name)
	ctx, cancel := o.opening(t)
	defer cancel()
	var state *facts
	began := time.Now()
	l, err := ledger.Open(ctx, ledger.Config{
		Store: o.door, Prefix: prefix, Owner: o.name, Epoch: o.epoch,
		Clock: o.clock,
	}, func() ledger.State { state = newFacts(); return state })
	if err != nil {
		c.note(o.name, nil, "can't open: %v", err)
		if c.refusal(err, "open", nil); c.healed && !c.failed() {
			c.reign(i)
		}
		return
	}
	c.note(o.name, nil, "is open in epoch %d, sequence %d, with %d facts", l.Epoch(), l.Last(), len(state.texts))
	c.begun(o, l, state, began)
	ends := time.Now().Add(t.between(time.Second, 3*c.temper.gap))
	var calls sync.WaitGroup
	for n := range 1 + t.IntN(5) {
		calls.Go(func() { c.scribe(o, l, state, n, ends) })
	}
	calls.Go(func() { c.archivist(o, l, state, ends) })
	calls.Wait()
}

// scribe appends facts until the owner's end.
func (c *chronicle) scribe(o *owner, l *ledger.Ledger, state *facts, n int, ends time.Time) {
	for i := range 12 {
		name := fmt.Sprintf("%s.%d.%d", o.name, n, i)
		t := c.dice.roll("scribe", name)
		time.Sleep(t.between(0, c.temper.gap/4))
		if o.isDead() || time.Now().After(ends) {
			return
		}
		var drafts []ledger.Draft
		for d := range 1 + t.IntN(3) {
			drafts = append(drafts, ledger.Draft{Record: &ledger.Address{Address: fmt.Sprintf("%s.%d", name, d)}})
		}
		ctx, cancel := context.WithTimeout(o.live, oneOf(t, 200*time.Millisecond, 20*time.Second, 24*time.Hour))
		began := time.Now()
		entries, err := l.Append(ctx, drafts)
		cancel()
		if o.door.pass() != nil {
			return
		}
		if err != nil {
			c.note(o.name, nil, "append of %s: %v", name, err)
			c.refusal(err, "append", nil)
			if errors.Is(err, ledger.ErrFenced) || errors.Is(err, ledger.ErrBroken) {
				return
			}
			continue
		}
		c.note(o.name, nil, "appended %s at %s", name, entries[0].Position)
		for _, e := range entries {
			_ = state.Apply(e)
			c.say(o, l.Epoch(), e, began)
		}
	}
}

// say takes a fact in that an owner has acknowledged.
func (c *chronicle) say(o *owner, epoch uint64, e ledger.Entry, began time.Time) {
	text := e.Record.(*ledger.Address).Address
	c.account.Lock()
	defer c.account.Unlock()
	c.agree(o.name, epoch, e.Position, text)
	for _, f := range c.fences {
		switch {
		case f.epoch <= epoch:
		case e.Position.Sequence() > f.sequence:
			c.found("5, one writer", nil, "%s (epoch %d) acknowledged %s at %s, behind the fence of %s (epoch %d) at %d",
				o.name, epoch, text, e.Position, f.by, f.epoch, f.sequence)
		case f.texts[e.Position] != text:
			c.found("1, acknowledged", nil, "%s (epoch %d) acknowledged %s at %s, ahead of the fence of %s (epoch %d) at %d, which knows %q there",
				o.name, epoch, text, e.Position, f.by, f.epoch, f.sequence, f.texts[e.Position])
		}
	}
}

// agree holds one fact against what was said of its position before.
func (c *chronicle) agree(by string, epoch uint64, position ledger.Position, text string) {
	before, known := c.agreed[position]
	if !known {
		c.agreed[position] = said{text: text, epoch: epoch, by: by, at: time.Now()}
		return
	}
	if before.text != text {
		c.found("3, positions", nil, "%s says that %s is at %s; %s has said %s", by, text, position, before.by, before.text)
	}
}

// begun holds what an owner knows when it has opened against all that was said.
func (c *chronicle) begun(o *owner, l *ledger.Ledger, state *facts, began time.Time) {
	state.mu.Lock()
	texts := maps.Clone(state.texts)
	state.mu.Unlock()
	c.account.Lock()
	defer c.account.Unlock()
	for position, before := range c.agreed {
		switch {
		case before.epoch >= l.Epoch():
		case position.Sequence() > l.Last():
			c.found("5, one writer", nil, "%s (epoch %d) had %s at %s, which is behind the fence of %s (epoch %d) at %d",
				before.by, before.epoch, before.text, position, o.name, l.Epoch(), l.Last())
		case texts[position] != before.text:
			c.found("1, acknowledged", nil, "%s (epoch %d) opens with %q at %s, where %s (epoch %d) had %s",
				o.name, l.Epoch(), texts[position], position, before.by, before.epoch, before.text)
		}
	}
	for position, text := range texts {
		c.agree(o.name, l.Epoch(), position, text)
	}
	c.fences = append(c.fences, fence{l.Epoch(), l.Last(), o.name, texts})
}

// archivist writes checkpoints, trims, and asks whether the owner is one still.
func (c *chronicle) archivist(o *owner, l *ledger.Ledger, state *facts, ends time.Time) {
	for i := 0; !o.isDead() && time.Now().Before(ends); i++ {
		t := c.dice.roll("archivist", o.name, i)
		time.Sleep(t.between(0, min(c.temper.gap, 40*time.Minute)))
		if o.door.pass() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(o.live, oneOf(t, time.Second, 10*time.Minute))
		var err error
		switch t.IntN(4) {
		case 0:
			err = l.Confirm(ctx)
		case 1:
			var n int
			n, err = l.Trim(ctx, func(sequence uint64) bool { return c.dice.roll("keep", sequence).chance(0.2) })
			c.note(o.name, nil, "trims %d up to %d: %v", n, l.Horizon(), err)
		default:
			sequence := l.Last()
			err = l.WriteCheckpoint(ctx, sequence, state.parts(func() { time.Sleep(t.between(0, c.temper.gap/20)) }))
			c.note(o.name, nil, "checkpoint of %d: %v", sequence, err)
		}
		cancel()
		if err != nil {
			c.refusal(err, "keeping the archive", nil)
		}
	}
}

// TestLedger is TestSim for bare ledgers: more of what is hard in them, and
// nothing besides.
func TestLedger(t *testing.T) { campaign(t, runLedger) }
