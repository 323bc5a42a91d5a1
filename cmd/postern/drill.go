package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/postern-pop/postern/pkg/drill"
	"github.com/postern-pop/postern/pkg/history"
)

// drillCmd proves on a running cluster what Postern promises.
type drillCmd struct {
	Names    []string      `arg:"" name:"drill" enum:"${drills}" help:"The drills, in turn: see above."`
	Demo     string        `default:"demo" type:"path" placeholder:"DIR" help:"The running demo's data directory (${default})."`
	Target   string        `type:"path" placeholder:"FILE" help:"Another cluster's region, instead of a demo: its test users, and the commands that do harm to it and undo it (examples/drill.yaml)."`
	Region   string        `short:"r" placeholder:"REGION" help:"The demo's region (eu)."`
	Process  string        `placeholder:"NAME" help:"Which node or front is killed, instead of the first user's owner, or the first front."`
	DryRun   bool          `short:"n" help:"Show what would be done, and how it would be undone; do nothing."`
	Yes      bool          `short:"y" help:"Don't ask before harm is done to a --target. A demo is never asked about."`
	Calm     time.Duration `default:"5s" placeholder:"TIME" help:"Load before the harm, and after everything is back (${default})."`
	For      time.Duration `default:"20s" placeholder:"TIME" help:"How long etcd-loss, region-cut and store-slow last (${default})."`
	Delay    time.Duration `default:"500ms" placeholder:"TIME" help:"By how much store-slow delays each answer of a demo's store (${default})."`
	Patience time.Duration `default:"3m" placeholder:"TIME" help:"How long anything may take to come back (${default})."`
	Output   string        `short:"o" enum:"table,json" default:"table" help:"How to report: table or json."`
	Record   string        `type:"path" placeholder:"DIR" help:"Keep each drill's report (DRILL.json) and all that clients were told (DRILL.history.jsonl) there too."`
}

// Help is shown by --help.
func (drillCmd) Help() string {
	var names strings.Builder
	for _, s := range drill.Scenarios() {
		fmt.Fprintf(&names, "  %-16s %s\n", s.Name, s.Help)
	}
	return "Does harm to a running cluster while test users get, fetch and remove mail, and checks what they\n" +
		"were told: nothing acknowledged is lost, doubled or changed, nothing removed comes back, and no\n" +
		"error is any but a temporary one.\n\n" + names.String() +
		"\nLook first (--dry-run). Ctrl-C ends a drill and undoes what it did; what can't be undone is\n" +
		"printed, to be done by hand. The test users' mail from before is neither read nor touched.\n\n" +
		"Exit code 0: all held. 1: an invariant is broken, or the drill could not be held; the report says\n" +
		"which, and the drill's mail stays in the mailboxes as evidence. 2: the command line or FILE is wrong."
}

// Run holds the drills, and ends with the first one that finds something broken.
func (c *drillCmd) Run(ctx context.Context, k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	scenarios, err := c.scenarios()
	if err != nil {
		return err
	}
	ground, err := c.ground()
	if err != nil {
		return err
	}
	// All are planned before one is played: what can't be done is said at once.
	show := &drillProgress{to: k.Stderr, live: isTerminal(k.Stderr)}
	for _, s := range scenarios {
		plan, err := c.plan(ctx, s, ground, show)
		if err != nil {
			return err
		}
		if err := c.announce(plan, k); err != nil {
			return err
		}
	}
	if c.DryRun {
		return nil
	}
	if c.Target != "" && !c.Yes {
		if err := ask(ctx, os.Stdin, term.IsTerminal(int(os.Stdin.Fd())), k.Stderr); err != nil {
			return err
		}
	}
	reports, err := c.hold(ctx, scenarios, ground, show)
	return errors.Join(c.show(k.Stdout, reports), err)
}

// announce shows a plan where it is asked for: it is what a dry run answers, and what a person decides
// on.
func (c *drillCmd) announce(p *drill.Plan, k *kong.Kong) error {
	if c.DryRun {
		return p.Print(k.Stdout)
	}
	return p.Print(k.Stderr)
}

// plan plans a drill, of the cluster as it is now.
func (c *drillCmd) plan(ctx context.Context, s drill.Scenario, g *ground, show *drillProgress) (*drill.Plan, error) {
	return drill.NewPlan(ctx, s, g.cluster, g.doors, g.users, drill.Options{
		Region: g.region, Process: c.Process, Calm: c.Calm, For: c.For, Patience: c.Patience, Step: show.step, Pulse: show.pulse,
	})
}

func (c *drillCmd) hold(ctx context.Context, scenarios []drill.Scenario, g *ground, show *drillProgress) ([]*drill.Report, error) {
	reports := []*drill.Report{}
	for _, s := range scenarios {
		// Planned anew: the drill before has moved shards.
		plan, err := c.plan(ctx, s, g, show)
		if err != nil {
			return reports, err
		}
		show.begin(s.Name + " in " + g.region)
		report, err := plan.Run(ctx)
		show.end()
		if err != nil {
			return reports, fmt.Errorf("%s: %w", s.Name, err)
		}
		reports = append(reports, report)
		if err := c.record(report); err != nil {
			return reports, err
		}
		if !report.OK {
			return reports, fmt.Errorf("%s: an invariant is broken", s.Name)
		}
	}
	return reports, nil
}

func (c *drillCmd) scenarios() ([]drill.Scenario, error) {
	for flag, d := range map[string]time.Duration{"--for": c.For, "--patience": c.Patience, "--delay": c.Delay} {
		if d <= 0 {
			return nil, fmt.Errorf("%s %v: expected more than nothing, such as 20s", flag, d)
		}
	}
	all := make([]drill.Scenario, len(c.Names))
	for i, name := range c.Names {
		var err error
		if all[i], err = drill.Named(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (c *drillCmd) show(w io.Writer, reports []*drill.Report) error {
	if c.Output == "json" {
		return indented(w, reports)
	}
	for _, r := range reports {
		fmt.Fprintln(w)
		if err := r.Print(w); err != nil {
			return err
		}
	}
	return nil
}

func indented(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// record keeps a report and its evidence.
func (c *drillCmd) record(r *drill.Report) error {
	if c.Record == "" {
		return nil
	}
	if err := os.MkdirAll(c.Record, 0o700); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer) error{
		r.Scenario + ".json":          func(w io.Writer) error { return indented(w, r) },
		r.Scenario + ".history.jsonl": func(w io.Writer) error { return history.Write(w, r.History) },
	} {
		f, err := os.OpenFile(filepath.Join(c.Record, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ask asks before harm is done. Whoever can't be asked has to say yes on the command line.
func ask(ctx context.Context, in io.Reader, person bool, to io.Writer) error {
	if !person {
		return errors.New("nothing was done: nobody can be asked here; look at --dry-run, then give --yes")
	}
	fmt.Fprint(to, "\nDo this? [y/N] ")
	answer := make(chan string, 1)
	go func() { // ends with the process, if nobody answers
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if word := strings.ToLower(strings.TrimSpace(line)); word == "y" || word == "yes" {
			return nil
		}
	case <-ctx.Done():
	}
	return errors.New("nothing was done")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// drillProgress shows steps as they come, and on a terminal how the load goes, in a line that is
// written over.
type drillProgress struct {
	to   io.Writer
	live bool
	mu   sync.Mutex
}

const clearLine = "\r\x1b[K"

func (d *drillProgress) begin(title string) { fmt.Fprintf(d.to, "\n%s\n", title) }

func (d *drillProgress) end() {
	if d.live {
		fmt.Fprint(d.to, clearLine)
	}
}

func (d *drillProgress) step(s drill.Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	fmt.Fprintf(d.to, "%7.1f s  %s\n", s.Seconds, clean(s.What))
}

func (d *drillProgress) pulse(p drill.Pulse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live {
		fmt.Fprintf(d.to, "%s%7.0f s  load: %d delivered, %d answers, longest wait %.1f s, %d errors",
			clearLine, p.Since.Seconds(), p.Delivered, p.Answered, p.Longest.Seconds(), p.Errors)
	}
}

// ground is where drills are held.
type ground struct {
	region  string
	cluster drill.Cluster
	doors   drill.Doors
	users   []drill.User
}

func (c *drillCmd) ground() (*ground, error) {
	if c.Target == "" {
		region := c.Region
		if region == "" {
			region = "eu"
		}
		return c.demoGround(region)
	}
	if c.Region != "" {
		return nil, errors.New("--region is for demos: the target file says which region it is")
	}
	return targetGround(c.Target)
}
