package main

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/config"
)

// together: what one front of a region sees of a source, the other one knows within two
// seconds. The test waits longer, for machines that are busy, and tells how long it took.
func (f *secondFront) together(t *testing.T) {
	f.guessesTogether(t)
	f.connectionsTogether(t)
}

// guessesTogether: a source guesses at one front as often as is free. At the other one it
// has guessed once, and waits as soon as that front has heard of all the others.
func (f *secondFront) guessesTogether(t *testing.T) {
	const guesser = "127.0.0.90"
	domain := f.user("eu", kindLocal).Address
	here, there := string(f.cfg.Front.POP3S.Listen), f.region("eu").POP3S
	guess := func(front string, n int) {
		t.Helper()
		pop, err := f.from(t, guesser, front)
		if err != nil {
			t.Fatal(err)
		}
		defer pop.Close()
		err = pop.Login(fmt.Sprintf("nobody-%d-%s", n, domain), "guess")
		if err == nil || !strings.Contains(err.Error(), "(credentials)") {
			t.Fatalf("a guess: %v", err)
		}
	}
	guess(here, 0) // the same again counts no further
	for n := range config.DefaultLimits().FreeFailures {
		if f.delayed(t) > 0 {
			t.Fatal("delayed before it is due")
		}
		guess(there, n+1)
	}
	began, took := time.Now(), time.Duration(0)
	f.in(t).within(patience, func() error {
		took = time.Since(began)
		if guess(here, 0); f.delayed(t) == 0 {
			return fmt.Errorf("no login waits at the other front")
		}
		return nil
	})
	t.Logf("the other front delayed the guesser after %v", took.Round(time.Millisecond))
}

var delayedLogins = regexp.MustCompile(`(?m)^postern_front_logins_delayed_seconds_count (\d+)$`)

// delayed is how many logins have waited at the front.
func (f *secondFront) delayed(t *testing.T) int {
	t.Helper()
	found := delayedLogins.FindStringSubmatch(f.scrape(t))
	if found == nil {
		t.Fatal("no count of logins that were delayed")
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// connectionsTogether: a source has as many connections at one front as it may. It
// gets no further one at the other, and does again when they have ended.
func (f *secondFront) connectionsTogether(t *testing.T) {
	const source = "127.0.0.91"
	here, there := string(f.cfg.Front.POP3S.Listen), f.region("eu").POP3S
	refused := func() bool {
		pop, err := f.from(t, source, here)
		if err == nil {
			pop.Close()
			return false
		}
		if !strings.Contains(err.Error(), "(ip-connections)") {
			t.Fatal(err)
		}
		return true
	}
	if refused() {
		t.Fatal("refused before it is due")
	}
	open := make([]net.Conn, config.DefaultLimits().ConnectionsPerIP)
	for i := range open {
		var err error
		open[i], err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).DialContext(t.Context(), "tcp", there)
		if err != nil {
			t.Fatal(err)
		}
		defer open[i].Close()
	}
	await := func(what string, want bool) {
		t.Helper()
		began, took := time.Now(), time.Duration(0)
		f.in(t).within(patience, func() error {
			took = time.Since(began)
			if refused() != want {
				return fmt.Errorf("the other front hasn't heard of connections that are %s", what)
			}
			return nil
		})
		t.Logf("the other front knew after %v of connections that are %s", took.Round(time.Millisecond), what)
	}
	await("open", true)
	for _, conn := range open {
		conn.Close()
	}
	await("closed", false)
}
