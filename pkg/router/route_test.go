package router_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/router"
)

// Where calls go: at home to the shard's owner, elsewhere to the region's
// gateway, unknown domains to a shard here.
func TestRoutes(t *testing.T) {
	w := newWorld(t, "m0", "m1", "m2", "m3", "gateway.us", "gateway.je")
	for shard := range shards {
		w.owners.give(shard, fmt.Sprint("m", shard))
	}
	for address, want := range map[maildrop.Address]string{
		anna:                     fmt.Sprint("m", anna.Shard(shards)),
		"ben@eu.example":         fmt.Sprint("m", maildrop.Address("ben@eu.example").Shard(shards)),
		bill:                     "gateway.us",
		"nobody@unknown.example": fmt.Sprint("m", maildrop.Address("nobody@unknown.example").Shard(shards)),
	} {
		for name, call := range each(t.Context(), w, address) {
			before := w.services[want].count()
			if err := call(); err != nil {
				t.Errorf("%s of %s: %v", name, address, err)
			}
			if w.services[want].count() != before+1 {
				t.Errorf("%s of %s didn't go to %s", name, address, want)
			}
		}
	}
	if n := w.services["gateway.je"].count(); n > 0 {
		t.Errorf("je was called %d times", n)
	}
}

// A region that takes no relayed sessions isn't even asked, but its address
// records can be administered.
func TestRegionThatRefuses(t *testing.T) {
	w := newWorld(t, "m1", "gateway.je")
	for name, call := range each(t.Context(), w, jane) {
		err := call()
		if slices.Contains(administration, name) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		kindIs(t, name, err, maildrop.Denied)
		if maildrop.ReasonOf(err) != maildrop.ReasonRegion || !strings.Contains(maildrop.TextOf(err), "je-pop.example.net") {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := each(t.Context(), w, jane)["open"]()
	if got, want := maildrop.TextOf(err), "je-pop.example.net, port 995"; got != want {
		t.Errorf("the user reads %q, want %q", got, want)
	}
	if n := w.services["gateway.je"].count(); n != len(administration) {
		t.Errorf("je was called %d times", n)
	}
}

// A home region that isn't published yet is trouble, not a refusal.
func TestUnpublishedRegion(t *testing.T) {
	w := router.New(router.Config{Region: "eu", Shards: shards, Directory: unpublished{newAtlas()}, Owners: newOwners(shards, "m1")})
	for name, call := range each(t.Context(), w, bill) {
		kindIs(t, name, call(), maildrop.Transient)
	}
}

type unpublished struct{ atlas }

func (unpublished) Region(string) (directory.Region, bool) { return directory.Region{}, false }

// A gateway serves what is at home, and relays nothing on.
func TestLocal(t *testing.T) {
	w := newWorld(t, "m1")
	for address, want := range map[maildrop.Address]maildrop.Kind{bill: maildrop.NotOwner, jane: maildrop.NotOwner, "x@unknown.example": maildrop.NotOwner} {
		for name, call := range each(t.Context(), w.Local(), address) {
			start := time.Now()
			kindIs(t, name, call(), want)
			took(t, name, start, 0, 5*time.Second)
		}
	}
	for name, call := range each(t.Context(), w.Local(), anna) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The gateway of a region that takes no relayed sessions looks at who calls. A
// caller that it doesn't know isn't from here.
func TestLocalOfARegionThatRefuses(t *testing.T) {
	s := &service{name: "m1"}
	w := router.New(router.Config{
		Region: "je", Shards: shards, Directory: newAtlas(), Owners: newOwners(shards, "m1"),
		Dial: func(string) maildrop.Service { return s },
	})
	for name, call := range each(t.Context(), w.Local(), jane) {
		err := call()
		if slices.Contains(administration, name) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		kindIs(t, name, err, maildrop.Denied)
	}
	for name, call := range each(t.Context(), w, jane) { // its own front
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAliases(t *testing.T) {
	alias := func(primary maildrop.Address) error {
		return &maildrop.Error{Op: "test", Kind: maildrop.Alias, Primary: primary}
	}
	const nick = maildrop.Address("nick@eu.example")
	follows := []string{"open", "accept", "deliver"}
	for _, c := range []struct {
		name    string
		primary maildrop.Address
		local   bool
		then    error
		want    maildrop.Kind
		calls   map[string][]string // of open, by service
	}{
		{"at home", anna, false, nil, 0, map[string][]string{"m1": {"open nick@eu.example", "open anna@eu.example"}}},
		{"at home, by a gateway", anna, true, nil, 0, map[string][]string{"m1": {"open nick@eu.example", "open anna@eu.example"}}},
		{"elsewhere", bill, false, nil, 0, map[string][]string{"m1": {"open nick@eu.example"}, "gateway.us": {"open bill@us.example"}}},
		{"elsewhere, by a gateway", bill, true, nil, maildrop.Alias, map[string][]string{"m1": {"open nick@eu.example"}}},
		{"of an alias", anna, false, alias(nick), maildrop.Internal, map[string][]string{"m1": {"open nick@eu.example", "open anna@eu.example"}}},
		{"of nobody", anna, false, fault(maildrop.NotFound), maildrop.NotFound, map[string][]string{"m1": {"open nick@eu.example", "open anna@eu.example"}}},
	} {
		for _, name := range follows {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				w := newWorld(t, "m1", "gateway.us")
				w.services["m1"].end = func(_ context.Context, call int) error {
					if call == 1 {
						return alias(c.primary)
					}
					return c.then
				}
				var s maildrop.Service = w
				if c.local {
					s = w.Local()
				}
				err := each(t.Context(), s, nick)[name]()
				if c.want != 0 || c.then != nil {
					kindIs(t, name, err, c.want)
				} else if err != nil {
					t.Error(err)
				}
				if name != "open" {
					return
				}
				for service, s := range w.services {
					if !slices.Equal(s.calls, c.calls[service]) {
						t.Errorf("%s: calls %q, want %q", service, s.calls, c.calls[service])
					}
				}
			})
		}
	}
}

// The session of an alias goes on at its primary address.
func TestSessionOfAnAlias(t *testing.T) {
	w := newWorld(t, "m1", "gateway.us")
	w.services["m1"].end = after(&maildrop.Error{Kind: maildrop.Alias, Primary: bill})
	drop, err := w.Open(t.Context(), maildrop.Login{Address: "nick@eu.example"})
	if err != nil {
		t.Fatal(err)
	}
	if err := drop.Check(t.Context()); err != nil || drop.Info().Address != bill {
		t.Errorf("%v, %+v", err, drop.Info())
	}
	if got := w.services["gateway.us"].calls; !slices.Equal(got, []string{"open bill@us.example", "check opened"}) {
		t.Errorf("calls %q", got)
	}
}

func records(addresses ...string) (list []maildrop.AddressRecord) {
	for _, a := range addresses {
		list = append(list, maildrop.AddressRecord{Address: maildrop.Address(a)})
	}
	return list
}

func names(list []maildrop.AddressRecord) string {
	var all []string
	for _, r := range list {
		all = append(all, string(r.Address))
	}
	return strings.Join(all, " ")
}

// An account's addresses are those of all the nodes, each once, or an error:
// never half of them.
func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "gateway.us")
		w.services["m1"].list = records("d@x", "b@x")
		w.services["m2"].list = records("a@x", "b@x", "c@x")
		w.services["gateway.us"].list = records("u@x")
		w.owners.give(1, "m2")
		w.owners.give(2, "") // for a second
		go func() {
			pass(time.Second)
			w.owners.give(2, "m1")
		}()
		start := time.Now()
		got, err := w.Addresses(t.Context(), "eu-customer")
		if err != nil || names(got) != "a@x b@x c@x d@x" {
			t.Errorf("%q, %v", names(got), err)
		}
		took(t, "waiting for all owners", start, time.Second, 25*time.Millisecond)

		// A shard that moves while the nodes are asked is asked for again.
		w.services["m2"].end = func(_ context.Context, call int) error {
			if call == 2 {
				w.owners.give(0, "m2")
			}
			return nil
		}
		if got, err := w.Addresses(t.Context(), "eu-customer"); err != nil || names(got) != "a@x b@x c@x d@x" {
			t.Errorf("%q, %v", names(got), err)
		}
		if n := w.services["m2"].count(); n != 3 {
			t.Errorf("m2 was asked %d times, want 3", n)
		}
		if got, err := w.Addresses(t.Context(), "us-customer"); err != nil || names(got) != "u@x" {
			t.Errorf("%q, %v", names(got), err)
		}
		_, err = w.Addresses(t.Context(), "nobody")
		kindIs(t, "unknown account", err, maildrop.NotFound)
		_, err = w.Local().Addresses(t.Context(), "us-customer")
		kindIs(t, "another region's gateway", err, maildrop.NotOwner)
		w.services["m1"].end = func(context.Context, int) error { return fault(maildrop.Corrupt) }
		_, err = w.Addresses(t.Context(), "eu-customer")
		kindIs(t, "a node in trouble", err, maildrop.Corrupt)
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := newOwners(shards, "m1")
	m1 := &service{name: "m1"}
	m2 := &service{name: "m2", end: after(fault(maildrop.Denied))}
	m1.end = func(_ context.Context, call int) error {
		if call == 2 {
			o.give(-1, "m2")
		}
		return fault(maildrop.NotOwner)
	}
	w := router.New(router.Config{
		Region: "eu", Shards: shards, Directory: newAtlas(), Owners: o, Registerer: registry,
		Dial: func(address string) maildrop.Service { return map[string]maildrop.Service{"m1": m1, "m2": m2}[address] },
	})
	kindIs(t, "accept", w.Accept(t.Context(), maildrop.Recipient{Address: anna}), maildrop.Denied)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := []string{f.GetName()}
			for _, l := range m.GetLabel() {
				key = append(key, l.GetValue())
			}
			got[strings.Join(key, " ")] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"postern_front_backend_attempts_total first not_owner": 1,
		"postern_front_backend_attempts_total retry not_owner": 1,
		"postern_front_backend_attempts_total reroute ok":      1,
		"postern_route_lookups_total found memory":             3,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
