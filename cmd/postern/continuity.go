package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"
	_ "time/tzdata" // time zones are the same on every machine

	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// continuityCmd is "postern continuity".
type continuityCmd struct {
	operator

	Start    continuityStartCmd    `cmd:"" help:"Let an account's users fetch their mail by POP from now on."`
	Schedule continuityScheduleCmd `cmd:"" help:"Plan an event."`
	Extend   continuityExtendCmd   `cmd:"" help:"Let an event go on for longer."`
	End      continuityEndCmd      `cmd:"" help:"End an event now, or take back a scheduled one."`
	Status   continuityStatusCmd   `cmd:"" help:"Show an account's events."`
}

type eventView struct {
	ID    string     `json:"id"`
	State string     `json:"state"`
	Start *time.Time `json:"start"`
	End   *time.Time `json:"end"` // null: until it is ended
	Zone  string     `json:"zone"`
	Group string     `json:"group,omitempty"` // empty: everyone
	Note  string     `json:"note,omitempty"`
}

func viewEvent(e *posternv1.Event) eventView {
	return eventView{ID: e.GetId(), State: e.GetState(), Start: moment(e.GetStartMilli(), e.GetZone()),
		End: moment(e.GetEndMilli(), e.GetZone()), Zone: e.GetZone(), Group: e.GetGroup(), Note: e.GetNote()}
}

func (v eventView) scope() string {
	if v.Group == "" {
		return "everyone"
	}
	return "group " + v.Group
}

func writeEvents(w io.Writer, events []eventView) {
	row(w, "EVENT", "STATE", "START", "END", "ZONE", "SCOPE", "NOTE")
	for _, e := range events {
		row(w, e.ID, e.State, shown(e.Start, "-"), shown(e.End, "until ended"), e.Zone, e.scope(), e.Note)
	}
}

// sentence says what an event is now.
func (v eventView) sentence() string {
	switch {
	case v.State == "active" && v.End == nil:
		return fmt.Sprintf("event %s is ON for %s until it is ended", v.ID, v.scope())
	case v.State == "active":
		return fmt.Sprintf("event %s is ON for %s until %s (%s)", v.ID, v.scope(), shown(v.End, ""), v.Zone)
	case v.State == "scheduled":
		return fmt.Sprintf("event %s is scheduled for %s from %s until %s (%s)", v.ID, v.scope(), shown(v.Start, ""), shown(v.End, "it is ended"), v.Zone)
	}
	return fmt.Sprintf("event %s for %s has ended", v.ID, v.scope())
}

type eventReply struct {
	eventView
	Warnings []string `json:"warnings,omitempty"`
}

// event shows the event that a call answers with.
func (c *client) event(ctx context.Context, ask func(context.Context, posternv1.AdminClient) (*posternv1.EventResponse, error)) error {
	var answer *posternv1.EventResponse
	err := c.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = ask(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	v := eventReply{viewEvent(answer.GetEvent()), answer.GetWarnings()}
	return c.reply(v, func(w io.Writer) {
		fmt.Fprintln(w, clean(v.sentence()))
		for _, warning := range v.Warnings {
			fmt.Fprintln(w, "WARNING: "+clean(warning))
		}
	})
}

type continuityStartCmd struct {
	Account string `arg:"" help:"The account; it must have the continuity package."`
	Group   string `help:"Only addresses of this group. Default: everyone."`
	For     string `xor:"end" placeholder:"DURATION" help:"How long, such as 4h, 90m or 2d. Default: until it is ended."`
	Until   string `xor:"end" placeholder:"WHEN" help:"Until when, such as \"2026-11-23 18:00\" in --zone, or with an offset such as +01:00."`
	Zone    string `placeholder:"TZ" help:"Time zone of --until, such as Europe/London."`
	Note    string `help:"Why; for whoever reads the status."`
}

// Run starts the event.
func (c *continuityStartCmd) Run(ctx context.Context, cl *client) error {
	in := &posternv1.StartEventRequest{Account: c.Account, Group: c.Group, Zone: zoneOrUTC(c.Zone), Note: c.Note}
	var err error
	if in.UntilMilli, in.ForMilli, err = parseEnd(c.Until, c.For, c.Zone); err != nil {
		return err
	}
	return cl.event(ctx, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.EventResponse, error) {
		return admin.StartEvent(ctx, in)
	})
}

type continuityScheduleCmd struct {
	Account string `arg:"" help:"The account; it must have the continuity package."`
	Group   string `help:"Only addresses of this group. Default: everyone."`
	From    string `required:"" placeholder:"WHEN" help:"From when, such as \"2026-11-23 18:00\" in --zone."`
	Until   string `required:"" placeholder:"WHEN" help:"Until when."`
	Zone    string `required:"" placeholder:"TZ" help:"Time zone of the times, such as Europe/London."`
	Note    string `help:"Why; for whoever reads the status."`
}

// Run schedules the event.
func (c *continuityScheduleCmd) Run(ctx context.Context, cl *client) error {
	in := &posternv1.ScheduleEventRequest{Account: c.Account, Group: c.Group, Zone: c.Zone, Note: c.Note}
	var err error
	if in.FromMilli, err = parseWhen("from", c.From, c.Zone); err != nil {
		return err
	}
	if in.UntilMilli, err = parseWhen("until", c.Until, c.Zone); err != nil {
		return err
	}
	return cl.event(ctx, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.EventResponse, error) {
		return admin.ScheduleEvent(ctx, in)
	})
}

type continuityExtendCmd struct {
	Account string `arg:"" help:"The account."`
	Event   string `arg:"" optional:"" help:"The event's id; not needed when only one can be meant."`
	For     string `xor:"end" placeholder:"DURATION" help:"How much longer, such as 4h, 90m or 2d."`
	Until   string `xor:"end" placeholder:"WHEN" help:"Until when, such as \"2026-11-23 18:00\" in --zone, or with an offset such as +01:00."`
	Zone    string `placeholder:"TZ" help:"Time zone of --until, such as Europe/London."`
}

// Run extends the event.
func (c *continuityExtendCmd) Run(ctx context.Context, cl *client) error {
	if c.For == "" && c.Until == "" {
		return errors.New("how long? give --until WHEN, or --for DURATION for how much longer")
	}
	in := &posternv1.ExtendEventRequest{Account: c.Account, Event: c.Event}
	var err error
	if in.UntilMilli, in.ForMilli, err = parseEnd(c.Until, c.For, c.Zone); err != nil {
		return err
	}
	return cl.event(ctx, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.EventResponse, error) {
		return admin.ExtendEvent(ctx, in)
	})
}

type continuityEndCmd struct {
	Account string `arg:"" help:"The account."`
	Event   string `arg:"" optional:"" help:"The event's id; not needed when only one can be meant."`
}

// Run ends the event.
func (c *continuityEndCmd) Run(ctx context.Context, cl *client) error {
	return cl.event(ctx, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.EventResponse, error) {
		return admin.EndEvent(ctx, &posternv1.EndEventRequest{Account: c.Account, Event: c.Event})
	})
}

type continuityStatusCmd struct {
	Account string `arg:"" help:"The account."`
}

type statusView struct {
	Account    string      `json:"account"`
	Continuity bool        `json:"continuity"`
	Disabled   bool        `json:"disabled"`
	Override   string      `json:"override"`
	Active     bool        `json:"active"`
	Events     []eventView `json:"events"`
}

// Run shows the events.
func (c *continuityStatusCmd) Run(ctx context.Context, cl *client) error {
	var answer *posternv1.Account
	err := cl.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = admin.ShowAccount(ctx, &posternv1.ShowAccountRequest{Name: c.Account})
		return err
	})
	if err != nil {
		return err
	}
	a := viewAccount(answer)
	v := statusView{a.Name, a.Continuity, a.Disabled, a.Override, a.event() == "on", a.Events}
	return cl.reply(v, v.write)
}

func (v statusView) write(w io.Writer) {
	if !v.Active {
		fmt.Fprintf(w, "no continuity event is on for account %s\n", v.Account)
	}
	for _, e := range v.Events {
		if e.State != "ended" {
			fmt.Fprintln(w, clean(e.sentence()))
		}
	}
	if !v.Continuity {
		fmt.Fprintln(w, "WARNING: the account has no continuity package, so events open nothing")
	}
	if v.Disabled {
		fmt.Fprintln(w, "WARNING: the account is disabled, so nobody can log in")
	}
	if v.Override == "block" {
		fmt.Fprintln(w, "WARNING: the override is block, so nobody can log in")
	}
	if len(v.Events) > 0 {
		fmt.Fprintln(w)
		writeEvents(w, v.Events)
	}
}

func zoneOrUTC(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

// parseEnd reads an end given as a time or as a span.
func parseEnd(until, span, zone string) (untilMilli, forMilli int64, err error) {
	if until != "" {
		untilMilli, err = parseWhen("until", until, zone)
		return untilMilli, 0, err
	}
	if span != "" {
		d, err := parseSpan(span)
		return 0, d.Milliseconds(), err
	}
	return 0, 0, nil
}

// parseWhen reads a time. Without a zone it must have an offset: a default
// would be an hour off, or ten, in the night that it matters.
func parseWhen(what, text, zone string) (int64, error) {
	location, err := policy.LoadZone(zoneOrUTC(zone))
	if err != nil {
		return 0, err
	}
	t, err := policy.ParseTime(text, location)
	if err != nil {
		return 0, fmt.Errorf("--%s: %w", what, err)
	}
	if zone == "" && !hasOffset.MatchString(text) {
		return 0, fmt.Errorf("--%s %q: in which time zone? give --zone, such as Europe/London or UTC, or write an offset such as +01:00", what, text)
	}
	return t.UnixMilli(), nil
}

var hasOffset = regexp.MustCompile(`(Z|[+-]\d\d:\d\d)\s*$`)

const maxSpan = 366 * 24 * time.Hour

var daysFirst = regexp.MustCompile(`^(\d{1,4})d(.*)$`)

// parseSpan reads a duration, with days if need be: 2d, 1d12h, 90m.
func parseSpan(text string) (time.Duration, error) {
	var span time.Duration
	rest := text
	if parts := daysFirst.FindStringSubmatch(text); parts != nil {
		days, err := strconv.Atoi(parts[1])
		if err != nil {
			return 0, err
		}
		span, rest = time.Duration(days)*24*time.Hour, parts[2]
	}
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 {
			return 0, fmt.Errorf("duration %q: expected such as 4h, 90m or 2d", text)
		}
		span += more
	}
	if span < time.Second || span > maxSpan {
		return 0, fmt.Errorf("duration %q: expected 1s to 366d", text)
	}
	return span, nil
}
