package maildroptest

import (
	"reflect"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var registrar = []test{
	{"records", records},
	{"an empty hash keeps the password", emptyHashKeeps},
	{"a hash is never told", hashIsNeverTold},
	{"removing addresses", removeAddresses},
	{"addresses of an account", addressesOfAccount},
	{"ended contexts of the registrar", endedRegistrarContexts},
}

func (s *scene) record(address maildrop.Address) maildrop.AddressRecord {
	s.Helper()
	record, err := s.Service.Address(s.Context(), address)
	s.ok(err)
	return record
}

func records(s *scene) {
	anna := s.address("anna")
	_, err := s.Service.Address(s.Context(), anna)
	s.fails(err, maildrop.NotFound)
	before := time.Now().Add(-2 * time.Second)
	want := maildrop.AddressRecord{Address: anna, Account: s.account.Name, Access: maildrop.AccessDeny, Groups: []string{"sales", "it"}}
	s.put(want)
	got := s.record(anna)
	if got.Revision == 0 || got.Changed.Before(before) || got.Changed.After(time.Now().Add(time.Minute)) {
		s.Errorf("revision %d, changed %v", got.Revision, got.Changed)
	}
	first := got.Revision
	got.Revision, got.Changed = 0, time.Time{}
	if !reflect.DeepEqual(got, want) {
		s.Errorf("read %+v, want %+v", got, want)
	}
	// A record is written whole: what isn't said is gone.
	s.put(maildrop.AddressRecord{Address: anna})
	got = s.record(anna)
	if len(got.Groups) != 0 || got.Access != maildrop.AccessInherit || got.Revision <= first {
		s.Errorf("after another write: %+v, the revision before was %d", got, first)
	}
}

func emptyHashKeeps(s *scene) {
	anna := s.user("anna")
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessAllow})
	s.open(anna)
	s.put(s.record(anna)) // what was read can be put back
	s.open(anna)
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
	s.put(maildrop.AddressRecord{Address: anna}) // there was none to keep
	_, err := s.login(anna, Password)
	s.denied(err, maildrop.ReasonCredentials)
}

func hashIsNeverTold(s *scene) {
	anna := s.user("anna")
	if got := s.record(anna).Hash; got != "set" {
		s.Errorf("the hash is told as %q", got)
	}
	s.put(maildrop.AddressRecord{Address: s.address("ben")})
	if got := s.record(s.address("ben")).Hash; got != "" {
		s.Errorf("no hash is told as %q", got)
	}
	list, err := s.Service.Addresses(s.Context(), s.account.Name)
	s.ok(err)
	for _, r := range list {
		if r.Hash != "set" && r.Hash != "" {
			s.Errorf("the list tells %q", r.Hash)
		}
	}
}

func removeAddresses(s *scene) {
	anna := s.user("anna")
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
	s.ok(s.Service.RemoveAddress(s.Context(), s.address("nobody")))
	_, err := s.Service.Address(s.Context(), anna)
	s.fails(err, maildrop.NotFound)
}

func addressesOfAccount(s *scene) {
	list, err := s.Service.Addresses(s.Context(), s.account.Name)
	s.ok(err)
	if len(list) != 0 {
		s.Errorf("before there is any: %v", list)
	}
	var want []maildrop.Address
	for _, local := range []string{"dora", "anna", "carl", "ben"} {
		want = append(want, s.user(local))
	}
	s.put(maildrop.AddressRecord{Address: s.address("info"), Primary: want[0]})
	want = append(want, s.address("info"))
	gone := s.user("gone")
	s.ok(s.Service.RemoveAddress(s.Context(), gone))
	slices.Sort(want)
	list, err = s.Service.Addresses(s.Context(), s.account.Name)
	s.ok(err)
	var got []maildrop.Address
	for _, r := range list {
		got = append(got, r.Address)
		if r.Account != s.account.Name || (r.Address == s.address("info")) != (r.Primary != "") {
			s.Errorf("listed %+v", r)
		}
	}
	if !slices.Equal(got, want) {
		s.Errorf("listed %v, want %v", got, want)
	}
	if others, err := s.Service.Addresses(s.Context(), s.account.Name+"-other"); err != nil || len(others) != 0 {
		s.Errorf("another account has %v, %v", others, err)
	}
}

func endedRegistrarContexts(s *scene) {
	anna := s.user("anna")
	_, err := s.Service.Address(ended(), anna)
	s.fails(err, maildrop.Canceled)
	_, err = s.Service.Addresses(ended(), s.account.Name)
	s.fails(err, maildrop.Canceled)
	record := maildrop.AddressRecord{Address: anna, Account: s.account.Name, Access: maildrop.AccessDeny}
	s.fails(s.Service.PutAddress(ended(), record), maildrop.Canceled, maildrop.Maybe)
	s.ok(s.Service.PutAddress(s.Context(), record))
	s.fails(s.Service.RemoveAddress(ended(), anna), maildrop.Canceled, maildrop.Maybe)
	s.ok(s.Service.RemoveAddress(s.Context(), anna))
}
