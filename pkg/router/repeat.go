package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// call is one call of a Service, to be repeated until it is answered.
type call struct {
	op      string
	address maildrop.Address
	errand  errand
	home    func() (place, error) // instead of address; nil: the address's
	changes bool                  // its outcome matters when it isn't known
	bounded bool                  // small: an attempt is cut when the time for repeating is over
	patient bool                  // repeated also when the callee is Busy
	moved   func() uint64         // octets so far; nil: there are none
	do      func(ctx context.Context, service maildrop.Service, at string) error
}

// final is an error that is not repeated, whatever its kind.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

var (
	errNoOwner = errors.New("the shard has no owner")
	errMoved   = errors.New("the shard has a new owner")
)

// progress is how a call has gone so far.
type progress struct {
	since   time.Time // its beginning, or the last octet that moved
	moved   uint64
	pause   time.Duration // before the next attempt
	at      string        // where the last attempt was
	attempt int
	maybe   bool // an attempt may have taken effect
}

// repeat makes attempts of a call at whoever owns its address then, until one is
// answered or time is up. This is the only place that repeats anything.
func (r *Router) repeat(ctx context.Context, c *call) error {
	p := &progress{since: time.Now(), pause: pauseFirst}
	for {
		changed := r.config.Owners.Changed() // before the look, so that no change is missed
		home, err := r.home(ctx, c)
		if err != nil {
			return p.lost(c.op, err)
		}
		if err = r.attempt(ctx, c, p, home); err == nil {
			return nil
		}
		p.note(c, err)
		until := p.since.Add(r.patience(c, home, err))
		if left := time.Until(until); left > 0 && ctx.Err() == nil && !isFinal(err) {
			if !home.here() {
				changed = nil // the owners are those of this region
			}
			r.wait(ctx, changed, home, p.at, min(p.next(err), left))
		}
		if ctx.Err() != nil || isFinal(err) || !time.Now().Before(until) {
			return r.ended(ctx, c, p, home, err)
		}
	}
}

// once makes one attempt of a call that changes nothing, within a limit. If
// that passes the error is Transient, since nobody wished to end the call.
func (r *Router) once(ctx context.Context, c *call, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := &progress{since: time.Now()}
	home, err := r.home(ctx, c)
	if err != nil {
		return err
	}
	if err = r.attempt(limited, c, p, home); err == nil {
		return nil
	}
	return r.ended(ctx, c, p, home, err)
}

// home is where a call belongs at the moment.
func (r *Router) home(ctx context.Context, c *call) (place, error) {
	if c.home != nil {
		return c.home()
	}
	return r.place(ctx, c.op, c.address, c.errand)
}

func isFinal(err error) bool {
	var f final
	return errors.As(err, &f)
}

// note keeps what an attempt's error says about the call.
func (p *progress) note(c *call, err error) {
	p.maybe = p.maybe || c.changes && maildrop.KindOf(err) == maildrop.Maybe
	if c.moved != nil && c.moved() != p.moved {
		p.moved, p.since, p.pause = c.moved(), time.Now(), pauseFirst
	}
}

// next is the pause before the next attempt: growing, and less up to half by
// chance, so that those who wait for one owner don't come at once.
func (p *progress) next(err error) time.Duration {
	pause := p.pause
	p.pause = min(2*p.pause, pauseMost)
	if maildrop.KindOf(err) == maildrop.Busy {
		pause = 2 * pauseMost
	}
	return pause - rand.N(pause/2) //nolint:gosec // chance, no secret
}

// patience is how long after its beginning a call with this error is still
// repeated.
func (r *Router) patience(c *call, home place, err error) time.Duration {
	switch maildrop.KindOf(err) {
	case maildrop.NotOwner, maildrop.Transient, maildrop.Maybe, maildrop.Canceled:
		if home.here() {
			return r.config.Hold
		}
		return min(awayPatience, r.config.Hold)
	case maildrop.Busy:
		if c.patient {
			return min(busyPatience, r.config.Hold)
		}
	default: // an answer
	}
	return 0
}

// limit is how long after the call's beginning an attempt may last. Another
// region's gateway waits for its own owners first.
func (r *Router) limit(home place) time.Duration {
	if home.here() {
		return r.config.Hold
	}
	return r.config.Hold + awayPatience
}

// attempt calls the owner of the moment once.
func (r *Router) attempt(ctx context.Context, c *call, p *progress, home place) error {
	at, ok := r.address(home)
	if !ok {
		p.at = ""
		return &maildrop.Error{Op: c.op, Kind: maildrop.Transient, Err: errNoOwner}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.bounded {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, p.since.Add(r.limit(home)))
		defer stop()
	}
	if home.here() {
		defer r.watch(ctx, cancel, home, at)()
	}
	err := c.do(ctx, r.dial(home, at), at)
	r.meter.attempted(p.attempt, at == p.at, err)
	p.attempt, p.at = p.attempt+1, at
	return err
}

// watch cancels an attempt at an owner that is replaced while it lasts. It costs
// a timer for the many attempts that are short. The function it returns ends
// it.
func (r *Router) watch(ctx context.Context, cancel context.CancelCauseFunc, home place, at string) (end func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(done)
		for {
			changed := r.config.Owners.Changed()
			if now, ok := r.address(home); ok && now != at {
				cancel(errMoved)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel(nil)
		if !timer.Stop() {
			<-done
		}
	}
}

// wait waits for the pause to pass, or for the shard to have an owner other than
// the one just asked.
func (r *Router) wait(ctx context.Context, changed <-chan struct{}, home place, asked string, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
			changed = r.config.Owners.Changed()
			if now, ok := r.address(home); ok && now != asked {
				changed = nil
				timer.Reset(rand.N(heirSpread)) //nolint:gosec // chance, no secret
			}
		}
	}
}

// ended is the error of a call that is not repeated any more. Kinds that say
// "ask again" have no meaning for the caller: to him they are Transient, or
// Maybe when something may have changed.
func (r *Router) ended(ctx context.Context, c *call, p *progress, home place, err error) error {
	var f final
	if errors.As(err, &f) {
		return p.lost(c.op, f.error)
	}
	switch maildrop.KindOf(err) {
	case maildrop.NotFound, maildrop.Denied, maildrop.Alias, maildrop.Invalid:
		return err // the owner knows: nothing is unknown any more
	case maildrop.NotOwner, maildrop.Transient, maildrop.Canceled, maildrop.Maybe:
	default:
		return p.lost(c.op, err)
	}
	e := &maildrop.Error{Op: c.op, Kind: maildrop.Transient, Err: err}
	switch {
	case ctx.Err() != nil:
		e.Kind = maildrop.Canceled
	case !home.here():
		e.Text = away(home.region)
	}
	return p.lost(c.op, e)
}

// lost is an error of ours, or Maybe if an attempt before it may have taken
// effect.
func (p *progress) lost(op string, err error) error {
	kind := maildrop.KindOf(err)
	if p.maybe && kind != maildrop.Maybe {
		return &maildrop.Error{Op: op, Kind: maildrop.Maybe, Text: maildrop.TextOf(err), Err: err}
	}
	var ours *maildrop.Error
	if errors.As(err, &ours) {
		return err
	}
	return &maildrop.Error{Op: op, Kind: kind, Err: err}
}
