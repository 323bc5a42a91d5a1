// Package run is the life of a process: parts start in order, serve, and stop
// in reverse; signals, the port of metrics and health, and an end that waits
// for everything that was started.
//
//	Main ── start(ctx, process) ──▶ ready ──▶ serving ──▶ draining ──▶ ended
//	            │ Serve, Go, OnStop              │ a signal, or a      │ a second signal,
//	            ▼                                │ part that failed    │ or the time is up:
//	        the parts, in order                  ▼                     ▼ what is left is cut off
//	                                         stopped in reverse order
//
// # Decisions
//
//   - 2026-11-23: parts are registered by imperative code, as they are made,
//     instead of being declared as a graph: the order of the lines is the order
//     of the start, and the compiler checks what depends on what.
//   - 2026-11-23: readiness is "has started and isn't draining", and asks no
//     shared service: trouble that all processes have in common would take all
//     of them out of the load balancer, and nobody would be left to say so in
//     the protocol.
//   - 2026-11-23: a part that ends by itself ends the process. Whoever started
//     the process starts it again; a process that limps is worse than one
//     that is missed.
//   - 2026-11-23: no profiles on the port of metrics: they hold what is in
//     memory, passwords too.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// DefaultDrain is how long the parts may take to stop, all together, unless
// Options say otherwise.
const DefaultDrain = 30 * time.Second

// lastWords is how long a part has to return after it was cut off.
const lastWords = time.Second

// Options are how a process lives.
type Options struct {
	Log     *slog.Logger
	Signals <-chan os.Signal // nil: SIGINT and SIGTERM of this process
	Drain   time.Duration    // 0: DefaultDrain
}

// ErrCutOff says that parts didn't stop in their time, or that a second signal
// didn't let them.
var ErrCutOff = errors.New("cut off before everything had stopped")

// Process is what a start function hangs its parts on. Its methods may be
// called from one goroutine at a time, and only until the start function returns.
type Process struct {
	log    *slog.Logger
	work   sync.WaitGroup
	parts  []part
	failed chan error // the first part that ended by itself
	mu     sync.Mutex
	state  State
	says   []func() []string
}

type part struct {
	name string
	stop func(ctx context.Context) error
}

// State is how far a process has come.
type State int

// The states of a process.
const (
	Starting State = iota
	Serving
	Draining
)

// String is the state in words.
func (s State) String() string {
	return [...]string{"starting", "serving", "draining"}[s]
}

// State is how far the process has come. Any goroutine may ask.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Explain has /readyz say what waits for somebody to act, a line each, besides the
// state, which it doesn't change.
func (p *Process) Explain(what func() []string) {
	p.mu.Lock()
	p.says = append(p.says, what)
	p.mu.Unlock()
}

// explanations are all lines there are now.
func (p *Process) explanations() (lines []string) {
	p.mu.Lock()
	says := slices.Clone(p.says)
	p.mu.Unlock()
	for _, say := range says {
		lines = append(lines, say()...)
	}
	return lines
}

func (p *Process) enter(s State) {
	p.mu.Lock()
	p.state = s
	p.mu.Unlock()
}

// OnStop registers what is to be done when the process ends. The context of
// stop ends when it must hurry.
func (p *Process) OnStop(name string, stop func(ctx context.Context) error) {
	p.parts = append(p.parts, part{name, stop})
}

// Serve runs serve in a goroutine until stop makes it return. When serve returns
// earlier the process ends, with its error.
func (p *Process) Serve(name string, serve func() error, stop func(ctx context.Context) error) {
	stopping, ended := make(chan struct{}), make(chan struct{})
	p.work.Go(func() {
		defer close(ended)
		err := serve()
		select {
		case <-stopping: // as it should
		default:
			p.fail(name, err)
		}
	})
	p.OnStop(name, func(ctx context.Context) error {
		close(stopping)
		err := stop(ctx)
		select {
		case <-ended:
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
		return err
	})
}

// Go runs work in a goroutine until its context ends, at its turn of the stop
// and not when ctx ends, whose values it has. When work returns earlier the
// process ends, with its error.
func (p *Process) Go(ctx context.Context, name string, work func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.Serve(name, func() error { return work(ctx) }, func(context.Context) error {
		cancel()
		return nil
	})
}

func (p *Process) fail(name string, err error) {
	if err == nil {
		err = errors.New("ended by itself")
	}
	select {
	case p.failed <- fmt.Errorf("%s: %w", name, err):
	default: // another part was first
	}
}

// Main runs a process: start registers its parts, and its context ends with
// the first signal; then Main waits for a signal, the end of ctx, or a part that
// failed, and stops the parts in reverse order. The result is nil after
// an orderly end.
func Main(ctx context.Context, options Options, start func(ctx context.Context, p *Process) error) error {
	signals := options.Signals
	if signals == nil {
		own := make(chan os.Signal, 2)
		signal.Notify(own, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(own)
		signals = own
	}
	if options.Drain == 0 {
		options.Drain = DefaultDrain
	}
	p := &Process{log: options.Log, failed: make(chan error, 1)}
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- start(starting, p) }()

	ready, err := p.untilEnd(ctx, signals, started)
	p.enter(Draining)
	cancel()
	if !ready {
		// The parts that are there can only be known once start has returned.
		if late := <-started; err == nil && !errors.Is(late, context.Canceled) {
			err = late
		}
	}
	return errors.Join(err, p.stop(ctx, signals, options.Drain))
}

// untilEnd waits for the reason to end: nil for a signal or the end of ctx.
// ready is false while start has not returned.
func (p *Process) untilEnd(ctx context.Context, signals <-chan os.Signal, started <-chan error) (ready bool, err error) {
	for {
		select {
		case err := <-started:
			if err != nil {
				return true, err
			}
			p.enter(Serving)
			p.log.Info("ready")
			started, ready = nil, true
		case s := <-signals:
			p.log.Info("draining", "signal", s.String())
			return ready, nil
		case <-ctx.Done():
			return ready, nil
		case err := <-p.failed:
			p.log.Error("a part failed", "error", err)
			return ready, err
		}
	}
}

// stop stops the parts in reverse order, within the drain time or until another
// signal.
func (p *Process) stop(ctx context.Context, signals <-chan os.Signal, drain time.Duration) error {
	ctx, hurry := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer hurry()
	done := make(chan error, 1)
	go func() { done <- p.stopParts(ctx) }()
	select {
	case err := <-done:
		return err
	case s := <-signals:
		p.log.Warn("cutting off", "signal", s.String())
		hurry()
	case <-ctx.Done():
		p.log.Warn("cutting off", "after", drain.String())
	}
	select {
	case err := <-done:
		return errors.Join(ErrCutOff, err)
	case <-time.After(lastWords):
		return ErrCutOff
	}
}

func (p *Process) stopParts(ctx context.Context) error {
	var errs []error
	for i := len(p.parts) - 1; i >= 0; i-- {
		began := time.Now()
		if err := p.parts[i].stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", p.parts[i].name, err))
		}
		p.log.Info("stopped", "part", p.parts[i].name, "seconds", time.Since(began).Seconds())
	}
	if ctx.Err() == nil {
		p.work.Wait()
	}
	return errors.Join(errs...)
}
