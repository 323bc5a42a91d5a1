package placement

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
)

// warnings counts what a log warns of.
type warnings struct {
	slog.Handler
	n *atomic.Int64
}

func (w warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w warnings) Handle(context.Context, slog.Record) error        { w.n.Add(1); return nil }

// Where nothing happens a watch has nothing to say, and isn't taken for dead; nor is it
// while another watch of the same client waits for what comes next.
func TestQuietIsNotStalled(t *testing.T) {
	client, _ := etcdtest.Start(t)
	var warned atomic.Int64
	w := watch(t, client, 4)
	w.Close()
	w.interval, w.log = 250*time.Millisecond, slog.New(warnings{slog.DiscardHandler, &warned})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	tickets, err := FollowTickets(ctx, client, TicketsConfig{Region: "eu", Secret: make([]byte, 32), Apply: func([][32]byte) {}, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { tickets.Run(ctx) })
	w.done = make(chan struct{})
	running.Go(func() { w.run(ctx) })

	// A loaded machine may miss an interval or two, but not one of each few.
	synced := func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.synced }
	deadline, ticker := time.Now().Add(time.Minute), time.NewTicker(10*time.Millisecond)
	defer ticker.Stop()
	for calm, last, before := 0, synced(), warned.Load(); calm < 8; {
		if time.Now().After(deadline) {
			t.Fatalf("warned %d times, and never calm", warned.Load())
		}
		<-ticker.C
		if now := warned.Load(); now != before {
			calm, before = 0, now
		}
		if now := synced(); now != last {
			calm, last = calm+1, now
		}
	}
}
