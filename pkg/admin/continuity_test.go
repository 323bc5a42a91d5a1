package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests' zones are the same on every machine

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

func (r *rig) decision() policy.Decision {
	r.t.Helper()
	account, err := r.store.Account(r.t.Context(), "acme")
	must(r.t, err)
	return policy.Decide(account, policy.Domain{Kind: policy.DomainHosted}, maildrop.AddressRecord{}, r.now)
}

func (r *rig) start(in *posternv1.StartEventRequest) *posternv1.EventResponse {
	r.t.Helper()
	in.Account, in.Zone = "acme", "Europe/London"
	answer, err := r.admin.StartEvent(r.t.Context(), in)
	must(r.t, err)
	return answer
}

func (r *rig) wantEvents(want ...string) {
	r.t.Helper()
	var got []string
	for _, e := range r.account().Events {
		end := "open"
		if e.EndMilli != 0 {
			end = time.UnixMilli(e.EndMilli).UTC().Format("15:04")
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s-%s %s", e.State, time.UnixMilli(e.StartMilli).UTC().Format("15:04"), end, e.Group)))
	}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		r.t.Fatalf("events %q, want %q", got, want)
	}
}

func TestEventLife(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	if d := r.decision(); d.Reason != maildrop.ReasonNoEvent {
		t.Fatalf("before: %+v", d)
	}
	answer := r.start(&posternv1.StartEventRequest{ForMilli: (2 * time.Hour).Milliseconds(), Note: "server down"})
	if answer.Event.State != "active" || answer.Event.Note != "server down" || len(answer.Warnings) != 0 {
		t.Fatalf("started: %v", answer)
	}
	r.wantEvents("active 12:00-14:00")
	if d := r.decision(); d.Class != maildrop.ClassContinuity {
		t.Fatalf("during: %+v", d)
	}
	_, err := r.admin.StartEvent(ctx, &posternv1.StartEventRequest{Account: "acme", Zone: "UTC"})
	r.refusedWith(err, maildrop.Invalid, "is on for everyone already, until 2026-11-23 14:00 +00:00: extend or end it")

	_, err = r.admin.ExtendEvent(ctx, &posternv1.ExtendEventRequest{Account: "acme", ForMilli: time.Hour.Milliseconds()})
	must(t, err)
	r.wantEvents("active 12:00-15:00")
	line, _ := r.lastAudit()
	if line["action"] != "continuity.extend" || !strings.Contains(line["before"], "end=2026-11-23T14:00:00Z") || !strings.Contains(line["after"], "end=2026-11-23T15:00:00Z") {
		t.Fatalf("audit: %v", line)
	}
	_, err = r.admin.ExtendEvent(ctx, &posternv1.ExtendEventRequest{Account: "acme", UntilMilli: noon.Add(time.Hour).UnixMilli()})
	r.refusedWith(err, maildrop.Invalid, "goes on until 2026-11-23 15:00 +00:00, which is later")
	_, err = r.admin.ExtendEvent(ctx, &posternv1.ExtendEventRequest{Account: "acme"})
	r.refusedWith(err, maildrop.Invalid, "say until when")

	r.now = noon.Add(30 * time.Minute)
	_, err = r.admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: "acme"})
	must(t, err)
	r.wantEvents("ended 12:00-12:30")
	if d := r.decision(); d.Reason != maildrop.ReasonNoEvent {
		t.Fatalf("after: %+v", d)
	}
	_, err = r.admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: "acme"})
	r.refusedWith(err, maildrop.Invalid, "no event that is on or scheduled")
	_, err = r.admin.ExtendEvent(ctx, &posternv1.ExtendEventRequest{Account: "acme", Event: answer.Event.Id, ForMilli: 1000})
	r.refusedWith(err, maildrop.Invalid, "ended at 2026-11-23 12:30 +00:00")
	_, err = r.admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: "acme", Event: "x"})
	r.refusedWith(err, maildrop.Invalid, `no event "x"`)
}

// TestEndRightAfterStart: both in the same instant must leave nothing on.
func TestEndRightAfterStart(t *testing.T) {
	r := newRig(t).customer()
	r.start(&posternv1.StartEventRequest{})
	answer, err := r.admin.EndEvent(t.Context(), &posternv1.EndEventRequest{Account: "acme"})
	must(t, err)
	if answer.Event.State != "ended" || r.decision().Class != maildrop.ClassNone {
		t.Fatalf("%v, %+v", answer, r.decision())
	}
}

func TestSchedule(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	schedule := func(from, until time.Duration) error {
		_, err := r.admin.ScheduleEvent(ctx, &posternv1.ScheduleEventRequest{Account: "acme", Zone: "Europe/London",
			FromMilli: noon.Add(from).UnixMilli(), UntilMilli: noon.Add(until).UnixMilli()})
		return err
	}
	r.refusedWith(schedule(-time.Hour, time.Hour), maildrop.Invalid, "the start has passed")
	r.refusedWith(schedule(2*time.Hour, time.Hour), maildrop.Invalid, "its end must come after its start")
	must(t, schedule(time.Hour, 2*time.Hour))
	r.wantEvents("scheduled 13:00-14:00")
	if d := r.decision(); d.Class != maildrop.ClassNone {
		t.Fatal("a scheduled event is on")
	}
	r.start(&posternv1.StartEventRequest{Group: "sales"})
	r.wantEvents("active 12:00-open sales", "scheduled 13:00-14:00")
	_, err := r.admin.ExtendEvent(ctx, &posternv1.ExtendEventRequest{Account: "acme", ForMilli: 1000})
	r.refusedWith(err, maildrop.Invalid, "has no end")
	r.now = noon.Add(time.Hour)
	r.wantEvents("active 12:00-open sales", "active 13:00-14:00")
	_, err = r.admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: "acme"})
	r.refusedWith(err, maildrop.Invalid, "several events: name one of")
	if text := maildrop.TextOf(asFault(err)); !strings.Contains(text, "(everyone)") || !strings.Contains(text, "(group sales)") {
		t.Fatalf("which ones? %q", text)
	}
	must(t, schedule(5*time.Hour, 6*time.Hour))
	id := r.account().Events[2].Id
	_, err = r.admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: "acme", Event: id})
	must(t, err)
	r.wantEvents("active 12:00-open sales", "active 13:00-14:00")
}

func TestEventRefusals(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	start := func(in *posternv1.StartEventRequest) error {
		in.Account = "acme"
		_, err := r.admin.StartEvent(ctx, in)
		return err
	}
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "Europe/Nowhere"}), maildrop.Invalid, "is not known")
	r.refusedWith(start(&posternv1.StartEventRequest{}), maildrop.Invalid, "time zone")
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC", Group: "Sales"}), maildrop.Invalid, `group "Sales"`)
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC", Note: "a\nb"}), maildrop.Invalid, "one line")
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC", ForMilli: -1}), maildrop.Invalid, "more than nothing")
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC", ForMilli: 1, UntilMilli: 1}), maildrop.Invalid, "not both")
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC", UntilMilli: noon.UnixMilli()}), maildrop.Invalid, "must come after")
	_, err := r.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: "acme", Continuity: ptr(false)})
	must(t, err)
	r.refusedWith(start(&posternv1.StartEventRequest{Zone: "UTC"}), maildrop.Invalid, "no continuity package")
	r.wantEvents()
}

func TestWarnings(t *testing.T) {
	r := newRig(t).customer()
	_, err := r.admin.SetAccount(t.Context(), &posternv1.SetAccountRequest{Name: "acme", Override: ptr("block"), Disabled: ptr(true)})
	must(t, err)
	answer := r.start(&posternv1.StartEventRequest{})
	if len(answer.Warnings) != 2 || !strings.Contains(strings.Join(answer.Warnings, " "), "postern override set acme none") {
		t.Fatalf("warnings: %q", answer.Warnings)
	}
}

// TestOldEventsMakeRoom: a customer with many outages can always start one more.
func TestOldEventsMakeRoom(t *testing.T) {
	r := newRig(t).customer()
	must(t, r.store.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error {
		for i := range policy.MaxEvents {
			start := noon.Add(time.Duration(i-1000) * time.Hour)
			a.Events = append(a.Events, policy.Event{ID: fmt.Sprintf("e%d", i), Start: start, End: start.Add(time.Minute), Zone: "UTC"})
		}
		return nil
	}))
	r.start(&posternv1.StartEventRequest{})
	events := r.account().Events
	if len(events) != policy.MaxEvents || events[0].Id != "e1" || events[len(events)-1].State != "active" {
		t.Fatalf("%d events, from %v to %v", len(events), events[0], events[len(events)-1])
	}
}
