package placement

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// ticketFront is a front as far as its ticket keys go.
type ticketFront struct {
	*Tickets
	t *testing.T

	mu   sync.Mutex
	keys [][32]byte
	now  time.Time
	news chan struct{}
	stop func()
}

var ticketSecret = []byte("the region's own secret")

func startFront(t *testing.T, client *clientv3.Client, secret []byte, now time.Time, log *slog.Logger) *ticketFront {
	t.Helper()
	f := &ticketFront{t: t, now: now, news: make(chan struct{}, 1)}
	var err error
	f.Tickets, err = FollowTickets(t.Context(), client, TicketsConfig{
		Region: "eu", Secret: secret, Log: log, Apply: f.apply,
		Now: func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	f.stop = func() { cancel(); <-done }
	t.Cleanup(f.stop)
	return f
}

// startShared starts a front that has the region's keys from the start: a machine with
// other work may take longer than a front waits for them.
func startShared(t *testing.T, client *clientv3.Client, secret []byte, now time.Time) *ticketFront {
	t.Helper()
	for began := time.Now(); ; {
		f := startFront(t, client, secret, now, quiet)
		if shared, _ := f.Shared(); shared {
			return f
		}
		if f.stop(); time.Since(began) > patience {
			t.Fatalf("no keys after %v", patience)
		}
	}
}

func (f *ticketFront) apply(keys [][32]byte) {
	f.mu.Lock()
	f.keys = keys
	f.mu.Unlock()
	select {
	case f.news <- struct{}{}:
	default:
	}
}

func (f *ticketFront) inUse() [][32]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.keys)
}

// turnTo sets the clock, and lets the front look at it.
func (f *ticketFront) turnTo(now time.Time) {
	f.t.Helper()
	f.mu.Lock()
	f.now = now
	f.mu.Unlock()
	if _, err := f.refresh(f.t.Context()); err != nil {
		f.t.Error(err)
	}
}

// await waits for keys that are as wanted.
func (f *ticketFront) await(what string, ok func(keys [][32]byte) bool) {
	f.t.Helper()
	limit := time.After(patience)
	for !ok(f.inUse()) {
		select {
		case <-f.news:
		case <-limit:
			f.t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

// resumes reports whether one front decrypts what the other encrypts, both ways.
func (f *ticketFront) resumes(other *ticketFront) bool {
	a, b := f.inUse(), other.inUse()
	return slices.Contains(a, b[0]) && slices.Contains(b, a[0])
}

// TestTicketsShared: all fronts of a region have the same keys, from their first
// handshake on, through rotations that they see at different times.
func TestTicketsShared(t *testing.T) {
	client, _ := etcdtest.Start(t)
	now := at(1000, time.Hour)
	var starting sync.WaitGroup
	fronts := make([]*ticketFront, 5)
	for i := range fronts { // all at once: one makes the keys
		starting.Go(func() { fronts[i] = startShared(t, client, ticketSecret, now) })
	}
	starting.Wait()
	for i, f := range fronts {
		if shared, since := f.Shared(); !shared || !since.Equal(at(1000, 0)) || len(f.inUse()) != 2 {
			t.Fatalf("front %d: shared %v since %v, %d keys", i, shared, since, len(f.inUse()))
		}
		if !slices.Equal(f.inUse(), fronts[0].inUse()) {
			t.Errorf("front %d has other keys", i)
		}
	}
	first := fronts[0].inUse()[0]
	early, late := fronts[0], fronts[1]
	early.turnTo(at(1001, 0))
	if !early.resumes(late) || early.inUse()[0] == first || len(early.inUse()) != 3 {
		t.Error("a front that rotates early is alone")
	}
	// The others hear of the key that it made for the period after.
	early.turnTo(at(1001, time.Minute))
	for _, f := range fronts[1:] {
		f.turnTo(at(1001, time.Second))
		if !slices.Equal(f.inUse(), early.inUse()) {
			t.Error("keys differ after a rotation")
		}
	}
	early.turnTo(at(1002, 0))
	if slices.Contains(early.inUse(), first) || len(early.inUse()) != 3 {
		t.Errorf("%d keys, the first one among them: %v", len(early.inUse()), slices.Contains(early.inUse(), first))
	}

	resp, err := client.Get(t.Context(), "/postern/v1/tickets/eu/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 4 {
		t.Fatalf("%d entries, %v", len(resp.Kvs), err)
	}
	for _, kv := range resp.Kvs {
		for _, key := range append(early.inUse(), first) {
			if bytes.Contains(kv.Value, key[:8]) {
				t.Error("a key is in etcd in the clear")
			}
		}
		if kv.Lease == 0 {
			t.Errorf("%s stays in etcd for ever", kv.Key)
		}
	}
}

// TestTicketsWatched: a key is known when it is made, not a minute later.
func TestTicketsWatched(t *testing.T) {
	client, _ := etcdtest.Start(t)
	one := startShared(t, client, ticketSecret, at(1000, 0))
	other := startShared(t, client, ticketSecret, at(1000, 0))
	began := time.Now()
	for p := period(1001); p < 1005; p++ { // the first may be seen by a look, the others may not
		other.mu.Lock()
		other.now = at(p, 0)
		other.mu.Unlock()
		one.turnTo(at(p, 0)) // makes the next period's
		other.await("the next period's key", func([][32]byte) bool { return slices.Equal(one.inUse(), other.inUse()) })
	}
	if took := time.Since(began); took > ticketInterval/2 {
		t.Errorf("late: after %v", took)
	}
}

// TestTicketsWhileEtcdIsAway: keys at hand go on; a start without etcd has a key of its
// own, and the region's as soon as etcd is back, with its own tickets still good.
func TestTicketsWhileEtcdIsAway(t *testing.T) {
	server := etcdtest.New(t)
	client := server.Client()
	var log bytes.Buffer
	old := startShared(t, client, ticketSecret, at(1000, 0))
	kept := old.inUse()
	server.Stop()

	young := startFront(t, client, ticketSecret, at(1000, 0), slog.New(slog.NewJSONHandler(&log, nil)))
	if shared, _ := young.Shared(); shared || len(young.inUse()) != 1 {
		t.Errorf("without etcd: shared %v, %d keys", shared, len(young.inUse()))
	}
	own := young.inUse()[0]
	if slices.Contains(kept, own) {
		t.Error("a key of its own that others have")
	}
	if !slices.Equal(old.inUse(), kept) {
		t.Error("a front dropped its keys")
	}
	old.mu.Lock()
	old.now = at(1001, 0)
	old.mu.Unlock()
	old.Tickets.apply()
	if got := old.inUse(); got[0] != kept[1] || !slices.Contains(got, kept[0]) {
		t.Error("no rotation to the key at hand")
	}
	server.Restart()
	young.await("the region's keys", func(keys [][32]byte) bool { return keys[0] == kept[0] })
	if !slices.Contains(young.inUse(), own) {
		t.Error("what it gave out is worthless now")
	}
	if !young.resumes(old) {
		t.Error("not resumed")
	}
	young.stop()
	if text := log.String(); !strings.Contains(text, "starting with one of our own") || strings.Contains(text, string(own[:4])) {
		t.Errorf("log %q", text)
	}
}

// TestTicketsOfOtherSecrets: a region whose gossip key is being replaced has two groups,
// neither in the other's way; an entry that is damaged is left alone.
func TestTicketsOfOtherSecrets(t *testing.T) {
	client, _ := etcdtest.Start(t)
	now := at(1000, 0)
	one, two := startShared(t, client, ticketSecret, now), startShared(t, client, ticketSecret, now)
	other := startShared(t, client, []byte("the region's next secret"), now)
	if !one.resumes(two) || one.resumes(other) {
		t.Error("the groups are not by secret")
	}
	if shared, _ := other.Shared(); !shared {
		t.Error("the second group has no keys")
	}
	if _, err := client.Put(t.Context(), one.key(1001), "damaged"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), one.prefix+"what", "is this"); err != nil {
		t.Fatal(err)
	}
	late := startShared(t, client, ticketSecret, now)
	if !late.resumes(one) || len(late.inUse()) != 1 {
		t.Errorf("%d keys", len(late.inUse()))
	}
	for _, config := range []TicketsConfig{{Region: "EU", Secret: ticketSecret}, {Region: "eu", Secret: nil}} {
		if _, err := FollowTickets(t.Context(), client, config); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%v: %v", config.Region, err)
		}
	}
}
