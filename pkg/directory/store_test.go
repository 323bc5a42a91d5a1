package directory

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

func wantError(t *testing.T, err error, kind maildrop.Kind, words string) {
	t.Helper()
	if err == nil || maildrop.KindOf(err) != kind || !strings.Contains(maildrop.TextOf(err), words) || strings.Contains(maildrop.TextOf(err), "\n") {
		t.Errorf("got %v, want %v with %q", err, kind, words)
	}
}

func TestStoreRefusals(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s, ctx := NewStore(client), t.Context()
	wantError(t, s.CreateAccount(ctx, acme()), maildrop.NotFound, "region eu is not known")
	wantError(t, s.PublishRegion(ctx, Region{Name: "eu"}), maildrop.Invalid, "shards 0")
	must(t, s.PublishRegion(ctx, eu()))
	wantError(t, s.CreateDomain(ctx, acmeDomain()), maildrop.NotFound, "no account acme")
	wantError(t, s.CreateAccount(ctx, policy.Account{Name: "Acme", Region: "eu"}), maildrop.Invalid, `account "Acme"`)
	must(t, s.CreateAccount(ctx, acme()))
	wantError(t, s.CreateAccount(ctx, acme()), maildrop.Invalid, "acme exists already")
	must(t, s.CreateDomain(ctx, acmeDomain()))
	must(t, s.CreateAccount(ctx, policy.Account{Name: "thief", Region: "eu"}))
	wantError(t, s.CreateDomain(ctx, policy.Domain{Name: "acme.example", Account: "thief", Kind: policy.DomainLocal}),
		maildrop.Invalid, "acme.example is account acme's already")
	wantError(t, s.RemoveDomain(ctx, "none.example"), maildrop.NotFound, "no domain none.example")

	account := func(change func(*policy.Account) error) error { return s.UpdateAccount(ctx, "acme", change) }
	wantError(t, account(func(a *policy.Account) error { a.Name = "b"; return nil }), maildrop.Invalid, "name of account acme")
	wantError(t, account(func(a *policy.Account) error { a.Region = "us"; return nil }), maildrop.Invalid, "region cannot be changed")
	wantError(t, account(func(a *policy.Account) error { a.Override = "x"; return nil }), maildrop.Invalid, "none, allow or block")
	wantError(t, s.UpdateAccount(ctx, "none", func(*policy.Account) error { return nil }), maildrop.NotFound, "no account none")
	wantError(t, s.UpdateDomain(ctx, "acme.example", func(d *policy.Domain) error { d.Account = "thief"; return nil }),
		maildrop.Invalid, "remove the domain first")
	own := errors.New("own")
	if err := account(func(a *policy.Account) error { a.Disabled = true; return own }); !errors.Is(err, own) {
		t.Errorf("the change's own error became %v", err)
	}
	if got, err := s.Account(ctx, "acme"); err != nil || got.Disabled {
		t.Errorf("a refused change was made: %+v, %v", got, err)
	}
	_, err := s.Domain(ctx, "none.example")
	wantError(t, err, maildrop.NotFound, "no domain none.example")
}

// TestRegionIsPublishedOnce: every front does it at its start, and a write each
// time would wake every process in the world.
func TestRegionIsPublishedOnce(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s, ctx := NewStore(client), t.Context()
	revision := func() int64 {
		got, err := client.Get(ctx, regionPrefix+"eu")
		must(t, err)
		return got.Kvs[0].ModRevision
	}
	must(t, s.PublishRegion(ctx, eu()))
	first := revision()
	must(t, s.PublishRegion(ctx, eu()))
	if revision() != first {
		t.Fatal("an unchanged region was written")
	}
	moved := eu()
	moved.Gateway = "127.0.0.1:2"
	must(t, s.PublishRegion(ctx, moved))
	if revision() == first {
		t.Fatal("a changed region wasn't written")
	}
	moved.Shards = 32
	wantError(t, s.PublishRegion(ctx, moved), maildrop.Invalid, "region eu has 16 shards and cannot have 32")
}

func TestOneDomainOneOwner(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s, ctx := NewStore(client), t.Context()
	must(t, s.PublishRegion(ctx, eu()))
	const racers = 8
	errs := make([]error, racers)
	for i := range racers {
		must(t, s.CreateAccount(ctx, policy.Account{Name: fmt.Sprintf("racer-%d", i), Region: "eu"}))
	}
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			errs[i] = s.CreateDomain(ctx, policy.Domain{Name: "prize.example", Account: fmt.Sprintf("racer-%d", i), Kind: policy.DomainLocal})
		})
	}
	wg.Wait()
	domain, err := s.Domain(ctx, "prize.example")
	must(t, err)
	for i, err := range errs {
		if won := domain.Account == fmt.Sprintf("racer-%d", i); won != (err == nil) {
			t.Errorf("racer %d: %v, the domain is %s's", i, err, domain.Account)
		}
	}
}

// TestNoUpdateIsLost: changes that meet all take effect.
func TestNoUpdateIsLost(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s := fill(t, client)
	const writers = 6
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			err := s.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error {
				a.Events = append(a.Events, policy.Event{ID: fmt.Sprintf("e%d", i), Start: time.Unix(1, 0), Zone: "UTC"})
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := s.Account(t.Context(), "acme")
	must(t, err)
	if len(got.Events) != writers {
		t.Fatalf("%d events of %d", len(got.Events), writers)
	}
}

func TestStoreWithoutEtcd(t *testing.T) {
	server := etcdtest.New(t)
	s := fill(t, server.Client())
	server.Stop()
	ctx, cancel := contextFor(t)
	defer cancel()
	_, err := s.Account(ctx, "acme")
	wantError(t, err, maildrop.Transient, "etcd does not answer")
	wantError(t, s.CreateAccount(ctx, policy.Account{Name: "b", Region: "eu"}), maildrop.Maybe, "not known whether")
}

// A move is begun once, goes through its phases in their order, and changes the home in one step.
func TestMove(t *testing.T) {
	client, _ := etcdtest.Start(t)
	s, ctx := NewStore(client), t.Context()
	us := eu()
	us.Name = "us"
	must(t, s.PublishRegion(ctx, eu()))
	must(t, s.PublishRegion(ctx, us))
	must(t, s.CreateAccount(ctx, policy.Account{Name: "acme", Region: "eu"}))
	begin := func(to string) error { _, err := s.BeginMove(ctx, "acme", to, "ann", time.Unix(1e9, 0)); return err }
	wantError(t, begin("mars"), maildrop.NotFound, "region mars is not known here")
	wantError(t, begin("eu"), maildrop.Invalid, "at home in eu")
	must(t, begin("us"))
	wantError(t, begin("us"), maildrop.Invalid, "being moved to us already")
	wantError(t, s.UpdateAccount(ctx, "acme", func(a *policy.Account) error { a.Moving = policy.Moving{}; return nil }), maildrop.Invalid, "has to be moved")
	must(t, s.UpdateAccount(ctx, "acme", func(a *policy.Account) error { a.Continuity = true; return nil }))

	step := func(id uint64, from, to, want policy.MovePhase, home string) {
		t.Helper()
		a, err := s.AdvanceMove(ctx, "acme", id, from, to)
		must(t, err)
		if stored, err := s.Account(ctx, "acme"); err != nil || a.Moving != stored.Moving || a.Moving.Phase != want || a.Region != home {
			t.Fatalf("%+v, stored %+v, %v", a, stored, err)
		}
	}
	step(1, policy.MoveCopying, policy.MoveSealed, policy.MoveSealed, "eu")
	step(1, policy.MoveCopying, policy.MoveAborting, policy.MoveSealed, "eu") // too late
	step(1, policy.MoveSealed, policy.MoveOpening, policy.MoveOpening, "eu")
	if a, err := s.RetreatMove(ctx, "acme", 1); err != nil || a.Moves != 2 || a.Moving.Phase != policy.MoveCopying {
		t.Fatalf("%+v, %v", a, err)
	}
	step(1, policy.MoveOpening, policy.MovePurging, policy.MoveCopying, "eu") // of the cut-over that was taken back
	step(2, policy.MoveCopying, policy.MoveSealed, policy.MoveSealed, "eu")
	step(2, policy.MoveSealed, policy.MoveOpening, policy.MoveOpening, "eu")
	step(2, policy.MoveOpening, policy.MovePurging, policy.MovePurging, "us")
	if a, err := s.RetreatMove(ctx, "acme", 2); err != nil || a.Moving.Phase != policy.MovePurging {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := s.AdvanceMove(ctx, "acme", 2, policy.MoveCopying, policy.MovePurging); maildrop.KindOf(err) != maildrop.Invalid {
		t.Fatal(err)
	}
	step(2, policy.MovePurging, policy.MoveNone, policy.MoveNone, "us")
	must(t, begin("eu"))
	if a, err := s.Account(ctx, "acme"); err != nil || a.Moves != 3 || a.Moving.From != "us" || !a.Continuity {
		t.Fatalf("%+v, %v", a, err)
	}
}
