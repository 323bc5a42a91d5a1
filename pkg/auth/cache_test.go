package auth

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestRightPasswordIsRememberedForTenMinutes(t *testing.T) {
	registry := prometheus.NewRegistry()
	hash := cheap.hash("secret").String()
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(Config{Workers: 1, Registerer: registry}, cheap)
		defer v.Close()
		for _, c := range []struct {
			wait time.Duration
			want string
		}{
			{0, resultOK}, {time.Second, resultCached}, {9*time.Minute + 58*time.Second, resultCached},
			{time.Second, resultOK}, {time.Second, resultCached}, // the use before did not renew it
		} {
			time.Sleep(c.wait)
			before := checks(t, registry, c.want)
			if err := v.Verify(t.Context(), login(anna, "secret"), hash); err != nil {
				t.Fatal(err)
			}
			if got := checks(t, registry, c.want); got != before+1 {
				t.Errorf("%v later it was not %q", c.wait, c.want)
			}
		}
	})
}

func TestOnlySuccessIsRemembered(t *testing.T) {
	v := verifier(t, Config{})
	hash := cheap.hash("secret").String()
	for range 3 {
		wantDenied(t, v.Verify(t.Context(), login(anna, "guess"), hash))
		wantDenied(t, v.Verify(t.Context(), login(anna, "guess"), ""))
	}
	if v.cache.count != 0 {
		t.Errorf("%d entries", v.cache.count)
	}
}

// A cached answer is for this address, this hash string and this password.
func TestChangedCredentialIsNeverRemembered(t *testing.T) {
	v := verifier(t, Config{})
	old, changed := cheap.hash("old").String(), cheap.hash("new").String()
	if err := v.Verify(t.Context(), login(anna, "old"), old); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, v.Verify(t.Context(), login(anna, "old"), changed))
	wantDenied(t, v.Verify(t.Context(), login(anna, "old"), ""))
	if v.cache.has(v.cache.key("ben@example.com", old, "old"), time.Now()) {
		t.Error("another user's")
	}
}

func TestCacheKeysAreUnambiguous(t *testing.T) {
	c := newCache(1, time.Minute)
	rapid.Check(t, func(t *rapid.T) {
		// One text, cut into three in two ways.
		text := rapid.StringMatching(`[ab]{1,6}`).Draw(t, "text")
		cut := func() [3]string {
			i := rapid.IntRange(0, len(text)).Draw(t, "first cut")
			j := rapid.IntRange(i, len(text)).Draw(t, "second cut")
			return [3]string{text[:i], text[i:j], text[j:]}
		}
		a, b := cut(), cut()
		same := c.key(maildrop.Address(a[0]), a[1], a[2]) == c.key(maildrop.Address(b[0]), b[1], b[2])
		if same != (a == b) {
			t.Fatalf("%q and %q", a, b)
		}
	})
}

// The ring against a plain model: bounded, first in first out, and exact about
// time.
func TestCacheModel(t *testing.T) {
	type entry struct {
		k     key
		until time.Time
	}
	rapid.Check(t, func(t *rapid.T) {
		const size = 100 // more than the ring's first 64
		c := newCache(size, time.Minute)
		now := time.Unix(0, 0)
		var model []entry
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			k := key{rapid.ByteMax(150).Draw(t, "key")}
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "pause")) * time.Second)
			for len(model) > 0 && !now.Before(model[0].until) {
				model = model[1:]
			}
			known := slices.ContainsFunc(model, func(e entry) bool { return e.k == k })
			if c.has(k, now) != known {
				t.Fatalf("key %v: has is %v", k[0], !known)
			}
			c.add(k, now)
			if !known {
				model = append(model[max(0, len(model)+1-size):], entry{k, now.Add(time.Minute)})
			}
			if c.count != len(model) || len(c.until) != len(model) {
				t.Fatalf("%d and %d entries, want %d", c.count, len(c.until), len(model))
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	v := newVerifier(Config{Registerer: registry}, cheap)
	defer v.Close()
	hash := cheap.hash("secret").String()
	for range 2 {
		if err := v.Verify(t.Context(), login(anna, "secret"), hash); err != nil {
			t.Fatal(err)
		}
	}
	wantDenied(t, v.Verify(t.Context(), login(anna, "guess"), hash))
	for _, result := range []string{resultCached, resultOK, resultWrong} {
		if got := checks(t, registry, result); got != 1 {
			t.Errorf("%s: %v", result, got)
		}
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("%d families, %v", len(families), err)
	}
}

// checks is the counter's value for a result.
func checks(t testing.TB, registry *prometheus.Registry, result string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "postern_node_password_checks_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
