package drill

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/mailclient"
)

// Pace of a user's three workers. A drill shows what a cluster promises, not what it bears.
const (
	deliverEvery = 200 * time.Millisecond
	visitEvery   = 250 * time.Millisecond
	retrEvery    = 50 * time.Millisecond
	retryAfter   = 100 * time.Millisecond // a refusal, or a connection that broke
	fetchAtMost  = 10                     // messages in one visit
	finishWithin = time.Minute            // what is under way when the load ends
	pulseEvery   = time.Second
)

// anchor is the number of the letter that stays, and that sessions which stay fetch.
const anchor = 1

const sender = "drill@example.net"

// User is a mailbox whose mail nobody else fetches or removes.
type User struct {
	Address, Password string
}

// Doors are where the load goes. With several addresses each connection takes the next one.
type Doors struct {
	POP3S   []string // host:port
	POP3TLS *tls.Config
	LMTP    []string    // host:port
	LMTPTLS *tls.Config // nil: without STARTTLS
}

// load is what users do.
type load struct {
	doors   Doors
	letters history.Letters
	history *history.History
	meter   *meter
	renew   time.Duration // how long a session stays; 0: to the end
	next    atomic.Uint64 // connection
}

// turn is the next of a list of addresses.
func (l *load) turn(addresses []string) string {
	return addresses[l.next.Add(1)%uint64(len(addresses))]
}

// worker is one of a user's three, and how often it has got round.
type worker struct {
	rounds atomic.Int64
	round  func(ctx context.Context) // one, whatever comes of it; ctx cuts it off
	every  time.Duration
	end    func()
}

// run goes round until the time is over; ctx is cut off only some time after.
func (w *worker) run(ctx context.Context, over <-chan struct{}) {
	for {
		select {
		case <-over:
			if w.end != nil {
				w.end()
			}
			return
		case <-ctx.Done():
			return
		default:
		}
		w.round(ctx)
		w.rounds.Add(1)
		rest(ctx, w.every)
	}
}

// under runs the load while f runs, and returns when both have ended. What is under way is
// finished then.
func (l *load) under(ctx context.Context, boxes []*mailbox, pulse func(Pulse), f func(workers []*worker) error) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	over, began := make(chan struct{}), time.Now()
	var workers []*worker
	for _, m := range boxes {
		workers = append(workers, m.workers()...)
	}
	workers = append(workers, &worker{every: pulseEvery, round: func(context.Context) { pulse(l.meter.pulse(time.Since(began))) }})
	var group sync.WaitGroup
	for _, w := range workers {
		group.Go(func() { w.run(ctx, over) })
	}
	err := f(workers[:len(workers)-1])
	close(over)
	defer time.AfterFunc(finishWithin, cut).Stop()
	group.Wait()
	return err
}

// deliver hands one message to an intake, once.
func deliver(ctx context.Context, address string, with *tls.Config, to string, text []byte) error {
	l, err := mailclient.DialLMTP(ctx, address, with)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	verdicts, err := l.Deliver(sender, []string{to}, text)
	return errors.Join(err, verdicts[0])
}

// rest waits, and reports whether ctx let it.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
