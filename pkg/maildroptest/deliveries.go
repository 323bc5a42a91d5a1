package maildroptest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

var deliveries = []test{
	{"a repeated delivery is one message", repeatedDelivery},
	{"a delivery repeated at the same time", repeatedAtOnce},
	{"a repeated large delivery", repeatedLarge},
	{"an id counts for one mailbox", idPerMailbox},
	{"many deliveries at once", manyAtOnce},
	{"no such recipient", noSuchRecipient},
	{"mail that is not taken", mailNotTaken},
	{"mail is taken while fetching is refused", takenWhileRefused},
	{"an alias of a recipient", aliasRecipient},
	{"ended contexts of a delivery", endedDeliveryContexts},
}

func repeatedDelivery(s *scene) {
	anna := s.user("anna")
	envelope, body := s.envelope(anna), Text("Received: once\r\n\r\nbody")
	for range 3 {
		s.ok(s.Service.Deliver(s.Context(), envelope, body))
	}
	s.deliver(anna, body) // the same octets, and another delivery
	d := s.open(anna)
	uids := s.uids(d)
	if len(uids) != 2 {
		s.Fatalf("%d messages, want 2", len(uids))
	}
	s.ok(d.Remove(s.Context(), uids))
	s.ok(s.Service.Deliver(s.Context(), envelope, body))
	if got := s.count(anna); got != 0 {
		s.Errorf("a message that its user removed is back: %d messages", got)
	}
}

func repeatedAtOnce(s *scene) {
	anna := s.user("anna")
	envelope, body := s.envelope(anna), Text("Received: at once\r\n\r\nbody")
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			if err := s.Service.Deliver(s.Context(), envelope, body); err != nil {
				s.Error(err)
			}
		})
	}
	calls.Wait()
	if got := s.count(anna); got != 1 {
		s.Errorf("%d messages, want 1", got)
	}
}

func repeatedLarge(s *scene) {
	anna := s.user("anna")
	envelope, body := s.envelope(anna), Filled(3<<20, 9)
	for range 2 {
		s.ok(s.Service.Deliver(s.Context(), envelope, body))
	}
	d := s.open(anna)
	uids := s.uids(d)
	if len(uids) != 1 {
		s.Fatalf("%d messages, want 1", len(uids))
	}
	s.same(s.read(d, uids[0], 0), body.Octets())
}

func idPerMailbox(s *scene) {
	anna, ben := s.user("anna"), s.user("ben")
	envelope := s.envelope(anna)
	s.ok(s.Service.Deliver(s.Context(), envelope, Text("for both")))
	envelope.To = ben
	s.ok(s.Service.Deliver(s.Context(), envelope, Text("for both")))
	if a, b := s.count(anna), s.count(ben); a != 1 || b != 1 {
		s.Errorf("anna has %d and ben %d messages, want 1 each", a, b)
	}
}

func manyAtOnce(s *scene) {
	const mailboxes, senders, each = 3, 6, 20
	var calls sync.WaitGroup
	addresses := make([]maildrop.Address, mailboxes)
	for i := range addresses {
		addresses[i] = s.user(fmt.Sprintf("user%d", i))
	}
	for sender := range senders {
		calls.Go(func() {
			for i := range each {
				to := addresses[(sender+i)%mailboxes]
				body := Text(fmt.Sprintf("from %d number %d", sender, i))
				if err := s.Service.Deliver(s.Context(), s.envelope(to), body); err != nil {
					s.Error(err)
				}
			}
		})
	}
	calls.Wait()
	seen := make(map[string]int)
	uids := make(map[maildrop.UID]bool)
	for _, address := range addresses {
		d := s.open(address)
		for _, uid := range s.uids(d) {
			seen[string(s.read(d, uid, 0))]++
			uids[uid] = true
		}
	}
	for sender := range senders {
		for i := range each {
			if n := seen[fmt.Sprintf("from %d number %d\r\n", sender, i)]; n != 1 {
				s.Errorf("message %d of sender %d is there %d times", i, sender, n)
			}
		}
	}
	if len(uids) != senders*each {
		s.Errorf("%d different unique-ids, want %d", len(uids), senders*each)
	}
}

// refused wants the same error from Accept and from Deliver.
func (s *scene) refused(to maildrop.Address, check func(error)) {
	s.Helper()
	check(s.Service.Accept(s.Context(), maildrop.Recipient{Address: to, Session: "test"}))
	check(s.Service.Deliver(s.Context(), s.envelope(to), Text("refused")))
	check(s.Service.Deliver(s.Context(), s.envelope(to), Filled(2<<20, 0)))
}

func noSuchRecipient(s *scene) {
	anna := s.user("anna")
	s.ok(s.Service.Accept(s.Context(), maildrop.Recipient{Address: anna}))
	notFound := func(err error) { s.Helper(); s.fails(err, maildrop.NotFound) }
	s.refused(s.address("nobody"), notFound)
	s.refused("anna@nobodys-domain.example", notFound)
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
	s.refused(anna, notFound)
}

func mailNotTaken(s *scene) {
	anna := s.user("anna")
	reason := func(want maildrop.Reason) func(error) {
		return func(err error) { s.Helper(); s.denied(err, want) }
	}
	s.kind(policy.DomainSendOnly)
	s.refused(anna, reason(maildrop.ReasonSendOnly))
	s.kind(policy.DomainHosted)
	s.refused(anna, reason(maildrop.ReasonNoPurpose))
	s.refused(s.address("nobody"), reason(maildrop.ReasonNoPurpose)) // it's the domain's fault
	s.kind(policy.DomainLocal)
	s.change(func(a *policy.Account) { a.Disabled = true })
	s.refused(anna, reason(maildrop.ReasonDisabled))
	s.change(func(a *policy.Account) { a.Disabled = false })
	if got := s.count(anna); got != 0 {
		s.Errorf("%d messages were stored", got)
	}
}

// takenWhileRefused: what keeps a user from fetching does not keep his mail
// out.
func takenWhileRefused(s *scene) {
	anna := s.user("anna")
	s.change(func(a *policy.Account) { a.Override = policy.OverrideBlock })
	s.ok(s.Service.Accept(s.Context(), maildrop.Recipient{Address: anna}))
	s.message(anna)
	s.change(func(a *policy.Account) { a.Override = policy.OverrideNone })
	if got := s.count(anna); got != 1 {
		s.Errorf("%d messages, want 1", got)
	}
}

func aliasRecipient(s *scene) {
	anna, info := s.user("anna"), s.address("info")
	s.put(maildrop.AddressRecord{Address: info, Primary: anna})
	if s.ResolvesAliases {
		s.ok(s.Service.Accept(s.Context(), maildrop.Recipient{Address: info}))
		s.message(info)
		if got := s.count(anna); got != 1 {
			s.Errorf("%d messages, want 1", got)
		}
		return
	}
	s.refused(info, func(err error) { s.Helper(); s.alias(err, anna) })
}

func (s *scene) alias(err error, primary maildrop.Address) {
	s.Helper()
	s.fails(err, maildrop.Alias)
	if got := primaryOf(err); got != primary {
		s.Fatalf("the primary address is %q, want %q", got, primary)
	}
}

func endedDeliveryContexts(s *scene) {
	anna := s.user("anna")
	s.fails(s.Service.Accept(ended(), maildrop.Recipient{Address: anna}), maildrop.Canceled)
	for _, body := range []Body{Text("small"), Filled(2<<20, 4)} {
		envelope := s.envelope(anna)
		s.fails(s.Service.Deliver(ended(), envelope, body), maildrop.Canceled, maildrop.Maybe)
		s.ok(s.Service.Deliver(s.Context(), envelope, body)) // resolved by repeating it
	}
	d := s.open(anna)
	var sizes []uint64
	for _, e := range s.list(d) {
		sizes = append(sizes, e.Size)
	}
	if want := []uint64{7, 2 << 20}; !slices.Equal(sizes, want) {
		s.Errorf("sizes %v, want %v", sizes, want)
	}
}
