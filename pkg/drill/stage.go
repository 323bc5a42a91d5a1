package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// stage is where a plan is played.
type stage struct {
	Cluster
	Options

	report  *Report
	pending []*Order // what is still to be taken back
}

// say notes a step, and shows it.
func (s *stage) say(format string, args ...any) {
	step := Step{time.Since(s.report.Began).Seconds(), fmt.Sprintf(format, args...)}
	s.report.Steps = append(s.report.Steps, step)
	s.Step(step)
}

// inflict does something. That it has to be taken back is noted before: an error doesn't say
// that nothing was done.
func (s *stage) inflict(ctx context.Context, o *Order) error {
	if o.Undo != nil {
		s.pending = append(s.pending, o.Undo)
	}
	s.say("%s", o.Words)
	if err := o.Do(ctx); err != nil {
		return fmt.Errorf("%s: %w", o.Words, err)
	}
	return nil
}

// relieve takes something back, for which nobody's hurry is a reason not to.
func (s *stage) relieve(ctx context.Context, undo *Order) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Patience)
	defer cancel()
	s.pending = slices.DeleteFunc(s.pending, func(o *Order) bool { return o == undo })
	s.say("%s", undo.Words)
	if err := undo.Do(ctx); err != nil {
		return fmt.Errorf("NOT UNDONE, do it by hand: %s: %w", undo.Words, err)
	}
	return nil
}

// relieveAll takes back what wasn't yet, the latest first.
func (s *stage) relieveAll(ctx context.Context) error {
	var errs []error
	for len(s.pending) > 0 {
		errs = append(errs, s.relieve(ctx, s.pending[len(s.pending)-1]))
	}
	return errors.Join(errs...)
}

func (s *stage) settled(ctx context.Context) error {
	return s.await(ctx, "every shard is served", func() error { return s.Settled(ctx) })
}

// lookEvery is how often a drill looks for what it waits for.
const lookEvery = 250 * time.Millisecond

// await waits until ask is content.
func (s *stage) await(ctx context.Context, what string, ask func() error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			s.say("%s, after %.1f s", what, time.Since(began).Seconds())
			return nil
		}
		if !rest(ctx, lookEvery) {
			return fmt.Errorf("waited %.0f s until %s, in vain: %w", time.Since(began).Seconds(), what, err)
		}
	}
}

// calm is load without harm, in which every worker gets round.
func (s *stage) calm(ctx context.Context, workers []*worker) error {
	before := make([]int64, len(workers))
	for i, w := range workers {
		before[i] = w.rounds.Load()
	}
	if !rest(ctx, s.Calm) {
		return ctx.Err()
	}
	return s.await(ctx, "every user is served", func() error {
		for i, w := range workers {
			// One round may have been under way, so the second one is whole.
			if w.rounds.Load() < before[i]+2 {
				return errors.New("a worker of the load has not got round")
			}
		}
		return nil
	})
}
