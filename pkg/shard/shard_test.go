package shard

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain checks passwords that are their own hashes, without the work.
func plain(ctx context.Context, login maildrop.Login, hash string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if hash == "" || hash != plainHash(login.Password) {
		return &maildrop.Error{Op: "plain", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	return nil
}

func plainHash(password string) string { return hashForm + "$" + password }

const (
	anna     maildrop.Address = "anna@local.example"
	password string           = "secret"
)

// localRules have one local domain.
func localRules() *maildroptest.Rules {
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
	rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: policy.DomainLocal})
	return rules
}

func testConfig(store blob.Store) Config {
	return Config{Region: "eu", Number: 7, Node: "eu-mailbox-1", Store: store, Rules: localRules(), Verify: plain, Clock: wallClock}
}

// wallClock is the bubble's in a test with fake time.
func wallClock() time.Duration { return time.Duration(time.Now().UnixNano()) }

func open(t testing.TB, config Config) *Shard {
	t.Helper()
	s, err := Open(t.Context(), config, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, s.Close(context.Background())) })
	return s
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, err error, kind maildrop.Kind) {
	t.Helper()
	if err == nil || maildrop.KindOf(err) != kind {
		t.Fatalf("got %v, want kind %v", err, kind)
	}
}

func user(t testing.TB, s *Shard, address maildrop.Address) {
	t.Helper()
	ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{Address: address, Account: "customer", Hash: plainHash(password)}))
}

func login(t testing.TB, s *Shard, address maildrop.Address) maildrop.Drop {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Login{Address: address, Password: password})
	ok(t, err)
	return d
}

func envelope(to maildrop.Address) maildrop.Envelope {
	return maildrop.Envelope{ID: maildrop.RandomID(), To: to}
}

// movable is a Service whose shard gets new owners.
type movable struct {
	mu sync.RWMutex
	maildrop.Service
}

func (m *movable) current() maildrop.Service {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Service
}

func (m *movable) Challenge(ctx context.Context, l maildrop.Login) (maildrop.Challenge, error) {
	return m.current().Challenge(ctx, l)
}

func (m *movable) Open(ctx context.Context, login maildrop.Login) (maildrop.Drop, error) {
	return m.current().Open(ctx, login)
}

func (m *movable) Deliver(ctx context.Context, e maildrop.Envelope, body maildrop.Body) error {
	return m.current().Deliver(ctx, e, body)
}

func (m *movable) Resume(ctx context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return m.current().Resume(ctx, info, token)
}

// conformance holds a shard to the suite, with the real verifier and a take-over
// by another node that finds the first one still alive.
func conformance(t *testing.T, store blob.Store, cacheBytes int64) {
	verifier := auth.New(auth.Config{})
	t.Cleanup(verifier.Close)
	maildroptest.Run(t, func(outer testing.TB, rules policy.Rules) maildroptest.Harness {
		config := Config{Region: "eu", Number: 7, Node: "eu-mailbox-1", Store: store, Rules: rules, Verify: verifier.Verify, CacheBytes: cacheBytes}
		m := &movable{Service: open(outer, config)}
		return maildroptest.Harness{Service: m, TakeOver: func(t testing.TB) {
			next, err := Open(context.Background(), config, 0)
			ok(t, err)
			outer.Cleanup(func() { ok(outer, next.Close(context.Background())) })
			m.mu.Lock()
			defer m.mu.Unlock()
			m.Service = next
		}}
	})
}

func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) { conformance(t, blobtest.NewMemory(), 0) })
	t.Run("directory, no cache", func(t *testing.T) {
		store, err := dir.Open(t.TempDir())
		ok(t, err)
		conformance(t, store, -1)
	})
}

var errTest = errors.New("the test's own error")
