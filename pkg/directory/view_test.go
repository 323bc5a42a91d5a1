package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

var silent = slog.New(slog.DiscardHandler)

// soon is how long a test waits for what must come.
const soon = 30 * time.Second

func quickPace() pace {
	return pace{patience: 50 * time.Millisecond, progress: 20 * time.Millisecond, stall: time.Second, request: time.Second,
		retryMin: 10 * time.Millisecond, retryMax: 100 * time.Millisecond}
}

func openView(t *testing.T, client *clientv3.Client) *View {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	v, err := open(ctx, client, silent, quickPace())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// await waits until the view's changes make the condition true.
func await(t *testing.T, v *View, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(soon)
	for {
		changed := v.Changed()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// poll waits for what no change of the view announces.
func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(soon); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eu() Region {
	return Region{Name: "eu", Title: "Europe", Hostname: "eu-pop.postern.example", Shards: 16,
		Gateway: "127.0.0.1:1", CrossRegion: CrossRegionRelay}
}

func acme() policy.Account { return policy.Account{Name: "acme", Region: "eu"} }

func acmeDomain() policy.Domain {
	return policy.Domain{Name: "acme.example", Account: "acme", Kind: policy.DomainLocal}
}

func fill(t *testing.T, client *clientv3.Client) *Store {
	t.Helper()
	s := NewStore(client)
	must(t, s.PublishRegion(t.Context(), eu()))
	must(t, s.CreateAccount(t.Context(), acme()))
	must(t, s.CreateDomain(t.Context(), acmeDomain()))
	return s
}

func knowsAcme(v *View) bool {
	domain, account, ok := v.Domain("acme.example")
	return ok && domain == acmeDomain() && account.Name == "acme"
}

func TestViewFollows(t *testing.T) {
	client, _ := etcdtest.Start(t)
	v := openView(t, client)
	if _, _, ok := v.Domain("acme.example"); ok || len(v.Accounts()) != 0 {
		t.Fatal("an empty directory knows something")
	}
	s := fill(t, client)
	await(t, v, "the new domain", func() bool { return knowsAcme(v) })
	if region, ok := v.Region("eu"); !ok || region != eu() || len(v.Regions()) != 1 {
		t.Fatalf("region: %+v", region)
	}
	must(t, s.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error { a.Disabled = true; return nil }))
	await(t, v, "the account's change", func() bool { a, _ := v.Account("acme"); return a.Disabled })
	if d := v.LoginDelay(); d != 0 {
		t.Fatalf("somebody has to wait %v", d)
	}
	must(t, s.CreateAccount(t.Context(), policy.Account{Name: "slow", Region: "eu", LoginDelaySeconds: 60}))
	await(t, v, "the longest delay", func() bool { return v.LoginDelay() == time.Minute })
	must(t, s.UpdateAccount(t.Context(), "slow", func(a *policy.Account) error { a.LoginDelaySeconds = 0; return nil }))
	await(t, v, "no delay", func() bool { return v.LoginDelay() == 0 })
	must(t, s.CreateDomain(t.Context(), policy.Domain{Name: "a.example", Account: "acme", Kind: policy.DomainHosted}))
	await(t, v, "both domains", func() bool { return len(v.Domains("acme")) == 2 })
	if got := v.Domains("acme"); got[0].Name != "a.example" || got[1].Name != "acme.example" {
		t.Fatalf("not in order: %v", got)
	}
	must(t, s.RemoveDomain(t.Context(), "acme.example"))
	await(t, v, "the removal", func() bool { _, _, ok := v.Domain("acme.example"); return !ok })
	if got := v.Domains("acme"); len(got) != 1 {
		t.Fatalf("domains after the removal: %v", got)
	}
	late := openView(t, client)
	if got := late.Domains("acme"); len(got) != 1 || len(late.Accounts()) != 2 {
		t.Fatalf("a view that came later knows %v", got)
	}
}

// TestDomainWithoutAccount: half of an answer is none.
func TestDomainWithoutAccount(t *testing.T) {
	client, _ := etcdtest.Start(t)
	_, err := client.Put(t.Context(), domainPrefix+"acme.example", `{"name":"acme.example","account":"acme","kind":"local"}`)
	must(t, err)
	v := openView(t, client)
	if _, _, ok := v.Domain("acme.example"); ok {
		t.Fatal("a domain whose account isn't known was answered")
	}
}

func TestLoadsInPages(t *testing.T) {
	client, _ := etcdtest.Start(t)
	const count = 2*pageSize + 1
	for from := 0; from < count; from += 100 {
		var ops []clientv3.Op
		for i := from; i < min(from+100, count); i++ {
			name := fmt.Sprintf("account-%04d", i)
			ops = append(ops, clientv3.OpPut(accountPrefix+name, `{"name":"`+name+`","region":"eu"}`))
		}
		_, err := client.Txn(t.Context()).Then(ops...).Commit()
		must(t, err)
	}
	v := openView(t, client)
	got := v.Accounts()
	if len(got) != count || !slices.IsSortedFunc(got, func(a, b policy.Account) int { return compareNames(a.Name, b.Name) }) {
		t.Fatalf("%d accounts of %d", len(got), count)
	}
	stored, corrupt, err := NewStore(client).Accounts(t.Context())
	if err != nil || len(stored) != count || len(corrupt) != 0 {
		t.Fatalf("the store lists %d, %v, %v", len(stored), corrupt, err)
	}
}

func compareNames(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func TestGarbageChangesNothing(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s := fill(t, client)
	v := openView(t, client)
	for i, garbage := range []string{"", "{", "null", `{"name":"other","region":"eu"}`, `{"name":"acme"}`,
		`{"name":"acme","region":"eu"} {}`, `{"name":"acme","region":"eu","override":"x"}`, "\xff\xfe"} {
		_, err := client.Put(t.Context(), accountPrefix+"acme", garbage)
		must(t, err)
		await(t, v, "the garbage", func() bool { v.mu.RLock(); defer v.mu.RUnlock(); return v.garbage == uint64(i+1) })
		if !knowsAcme(v) || v.Corrupt() != 1 {
			t.Fatalf("after %q: known %t, corrupt %d", garbage, knowsAcme(v), v.Corrupt())
		}
	}
	if err := s.UpdateAccount(t.Context(), "acme", func(*policy.Account) error { return nil }); maildrop.KindOf(err) != maildrop.Corrupt {
		t.Fatalf("an update of garbage: %v", err)
	}
	_, corrupt, err := s.Accounts(t.Context())
	if err != nil || !slices.Equal(corrupt, []string{accountPrefix + "acme"}) {
		t.Fatalf("the list hides garbage: %v, %v", corrupt, err)
	}
	_, err = client.Put(t.Context(), accountPrefix+"acme", `{"name":"acme","region":"eu","continuity":true,"of_a_newer_version":1}`)
	must(t, err)
	await(t, v, "the repair", func() bool { a, _ := v.Account("acme"); return a.Continuity && v.Corrupt() == 0 })
	if err := s.UpdateAccount(t.Context(), "acme", func(*policy.Account) error { return nil }); maildrop.KindOf(err) != maildrop.Corrupt {
		t.Fatalf("an update that would lose a field: %v", err)
	}
	_, err = client.Put(t.Context(), accountPrefix+"acme", "{")
	must(t, err)
	await(t, v, "new garbage", func() bool { return v.Corrupt() == 1 })
	_, err = client.Delete(t.Context(), accountPrefix+"acme")
	must(t, err)
	await(t, v, "the deletion", func() bool { _, ok := v.Account("acme"); return !ok && v.Corrupt() == 0 })
}

func TestOutlivesEtcd(t *testing.T) {
	server := etcdtest.New(t)
	s := fill(t, server.Client())
	v := openView(t, server.Client())
	server.Stop()
	poll(t, "a loss that is noticed", func() bool { v.mu.RLock(); defer v.mu.RUnlock(); return !v.synced })
	if !knowsAcme(v) || v.Age() < v.pace.stall {
		t.Fatalf("without etcd: known %t, age %v", knowsAcme(v), v.Age())
	}
	server.Restart()
	poll(t, "a write after the restart", func() bool {
		return s.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error { a.Continuity = true; return nil }) == nil
	})
	await(t, v, "the change after the restart", func() bool { a, _ := v.Account("acme"); return a.Continuity })
	poll(t, "signs of life", func() bool { return v.Age() < v.pace.stall/2 })
}

// TestSignsOfLife: a quiet directory isn't an old one.
func TestSignsOfLife(t *testing.T) {
	client, _ := etcdtest.Start(t)
	v := openView(t, client)
	heard := func() time.Time { v.mu.RLock(); defer v.mu.RUnlock(); return v.heard }
	first := heard()
	poll(t, "a sign of life without an event", func() bool { return heard().After(first.Add(2 * v.pace.progress)) })
	answer, err := client.Put(t.Context(), "/elsewhere", "")
	must(t, err)
	poll(t, "the watch's word that it missed nothing", func() bool { r, _ := v.position(); return r == answer.Header.Revision })
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.restarts) != 0 {
		t.Fatalf("the watch broke: %v", v.restarts)
	}
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	server := etcdtest.New(t)
	client := server.Client()
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	v, err := Open(ctx, client, silent)
	if v != nil || maildrop.KindOf(err) != maildrop.Transient {
		t.Fatalf("got %v, %v", v, err)
	}
}

// link is a cable between a client and etcd that can be cut and replugged.
type link struct {
	listener net.Listener
	mu       sync.Mutex
	target   string // empty: cut
	open     map[net.Conn]struct{}
}

func newLink(t *testing.T, target string) *link {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &link{listener: listener, target: target, open: make(map[net.Conn]struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.carry(near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.plug("")
		wg.Wait()
	})
	return l
}

func (l *link) carry(near net.Conn) {
	defer near.Close()
	l.mu.Lock()
	target := l.target
	l.mu.Unlock()
	if target == "" {
		return
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	if l.target != target {
		l.mu.Unlock()
		return
	}
	l.open[near], l.open[far] = struct{}{}, struct{}{}
	l.mu.Unlock()
	go func() {
		_, _ = io.Copy(far, near)
		far.Close()
	}()
	_, _ = io.Copy(near, far)
}

// plug ends all connections; new ones go to the target.
func (l *link) plug(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
	for c := range l.open {
		c.Close()
	}
	clear(l.open)
}

func (l *link) client(t *testing.T) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{l.listener.Addr().String()}, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestCompactionWhileAway(t *testing.T) {
	server := etcdtest.New(t)
	direct := server.Client()
	s := fill(t, direct)
	cable := newLink(t, server.Endpoints()[0])
	v := openView(t, cable.client(t))
	cable.plug("")
	must(t, s.CreateDomain(t.Context(), policy.Domain{Name: "new.example", Account: "acme", Kind: policy.DomainHosted}))
	must(t, s.RemoveDomain(t.Context(), "acme.example"))
	answer, err := direct.Put(t.Context(), "/elsewhere", "")
	must(t, err)
	_, err = direct.Compact(t.Context(), answer.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	if !knowsAcme(v) {
		t.Fatal("a cut cable made the view forget")
	}
	cable.plug(server.Endpoints()[0])
	await(t, v, "what changed meanwhile", func() bool {
		_, _, added := v.Domain("new.example")
		_, _, kept := v.Domain("acme.example")
		return added && !kept
	})
}

// TestGarbageAndReload: a load must not forget what it cannot read either.
func TestGarbageAndReload(t *testing.T) {
	server := etcdtest.New(t)
	direct := server.Client()
	fill(t, direct)
	cable := newLink(t, server.Endpoints()[0])
	v := openView(t, cable.client(t))
	for _, key := range []string{regionPrefix + "eu", accountPrefix + "acme", domainPrefix + "acme.example"} {
		_, err := direct.Put(t.Context(), key, "garbage")
		must(t, err)
	}
	await(t, v, "the garbage", func() bool { return v.Corrupt() == 3 })
	cable.plug("")
	poll(t, "the loss", func() bool { v.mu.RLock(); defer v.mu.RUnlock(); return !v.synced })
	cable.plug(server.Endpoints()[0])
	poll(t, "the load", func() bool { v.mu.RLock(); defer v.mu.RUnlock(); return v.synced })
	if _, ok := v.Region("eu"); !knowsAcme(v) || !ok || len(v.Domains("acme")) != 1 || v.Corrupt() != 3 {
		t.Fatalf("known %t, region %t, corrupt %d", knowsAcme(v), ok, v.Corrupt())
	}
}

func TestEtcdThatLostItsData(t *testing.T) {
	good, empty := etcdtest.New(t), etcdtest.New(t)
	fill(t, good.Client())
	cable := newLink(t, good.Endpoints()[0])
	v := openView(t, cable.client(t))
	cable.plug(empty.Endpoints()[0])
	poll(t, "several loads that aren't believed", func() bool {
		v.mu.RLock()
		defer v.mu.RUnlock()
		return v.restarts["error"] > 3 && !v.synced
	})
	if !knowsAcme(v) {
		t.Fatal("an empty etcd made the view forget")
	}
	// A restored backup, older than what was known, is believed.
	_, err := empty.Client().Put(t.Context(), accountPrefix+"other", `{"name":"other","region":"eu"}`)
	must(t, err)
	await(t, v, "the backup", func() bool { _, ok := v.Account("other"); return ok && !knowsAcme(v) })
}

func TestMetrics(t *testing.T) {
	client, _ := etcdtest.Start(t)
	fill(t, client)
	v := openView(t, client)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(v)
	families, err := registry.Gather()
	must(t, err)
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			words := []string{family.GetName()}
			for _, label := range m.Label {
				words = append(words, label.GetValue())
			}
			got[strings.Join(words, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"postern_directory_entries account": 1, "postern_directory_entries domain": 1, "postern_directory_entries region": 1,
		"postern_route_view_degraded global": 0, "postern_directory_corrupt_entries": 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (%t), want %v; all: %v", name, value, ok, want, got)
		}
	}
	if age := time.Since(time.UnixMilli(int64(1000 * got["postern_route_view_synced_timestamp_seconds global"]))); age < -time.Second || age > soon {
		t.Errorf("synced %v ago", age)
	}
}

// TestWatchThatNeverBegins: etcd may end between a load and the watch after it.
func TestWatchThatNeverBegins(t *testing.T) {
	server := etcdtest.New(t)
	v := openView(t, server.Client())
	v.Close()
	server.Stop()
	if err := v.watch(t.Context(), 1); !errors.Is(err, errStalled) {
		t.Fatalf("got %v", err)
	}
}
