package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options are a drill's.
type Options struct {
	Region   string
	Process  string        // the victim; empty: one that matters to the first user
	Calm     time.Duration // load before the harm, and after all has recovered
	For      time.Duration // how long a harm lasts that is not a process's end
	Patience time.Duration // for each thing that is waited for, such as a process that comes back
	Step     func(Step)    // called at each step
	Pulse    func(Pulse)   // called every second of the load
}

// Plan is a drill that can be played, once.
type Plan struct {
	Scenario
	Options

	cluster Cluster
	doors   Doors
	users   []User
	acts    []act
}

// NewPlan plans a scenario: what will be done, to whom, and how. It does nothing. An error says
// why the scenario can't be played on this cluster.
func NewPlan(ctx context.Context, s Scenario, c Cluster, doors Doors, users []User, o Options) (*Plan, error) {
	if len(users) == 0 {
		return nil, errors.New("a drill needs a test user at least")
	}
	p := &planner{Cluster: c, Options: o, users: users}
	if around := c.Around(); around != nil {
		p.inflict(around)
	}
	if err := s.plan(ctx, p); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return &Plan{Scenario: s, Options: o, cluster: c, doors: doors, users: users, acts: p.acts}, nil
}

// Print writes for a person what Run would do.
func (p *Plan) Print(w io.Writer) error {
	var b strings.Builder
	addresses := make([]string, len(p.users))
	for i, u := range p.users {
		addresses[i] = printable(u.Address)
	}
	fmt.Fprintf(&b, "%s in %s: %s\n", p.Name, p.Region, p.Help)
	fmt.Fprintf(&b, "  users  %s: mail comes to each %d times a second, is fetched, and half of it removed\n", strings.Join(addresses, ", "), time.Second/deliverEvery)
	fmt.Fprintf(&b, "  doors  POP3S %s; LMTP %s\n", strings.Join(p.doors.POP3S, ", "), strings.Join(p.doors.LMTP, ", "))
	fmt.Fprintf(&b, "   1. load, for %v\n", p.Calm)
	for i, a := range p.acts {
		fmt.Fprintf(&b, "  %2d. %s\n", i+2, a.words)
	}
	fmt.Fprintf(&b, "  %2d. load, for %v; then read every mailbox to its end, and remove the drill's own mail if all is well\n", len(p.acts)+2, p.Calm)
	fmt.Fprintf(&b, "  Each wait ends after %v. In the end, also after a failure or Ctrl-C, unless it was done before:\n", p.Patience)
	none := true
	for _, a := range slices.Backward(p.acts) {
		if a.undo != "" {
			none = false
			fmt.Fprintf(&b, "    - %s\n", a.undo)
		}
	}
	if none {
		b.WriteString("    - nothing: it mends by itself\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
