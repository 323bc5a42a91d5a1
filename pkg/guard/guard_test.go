package guard

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var (
	errWrong   = &maildrop.Error{Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	errTrouble = []error{
		&maildrop.Error{Kind: maildrop.Busy}, &maildrop.Error{Kind: maildrop.Transient}, &maildrop.Error{Kind: maildrop.Internal},
		&maildrop.Error{Kind: maildrop.Canceled}, &maildrop.Error{Kind: maildrop.NotOwner}, &maildrop.Error{Kind: maildrop.Invalid},
		&maildrop.Error{Kind: maildrop.Denied, Reason: maildrop.ReasonChanged}, errors.New("a bug"),
	}
)

var fiveIn15 = Rules{Tries: 5, Window: 15 * time.Minute}

const anna = maildrop.Address("anna@local.example")

func try(secret string) Try { return Try{Address: anna, Known: true, Secret: secret, Rules: fiveIn15} }

func around(g *Guard, t Try, outcome error) (verified, locked bool, err error) {
	locked, err = g.Around(t, func() error { verified = true; return outcome })
	return verified, locked, err
}

// model is what is promised, of one address, without any thought of memory.
type model struct {
	wrong  map[string]time.Time
	until  time.Time
	trying map[string]int
}

func (m *model) counts(now time.Time, window time.Duration) (n int) {
	for _, at := range m.wrong {
		if now.Sub(at) < window {
			n++
		}
	}
	return n
}

// TestPromises holds a Guard to the model under attempts that begin and end as they
// like, known addresses and others.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, models, now := New(), map[maildrop.Address]*model{}, time.Now()
		type flight struct {
			t Try
			k key
			h uint64
		}
		var flights []flight
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			if len(flights) > 0 && rapid.Bool().Draw(t, "ends") {
				i := rapid.IntRange(0, len(flights)-1).Draw(t, "which")
				f := flights[i]
				flights = append(flights[:i], flights[i+1:]...)
				m := models[f.t.Address]
				if m.trying[f.t.Secret]--; m.trying[f.t.Secret] == 0 {
					delete(m.trying, f.t.Secret)
				}
				switch outcome := rapid.IntRange(0, 9).Draw(t, "outcome"); {
				case outcome == 0:
					g.end(f.k, f.h, f.t, nil, now)
					m.wrong, m.until = map[string]time.Time{}, time.Time{}
				case outcome < 4:
					g.end(f.k, f.h, f.t, errTrouble[rapid.IntRange(0, len(errTrouble)-1).Draw(t, "trouble")], now)
				default:
					locked := g.end(f.k, f.h, f.t, errWrong, now)
					if at, again := m.wrong[f.t.Secret]; !again || now.Sub(at) >= f.t.Rules.Window {
						m.wrong[f.t.Secret] = now
					}
					want := m.counts(now, f.t.Rules.Window) >= f.t.Rules.Tries
					if want {
						m.wrong, m.until = map[string]time.Time{}, now.Add(f.t.Rules.Window)
					}
					if locked != want {
						t.Fatalf("locked out: %t, want %t", locked, want)
					}
				}
				continue
			}
			address := rapid.SampledFrom([]maildrop.Address{anna, "ben@local.example", "nobody@local.example"}).Draw(t, "address")
			a := Try{Address: address, Known: address != "nobody@local.example", Rules: fiveIn15, Secret: fmt.Sprint(rapid.IntRange(0, 8).Draw(t, "secret"))}
			m := models[address]
			if m == nil {
				m = &model{wrong: map[string]time.Time{}, trying: map[string]int{}}
				models[address] = m
			}
			k, h := g.key(a.Address), g.hash("secret", string(a.Address), a.Secret)
			standing := g.Standing(address, a.Rules, now)
			err := g.begin(k, h, a, now)
			at, known := m.wrong[a.Secret]
			known = known && now.Sub(at) < a.Rules.Window
			switch {
			case now.Before(m.until):
				if maildrop.ReasonOf(err) != maildrop.ReasonLockout || maildrop.WaitOf(err) != m.until.Sub(now) || standing.Lockout != m.until.Sub(now) {
					t.Fatalf("locked out until %v: %v, %+v", m.until.Sub(now), err, standing)
				}
				continue
			case standing.Lockout != 0 || standing.Wrong != m.counts(now, a.Rules.Window):
				t.Fatalf("standing is %+v, want %d wrong", standing, m.counts(now, a.Rules.Window))
			case m.trying[a.Secret] == 0 && !known && m.counts(now, a.Rules.Window)+len(m.trying) >= a.Rules.Tries:
				if err == nil || maildrop.KindOf(err) != maildrop.Busy {
					t.Fatalf("one too many at once: %v", err)
				}
				continue
			case err != nil:
				t.Fatal(err)
			}
			m.trying[a.Secret]++
			flights = append(flights, flight{a, k, h})
		}
	})
}

// TestNothingStays: what is over takes no memory.
func TestNothingStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		for i := range 100 {
			a := Try{Address: maildrop.Address(fmt.Sprint(i, "@local.example")), Known: i%2 == 0, Rules: fiveIn15, Session: fmt.Sprint(i)}
			a.Rules.Delay = time.Minute
			for j := range 6 {
				a.Secret = fmt.Sprint(j)
				around(g, a, errWrong)
			}
			if err := g.Admit(a, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if n := g.Locked(time.Now()); n != 100 {
			t.Fatalf("%d are locked out", n)
		}
		around(g, try("right"), nil)
		time.Sleep(fiveIn15.Window)
		if n := g.Locked(time.Now()); n != 0 {
			t.Fatalf("%d are locked out", n)
		}
		around(g, try("right"), nil)
		if n := len(g.known) + len(g.unknown) + len(g.visits); n != 0 {
			t.Fatalf("%d things are remembered", n)
		}
	})
}

// TestFloodUnlocksNobody: however many names are tried, memory is bounded, and an
// address that exists stays locked out.
func TestFloodUnlocksNobody(t *testing.T) {
	g := New()
	g.maxUnknown = 50
	for i := range fiveIn15.Tries {
		around(g, try(fmt.Sprint(i)), errWrong)
	}
	for i := range 20 * g.maxUnknown {
		a := Try{Address: maildrop.Address(fmt.Sprint(i, "@local.example")), Secret: "guess", Rules: fiveIn15}
		if verified, _, err := around(g, a, errWrong); !verified {
			t.Fatal(err)
		}
		if len(g.unknown) > g.maxUnknown {
			t.Fatalf("%d names", len(g.unknown))
		}
	}
	if verified, _, err := around(g, try("right"), nil); verified || maildrop.ReasonOf(err) != maildrop.ReasonLockout {
		t.Fatal(err)
	}
}

// TestAddressIsMade: guesses at a name count when it becomes an address.
func TestAddressIsMade(t *testing.T) {
	g := New()
	for i := range fiveIn15.Tries {
		a := try(fmt.Sprint(i))
		a.Known = i > 2
		around(g, a, errWrong)
	}
	if _, _, err := around(g, try("right"), nil); maildrop.ReasonOf(err) != maildrop.ReasonLockout {
		t.Fatal(err)
	}
}

// TestPanic: a verification that panics leaves its place.
func TestPanic(t *testing.T) {
	g := New()
	for i := range 2 * fiveIn15.Tries {
		func() {
			defer func() { _ = recover() }()
			_, _ = g.Around(try(fmt.Sprint(i)), func() error { panic("bug") })
		}()
	}
	if verified, _, err := around(g, try("right"), nil); !verified || err != nil {
		t.Fatal(err)
	}
}

// TestSecretsAreNotKept: neither names nor passwords are in a Guard.
func TestSecretsAreNotKept(t *testing.T) {
	g := New()
	around(g, try("correct horse"), errWrong)
	if text := fmt.Sprintf("%+v %+v", g.known[g.key(anna)], g.known); strings.Contains(text, "horse") || strings.Contains(text, "anna") {
		t.Error(text)
	}
}

func TestDelay(t *testing.T) {
	g, now := New(), time.Now()
	a := try("")
	a.Rules.Delay, a.Session = time.Minute, "one"
	if err := g.Admit(a, now); err != nil {
		t.Fatal(err)
	}
	a.Session = ""
	if err := g.Admit(a, now.Add(59*time.Second)); maildrop.ReasonOf(err) != maildrop.ReasonLoginDelay || maildrop.WaitOf(err) != time.Second {
		t.Fatal(err)
	}
	if s := g.Standing(anna, a.Rules, now.Add(59*time.Second)); s.Delay != time.Second {
		t.Fatalf("%+v", s)
	}
	if err := g.Admit(a, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLogin(b *testing.B) {
	g, a := New(), try("right")
	for b.Loop() {
		_, _ = g.Around(a, func() error { return nil })
	}
}
