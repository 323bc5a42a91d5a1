package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const anna maildrop.Address = "anna@example.com"

// cheap parameters keep the tests quick; what they test does not depend on them.
var cheap = parameters{memory: 64, time: 1, threads: 1, salt: 16, tag: 32}

func verifier(t testing.TB, c Config) *Verifier {
	t.Helper()
	v := newVerifier(c, cheap)
	t.Cleanup(v.Close)
	return v
}

func wantDenied(t testing.TB, err error) {
	t.Helper()
	if maildrop.KindOf(err) != maildrop.Denied || maildrop.ReasonOf(err) != maildrop.ReasonCredentials {
		t.Fatalf("got %v, want denied for credentials", err)
	}
}

func TestVerify(t *testing.T) {
	v := verifier(t, Config{})
	hash := cheap.hash("correct horse").String()
	if err := v.Verify(t.Context(), anna, hash, "correct horse"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ hash, password string }{
		"wrong password":      {hash, "battery staple"},
		"no password":         {hash, ""},
		"one octet more":      {hash, "correct horse "},
		"no such user":        {"", "correct horse"},
		"the dummy's":         {"", "nobody's password"},
		"too long":            {hash, strings.Repeat("x", maxPassword+1)},
		"too long, no user":   {"", strings.Repeat("x", maxPassword+1)},
		"a hash's own string": {hash, hash},
	} {
		t.Run(name, func(t *testing.T) {
			wantDenied(t, v.Verify(t.Context(), anna, c.hash, c.password))
			wantDenied(t, v.Verify(t.Context(), anna, c.hash, c.password))
		})
	}
}

// A password that begins like a long right one must not pass for it because
// long ones are cut before the work is done.
func TestLongPasswordIsNoPrefixMatch(t *testing.T) {
	v := verifier(t, Config{})
	longest := strings.Repeat("x", maxPassword)
	hash := cheap.hash(longest).String()
	wantDenied(t, v.Verify(t.Context(), anna, hash, longest+"x"))
	if err := v.Verify(t.Context(), anna, hash, longest); err != nil {
		t.Fatal(err)
	}
}

// The refusals of a wrong password and of an unknown user are one error and
// one amount of work.
func TestUnknownUserCostsWhatAWrongPasswordCosts(t *testing.T) {
	v := New(Config{Workers: 1})
	defer v.Close()
	hash, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := parsePHC(hash)
	if err != nil {
		t.Fatal(err)
	}
	if v.dummy.parameters != wrong.parameters {
		t.Errorf("the dummy has %+v, a real hash %+v", v.dummy.parameters, wrong.parameters)
	}
	err1 := v.Verify(t.Context(), anna, hash, "guess")
	err2 := v.Verify(t.Context(), "nobody@example.com", "", "guess")
	wantDenied(t, err1)
	if err1.Error() != err2.Error() {
		t.Errorf("told apart: %v, %v", err1, err2)
	}
}

func TestUnreadableHashIsNoWrongPassword(t *testing.T) {
	v := verifier(t, Config{})
	err := v.Verify(t.Context(), anna, "$argon2id$v=19$m=99999999,t=3,p=4$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA", "x")
	if maildrop.KindOf(err) != maildrop.Internal || strings.Contains(err.Error(), "c29t") {
		t.Fatalf("got %v", err)
	}
}

func TestHash(t *testing.T) {
	one, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(one, "$argon2id$v=19$m=65536,t=3,p=4$") || Check(one) != nil {
		t.Errorf("made %q", one)
	}
	if two, _ := Hash("secret"); two == one {
		t.Error("no salt")
	}
	for _, bad := range []string{"", strings.Repeat("x", maxPassword+1)} {
		if _, err := Hash(bad); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("a password of %d octets gives %v", len(bad), err)
		}
	}
}

// A vector from outside: the reference implementation's own test of version
// 0x13 with t=2, m=2^8, p=1.
func TestReferenceVector(t *testing.T) {
	v := verifier(t, Config{})
	const hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	if err := v.Verify(t.Context(), anna, hash, "password"); err != nil {
		t.Error(err)
	}
}

func TestParsePHCRefuses(t *testing.T) {
	const salt, tag = "c29tZXNhbHQ", "c29tZXNhbHRzb21lc2FsdA"
	ok := "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + tag
	if _, err := parsePHC(ok); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"", "$", "plain", "$2b$12$abcdefghijklmnopqrstuv",
		"$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=65537,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=18446744073709551616,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=10,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=9$" + salt + "$" + tag, // 8 KiB a lane
		"$argon2id$v=19$m=65536,t=1,p=17$" + salt + "$" + tag,
		"$argon2id$v=19$m=064,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=+64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$t=1,m=64,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1,x=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1$c29tZQ$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$c29tZXNhbHQ",
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + tag + "==",
		ok + "$", ok + strings.Repeat("A", maxPHC),
	} {
		if h, err := parsePHC(s); err == nil {
			t.Errorf("took %q as %+v", s, h.parameters)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add(cheap.hash("x").String())
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA")
	f.Add("$argon2id$v=19$m=65536,t=9,p=16$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.memory > maxMemory || h.time > maxTime || h.threads > maxThreads || h.threads == 0 || h.time == 0 || len(h.tagOctets) != h.tag {
			t.Fatalf("%q is over a limit: %+v", s, h.parameters)
		}
		if h.String() != s {
			t.Fatalf("%q has two spellings: %q", s, h.String())
		}
	})
}

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
			if err := v.Verify(t.Context(), anna, hash, "secret"); err != nil {
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
		wantDenied(t, v.Verify(t.Context(), anna, hash, "guess"))
		wantDenied(t, v.Verify(t.Context(), anna, "", "guess"))
	}
	if v.cache.count != 0 {
		t.Errorf("%d entries", v.cache.count)
	}
}

// A cached answer is for this address, this hash string and this password.
func TestChangedCredentialIsNeverRemembered(t *testing.T) {
	v := verifier(t, Config{})
	old, changed := cheap.hash("old").String(), cheap.hash("new").String()
	if err := v.Verify(t.Context(), anna, old, "old"); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, v.Verify(t.Context(), anna, changed, "old"))
	wantDenied(t, v.Verify(t.Context(), anna, "", "old"))
	if v.cache.has(v.cache.key("ben@example.com", old, "old"), time.Now()) {
		t.Error("another user's")
	}
}

func TestCacheKeysAreUnambiguous(t *testing.T) {
	c := newCache(1, time.Minute)
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[ab]{0,4}`)
		a := [3]string{s.Draw(t, "address"), s.Draw(t, "hash"), s.Draw(t, "password")}
		b := [3]string{s.Draw(t, "address"), s.Draw(t, "hash"), s.Draw(t, "password")}
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

// stuck is a Verifier whose only worker waits to be let go, so that a test
// decides what is queued.
func stuck(t *testing.T, queue int) (v *Verifier, release func()) {
	t.Helper()
	v = &Verifier{cache: newCache(10, time.Minute), dummy: cheap.hash("x"),
		queue: make(chan *flight, queue), flights: map[key]*flight{}}
	release = sync.OnceFunc(func() { v.workers.Go(v.work) })
	return v, release
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 2)
		defer v.Close()
		var waiting sync.WaitGroup
		for _, password := range []string{"one", "two"} {
			waiting.Go(func() { wantDenied(t, v.Verify(t.Context(), anna, "", password)) })
		}
		synctest.Wait()
		if err := v.Verify(t.Context(), anna, "", "three"); maildrop.KindOf(err) != maildrop.Busy {
			t.Errorf("a third one waits: %v", err)
		}
		release()
		waiting.Wait()
	})
}

func TestEqualChecksAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 1)
		defer v.Close()
		hash := cheap.hash("secret").String()
		var waiting sync.WaitGroup
		for range 50 { // the queue has one place
			waiting.Go(func() {
				if err := v.Verify(t.Context(), anna, hash, "secret"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		release()
		waiting.Wait()
	})
}

func TestCallersMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 1)
		defer v.Close()
		hash := cheap.hash("secret").String()
		gone, leave := context.WithCancel(t.Context())
		left, stayed := make(chan error, 1), make(chan error, 1)
		go func() { left <- v.Verify(gone, anna, hash, "secret") }()
		synctest.Wait()
		go func() { stayed <- v.Verify(t.Context(), anna, hash, "secret") }()
		synctest.Wait()
		leave()
		if err := <-left; maildrop.KindOf(err) != maildrop.Canceled || !errors.Is(err, context.Canceled) {
			t.Errorf("the one who left got %v", err)
		}
		release()
		if err := <-stayed; err != nil {
			t.Errorf("the one who stayed got %v", err)
		}
		if err := v.Verify(gone, "ben@example.com", hash, "secret"); maildrop.KindOf(err) != maildrop.Canceled {
			t.Errorf("an ended context got %v", err)
		}
	})
}

// A check that nobody waits for any more is not begun, and who comes later
// is not tied to it.
func TestAbandonedCheckIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 1)
		defer v.Close()
		hash := cheap.hash("secret").String()
		gone, leave := context.WithCancel(t.Context())
		go func() { _ = v.Verify(gone, anna, hash, "secret") }()
		synctest.Wait()
		leave()
		synctest.Wait()
		release()
		synctest.Wait()
		if v.cache.count != 0 {
			t.Error("it was done for nobody")
		}
		if err := v.Verify(t.Context(), anna, hash, "secret"); err != nil {
			t.Error(err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 1)
		waits := make(chan error, 1)
		go func() { waits <- v.Verify(t.Context(), anna, "", "x") }()
		synctest.Wait()
		closing := make(chan struct{})
		v.mu.Lock() // Close's order: closed first, then the worker sees the queue
		v.closed = true
		close(v.queue)
		v.mu.Unlock()
		release()
		go func() { v.Close(); close(closing) }()
		if err := <-waits; maildrop.KindOf(err) != maildrop.Transient {
			t.Errorf("a waiting check got %v", err)
		}
		<-closing
		if err := v.Verify(t.Context(), anna, "", "x"); maildrop.KindOf(err) != maildrop.Transient {
			t.Errorf("after Close: %v", err)
		}
		v.Close() // twice is fine
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	v := newVerifier(Config{Registerer: registry}, cheap)
	defer v.Close()
	hash := cheap.hash("secret").String()
	for range 2 {
		if err := v.Verify(t.Context(), anna, hash, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	wantDenied(t, v.Verify(t.Context(), anna, hash, "guess"))
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

func BenchmarkVerifyRemembered(b *testing.B) {
	v := verifier(b, Config{})
	hash := cheap.hash("secret").String()
	for b.Loop() {
		if err := v.Verify(b.Context(), anna, hash, "secret"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	v := New(Config{Workers: 1})
	defer v.Close()
	for b.Loop() {
		_ = v.Verify(b.Context(), anna, "", "secret")
	}
}
