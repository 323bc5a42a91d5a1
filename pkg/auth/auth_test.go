package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const anna maildrop.Address = "anna@example.com"

// cheap parameters keep the tests quick; what they test does not depend on them.
var cheap = parameters{memory: 64, time: 1, threads: 1, salt: 16, tag: 32}

func login(address maildrop.Address, password string) maildrop.Login {
	return maildrop.Login{Address: address, Password: password}
}

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
	if err := v.Verify(t.Context(), login(anna, "correct horse"), hash); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ hash, password string }{
		"wrong password":      {hash, "battery staple"},
		"no password":         {hash, ""},
		"one octet more":      {hash, "correct horse "},
		"no such user":        {"", "correct horse"},
		"too long":            {hash, strings.Repeat("x", maxPassword+1)},
		"too long, no user":   {"", strings.Repeat("x", maxPassword+1)},
		"a hash's own string": {hash, hash},
	} {
		t.Run(name, func(t *testing.T) {
			wantDenied(t, v.Verify(t.Context(), login(anna, c.password), c.hash))
			wantDenied(t, v.Verify(t.Context(), login(anna, c.password), c.hash))
		})
	}
}

// TestPreparedPassword is RFC 6856 section 2.2 (I18N-06, AUTH-12): what SASLprep makes one
// password is one, whichever way it was set and is sent.
func TestPreparedPassword(t *testing.T) {
	forms := []string{"caf\u00e9 of\ufb01ce", "cafe\u0301 office", "caf\u00e9\u00a0\uff4fffice", "ca\u00adf\u00e9 office"}
	v := New(Config{Workers: 1})
	defer v.Close()
	for _, set := range forms[:2] {
		hash, err := Hash(set)
		if err != nil {
			t.Fatal(err)
		}
		for _, sent := range forms {
			if err := v.Verify(t.Context(), login(anna, sent), hash); err != nil {
				t.Errorf("set as %+q, sent as %+q: %v", set, sent, err)
			}
		}
		wantDenied(t, v.Verify(t.Context(), login(anna, "cafe office"), hash))
	}
}

// A password that begins like a long right one must not pass for it because
// long ones are cut before the work is done.
func TestLongPasswordIsNoPrefixMatch(t *testing.T) {
	v := verifier(t, Config{})
	longest := strings.Repeat("x", maxPassword)
	hash := cheap.hash(longest).String()
	wantDenied(t, v.Verify(t.Context(), login(anna, longest+"x"), hash))
	if err := v.Verify(t.Context(), login(anna, longest), hash); err != nil {
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
	err1 := v.Verify(t.Context(), login(anna, "guess"), hash)
	err2 := v.Verify(t.Context(), login("nobody@example.com", "guess"), "")
	wantDenied(t, err1)
	if err1.Error() != err2.Error() {
		t.Errorf("told apart: %v, %v", err1, err2)
	}
}

func TestUnreadableHashIsNoWrongPassword(t *testing.T) {
	v := verifier(t, Config{})
	err := v.Verify(t.Context(), login(anna, "x"), "$argon2id$v=19$m=99999999,t=3,p=4$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA")
	if maildrop.KindOf(err) != maildrop.Internal || strings.Contains(err.Error(), "c29t") {
		t.Fatalf("got %v", err)
	}
}

// stuck is a Verifier whose only worker waits to be let go, so that a test
// decides what is queued.
func stuck(t *testing.T, queue int) (v *Verifier, release func()) {
	t.Helper()
	v = idle(Config{Queue: queue, Remembered: 10}, cheap)
	release = sync.OnceFunc(func() { v.workers.Go(v.work) })
	return v, release
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 2)
		defer v.Close()
		var waiting sync.WaitGroup
		for _, password := range []string{"one", "two"} {
			waiting.Go(func() { wantDenied(t, v.Verify(t.Context(), login(anna, password), "")) })
		}
		synctest.Wait()
		if err := v.Verify(t.Context(), login(anna, "three"), ""); maildrop.KindOf(err) != maildrop.Busy {
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
				if err := v.Verify(t.Context(), login(anna, "secret"), hash); err != nil {
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
		go func() { left <- v.Verify(gone, login(anna, "secret"), hash) }()
		synctest.Wait()
		go func() { stayed <- v.Verify(t.Context(), login(anna, "secret"), hash) }()
		synctest.Wait()
		leave()
		if err := <-left; maildrop.KindOf(err) != maildrop.Canceled || !errors.Is(err, context.Canceled) {
			t.Errorf("the one who left got %v", err)
		}
		release()
		if err := <-stayed; err != nil {
			t.Errorf("the one who stayed got %v", err)
		}
		if err := v.Verify(gone, login("ben@example.com", "secret"), hash); maildrop.KindOf(err) != maildrop.Canceled {
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
		go func() { _ = v.Verify(gone, login(anna, "secret"), hash) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		release()
		synctest.Wait()
		if v.cache.count != 0 {
			t.Error("it was done for nobody")
		}
		if err := v.Verify(t.Context(), login(anna, "secret"), hash); err != nil {
			t.Error(err)
		}
	})
}

// Who comes after a check was given up finds no trace of it, and nothing
// that was not done is ever a success.
func TestAbandonedCheckIsNotJoined(t *testing.T) {
	v, _ := stuck(t, 2)
	hash := cheap.hash("secret").String()
	k := v.cache.key(anna, hash, "secret")
	f, err := v.join(k, login(anna, "secret"), hash)
	if err != nil {
		t.Fatal(err)
	}
	v.leave(f)
	if v.begin(f) {
		t.Error("it is begun for nobody")
	}
	if again, err := v.join(k, login(anna, "secret"), hash); again == f || err != nil {
		t.Errorf("the dead check is joined, %v", err)
	}
	if f.err == nil {
		t.Error("what was not done is a success")
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 1)
		waits := make(chan error, 1)
		go func() { waits <- v.Verify(t.Context(), login(anna, "x"), "") }()
		synctest.Wait()
		closing := make(chan struct{})
		v.mu.Lock() // Close's order: closed first, then the worker sees the queue
		v.closed = true
		v.mu.Unlock()
		release()
		go func() { v.Close(); close(closing) }()
		if err := <-waits; maildrop.KindOf(err) != maildrop.Transient {
			t.Errorf("a waiting check got %v", err)
		}
		<-closing
		if err := v.Verify(t.Context(), login(anna, "x"), ""); maildrop.KindOf(err) != maildrop.Transient {
			t.Errorf("after Close: %v", err)
		}
		v.Close() // twice is fine
	})
}

func BenchmarkVerifyRemembered(b *testing.B) {
	v := verifier(b, Config{})
	hash := cheap.hash("secret").String()
	for b.Loop() {
		if err := v.Verify(b.Context(), login(anna, "secret"), hash); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	v := New(Config{Workers: 1})
	defer v.Close()
	for b.Loop() {
		_ = v.Verify(b.Context(), login(anna, "secret"), "")
	}
}
