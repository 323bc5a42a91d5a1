package admin

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// desk is a Helpdesk that has one answer.
type desk struct {
	answer maildrop.Explanation
	asked  maildrop.Question
	fail   error
}

func (d *desk) Explain(_ context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	d.asked = q
	return d.answer, d.fail
}

func (d *desk) Tell(context.Context, maildrop.Address, []maildrop.Attempt) error { return d.fail }

func (d *desk) Unlock(_ context.Context, address maildrop.Address) (bool, error) {
	d.asked = maildrop.Question{Address: address}
	return true, d.fail
}

func TestUnlock(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	_, err := r.admin.UnlockAddress(ctx, &posternv1.UnlockAddressRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.NotFound, "address ann@acme.example does not exist")
	for _, in := range []*posternv1.AddAddressRequest{
		{Address: "ann@acme.example", Password: "secret"}, {Address: "info@acme.example", AliasOf: "ann@acme.example"},
	} {
		_, err := r.admin.AddAddress(ctx, in)
		must(t, err)
	}
	for _, address := range []string{"ann@acme.example", "INFO@acme.example"} {
		out, err := r.admin.UnlockAddress(ctx, &posternv1.UnlockAddressRequest{Address: address})
		must(t, err)
		line, _ := r.lastAudit()
		if !out.GetWas() || out.GetAddress() != "ann@acme.example" || r.desk.asked.Address != "ann@acme.example" ||
			line["action"] != "address.unlock" || line["target"] != "ann@acme.example" || line["before"] != "locked_out=true" {
			t.Errorf("%v, %v, %v", out, r.desk.asked, line)
		}
	}
	_, before := r.lastAudit()
	r.desk.fail = &maildrop.Error{Op: "test", Kind: maildrop.Transient}
	_, err = r.admin.UnlockAddress(ctx, &posternv1.UnlockAddressRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.Transient, "try again")
	if _, lines := r.lastAudit(); lines != before {
		t.Error("what failed was audited")
	}
}

// sees waits until the view has a domain.
func (r *rig) sees(domain string) {
	r.t.Helper()
	for {
		changed := r.places.Changed()
		if _, _, ok := r.places.Domain(domain); ok {
			return
		}
		select {
		case <-changed:
		case <-r.t.Context().Done():
			r.t.Fatal(domain)
		}
	}
}

func TestExplainLogin(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	r.sees("acme.example")
	_, err := r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann"})
	r.refusedWith(err, maildrop.Invalid, "not a mail address")
	_, err = r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann@acme.example", From: "here"})
	r.refusedWith(err, maildrop.Invalid, "expected an IP address")
	r.desk.answer = maildrop.Explanation{
		Address: "ann@acme.example", Known: true, Node: "eu-mailbox-1", Shard: 7, Epoch: 3, Since: noon, Reason: maildrop.ReasonNoEvent,
		Findings: []maildrop.Finding{{Subject: "continuity", Value: "off", Words: "no event is on", Reason: maildrop.ReasonNoEvent}},
		Attempts: []maildrop.Attempt{{Time: noon, First: noon, Times: 2, Reason: maildrop.ReasonNoEvent, Mechanism: "PLAIN", Session: "X"}},
	}
	out, err := r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "info@acme.example", From: "192.0.2.7"})
	must(t, err)
	if r.desk.asked.Address != "info@acme.example" || r.desk.asked.Remote != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("asked %+v", r.desk.asked)
	}
	if out.Asked != "info@acme.example" || out.Address != "ann@acme.example" || out.Account != "acme" || out.Region != "eu" || out.Hostname != "eu-pop.postern.example" ||
		out.Shard != 7 || out.Node != "eu-mailbox-1" || out.Epoch != 3 || out.Reason != "no-event" || out.Reply != "reply to no-event" || out.SinceMilli != noon.UnixMilli() {
		t.Errorf("%v", out)
	}
	var subjects []string
	for _, f := range out.Findings {
		subjects = append(subjects, f.Subject)
	}
	if !slices.Equal(subjects, []string{"alias", "region", "owner", "continuity"}) {
		t.Errorf("%v", subjects)
	}
	if a := out.Attempts[0]; a.Times != 2 || a.Remote != "" || a.Mechanism != "PLAIN" || a.Reply != "reply to no-event" || a.TimeMilli != noon.UnixMilli() {
		t.Errorf("%v", a)
	}
	r.desk.fail = &maildrop.Error{Op: "test", Kind: maildrop.Corrupt}
	_, err = r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.Corrupt, "is damaged")
	r.who = ""
	_, err = r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.Denied, "certificate")
}

// An owner that is away is an answer, and what the directory knows is told with it.
func TestExplainWithoutTheOwner(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	r.sees("acme.example")
	r.desk.fail = &maildrop.Error{Op: "test", Kind: maildrop.Transient}
	out, err := r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann@acme.example"})
	must(t, err)
	if out.Account != "acme" || out.Region != "eu" || out.Reason != "unavailable" || out.Reply != "reply to unavailable" || out.Class != "" || out.Node != "" {
		t.Errorf("%v", out)
	}
	refusing, subjects := "", []string{}
	for _, f := range out.Findings {
		subjects = append(subjects, f.Subject)
		if f.Reason != "" && refusing == "" {
			refusing = f.Subject
		}
	}
	if refusing != "mailbox" || !slices.Contains(subjects, "domain") || !slices.Contains(subjects, "override") || slices.Contains(subjects, "access") {
		t.Errorf("%s refuses, of %v", refusing, subjects)
	}
	_, err = r.admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: "ann@nowhere.example"})
	r.refusedWith(err, maildrop.Transient, "cannot be reached")
}

func TestLockoutSettings(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	if a := r.account(); a.LockoutTries != 5 || a.LockoutMinutes != 15 || a.LoginDelaySeconds != 0 {
		t.Errorf("%v", a)
	}
	a, err := r.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: "acme", LockoutTries: ptr(uint32(9)), LoginDelaySeconds: ptr(uint32(60))})
	must(t, err)
	if a.LockoutTries != 9 || a.LockoutMinutes != 15 || a.LoginDelaySeconds != 60 {
		t.Errorf("%v", a)
	}
	for words, in := range map[string]*posternv1.SetAccountRequest{
		"lockout_tries 2: expected 3 to 100":                 {LockoutTries: ptr(uint32(2))},
		"lockout_minutes 1441: expected 1 to 1440":           {LockoutMinutes: ptr(uint32(1441))},
		"login_delay_seconds 2147483647: expected 1 to 3600": {LoginDelaySeconds: ptr(^uint32(0))},
	} {
		in.Name = "acme"
		_, err := r.admin.SetAccount(ctx, in)
		r.refusedWith(err, maildrop.Invalid, words)
	}
	a, err = r.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: "acme", LockoutTries: ptr(uint32(0))})
	must(t, err)
	line, _ := r.lastAudit()
	if a.LockoutTries != 5 || line["after"] != "disabled=false override=none continuity=true legacy_until=never networks=[] lockout=5/15min login_delay=60s" {
		t.Errorf("%v, %v", a, line)
	}
}
