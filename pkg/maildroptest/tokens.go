package maildroptest

import (
	"fmt"
	"slices"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func resume(s *scene) {
	anna := s.user("anna")
	first := s.message(anna)
	s.message(anna)
	d := s.open(anna)
	if len(d.Token()) == 0 {
		s.Skip("sessions can't be resumed here")
	}
	before := s.list(d)
	s.message(anna)
	s.ok(d.Check(s.Context())) // renews the token
	again, err := s.Service.Resume(s.Context(), d.Info(), d.Token())
	s.ok(err)
	s.closes(again)
	if again.Info().Address != anna {
		s.Errorf("Info is %+v", again.Info())
	}
	if after := s.list(again); !slices.Equal(after, before) {
		s.Errorf("the listing was %v and is %v", before, after)
	}
	s.same(s.read(again, before[0].UID, 3), first.Octets()[3:])
	s.ok(again.Check(s.Context()))
	s.ok(again.Remove(s.Context(), []maildrop.UID{before[0].UID}))
	if got := s.uids(s.open(anna)); len(got) != 2 || got[0] != before[1].UID {
		s.Errorf("left are %v", got)
	}
}

// forgedToken: whatever is done to a token, it opens nothing.
func forgedToken(s *scene) {
	anna, ben := s.user("anna"), s.user("ben")
	s.message(anna)
	d := s.open(anna)
	token := d.Token()
	if len(token) == 0 {
		s.Skip("sessions can't be resumed here")
	}
	bad := map[string][]byte{
		"none": nil, "empty": {}, "short": token[:len(token)-1], "long": append(slices.Clone(token), 0),
		"zeros": make([]byte, len(token)), "another session's of another user": s.open(ben).Token(),
	}
	for i := range token {
		changed := slices.Clone(token)
		changed[i] ^= 1
		bad[fmt.Sprintf("octet %d changed", i)] = changed
	}
	for name, token := range bad {
		s.invalidToken(name, maildrop.Info{Address: anna}, token)
	}
	s.invalidToken("of another mailbox", maildrop.Info{Address: ben}, token)
	if s.count(anna) != 1 {
		s.Error("a forged token removed mail")
	}
}

// invalidToken wants Invalid from Resume or from the first call, whichever it
// is.
func (s *scene) invalidToken(name string, info maildrop.Info, token []byte) {
	s.Helper()
	calls := map[string]func(maildrop.Drop) error{
		"List":   func(d maildrop.Drop) error { _, err := d.List(s.Context()); return err },
		"Check":  func(d maildrop.Drop) error { return d.Check(s.Context()) },
		"Remove": func(d maildrop.Drop) error { return d.Remove(s.Context(), []maildrop.UID{"x"}) },
		"Read":   func(d maildrop.Drop) error { _, err := d.Read(s.Context(), "x", 0, discard{}); return err },
	}
	for call, do := range calls {
		d, err := s.Service.Resume(s.Context(), info, token)
		if err == nil {
			err = do(d)
			s.ok(d.Close())
		}
		if err == nil || maildrop.KindOf(err) != maildrop.Invalid {
			s.Errorf("token %s: %s gives %v", name, call, err)
		}
	}
}

// newOwner: a take-over shows to nobody.
func newOwner(s *scene) {
	if s.TakeOver == nil {
		s.Skip("there is no other owner here")
	}
	anna := s.user("anna")
	first, second := s.message(anna), Filled(2<<20, 3)
	s.deliver(anna, second)
	envelope := s.envelope(anna)
	s.ok(s.Service.Deliver(s.Context(), envelope, Text("the third")))
	d := s.open(anna)
	before := s.list(d)
	s.ok(d.Remove(s.Context(), []maildrop.UID{before[2].UID}))
	info, token := d.Info(), d.Token()

	s.TakeOver(s)

	s.ok(s.Service.Deliver(s.Context(), envelope, Text("the third"))) // its user has removed it
	if got := s.list(s.open(anna)); !slices.Equal(got, before[:2]) {
		s.Errorf("the new owner lists %v, want %v", got, before[:2])
	}
	again, err := s.Service.Resume(s.Context(), info, token)
	s.ok(err)
	s.closes(again)
	if got := s.list(again); !slices.Equal(got, before) {
		s.Errorf("the session lists %v, want %v", got, before)
	}
	s.same(s.read(again, before[0].UID, 0), first.Octets())
	s.same(s.read(again, before[1].UID, 1_500_000), second.Octets()[1_500_000:])
	s.ok(again.Check(s.Context()))
	s.ok(again.Remove(s.Context(), s.uids(again)))
	if got := s.count(anna); got != 0 {
		s.Errorf("%d messages are left", got)
	}
}

func endedSessionContexts(s *scene) {
	anna := s.user("anna")
	s.message(anna)
	d := s.open(anna)
	uid := s.uids(d)[0]
	_, err := s.Service.Open(ended(), maildrop.Login{Address: anna, Password: Password, Remote: remote})
	s.fails(err, maildrop.Canceled)
	_, err = d.Read(ended(), uid, 0, discard{})
	s.fails(err, maildrop.Canceled)
	s.fails(d.Check(ended()), maildrop.Canceled)
	s.fails(d.Remove(ended(), []maildrop.UID{uid}), maildrop.Canceled, maildrop.Maybe)
	s.ok(d.Remove(s.Context(), []maildrop.UID{uid}))
	if got := s.count(anna); got != 0 {
		s.Errorf("%d messages are left", got)
	}
}
