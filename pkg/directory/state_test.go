package directory

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/policy"
)

func contextFor(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 200*time.Millisecond)
}

// TestStateAgainstModel: whatever comes in whatever order, the state is what a
// plain map of last good values says, and its index of an account's domains
// agrees with it.
func TestStateAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model, bad := newState(), make(map[string]policy.Domain), make(map[string]bool)
		names := rapid.SampledFrom([]string{"a.example", "b.example", "c.example"})
		owners := rapid.SampledFrom([]string{"x", "y", "z"})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := names.Draw(t, "name")
			key := domainPrefix + name
			switch rapid.SampledFrom([]string{"put", "put", "remove", "garbage", "reload"}).Draw(t, "step") {
			case "put":
				d := policy.Domain{Name: name, Account: owners.Draw(t, "owner"), Kind: policy.DomainLocal}
				value, _ := json.Marshal(d)
				if err := s.put(key, value); err != nil {
					t.Fatal(err)
				}
				model[name] = d
				delete(bad, name)
			case "remove":
				s.remove(key)
				delete(model, name)
				delete(bad, name)
			case "garbage":
				if s.put(key, []byte("{")) == nil {
					t.Fatal("garbage was taken")
				}
				bad[name] = true
			case "reload":
				fresh := newState()
				for name, d := range model {
					value, _ := json.Marshal(d)
					if bad[name] {
						value = []byte("{")
					}
					_ = fresh.put(domainPrefix+name, value)
				}
				for name := range bad {
					_ = fresh.put(domainPrefix+name, []byte("{"))
				}
				fresh.inherit(s)
				s = fresh
			}
			check(t, s, model, bad)
		}
	})
}

func check(t *rapid.T, s *state, model map[string]policy.Domain, bad map[string]bool) {
	if len(s.domains.byName) != len(model) || len(s.corrupt) != len(bad) {
		t.Fatalf("knows %v (corrupt %v), want %v (corrupt %v)", s.domains.byName, s.corrupt, model, bad)
	}
	owned := 0
	for name, want := range model {
		if got := s.domains.byName[name]; got != want {
			t.Fatalf("%s is %v, want %v", name, got, want)
		}
		if _, ok := s.owned[want.Account][name]; !ok {
			t.Fatalf("%s isn't among %s's: %v", name, want.Account, s.owned)
		}
	}
	for account, names := range s.owned {
		owned += len(names)
		if len(names) == 0 {
			t.Fatalf("an empty set is kept for %s", account)
		}
	}
	if owned != len(model) {
		t.Fatalf("%d domains are owned, %d known", owned, len(model))
	}
}

func TestUnknownKindsAreNotOurs(t *testing.T) {
	s := newState()
	if err := s.put(prefix+"plans/x", []byte("{")); err != nil || len(s.corrupt) != 0 {
		t.Fatalf("a kind of a newer version: %v, %v", err, s.corrupt)
	}
}

func TestRegionValidate(t *testing.T) {
	for what, change := range map[string]func(*Region){
		"region":       func(r *Region) { r.Name = "EU" },
		"title":        func(r *Region) { r.Title = "a\nb" },
		"hostname":     func(r *Region) { r.Hostname = "" },
		"shards":       func(r *Region) { r.Shards = MaxShards + 1 },
		"gateway":      func(r *Region) { r.Gateway = "host" },
		"a port":       func(r *Region) { r.Gateway = "host:0" },
		"cross_region": func(r *Region) { r.CrossRegion = "" },
	} {
		r := eu()
		change(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := eu().Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzAccountRecord(f *testing.F) {
	f.Add([]byte(`{"name":"acme","region":"eu","override":"allow","networks":["192.0.2.0/24"],"events":[{"id":"a","start":"2026-11-23T18:00:00Z","end":"0001-01-01T00:00:00Z","zone":"UTC"}]}`))
	f.Add([]byte(`{"name":"acme","region":"eu"}{}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		account, err := decode(value, "acme", accountName, false)
		if err != nil {
			return
		}
		text, err := encode(account)
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		again, err := decode([]byte(text), "acme", accountName, true)
		if err != nil || again.Name != account.Name || again.Disabled != account.Disabled ||
			!slices.Equal(again.Networks, account.Networks) || len(again.Events) != len(account.Events) {
			t.Fatalf("%v: %+v, then %+v", err, account, again)
		}
	})
}
