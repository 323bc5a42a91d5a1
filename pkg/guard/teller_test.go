package guard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// owner is told, and fails at will. The Teller's own limits keep calls of one address apart.
type owner struct {
	fail  func(maildrop.Address) error
	calls chan maildrop.Address
	told  chan []maildrop.Attempt
}

func (o *owner) tell(_ context.Context, address maildrop.Address, refused []maildrop.Attempt) error {
	o.calls <- address
	if o.fail != nil {
		if err := o.fail(address); err != nil {
			return err
		}
	}
	o.told <- refused
	return nil
}

// telling runs a Teller in fake time.
func telling(t *testing.T, fail func(maildrop.Address) error, test func(*Teller, *owner)) {
	synctest.Test(t, func(t *testing.T) {
		o := &owner{fail: fail, calls: make(chan maildrop.Address, 1<<16), told: make(chan []maildrop.Attempt, 1<<16)}
		teller := NewTeller(o.tell, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); teller.Run(ctx) }()
		test(teller, o)
		cancel()
		<-done
	})
}

// pass lets time pass, and all end that it began.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func refusedNow(reason maildrop.Reason, session string) maildrop.Attempt {
	return maildrop.Attempt{Time: time.Now(), Reason: reason, Session: session}
}

// results are how much was told and lost.
func (t *Teller) totals() (told, lost float64) {
	return testutil.ToFloat64(t.results.WithLabelValues(toldResult)), testutil.ToFloat64(t.results.WithLabelValues(lostResult))
}

// TestTellerTellsOnceASecond: what is alike is one row, and an owner hears of an address
// once a second at most.
func TestTellerTellsOnceASecond(t *testing.T) {
	telling(t, nil, func(teller *Teller, o *owner) {
		for i := range 50 {
			teller.Note(anna, refusedNow(maildrop.ReasonSlowDown, fmt.Sprint(i)))
			teller.Note(anna, refusedNow(maildrop.ReasonSessions, fmt.Sprint(i)))
			time.Sleep(10 * time.Millisecond)
		}
		pass(tellEvery)
		if len(o.calls) != 1 {
			t.Fatalf("%d calls", len(o.calls))
		}
		if got := <-o.told; len(got) != 2 || got[0].Times != 50 || got[1].Times != 50 {
			t.Errorf("%+v", got)
		}
	})
}

// TestTellerFloods: of any number of addresses so many wait, and so many are told each
// second; the others are lost, and counted.
func TestTellerFloods(t *testing.T) {
	telling(t, nil, func(teller *Teller, o *owner) {
		for i := range 5 * maxWaiting {
			teller.Note(maildrop.Address(fmt.Sprint(i, "@local.example")), refusedNow(maildrop.ReasonSlowDown, "s"))
		}
		pass(tellEvery + tellEvery/2)
		if len(o.calls) != maxTellings {
			t.Errorf("%d calls in a second", len(o.calls))
		}
		pass(maxWaiting / maxTellings * tellEvery)
		if told, lost := teller.totals(); told != maxWaiting || lost != 4*maxWaiting || len(teller.waiting) != 0 || len(teller.order) != 0 {
			t.Errorf("%v told, %v lost, %d wait", told, lost, len(teller.waiting))
		}
	})
}

// TestTellerTriesAgain: while an owner is away it is tried for a minute, and nothing is
// counted twice.
func TestTellerTriesAgain(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	fail := func(maildrop.Address) error {
		if away.Load() {
			return &maildrop.Error{Kind: maildrop.NotOwner}
		}
		return nil
	}
	telling(t, fail, func(teller *Teller, o *owner) {
		teller.Note(anna, refusedNow(maildrop.ReasonUnavailable, "a"))
		pass(10*tellEvery + tellEvery/2)
		teller.Note(anna, refusedNow(maildrop.ReasonUnavailable, "b"))
		away.Store(false)
		pass(tellEvery)
		if got := <-o.told; len(got) != 1 || got[0].Times != 2 || got[0].Session != "b" {
			t.Errorf("%+v", got)
		}
		away.Store(true)
		teller.Note(anna, refusedNow(maildrop.ReasonUnavailable, "c"))
		pass(tellFor + 2*tellEvery)
		if told, lost := teller.totals(); told != 1 || lost != 1 || len(teller.waiting) != 0 {
			t.Errorf("%v told, %v lost, %d wait", told, lost, len(teller.waiting))
		}
	})
}

// TestTellerGivesUp: what an owner refuses isn't tried again.
func TestTellerGivesUp(t *testing.T) {
	telling(t, func(maildrop.Address) error { return errors.New("no") }, func(teller *Teller, o *owner) {
		teller.Note(anna, refusedNow(maildrop.ReasonSlowDown, "a"))
		pass(10 * tellEvery)
		if _, lost := teller.totals(); lost != 1 || len(o.calls) != 1 {
			t.Errorf("%v lost, %d calls", lost, len(o.calls))
		}
	})
}

// told is an attempt as a front tells it.
func told(minute int, session string, reason maildrop.Reason) maildrop.Attempt {
	a := attempt(minute, "192.0.2.1", reason)
	a.Session, a.First, a.Times = session, a.Time, 1
	return a
}

func TestJournalIsTold(t *testing.T) {
	j := NewJournal()
	in := attempt(1, "192.0.2.1", "")
	j.Note(anna, true, in)
	j.Tell(anna, true, told(2, "1", maildrop.ReasonSessions)) // the same session: it wasn't let in
	if got := j.Of(anna); len(got) != 1 || got[0].Reason != maildrop.ReasonSessions {
		t.Fatalf("%+v", got)
	}
	j.Note(anna, true, attempt(4, "192.0.2.1", maildrop.ReasonUnavailable))
	j.Tell(anna, true, told(4, "4", maildrop.ReasonUnavailable)) // known already
	late := told(3, "x", maildrop.ReasonSlowDown)
	late.First, late.Times = late.Time.Add(-time.Minute), 3
	j.Tell(anna, true, late)
	got := j.Of(anna)
	if len(got) != 3 || got[0].Reason != maildrop.ReasonUnavailable || got[0].Times != 1 || got[1].Reason != maildrop.ReasonSlowDown ||
		got[1].Times != 3 || !got[1].First.Equal(late.First) || got[2].Reason != maildrop.ReasonSessions {
		t.Errorf("%+v", got)
	}
	// A session that was let in, and met trouble later, was let in.
	j.Note(anna, true, attempt(5, "192.0.2.1", ""))
	j.Tell(anna, true, told(6, "5", maildrop.ReasonNoMessage))
	if got := j.Of(anna); len(got) != 5 || got[0].Reason != maildrop.ReasonNoMessage || got[1].Reason != "" {
		t.Errorf("%+v", got)
	}
}
