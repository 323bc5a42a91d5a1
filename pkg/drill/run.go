package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/history"
)

const (
	// stale is how long an owner that was replaced without its knowledge may answer a login
	// from its past (package shard).
	stale = time.Second
	// renewAfter is how long sessions stay where fronts are restarted: one that is told to stop waits
	// for their QUIT.
	renewAfter = 3 * time.Second
)

var errBrokenOff = errors.New("broken off, without a verdict; the drill's mail stays in the mailboxes")

// Run plays the plan under the users' load and reports what was seen. An error says that
// the drill could not begin, or was broken off; what is wrong with the cluster is in the
// report. Whatever happens, what has to be taken back is.
func (p *Plan) Run(ctx context.Context) (*Report, error) {
	r := &Report{Scenario: p.Name, Region: p.Region, Began: time.Now(), Users: len(p.users), Steps: []Step{}, Waits: []Wait{}, Errors: []Failure{}}
	l := &load{doors: p.doors, letters: history.NewLetters(), history: &history.History{}, meter: newMeter(p.MayBreak)}
	if p.MayBreak {
		l.renew = renewAfter
	}
	s := &stage{Cluster: p.cluster, Options: p.Options, report: r}
	if err := s.settled(ctx); err != nil {
		return nil, fmt.Errorf("before anything was done: %w", err)
	}
	boxes, err := l.settleInAll(ctx, p.users)
	if err != nil {
		return nil, err
	}
	s.say("load begins")
	wrong := l.under(ctx, boxes, s.Pulse, func(workers []*worker) error { return p.play(ctx, s, workers) })
	if ctx.Err() == nil {
		s.say("load ends; every mailbox is read to its end")
		p.judge(ctx, l, boxes, wrong, r)
	}
	if ctx.Err() != nil {
		return nil, errors.Join(errBrokenOff, wrong)
	}
	if r.OK {
		l.cleanAll(ctx, boxes, s)
	}
	r.Seconds = time.Since(r.Began).Seconds()
	return r, nil
}

// settleInAll readies the mailboxes.
func (l *load) settleInAll(ctx context.Context, users []User) ([]*mailbox, error) {
	boxes := make([]*mailbox, len(users))
	for i, user := range users {
		box, err := l.settleIn(ctx, user)
		if err != nil {
			return nil, fmt.Errorf("%s, before anything was done: %w", user.Address, err)
		}
		boxes[i] = box
	}
	return boxes, nil
}

// play plays all acts between two times of calm.
func (p *Plan) play(ctx context.Context, s *stage, workers []*worker) error {
	err := s.calm(ctx, workers)
	for _, a := range p.acts {
		if err == nil {
			err = a.play(ctx, s)
		}
	}
	if ctx.Err() != nil {
		err = nil // it only says so
	}
	err = errors.Join(err, s.relieveAll(ctx))
	if err == nil && ctx.Err() == nil {
		err = s.calm(ctx, workers)
	}
	return err
}

// judge reads every mailbox to its end, and fills in what there is to say.
func (p *Plan) judge(ctx context.Context, l *load, boxes []*mailbox, wrong error, r *Report) {
	var findings []history.Finding
	rest(ctx, stale) // the last sessions are held to all that was answered
	for _, m := range boxes {
		if err := patiently(ctx, p.Patience, m.inspect); err != nil {
			findings = append(findings, history.Finding{Invariant: history.Kept, Text: m.user.Address + ": " + wording(err)})
		}
	}
	r.History = l.history.Events()
	findings = slices.Concat(findings, history.Check(r.History, stale))
	if wrong != nil {
		findings = append(findings, history.Finding{Invariant: Recovered, Text: wrong.Error()})
	}
	l.meter.fill(r)
	r.judge(findings, p.MayBreak)
}

// cleanAll removes what the drill delivered. A rest that stays does no harm.
func (l *load) cleanAll(ctx context.Context, boxes []*mailbox, s *stage) {
	s.say("the drill's own mail is removed")
	for _, m := range boxes {
		if err := patiently(ctx, s.Patience, m.clean); err != nil {
			s.say("the drill's mail to %s stays there: %s", m.user.Address, wording(err))
		}
	}
}
