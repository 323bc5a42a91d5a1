package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

var quiet = slog.New(slog.DiscardHandler)

const patience = 30 * time.Second // a loaded machine is slow, not broken

func watch(t *testing.T, client *clientv3.Client, shards int) *Watcher {
	t.Helper()
	w, err := Watch(t.Context(), client, "eu", shards, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// register registers for longer than any test takes: no machine is so slow that a process
// which is there seems to be gone.
func register(t *testing.T, client *clientv3.Client, name string) *Registration {
	t.Helper()
	return registerFor(t, client, name, time.Hour)
}

func registerFor(t *testing.T, client *clientv3.Client, name string, ttl time.Duration) *Registration {
	t.Helper()
	r, err := Register(t.Context(), client, "eu", Node{Name: name, Address: name + ":1"}, ttl, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		r.Close(ctx) // the client may be closed: that is some tests' point
	})
	return r
}

// await waits until a condition of the view holds.
func await(t *testing.T, w *Watcher, what string, holds func(View) bool) View {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := w.Changed()
		if v := w.View(); holds(v) {
			return v
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: never; view: %+v", what, w.View())
		}
	}
}

func take(t *testing.T, r *Registration, seen Claim) Claim {
	t.Helper()
	claim, err := r.TakeClaim(t.Context(), seen)
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

func mustKind(t *testing.T, err error, want maildrop.Kind) {
	t.Helper()
	if err == nil || maildrop.KindOf(err) != want {
		t.Fatalf("got error %v, want kind %v", err, want)
	}
}

func TestWatcherFollows(t *testing.T) {
	client, _ := etcdtest.Start(t)
	w := watch(t, client, 4)
	if _, ok := w.Owner(1); ok {
		t.Fatal("a shard that nobody claimed has an owner")
	}
	r := register(t, client, "a")
	claim := take(t, r, w.View().Claims[1])
	if claim.Epoch != 1 || claim.Revision == 0 {
		t.Fatalf("first claim: %+v", claim)
	}
	view := await(t, w, "the claim", func(v View) bool { return v.Claims[1] == claim })
	if view.Revision < claim.Revision {
		t.Fatalf("the view has revision %d and shows one of %d", view.Revision, claim.Revision)
	}
	if address, ok := w.Owner(1); !ok || address != "a:1" {
		t.Fatalf("owner: %q, %v", address, ok)
	}
	if _, err := r.ReleaseClaim(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	view = await(t, w, "the release", func(v View) bool { return v.Claims[1].Owner == "" })
	if view.Claims[1].Epoch != 1 {
		t.Fatal("the release lost the epoch")
	}
	if again := take(t, r, view.Claims[1]); again.Epoch != 2 {
		t.Fatalf("second claim: %+v", again)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, w, "deregistration", func(v View) bool { return len(v.Nodes) == 0 })
	if address, ok := w.Owner(1); !ok || address != "a:1" {
		t.Fatalf("an owner without a lease may serve on; got %q, %v", address, ok)
	}
}

func TestOwnerThatWasReplacedIsGone(t *testing.T) {
	client, _ := etcdtest.Start(t)
	w := watch(t, client, 1)
	take(t, register(t, client, "a"), w.View().Claims[0])
	await(t, w, "owner", func(v View) bool { _, ok := v.Owner(0); return ok })
	register(t, client, "a")
	await(t, w, "no owner", func(v View) bool { _, ok := v.Owner(0); return !ok })
}

func TestWatcherKeepsItsViewWithoutEtcd(t *testing.T) {
	server := etcdtest.New(t)
	w := watch(t, server.Client(), 2)
	r := register(t, server.Client(), "a")
	take(t, r, w.View().Claims[0])
	await(t, w, "the claim", func(v View) bool { return v.Claims[0].Owner == "a" && len(v.Nodes) == 1 })
	server.Stop()
	if err := w.load(t.Context()); err == nil {
		t.Fatal("loaded from an etcd that doesn't run")
	}
	if address, ok := w.Owner(0); !ok || address != "a:1" {
		t.Fatalf("the view was lost: %q, %v", address, ok)
	}
	server.Restart()
	other := register(t, server.Client(), "b")
	take(t, other, w.View().Claims[1])
	await(t, w, "a change after the restart", func(v View) bool { return v.Claims[1].Owner == "b" })
}

func TestWatcherSurvivesCompaction(t *testing.T) {
	client, _ := etcdtest.Start(t)
	w := watch(t, client, 2)
	r := register(t, client, "a")
	w.Close() // asleep, while etcd forgets what happens
	claim := take(t, r, take(t, r, Claim{Shard: 1}))
	if _, err := client.Compact(t.Context(), claim.Revision); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.stop, w.done = cancel, make(chan struct{})
	go w.run(ctx)
	await(t, w, "what was compacted", func(v View) bool { return v.Claims[1] == claim })
}

func TestWatcherHealsDamage(t *testing.T) {
	client, _ := etcdtest.Start(t)
	w := watch(t, client, 2)
	r := register(t, client, "a")
	prefix := "/postern/v1/region/eu/"
	for _, key := range []string{"nodes/b", "shards/0001", "shards/0002", "shards/x", "other"} {
		if _, err := client.Put(t.Context(), prefix+key, "{"); err != nil {
			t.Fatal(err)
		}
	}
	view := await(t, w, "the damaged claim", func(v View) bool { return v.Claims[1].Revision > 0 && len(v.Nodes) > 0 })
	if view.Claims[1].Owner != "" || view.Nodes["b"].Name != "" {
		t.Fatalf("damage counts: %+v", view)
	}
	take(t, r, view.Claims[1])
}

func TestOneOfManyTakesAClaim(t *testing.T) {
	client, _ := etcdtest.Start(t)
	var wins atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		r := register(t, client, fmt.Sprintf("n%d", i))
		all.Go(func() {
			switch _, err := r.TakeClaim(t.Context(), Claim{Shard: 3}); {
			case err == nil:
				wins.Add(1)
			case maildrop.KindOf(err) != maildrop.NotOwner:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d processes took one claim", wins.Load())
	}
}

func TestOnlyTheRegisteredTake(t *testing.T) {
	client, _ := etcdtest.Start(t)
	older := register(t, client, "a")
	held := take(t, older, Claim{Shard: 1})
	newer := register(t, client, "a")
	_, err := older.TakeClaim(t.Context(), Claim{})
	mustKind(t, err, maildrop.NotOwner)
	taken := take(t, newer, held)
	if taken.Epoch != held.Epoch+1 {
		t.Fatalf("epoch %d after %d", taken.Epoch, held.Epoch)
	}
	_, err = older.Opened(t.Context(), held, 9, 0x1ed9e6)
	mustKind(t, err, maildrop.NotOwner)
	if _, err := older.ReleaseClaim(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if raised, err := newer.Opened(t.Context(), taken, 9, 0x1ed9e6); err != nil || raised.Epoch != 9 || raised.Ledger != 0x1ed9e6 || raised.Fenced != 9 {
		t.Fatalf("the older process's release hit the newer one: %+v, %v", raised, err)
	}
}

func TestRaiseAndReleaseFollowTheRevision(t *testing.T) {
	client, _ := etcdtest.Start(t)
	r := register(t, client, "a")
	held := take(t, r, Claim{Shard: 1})
	raised, err := r.Opened(t.Context(), held, 7, 0x1ed9e6)
	if err != nil || raised.Epoch != 7 {
		t.Fatal(raised, err)
	}
	lower, err := r.Opened(t.Context(), held, 3, 0x1ed9e6) // on the old revision, too
	if err != nil || lower.Epoch != 7 {
		t.Fatal(lower, err)
	}
	free, err := r.ReleaseClaim(t.Context(), held)
	if err != nil || free.Owner != "" || free.Epoch != 7 {
		t.Fatal(free, err)
	}
	if next := take(t, r, free); next.Epoch != 8 {
		t.Fatal(next)
	}
}

func TestRegistersAgain(t *testing.T) {
	client, _ := etcdtest.Start(t)
	r := registerFor(t, client, "a", 2*time.Second)
	first, created := registeredAfter(t, r, 0)
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Revoke(t.Context(), r.leaseID()); err != nil {
		t.Fatal(err)
	}
	second, created := registeredAfter(t, r, created)
	if second.Instance != first.Instance || !second.Draining {
		t.Fatalf("registered as %+v, then as %+v", first, second)
	}
	if _, err := client.Delete(t.Context(), r.space.node("a")); err != nil { // the lease lives
		t.Fatal(err)
	}
	registeredAfter(t, r, created)
}

// registeredAfter waits until etcd has the node's key, made after a revision. A view may miss
// that the key was away in between.
func registeredAfter(t *testing.T, r *Registration, revision int64) (node Node, created int64) {
	t.Helper()
	key := r.space.node(r.Node().Name)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		got, err := r.client.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) == 0 || got.Kvs[0].CreateRevision <= revision {
			continue
		}
		if err := json.Unmarshal(got.Kvs[0].Value, &node); err != nil {
			t.Fatal(err)
		}
		return node, got.Kvs[0].CreateRevision
	}
	t.Fatal("not registered again")
	return Node{}, 0
}

func TestAReplacedProcessStaysAway(t *testing.T) {
	client, _ := etcdtest.Start(t)
	older := register(t, client, "a")
	newer := register(t, client, "a")
	if err := older.register(t.Context(), false); !errors.Is(err, errReplaced) {
		t.Fatalf("the older process: %v", err)
	}
	if newer.confirm(t.Context()) {
		t.Fatal("the newer process's key was lost")
	}
	if !older.confirm(t.Context()) {
		t.Fatal("the older process thinks that it is registered")
	}
	mustKind(t, older.Drain(t.Context()), maildrop.NotOwner)
}

func TestASilentProcessIsGone(t *testing.T) {
	server := etcdtest.New(t)
	w := watch(t, server.Client(), 1)
	mute := server.Client()
	registerFor(t, mute, "a", 2*time.Second)
	await(t, w, "registration", func(v View) bool { return len(v.Nodes) == 1 })
	mute.Close()
	await(t, w, "the end of its lease", func(v View) bool { return len(v.Nodes) == 0 })
}

// lossy is a client whose transactions' answers get lost while told so; the
// requests themselves arrive unless `before` is set.
type lossy struct{ lose, before, readsToo atomic.Bool }

func (l *lossy) client(t *testing.T, endpoints []string) *clientv3.Client {
	t.Helper()
	lost := status.Error(codes.Unavailable, "connection lost")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: patience, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				hit := l.lose.Load() && (strings.HasSuffix(method, "/Txn") || l.readsToo.Load() && strings.HasSuffix(method, "/Range"))
				if hit && l.before.Load() {
					return lost
				}
				if err := invoke(ctx, method, req, reply, cc, opts...); err != nil || !hit {
					return err
				}
				return lost
			})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestALostAnswerIsFoundOut(t *testing.T) {
	server := etcdtest.New(t)
	var line lossy
	r := register(t, line.client(t, server.Endpoints()), "a")
	other := register(t, server.Client(), "b")

	line.lose.Store(true) // done, but unheard
	held := take(t, r, Claim{Shard: 1})
	if held.Epoch != 1 || held.Revision == 0 {
		t.Fatalf("%+v", held)
	}
	if raised, err := r.Opened(t.Context(), held, 5, 0x1ed9e6); err != nil || raised.Epoch != 5 {
		t.Fatal(raised, err)
	}
	line.before.Store(true) // not done
	_, err := r.TakeClaim(t.Context(), Claim{Shard: 2})
	mustKind(t, err, maildrop.Transient)
	theirs := take(t, other, Claim{Shard: 2}) // not done, and another was faster
	_, err = r.TakeClaim(t.Context(), Claim{Shard: 2})
	mustKind(t, err, maildrop.NotOwner)
	line.readsToo.Store(true) // nothing can be found out
	_, err = r.TakeClaim(t.Context(), theirs)
	mustKind(t, err, maildrop.Maybe)
}

func TestRefusedArguments(t *testing.T) {
	client, _ := etcdtest.Start(t)
	for _, region := range []string{"", "EU", "e/u", "..", "a\x00"} {
		_, err := Watch(t.Context(), client, region, 4, quiet)
		mustKind(t, err, maildrop.Invalid)
		_, err = Register(t.Context(), client, region, Node{Name: "a"}, 0, quiet)
		mustKind(t, err, maildrop.Invalid)
		_, err = Register(t.Context(), client, "eu", Node{Name: region}, 0, quiet)
		mustKind(t, err, maildrop.Invalid)
	}
	for _, shards := range []int{-1, 0, MaxShards + 1} {
		_, err := Watch(t.Context(), client, "eu", shards, quiet)
		mustKind(t, err, maildrop.Invalid)
	}
}

// TestWatchThatNeverBegins: etcd may end between a load and the watch after it.
func TestWatchThatNeverBegins(t *testing.T) {
	server := etcdtest.New(t)
	w := watch(t, server.Client(), 4)
	w.Close()
	server.Stop()
	if err := w.follow(t.Context(), 1); !errors.Is(err, errStalled) {
		t.Fatalf("got %v", err)
	}
}
