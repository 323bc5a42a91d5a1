package shard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
				time.Sleep(5 * time.Hour)
				if got := uids(b, d); len(got) != 1 {
					b.Error("the message left a session that is open")
				}
				_, err := d.Read(b.Context(), uid, 0, io.Discard)
				ok(b, err)
				time.Sleep(25 * time.Hour)
				if b.shard.state.messages != 0 {
					b.Error("the index still has it after a day")
				}
			})
		})
	}
}

func uids(t testing.TB, d maildrop.Drop) (list []maildrop.UID) {
	t.Helper()
	entries, err := d.List(t.Context())
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

// A message that was removed long ago is forgotten; a repetition of it within
// a day is still none.
func TestRepetitionAfterRemoval(t *testing.T) {
	inBubble(t, func(b *bench) {
		e, body := envelope(anna), maildroptest.Text("x")
		ok(b, b.shard.Deliver(b.Context(), e, body))
		d := login(b, b.shard, anna)
		ok(b, d.Remove(b.Context(), uids(b, d)))
		time.Sleep(24*time.Hour - time.Second)
		ok(b, b.shard.Deliver(b.Context(), e, body))
		b.shard = open(b, testConfig(b.store))
		ok(b, b.shard.Deliver(b.Context(), e, body))
		if got := b.count(); got != 0 {
			b.Errorf("%d messages, want none", got)
		}
		time.Sleep(time.Second)
		ok(b, b.shard.Deliver(b.Context(), e, body))
		if got := b.count(); got != 1 {
			b.Errorf("%d messages a day later, want another one", got)
		}
	})
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
			config.Verify = func(ctx context.Context, address maildrop.Address, hash, password string) error {
				ok(t, change(s))
				return plain(ctx, address, hash, password)
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
	config.Verify = func(_ context.Context, _ maildrop.Address, hash, _ string) error {
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
	config.Verify = func(context.Context, maildrop.Address, string, string) error {
		return &maildrop.Error{Op: "auth.verify", Kind: maildrop.Busy}
	}
	s := open(t, config)
	_, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: "x"})
	wants(t, err, maildrop.Busy)
}

// Damage in the store is never served, and says where it is.
func TestDamagedBodies(t *testing.T) {
	for name, c := range map[string]struct {
		body maildroptest.Body
		part string
	}{
		"inline": {maildroptest.Filled(10_000, 1), ledgerPart},
		"object": {maildroptest.Filled(2<<20, 1), "/body/"},
	} {
		t.Run(name, func(t *testing.T) {
			store := blobtest.NewMemory()
			config := testConfig(store)
			config.CacheBytes = -1
			s := open(t, config)
			user(t, s, anna)
			ok(t, s.Deliver(t.Context(), envelope(anna), c.body))
			d := login(t, s, anna)
			uid := uids(t, d)[0]
			for _, key := range keys(t, store, c.part) {
				store.Alter(key, func(content []byte) []byte {
					content[len(content)-100] ^= 1
					return content
				})
			}
			var got bytes.Buffer
			n, err := d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.Corrupt)
			if uint64(got.Len()) != n || !bytes.HasPrefix(c.body.Octets(), got.Bytes()) {
				t.Error("damaged octets were served")
			}
			if !strings.Contains(err.Error(), c.part) {
				t.Errorf("no object is named in %v", err)
			}
			for _, key := range keys(t, store, c.part) {
				ok(t, store.Delete(t.Context(), key))
			}
			_, err = d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.NotFound)
		})
	}
}

func keys(t testing.TB, store *blobtest.Memory, part string) (found []string) {
	t.Helper()
	for info, err := range store.List(t.Context(), "", "") {
		ok(t, err)
		if strings.Contains(info.Key, part) {
			found = append(found, info.Key)
		}
	}
	return found
}

// Fresh mail is served from memory, until it is removed or newer mail needs
// the room.
func TestCache(t *testing.T) {
	registry := prometheus.NewRegistry()
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	config := testConfig(store)
	config.CacheBytes, config.Metrics = 3<<20, NewMetrics(registry)
	s := open(t, config)
	user(t, s, anna)
	var bodies []maildroptest.Body
	for i := range 5 {
		bodies = append(bodies, maildroptest.Filled(900<<10, byte(i)))
		ok(t, s.Deliver(t.Context(), envelope(anna), bodies[i]))
	}
	d := login(t, s, anna)
	list := uids(t, d)
	reads := func(i int) int {
		before := store.Calls()
		var got bytes.Buffer
		_, err := d.Read(t.Context(), list[i], 0, &got)
		ok(t, err)
		if !bytes.Equal(got.Bytes(), bodies[i].Octets()) {
			t.Errorf("message %d is not what was delivered", i)
		}
		return store.Calls() - before
	}
	for i, want := range []int{1, 1, 0, 0, 0} {
		if got := reads(i); got != want {
			t.Errorf("message %d: %d reads of the store, want %d", i, got, want)
		}
	}
	ok(t, d.Remove(t.Context(), list[4:]))
	if got := reads(4); got != 1 {
		t.Errorf("a removed message is still in the cache")
	}
	held := metric(t, registry, "postern_node_cache_bytes")
	if held <= 2*900<<10 || held > 3<<20 || metric(t, registry, "postern_node_cache_evictions_total") != 2 {
		t.Errorf("%v octets are held", held)
	}
	ok(t, s.Close(t.Context()))
	for _, name := range []string{"postern_node_cache_bytes", "postern_node_index_messages", "postern_node_index_mailboxes", "postern_node_commit_queue_bytes"} {
		if left := metric(t, registry, name); left != 0 {
			t.Errorf("after Close %s is %v", name, left)
		}
	}
}

// metric is the sum of a counter's or gauge's values.
func metric(t testing.TB, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	ok(t, err)
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
			return sum
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}

// lying is a body that isn't what it says.
type lying struct {
	maildroptest.Body
	wire, size uint64
	err        error
}

func (l lying) Wire() uint64 { return l.wire }
func (l lying) Size() uint64 { return l.size }
func (l lying) Open() (io.ReadCloser, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l.Body.Open()
}

func TestBodiesThatLie(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	user(t, s, anna)
	small, large := maildroptest.Filled(100, 1), maildroptest.Filled(2<<20, 1)
	for name, c := range map[string]struct {
		body lying
		kind maildrop.Kind
	}{
		"shorter":           {lying{small, small.Wire() + 1, 100, nil}, maildrop.Invalid},
		"longer":            {lying{small, small.Wire() - 1, 90, nil}, maildrop.Invalid},
		"more than in wire": {lying{small, small.Wire(), small.Wire() + 1, nil}, maildrop.Invalid},
		"over 4 GiB":        {lying{small, 1 << 32, 1 << 32, nil}, maildrop.Invalid},
		"unreadable":        {lying{small, small.Wire(), 100, errTest}, maildrop.Transient},
		"unreadable, large": {lying{large, large.Wire(), 100, errTest}, maildrop.Transient},
		"its own kind":      {lying{small, small.Wire(), 100, context.Canceled}, maildrop.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Deliver(t.Context(), envelope(anna), c.body)
			wants(t, err, c.kind)
			if c.body.err != nil && !errors.Is(err, c.body.err) {
				t.Errorf("the cause is lost in %v", err)
			}
		})
	}
	for name, body := range map[string]lying{
		"shorter": {large, large.Wire() + 1, 100, nil}, "longer": {large, large.Wire() - 1, 100, nil},
	} {
		if err := s.Deliver(t.Context(), envelope(anna), body); err == nil {
			t.Errorf("a large body that is %s was taken", name)
		}
	}
	wants(t, s.Deliver(t.Context(), maildrop.Envelope{To: anna}, small), maildrop.Invalid) // no ID
	if got := login(t, s, anna).Info().Count; got != 0 {
		t.Errorf("%d messages were stored", got)
	}
	if s.commits.held != 0 || s.commits.count != 0 {
		t.Errorf("%d octets and %d requests are left on the books", s.commits.held, s.commits.count)
	}
}

func TestRecordsAreChecked(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	fine := maildrop.AddressRecord{Address: anna, Account: "customer"}
	for name, change := range map[string]func(*maildrop.AddressRecord){
		"no address":            func(r *maildrop.AddressRecord) { r.Address = "" },
		"not canonical":         func(r *maildrop.AddressRecord) { r.Address = "Anna@local.example" },
		"no account":            func(r *maildrop.AddressRecord) { r.Account = "" },
		"long account":          func(r *maildrop.AddressRecord) { r.Account = strings.Repeat("x", 256) },
		"its own alias":         func(r *maildrop.AddressRecord) { r.Primary = anna },
		"alias of nothing":      func(r *maildrop.AddressRecord) { r.Primary = "x" },
		"alias with a password": func(r *maildrop.AddressRecord) { r.Primary, r.Hash = "b@local.example", plainHash("x") },
		"a password":            func(r *maildrop.AddressRecord) { r.Hash = "secret" },
		"a long hash":           func(r *maildrop.AddressRecord) { r.Hash = plainHash(strings.Repeat("x", 300)) },
		"no such access":        func(r *maildrop.AddressRecord) { r.Access = 3 },
		"many groups":           func(r *maildrop.AddressRecord) { r.Groups = make([]string, 257) },
		"an empty group":        func(r *maildrop.AddressRecord) { r.Groups = []string{""} },
		"a long group":          func(r *maildrop.AddressRecord) { r.Groups = []string{strings.Repeat("x", 256)} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := fine
			change(&bad)
			wants(t, s.PutAddress(t.Context(), bad), maildrop.Invalid)
		})
	}
	ok(t, s.PutAddress(t.Context(), fine))
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"region": func(c *Config) { c.Region = "" },
		"number": func(c *Config) { c.Number = -1 },
		"node":   func(c *Config) { c.Node = "" },
		"store":  func(c *Config) { c.Store = nil },
		"rules":  func(c *Config) { c.Rules = nil },
		"verify": func(c *Config) { c.Verify = nil },
	} {
		config := testConfig(blobtest.NewMemory())
		change(&config)
		if _, err := Open(t.Context(), config, 0); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
