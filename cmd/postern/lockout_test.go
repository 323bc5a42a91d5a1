package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// said is what a front answers to a login, without its status.
func (r *running) said(region string, u demoUser) string {
	r.t.Helper()
	err := r.loginError(region, u)
	var reply *mailclient.ReplyError
	if err != nil && !errors.As(err, &reply) {
		r.t.Fatal(err)
	}
	if err == nil {
		return "+OK"
	}
	return reply.Reply
}

// lockOut tries different wrong passwords, by turns at two regions, until there is
// another answer. When the shard moves meanwhile, its next owner counts anew.
func (r *running) lockOut(u demoUser) {
	r.t.Helper()
	since := r.explain(u.Address).Since
	wrong, got := 0, "-ERR [AUTH] "
	for ; wrong <= 10 && strings.HasPrefix(got, "-ERR [AUTH] "); wrong++ {
		u.Password = fmt.Sprint("guess ", wrong)
		got = r.said([]string{"eu", "us"}[wrong%2], u)
	}
	wrong-- // the last one was answered otherwise
	if moved := !r.explain(u.Address).Since.Equal(*since); wrong != 5 && !moved || wrong < 5 {
		r.t.Errorf("%d guesses at %s, then %s", wrong, u.Address, got)
	}
}

func (r *running) explain(address string, more ...string) (v explanationView) {
	r.t.Helper()
	out := r.postern(append([]string{"explain", address, "-o", "json"}, more...)...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	return v
}

// lockouts: guesses are counted together, whichever fronts they come through; who
// helps sees them, with the words that were sent, and lifts the lock-out.
func (r *running) lockouts() {
	r.t.Helper()
	ben := r.user("eu", kindLocal)
	if v := r.explain(ben.Address, "--from", "192.0.2.7"); v.Verdict != letIn || v.Class != "local" || v.Region != "eu" || v.Owner == "" || v.Epoch == 0 {
		r.t.Errorf("%+v", v)
	}
	nobody := demoUser{Address: "nobody-" + ben.Address, Password: ben.Password}
	for _, u := range []demoUser{ben, nobody} {
		r.lockOut(u)
		for _, region := range []string{"eu", "us"} {
			if got := r.said(region, u); !strings.HasPrefix(got, "-ERR [SYS/TEMP] too many wrong passwords") || !strings.HasSuffix(got, " (lockout)") {
				r.t.Errorf("%s at %s: %s", u.Address, region, got)
			}
		}
	}
	sent := r.said("eu", ben)
	v := r.explain(ben.Address)
	if v.Verdict != "lockout" || v.Reply != sent || v.Attempts[0].Reply != sent || v.Attempts[0].Result != "lockout" || v.Attempts[0].Mechanism != "USER" || v.Attempts[0].Remote == "" {
		r.t.Errorf("%s was sent, and explained is %+v", sent, v)
	}
	if v.Attempts[1].Result != "credentials" || !strings.HasPrefix(v.Attempts[1].Reply, "-ERR [AUTH] ") {
		r.t.Errorf("%+v", v.Attempts)
	}
	if v := r.explain(nobody.Address); v.Known || v.Verdict != "lockout" {
		r.t.Errorf("%+v", v)
	}
	if out := r.postern("explain", ben.Address); !strings.Contains(out, "refused: lockout") || !strings.Contains(out, "locked out after 5 wrong passwords") {
		r.t.Error(out)
	}
	info := "info-" + ben.Address
	r.postern("address", "add", info, "--alias-of", ben.Address)
	if v := r.explain(info); v.Address != ben.Address || v.Findings[0].Subject != "alias" {
		r.t.Errorf("%+v", v)
	}
	r.postern("address", "unlock", info)
	for _, region := range []string{"eu", "us"} {
		if got := r.said(region, ben); got != "+OK" {
			r.t.Errorf("unlocked: %s", got)
		}
	}
	r.postern("address", "remove", info)
	r.refusedAtFront(ben)
}

// refusedAtFront: what a front refuses without asking the mailbox's owner (nobody can have
// a password that isn't UTF-8) is explained all the same, and so are the limits of networks.
func (r *running) refusedAtFront(u demoUser) {
	r.t.Helper()
	u.Password = "\xff"
	sent := r.said("us", u)
	r.within(inForce, func() error {
		v := r.explain(u.Address)
		if a := v.Attempts[0]; a.Result != "credentials" || a.Reply != sent {
			return fmt.Errorf("%q was sent, and the latest is %+v", sent, a)
		}
		return nil
	})
	v := r.explain(u.Address, "--from", "192.0.2.7")
	for i, subject := range []string{"connections", "source-delay"} {
		if f := v.Findings[i+2]; f.Subject != subject || !strings.Contains(f.Words, "192.0.2.7") {
			r.t.Errorf("%+v", f)
		}
	}
}

// loginDelay is PRD-07 and CAP-10: announced before the login, and enforced (RFC 2449 sections 6.5 and 8.1.1).
func (r *running) loginDelay() {
	r.t.Helper()
	ben := r.user("eu", kindLocal)
	r.postern("account", "set", ben.Account, "--login-delay", "600")
	r.within(inForce, func() error {
		if got := r.said("us", ben); !strings.HasPrefix(got, "-ERR [LOGIN-DELAY] ") {
			return errors.New(got)
		}
		return nil
	})
	if got, err := r.connect("us").Capabilities(); err != nil || !slices.Contains(got, "LOGIN-DELAY 600 USER") {
		r.t.Errorf("%v, %q", err, got)
	}
	if v := r.explain(ben.Address); v.Verdict != "login-delay" || !strings.HasPrefix(v.Reply, "-ERR [LOGIN-DELAY] the last login is too recent; try again in 10 min") {
		r.t.Errorf("%+v", v)
	}
	r.postern("account", "set", ben.Account, "--login-delay", "0")
	r.within(inForce, func() error { return r.loginError("eu", ben) })
}
