package shard

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
)

// A message is in no session that opens after its retention, to the second;
// a session that was open before keeps it.
func TestRetention(t *testing.T) {
	for kind, class := range map[policy.DomainKind]maildrop.Class{
		policy.DomainLocal: maildrop.ClassLocal, policy.DomainHosted: maildrop.ClassContinuity,
	} {
		t.Run(class.String(), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				rules := b.shard.config.Rules.(*maildroptest.Rules)
				rules.PutAccount(policy.Account{Name: "customer", LegacyUntil: time.Now().AddDate(1, 0, 0)})
				rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: kind})
				ok(b, b.deliver(b.Context(), maildroptest.Text("x")))
				time.Sleep(class.Retention() - time.Second)
				d := login(b, b.shard, anna)
				uid := uids(b, d)[0]
				time.Sleep(time.Second)
				if got := b.count(); got != 0 {
					b.Errorf("%d messages after their retention", got)
				}
				time.Sleep(clockSlack - time.Second)
				if got := uids(b, d); len(got) != 1 {
					b.Error("the message left a session that is open")
				}
				_, err := d.Read(b.Context(), uid, 0, io.Discard)
				ok(b, err)
				time.Sleep(26 * time.Hour)
				synctest.Wait()
				b.shard.mu.RLock()
				defer b.shard.mu.RUnlock()
				if b.shard.state.messages != 0 {
					b.Error("the index still has it after a day")
				}
			})
		})
	}
}

func uids(t testing.TB, d maildrop.Drop) (list []maildrop.UID) {
	t.Helper()
	entries, err := maildrop.Entries(t.Context(), d)
	ok(t, err)
	for _, e := range entries {
		list = append(list, e.UID)
	}
	return list
}

// A token lives six hours from the last Check, and never longer than its
// session may.
func TestSessionsEnd(t *testing.T) {
	inBubble(t, func(b *bench) {
		left, checked := login(b, b.shard, anna), login(b, b.shard, anna)
		time.Sleep(tokenLife - time.Second)
		ok(b, checked.Check(b.Context()))
		again, err := b.shard.Resume(b.Context(), checked.Info(), checked.Token())
		ok(b, err)
		time.Sleep(time.Second)
		wants(b, left.Check(b.Context()), maildrop.Invalid)
		_, err = left.List(b.Context())
		wants(b, err, maildrop.Invalid)
		ok(b, again.Check(b.Context()))
		for began := time.Now(); time.Since(began) < sessionLife-tokenLife-time.Second; time.Sleep(time.Minute) {
			ok(b, checked.Check(b.Context()))
		}
		time.Sleep(time.Minute)
		wants(b, checked.Check(b.Context()), maildrop.Invalid)
	})
}

// Sessions end before the index forgets what they hold, with hours to spare for
// clocks that differ.
func TestSessionsEndBeforeTheIndexForgets(t *testing.T) {
	if keepRemoved-sessionLife < 2*time.Hour {
		t.Error("too close")
	}
}

// Nothing is locked while a password is checked, and what changes meanwhile
// counts.
func TestChangesDuringVerify(t *testing.T) {
	for name, change := range map[string]func(*Shard) error{
		"another password": func(s *Shard) error {
			return s.PutAddress(context.Background(), maildrop.AddressRecord{Address: anna, Account: "customer", Hash: plainHash("new")})
		},
		"no such address": func(s *Shard) error { return s.RemoveAddress(context.Background(), anna) },
	} {
		t.Run(name, func(t *testing.T) {
			var s *Shard
			config := testConfig(blobtest.NewMemory())
			config.Verify = func(ctx context.Context, login maildrop.Login, hash string) error {
				ok(t, change(s))
				return plain(ctx, login, hash)
			}
			s = open(t, config)
			user(t, s, anna)
			_, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: password})
			wants(t, err, maildrop.Denied)
			if maildrop.ReasonOf(err) != maildrop.ReasonCredentials {
				t.Error(err)
			}
		})
	}
}

// Whatever is missing, a password is checked once, and nobody's.
func TestUnknownUsersAreVerifiedToo(t *testing.T) {
	var asked []string
	config := testConfig(blobtest.NewMemory())
	config.Verify = func(_ context.Context, _ maildrop.Login, hash string) error {
		asked = append(asked, hash)
		return nil // a verifier that is wrong about nobody must not open anything
	}
	s := open(t, config)
	ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{Address: anna, Account: "customer"}))
	ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{Address: "a@foreign.example", Account: "customer", Hash: plainHash("x")}))
	for _, address := range []maildrop.Address{anna, "nobody@local.example", "a@foreign.example", "nobody@foreign.example"} {
		asked = nil
		_, err := s.Open(t.Context(), maildrop.Login{Address: address, Password: "x"})
		wants(t, err, maildrop.Denied)
		if len(asked) != 1 || asked[0] != "" {
			t.Errorf("%s: the hashes asked for are %q", address, asked)
		}
	}
}

func TestVerifyErrorsKeepTheirKind(t *testing.T) {
	config := testConfig(blobtest.NewMemory())
	config.Verify = func(context.Context, maildrop.Login, string) error {
		return &maildrop.Error{Op: "auth.verify", Kind: maildrop.Busy}
	}
	s := open(t, config)
	_, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: "x"})
	wants(t, err, maildrop.Busy)
}

// Removing what is gone writes nothing.
func TestRemovingAgainWritesNothing(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	user(t, s, anna)
	ok(t, s.Deliver(t.Context(), envelope(anna), maildroptest.Text("x")))
	d := login(t, s, anna)
	ok(t, d.Remove(t.Context(), uids(t, d)))
	before := s.ledger.Stats().Objects
	ok(t, d.Remove(t.Context(), uids(t, d)))
	if got := s.ledger.Stats().Objects; got != before {
		t.Error("another record was written")
	}
}
