package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/run"
)

// Timing of the demo's processes.
const (
	restartAfter = 2 * time.Second // a process that ended by itself
	drainGrace   = 2 * time.Second // between the first SIGTERM and the second
	stopGrace    = 4 * time.Second // between SIGTERM and SIGKILL, for each of two groups of processes
	pollEvery    = 50 * time.Millisecond
	readyIn      = 60 * time.Second // a machine with everything else to do needs longer than a few seconds
)

// nursery starts the demo's processes and watches over them. Each is killed by
// the kernel when the demo itself dies, so none is ever left behind.
type nursery struct {
	binary  string
	upkeep  atomic.Int32                     // what to do about a process that ends: one of the constants below
	report  func(format string, args ...any) // to the terminal
	changed func()                           // a process has another pid
	starts  chan startRequest
	failed  chan error    // the first process that ended while the demo started
	ended   chan struct{} // the goroutine that forks has ended
}

// What a nursery does about a process that ends by itself.
const (
	upkeepFail    int32 = iota // the demo is still starting: that's a failure
	upkeepRestart              // starts it again
	upkeepReport               // says so
)

type startRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// child is one process, through all its lives.
type child struct {
	*demoProcess
	mu   sync.Mutex
	cmd  *exec.Cmd // the present life, or the last one
	last chan struct{}
}

func newNursery(binary string, report func(string, ...any)) *nursery {
	n := &nursery{
		binary: binary, report: report, changed: func() {},
		starts: make(chan startRequest), failed: make(chan error, 1), ended: make(chan struct{}),
	}
	go n.fork()
	return n
}

// fork starts processes, all from one thread that lives as long as the demo:
// the kernel's parent-death signal goes by the thread, not by the process.
func (n *nursery) fork() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(n.ended)
	for request := range n.starts {
		request.done <- request.cmd.Start()
	}
}

// oversee returns the failure of a process while the demo starts.
func (n *nursery) oversee(ctx context.Context) error {
	select {
	case err := <-n.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// close ends the nursery. Its processes have ended before.
func (n *nursery) close() {
	close(n.starts)
	<-n.ended
}

// raise starts a process and keeps it alive until ctx ends. Then it only waits
// for it: ending it is release's.
func (n *nursery) raise(ctx context.Context, p *demoProcess) (*child, error) {
	c := &child{demoProcess: p, last: make(chan struct{})}
	if err := n.start(c); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.last)
		n.watch(ctx, c)
	}()
	return c, nil
}

// start begins a life. The log is appended to.
func (n *nursery) start(c *child) error {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()                                                // the process has its own copy
	cmd := exec.Command(n.binary, c.config.Role, "--config", c.file) //nolint:noctx // release ends it, in order; a context would kill it
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own: Ctrl-C is for the demo, which stops in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	n.starts <- startRequest{cmd, done}
	if err := <-done; err != nil {
		return fmt.Errorf("%s: %w", c.title(), err)
	}
	c.mu.Lock()
	c.cmd = cmd
	c.mu.Unlock()
	return nil
}

// watch waits for the end of each life and starts the next one.
func (n *nursery) watch(ctx context.Context, c *child) {
	for {
		_ = c.cmd.Wait() // the process's state says it all
		if ctx.Err() != nil {
			return
		}
		if !n.mourn(c) {
			return
		}
		for again := false; !again; {
			if !sleep(ctx, restartAfter) {
				return
			}
			if err := n.start(c); err != nil {
				n.report("%v", err)
				continue
			}
			again = true
			n.changed()
			if ctx.Err() != nil {
				c.signal(syscall.SIGTERM) // release came in between
			}
		}
	}
}

// mourn says that a process has ended by itself, and whether it gets another life.
func (n *nursery) mourn(c *child) bool {
	news := fmt.Sprintf("%s (pid %d) has ended: %v", c.title(), c.cmd.Process.Pid, c.cmd.ProcessState)
	switch n.upkeep.Load() {
	case upkeepRestart:
		n.report("%s; starting it again in %v; its log: %s", news, restartAfter, c.log)
		return true
	case upkeepReport:
		n.report("%s; its log: %s", news, c.log)
	default:
		select {
		case n.failed <- fmt.Errorf("%s; its log: %s", news, c.log):
		default: // another one was first
		}
	}
	return false
}

// pid is the present process's, or the last one's.
func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.Process.Pid
}

// release ends processes: all at once with SIGTERM, and SIGKILL for those that
// are still there when the grace is over or ctx ends. The context of raise has
// ended before.
func release(ctx context.Context, children []*child) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	var errs []error
	for _, c := range children {
		c.signal(syscall.SIGTERM)
	}
	// The second signal ends what a drain still waits for, such as idle sessions.
	hurry := time.AfterFunc(drainGrace, func() {
		for _, c := range children {
			c.signal(syscall.SIGTERM)
		}
	})
	defer hurry.Stop()
	for _, c := range children {
		if c.endsBefore(ctx) {
			continue
		}
		errs = append(errs, fmt.Errorf("%s did not stop in time and was killed; its log: %s", c.title(), c.log))
		c.signal(syscall.SIGKILL)
		<-c.last
	}
	return errors.Join(errs...)
}

// endsBefore waits for the process's end until ctx ends. One that has ended
// already counts, however late it is looked at.
func (c *child) endsBefore(ctx context.Context) bool {
	select {
	case <-c.last:
		return true
	default:
	}
	select {
	case <-c.last:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *child) signal(s os.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.cmd.Process.Signal(s) // an error says that it has ended: fine too
}

// awaitReady waits until the process serves.
func (c *child) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(c.config.HTTP.Listen)+"/readyz", nil)
		if err != nil {
			return err
		}
		if answer, err := client.Do(request); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !sleep(ctx, pollEvery) {
			return fmt.Errorf("%s is not ready; its log: %s: %w", c.title(), c.log, ctx.Err())
		}
	}
}

// sleep waits, and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stopInOrder registers the end of a group of processes.
func stopInOrder(p *run.Process, name string, cancel context.CancelFunc, children []*child) {
	p.OnStop(name, func(ctx context.Context) error {
		cancel()
		return release(ctx, children)
	})
}
