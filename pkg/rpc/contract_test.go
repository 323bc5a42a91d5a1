package rpc_test

import (
	"context"
	"sync"
	"testing"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/shard"
)

// movable is a Service whose shard gets new owners.
type movable struct {
	mu      sync.RWMutex
	service maildrop.Service
}

func (m *movable) current() maildrop.Service {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.service
}

func (m *movable) Challenge(ctx context.Context, l maildrop.Login) (maildrop.Challenge, error) {
	return m.current().Challenge(ctx, l)
}

func (m *movable) Open(ctx context.Context, l maildrop.Login) (maildrop.Drop, error) {
	return m.current().Open(ctx, l)
}
func (m *movable) Resume(ctx context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return m.current().Resume(ctx, info, token)
}
func (m *movable) Accept(ctx context.Context, to maildrop.Recipient) error {
	return m.current().Accept(ctx, to)
}
func (m *movable) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	return m.current().Deliver(ctx, e, b)
}
func (m *movable) PutAddress(ctx context.Context, r maildrop.AddressRecord) error {
	return m.current().PutAddress(ctx, r)
}
func (m *movable) Address(ctx context.Context, a maildrop.Address) (maildrop.AddressRecord, error) {
	return m.current().Address(ctx, a)
}
func (m *movable) RemoveAddress(ctx context.Context, a maildrop.Address) error {
	return m.current().RemoveAddress(ctx, a)
}
func (m *movable) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	return m.current().Addresses(ctx, account)
}

func (m *movable) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	return m.current().Explain(ctx, q)
}
func (m *movable) Tell(ctx context.Context, a maildrop.Address, refused []maildrop.Attempt) error {
	return m.current().Tell(ctx, a, refused)
}
func (m *movable) Unlock(ctx context.Context, a maildrop.Address) (bool, error) {
	return m.current().Unlock(ctx, a)
}

// A shard behind the network keeps every promise that a shard keeps.
func TestConformance(t *testing.T) { maildroptest.Run(t, harness(t, false)) }

// And so it does where deliveries go by a feed.
func TestConformanceOfFeeds(t *testing.T) { maildroptest.RunDeliveries(t, harness(t, true)) }

func harness(t *testing.T, feeds bool) func(testing.TB, policy.Rules) maildroptest.Harness {
	t.Helper()
	verifier := auth.New(auth.Config{})
	t.Cleanup(verifier.Close)
	store := blobtest.NewMemory()
	return func(outer testing.TB, rules policy.Rules) maildroptest.Harness {
		open := func(t testing.TB) *shard.Shard {
			s, err := shard.Open(context.Background(), shard.Config{
				Region: "eu", Number: 1, Node: "m1", Store: store, Rules: rules, Verify: verifier.Verify,
			}, 0)
			if err != nil {
				t.Fatal(err)
			}
			outer.Cleanup(func() {
				if err := s.Close(context.Background()); err != nil {
					outer.Error(err)
				}
			})
			return s
		}
		m := &movable{service: open(outer)}
		return maildroptest.Harness{Service: connector(feeds)(outer, m), TakeOver: func(t testing.TB) {
			next := open(t)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.service = next
		}}
	}
}
