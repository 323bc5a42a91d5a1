package maildroptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// scene is one test's part of the Service: an account with a local domain of its
// own, and the words to act on it. Its methods end the test when something goes
// wrong that must not.
type scene struct {
	testing.TB
	Harness
	rules   *Rules
	account policy.Account
	domain  string
	ids     uint64
}

var remote = netip.MustParseAddr("192.0.2.7")

func newScene(t *testing.T, h Harness, rules *Rules) *scene {
	t.Helper()
	_, name, _ := strings.Cut(t.Name(), "/")
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "'", "", ",", "").Replace(name))
	s := &scene{TB: t, Harness: h, rules: rules, domain: name[:min(len(name), 60)] + ".example"}
	s.account = policy.Account{Name: name, Region: "eu"}
	rules.PutAccount(s.account)
	rules.PutDomain(policy.Domain{Name: s.domain, Account: s.account.Name, Kind: policy.DomainLocal})
	return s
}

// change changes the scene's account.
func (s *scene) change(f func(*policy.Account)) {
	f(&s.account)
	s.rules.PutAccount(s.account)
}

// kind changes what the scene's domain is.
func (s *scene) kind(kind policy.DomainKind) {
	s.rules.PutDomain(policy.Domain{Name: s.domain, Account: s.account.Name, Kind: kind})
}

func (s *scene) address(local string) maildrop.Address {
	return maildrop.Address(local + "@" + s.domain)
}

// user makes an address with Password.
func (s *scene) user(local string) maildrop.Address {
	s.Helper()
	address := s.address(local)
	s.put(maildrop.AddressRecord{Address: address, Hash: Hash})
	return address
}

func (s *scene) put(record maildrop.AddressRecord) {
	s.Helper()
	record.Account = s.account.Name
	s.ok(s.Service.PutAddress(s.Context(), record))
}

func (s *scene) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("failed: %v", err)
	}
}

// fails wants an error of the kind, made as the contract says.
func (s *scene) fails(err error, kinds ...maildrop.Kind) {
	s.Helper()
	var e *maildrop.Error
	if !errors.As(err, &e) {
		s.Fatalf("got %v, want a *maildrop.Error of kind %v", err, kinds)
	}
	for _, kind := range kinds {
		if e.Kind == kind {
			return
		}
	}
	s.Fatalf("got kind %v (%v), want %v", e.Kind, err, kinds)
}

// denied wants a refusal for the reason, one that there are words for.
func (s *scene) denied(err error, reason maildrop.Reason) {
	s.Helper()
	s.fails(err, maildrop.Denied)
	if got := maildrop.ReasonOf(err); got != reason {
		s.Fatalf("reason %q, want %q (%v)", got, reason, err)
	}
	if reason.Words() == "" {
		s.Fatalf("no words for the user: %v", err)
	}
}

func (s *scene) login(address maildrop.Address, password string) (maildrop.Drop, error) {
	return s.Service.Open(s.Context(), maildrop.Login{Address: address, Password: password, Remote: remote, Session: "test"})
}

// open opens a maildrop with Password; it is closed with the test.
func (s *scene) open(address maildrop.Address) maildrop.Drop {
	s.Helper()
	d, err := s.login(address, Password)
	s.ok(err)
	s.closes(d)
	return d
}

func (s *scene) closes(d maildrop.Drop) { s.Cleanup(func() { s.ok(d.Close()) }) }

// envelope is a delivery of its own.
func (s *scene) envelope(to maildrop.Address) maildrop.Envelope {
	return maildrop.Envelope{ID: maildrop.RandomID(), Sender: "sender@example.org", To: to, Session: "test"}
}

func (s *scene) deliver(to maildrop.Address, body maildrop.Body) {
	s.Helper()
	s.ok(s.Service.Deliver(s.Context(), s.envelope(to), body))
}

// message delivers a small message of its own and returns its body.
func (s *scene) message(to maildrop.Address) Body {
	s.Helper()
	s.ids++
	body := Text(fmt.Sprintf("Subject: number %d\r\n\r\nfor %s\r\n", s.ids, to))
	s.deliver(to, body)
	return body
}

func (s *scene) list(d maildrop.Drop) []maildrop.Entry {
	s.Helper()
	entries, err := maildrop.Entries(s.Context(), d)
	s.ok(err)
	return entries
}

func (s *scene) uids(d maildrop.Drop) []maildrop.UID {
	s.Helper()
	var uids []maildrop.UID
	for _, e := range s.list(d) {
		uids = append(uids, e.UID)
	}
	return uids
}

// count is how many messages a new session sees.
func (s *scene) count(address maildrop.Address) int {
	s.Helper()
	return len(s.list(s.open(address)))
}

func (s *scene) read(d maildrop.Drop, uid maildrop.UID, offset uint64) []byte {
	s.Helper()
	var b bytes.Buffer
	n, err := d.Read(s.Context(), uid, offset, &b)
	s.ok(err)
	if n != uint64(b.Len()) {
		s.Fatalf("Read says %d octets and wrote %d", n, b.Len())
	}
	return b.Bytes()
}

// same wants octets to be equal, and doesn't print megabytes when they aren't.
func (s *scene) same(got, want []byte) {
	s.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	s.Fatalf("%d octets, want %d; the first difference is at %d: %q, want %q",
		len(got), len(want), at, got[at:min(at+20, len(got))], want[at:min(at+20, len(want))])
}

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
