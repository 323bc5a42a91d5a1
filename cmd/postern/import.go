package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/movein"
)

// importCmd is "postern import": it moves a maildrop in from another server.
type importCmd struct {
	operator

	Address   string `arg:"" help:"The mailbox that the mail goes to; it must exist."`
	Maildir   string `xor:"source" required:"" placeholder:"DIR" type:"existingdir" help:"The old server's Maildir; its INBOX is moved, and no subfolders."`
	Mbox      string `xor:"source" required:"" placeholder:"FILE" type:"existingfile" help:"The old server's mbox file."`
	Lists     string `name:"uids" enum:"auto,dovecot,courier,names" default:"auto" help:"Where a Maildir's unique-ids come from: dovecot (dovecot-uidlist), courier (courierpop3dsizelist), names (of the files), auto (the first of them that is there)."`
	UIDFormat string `name:"uid-format" placeholder:"FORMAT" default:"${uid_format}" help:"Dovecot's setting pop3_uidl_format: ${default}."`
	Mboxo     bool   `help:"The mbox was written with >From quoted once only (mboxo), not as mboxrd."`
	DryRun    bool   `help:"Say what would be done, and do nothing."`
	Verbose   bool   `short:"v" help:"Name each message that is not moved."`
}

// Run moves the maildrop and says what was done.
func (c *importCmd) Run(ctx context.Context, cl *client, k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	address, err := maildrop.ParseAddress(c.Address)
	if err != nil {
		return fmt.Errorf("%q is %w", c.Address, err)
	}
	old, source, err := c.open()
	if err != nil {
		return err
	}
	defer old.Close()
	run := &importRun{client: cl, old: old, to: address, source: source, progress: func(int) {}}
	if c.DryRun {
		return c.dryRun(ctx, cl, run)
	}
	finish := run.showProgress(k.Stderr)
	began := time.Now()
	err = run.all(ctx)
	finish()
	report := run.report(time.Since(began))
	if err != nil {
		err = fmt.Errorf("stopped before message %d of %d: %w; run it again to go on, nothing is stored twice", run.next+1, len(old.Messages), err)
		report.Stopped = err.Error()
	}
	if said := cl.reply(report, func(w io.Writer) { report.write(w, c.Verbose) }); said != nil {
		return said
	}
	if err == nil && report.failed > 0 {
		err = fmt.Errorf("%d messages could not be moved", report.failed)
	}
	return err
}

func (c *importCmd) open() (old *movein.Maildrop, source string, err error) {
	now := time.Now()
	if c.Mbox != "" {
		old, err = movein.OpenMbox(c.Mbox, movein.MboxOptions{Plain: c.Mboxo, Now: now})
		return old, "mbox " + absolute(c.Mbox), err
	}
	format, err := movein.ParseUIDFormat(c.UIDFormat)
	if err != nil {
		return nil, "", err
	}
	old, err = movein.OpenMaildir(c.Maildir, movein.MaildirOptions{Lists: movein.Lists(c.Lists), Format: format, Now: now})
	return old, "maildir " + absolute(c.Maildir), err
}

func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// showProgress draws a bar while the run lasts, if anybody looks.
func (r *importRun) showProgress(stderr io.Writer) (finish func()) {
	file, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || len(r.old.Messages) == 0 {
		return func() {}
	}
	bar := progressbar.NewOptions(len(r.old.Messages), progressbar.OptionSetWriter(file), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("messages"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetDescription(string(r.to)), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	r.progress = func(next int) { _ = bar.Set(next) }
	return func() { _ = bar.Clear() }
}

// importReport is what a run has done.
type importReport struct {
	Address  string       `json:"address"`
	Source   string       `json:"source"`
	UIDs     string       `json:"unique_ids_from"`
	Found    int          `json:"found"`    // messages in the old maildrop
	Stored   int          `json:"stored"`   // now, or by an earlier run: the mailbox doesn't tell
	Octets   uint64       `json:"octets"`   // of them
	Replaced int          `json:"replaced"` // unique-ids that could not be kept
	Seconds  float64      `json:"seconds"`
	Skipped  []importSkip `json:"skipped"`
	Stopped  string       `json:"stopped,omitempty"`

	failed int
}

type importSkip struct {
	Message string `json:"message"`
	Why     string `json:"why"`
	Text    string `json:"text,omitempty"`
}

func (r *importRun) report(took time.Duration) *importReport {
	report := &importReport{
		Address: string(r.to), Source: r.source, UIDs: r.old.Listed, Found: len(r.old.Messages) + len(r.old.Skipped),
		Stored: r.stored, Octets: r.octets, Replaced: r.old.Replaced, Seconds: took.Seconds(), Skipped: []importSkip{},
	}
	for _, s := range append(r.old.Skipped, r.skipped...) {
		report.Skipped = append(report.Skipped, importSkip{s.Name, string(s.Why), s.Text})
		if s.Why.Failed() {
			report.failed++
		}
	}
	return report
}

// write says it to people.
func (r *importReport) write(w io.Writer, verbose bool) {
	fmt.Fprintf(w, "%s: %d of %d messages are there, %s, moved now or before\n", clean(r.Address), r.Stored, r.Found, octets(r.Octets))
	fmt.Fprintf(w, "unique-ids from %s; %.1f s, %.0f messages/s\n", r.UIDs, r.Seconds, float64(r.Stored)/max(r.Seconds, 1e-3))
	if r.Replaced > 0 {
		fmt.Fprintf(w, "%d unique-ids could not be kept, malformed or not unique: clients fetch these messages again\n", r.Replaced)
	}
	if len(r.Skipped) > 0 {
		fmt.Fprintf(w, "not moved: %s\n", r.counts())
	}
	if verbose {
		for _, s := range r.Skipped {
			row(w, "  "+s.Why, s.Message, s.Text)
		}
	}
}

// counts is how many messages are not moved, by why, in the order of first
// sight.
func (r *importReport) counts() string {
	count := make(map[string]int)
	var order []string
	for _, s := range r.Skipped {
		if count[s.Why] == 0 {
			order = append(order, s.Why)
		}
		count[s.Why]++
	}
	for i, why := range order {
		order[i] = fmt.Sprintf("%d %s", count[why], why)
	}
	return strings.Join(order, ", ")
}

// octets is a number of octets that can be read.
func octets(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d octets", n)
}

// importPlan is what a dry run says of one message.
type importPlan struct {
	N        int       `json:"n,omitempty"` // its place; 0: it is not moved
	UID      string    `json:"unique_id"`
	Received time.Time `json:"received"`
	Octets   uint64    `json:"octets"`
	Message  string    `json:"message"`
	Why      string    `json:"why,omitempty"` // it is not moved
}

// dryRun asks the gateway whether it would take the maildrop, and sends nothing.
func (c *importCmd) dryRun(ctx context.Context, cl *client, run *importRun) error {
	conn, err := run.connect(ctx)
	if err != nil {
		return err
	}
	conn.close()
	plans := []importPlan{}
	for _, message := range run.old.Messages {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		content, skip := conn.limits.look(message)
		plan := importPlan{UID: string(message.UID), Received: message.Received.UTC().Truncate(time.Second), Message: message.Name}
		if skip != nil {
			plan.Why = string(skip.Why)
		} else {
			run.next++
			plan.N, plan.Octets = run.next, content.Size()
		}
		plans = append(plans, plan)
	}
	for _, s := range run.old.Skipped {
		plans = append(plans, importPlan{Message: s.Name, Why: string(s.Why)})
	}
	return cl.reply(plans, func(w io.Writer) {
		row(w, "N", "UNIQUE-ID", "RECEIVED", "OCTETS", "MESSAGE", "")
		for _, p := range plans {
			n, why := "-", ""
			if p.Why == "" {
				n = strconv.Itoa(p.N)
			} else {
				why = "not moved: " + p.Why
			}
			row(w, n, orDash(p.UID), p.Received.Format(shownTime), strconv.FormatUint(p.Octets, 10), p.Message, why)
		}
	})
}
