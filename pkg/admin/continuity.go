package admin

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	stateScheduled = "scheduled"
	stateActive    = "active"
	stateEnded     = "ended"

	// tick is how exactly times travel.
	tick = time.Millisecond
)

// StartEvent begins a continuity event now.
func (s *Server) StartEvent(ctx context.Context, in *posternv1.StartEventRequest) (*posternv1.EventResponse, error) {
	return s.event(ctx, "continuity.start", in.GetAccount(), func(a *policy.Account, now time.Time) (policy.Event, error) {
		var none policy.Event
		end, err := endOf(in.GetUntilMilli(), in.GetForMilli(), now)
		if err != nil {
			return none, err
		}
		for _, e := range a.ActiveEvents(now) {
			if e.Group == in.GetGroup() {
				return none, refused("admin.continuity", fmt.Sprintf("event %s is on for %s already, until %s: extend or end it",
					e.ID, scope(e), shownEnd(e)))
			}
		}
		return s.add(a, policy.Event{Start: now, End: end, Zone: in.GetZone(), Group: in.GetGroup(), Note: in.GetNote()}, now)
	})
}

// ScheduleEvent plans a continuity event.
func (s *Server) ScheduleEvent(ctx context.Context, in *posternv1.ScheduleEventRequest) (*posternv1.EventResponse, error) {
	return s.event(ctx, "continuity.schedule", in.GetAccount(), func(a *policy.Account, now time.Time) (policy.Event, error) {
		from, until := fromMilli(in.GetFromMilli()), fromMilli(in.GetUntilMilli())
		switch {
		case from.IsZero() || until.IsZero():
			return policy.Event{}, refused("admin.continuity", "a scheduled event needs a start and an end")
		case !from.After(now):
			return policy.Event{}, refused("admin.continuity", "the start has passed: use continuity start to begin now")
		}
		return s.add(a, policy.Event{Start: from, End: until, Zone: in.GetZone(), Group: in.GetGroup(), Note: in.GetNote()}, now)
	})
}

// ExtendEvent moves the end of an event that isn't over to a later time.
func (s *Server) ExtendEvent(ctx context.Context, in *posternv1.ExtendEventRequest) (*posternv1.EventResponse, error) {
	return s.event(ctx, "continuity.extend", in.GetAccount(), func(a *policy.Account, now time.Time) (policy.Event, error) {
		i, err := pick(a, in.GetEvent(), now)
		if err != nil {
			return policy.Event{}, err
		}
		e := &a.Events[i]
		if e.End.IsZero() {
			return *e, refused("admin.continuity", fmt.Sprintf("event %s has no end: it stays on until continuity end", e.ID))
		}
		end, err := endOf(in.GetUntilMilli(), in.GetForMilli(), e.End)
		switch {
		case err != nil:
			return *e, err
		case end.IsZero():
			return *e, refused("admin.continuity", "say until when, or for how much longer")
		case !end.After(e.End):
			return *e, refused("admin.continuity", fmt.Sprintf("event %s goes on until %s, which is later: to end it now use continuity end",
				e.ID, shownEnd(*e)))
		}
		e.End = end
		return *e, nil
	})
}

// EndEvent ends an active event now and takes back a scheduled one.
func (s *Server) EndEvent(ctx context.Context, in *posternv1.EndEventRequest) (*posternv1.EventResponse, error) {
	return s.event(ctx, "continuity.end", in.GetAccount(), func(a *policy.Account, now time.Time) (policy.Event, error) {
		i, err := pick(a, in.GetEvent(), now)
		if err != nil {
			return policy.Event{}, err
		}
		e := a.Events[i]
		if !now.After(e.Start) {
			a.Events = slices.Delete(a.Events, i, i+1)
			e.End = e.Start // it never was
			return e, nil
		}
		e.End = now
		a.Events[i] = e
		return e, nil
	})
}

// event changes an account's events and answers with the one it is about.
func (s *Server) event(ctx context.Context, action, account string,
	edit func(*policy.Account, time.Time) (policy.Event, error),
) (*posternv1.EventResponse, error) {
	return audited(ctx, s, action, func(c *change) (*posternv1.EventResponse, error) {
		now := s.now().Truncate(tick)
		var event policy.Event
		var before string
		changed, err := s.updateAccount(ctx, c, account, func(a *policy.Account) (err error) {
			known := slices.Clone(a.Events)
			event, err = edit(a, now)
			before = eventFacts(known, event.ID)
			return err
		})
		if err != nil {
			return nil, err
		}
		c.before, c.after = before, eventFacts(changed.Events, event.ID)
		return &posternv1.EventResponse{Event: eventMessage(event, now), Warnings: warnings(changed, event, now)}, nil
	})
}

// add gives an account one more event, forgetting its oldest ended one when
// there are too many.
func (s *Server) add(a *policy.Account, e policy.Event, now time.Time) (policy.Event, error) {
	if !a.Continuity {
		return e, refused("admin.continuity", fmt.Sprintf(
			"account %s has no continuity package, so an event would open nothing: postern account set %s --continuity", a.Name, a.Name))
	}
	if _, err := policy.LoadZone(e.Zone); err != nil {
		return e, refusedBy("admin.continuity", err)
	}
	e.ID = e.Start.UTC().Format("20060102") + "-" + strings.ToLower(rand.Text()[:4])
	if len(a.Events) >= policy.MaxEvents {
		oldest := slices.IndexFunc(a.Events, func(e policy.Event) bool { return e.Ended(now) })
		if oldest < 0 {
			return e, refused("admin.continuity", fmt.Sprintf("account %s has %d events that aren't over: end some", a.Name, len(a.Events)))
		}
		a.Events = slices.Delete(a.Events, oldest, oldest+1)
	}
	a.Events = append(a.Events, e)
	if err := e.Validate(); err != nil {
		return e, refusedBy("admin.continuity", err)
	}
	return e, nil
}

// endOf is an end given as a time, as a duration after the base, or not at all.
func endOf(untilMilli, forMilli int64, base time.Time) (time.Time, error) {
	switch {
	case untilMilli != 0 && forMilli != 0:
		return time.Time{}, refused("admin.continuity", "say until when, or for how long, not both")
	case forMilli < 0:
		return time.Time{}, refused("admin.continuity", "the duration must be more than nothing")
	case forMilli > 0:
		return base.Add(time.Duration(forMilli) * time.Millisecond), nil
	}
	return fromMilli(untilMilli), nil
}

// pick finds the event of an id, or the only one that can be meant: that is
// active, else that is scheduled.
func pick(a *policy.Account, id string, now time.Time) (int, error) {
	var active, scheduled []int
	for i, e := range a.Events {
		switch {
		case e.ID == id && e.Ended(now):
			return 0, refused("admin.continuity", fmt.Sprintf("event %s ended at %s: start a new one", e.ID, shownEnd(e)))
		case e.ID == id:
			return i, nil
		case e.Active(now):
			active = append(active, i)
		case !e.Ended(now):
			scheduled = append(scheduled, i)
		}
	}
	if id != "" {
		return 0, refused("admin.continuity", fmt.Sprintf("account %s has no event %+.70q: see continuity status %s", a.Name, id, a.Name))
	}
	candidates := active
	if len(candidates) == 0 {
		candidates = scheduled
	}
	switch len(candidates) {
	case 0:
		return 0, refused("admin.continuity", fmt.Sprintf("account %s has no event that is on or scheduled", a.Name))
	case 1:
		return candidates[0], nil
	}
	ids := make([]string, len(candidates))
	for i, candidate := range candidates {
		ids[i] = a.Events[candidate].ID + " (" + scope(a.Events[candidate]) + ")"
	}
	return 0, refused("admin.continuity", fmt.Sprintf("account %s has several events: name one of %s", a.Name, strings.Join(ids, ", ")))
}

// warnings say what keeps users out although an event is on.
func warnings(a policy.Account, e policy.Event, now time.Time) []string {
	if e.Ended(now) {
		return nil
	}
	var out []string
	if a.Disabled {
		out = append(out, "the account is disabled, so nobody can log in: postern account enable "+a.Name)
	}
	if a.Override == policy.OverrideBlock {
		out = append(out, "the override is block, so nobody can log in: postern override set "+a.Name+" none")
	}
	return out
}

func scope(e policy.Event) string {
	if e.Group == "" {
		return "everyone"
	}
	return "group " + e.Group
}

func shownEnd(e policy.Event) string {
	if e.End.IsZero() {
		return "it is ended"
	}
	end := e.End.UTC()
	if zone, err := policy.LoadZone(e.Zone); err == nil {
		end = end.In(zone)
	}
	return end.Format("2006-01-02 15:04 -07:00")
}

// eventFacts is an event in the audit; empty when there is none of the id.
func eventFacts(events []policy.Event, id string) string {
	i := slices.IndexFunc(events, func(e policy.Event) bool { return e.ID == id })
	if i < 0 {
		return ""
	}
	e, end := events[i], "open"
	if !e.End.IsZero() {
		end = e.End.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("event=%s start=%s end=%s scope=%q zone=%s", e.ID, e.Start.UTC().Format(time.RFC3339), end, scope(e), e.Zone)
}

func eventMessage(e policy.Event, now time.Time) *posternv1.Event {
	state := stateScheduled
	switch {
	case e.Ended(now):
		state = stateEnded
	case e.Active(now):
		state = stateActive
	}
	if !e.End.IsZero() && !e.End.After(e.Start) {
		state = stateEnded // taken back before it began
	}
	return &posternv1.Event{Id: e.ID, StartMilli: toMilli(e.Start), EndMilli: toMilli(e.End), Zone: e.Zone,
		Group: e.Group, Note: e.Note, State: state}
}
