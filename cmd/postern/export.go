package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

// exportCmd is "postern export": it writes a mailbox's messages as a Maildir.
type exportCmd struct {
	Address string `arg:"" help:"The mailbox, or an alias of it."`
	Region  string `required:"" type:"existingfile" placeholder:"FILE" help:"The region's file: the mail is in its store."`
	Maildir string `required:"" type:"path" placeholder:"DIR" help:"The Maildir; made if it isn't there. One with messages in it is refused."`
	Output  string `short:"o" enum:"text,json" default:"text" help:"How to answer: text or json."`
}

// Help is shown by --help.
func (exportCmd) Help() string {
	return `All messages that the mailbox's user can fetch now, each with its time of arrival, and
a dovecot-uidlist with their unique-ids: mail clients that fetched them here know them
again at the next server. Nothing in the mailbox changes.

Through the service nobody reads a mailbox without its user's password. This command
doesn't go through the service: it reads the store itself, with the store's credentials
and the key of mail at rest. Whoever has both can read all of the region's mail.`
}

// exportLooks is how often a message is looked for that its owner moves meanwhile.
const exportLooks = 10

// Run writes the Maildir and says what is in it.
func (c *exportCmd) Run(ctx context.Context, k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	address, err := maildrop.ParseAddress(c.Address)
	if err != nil {
		return fmt.Errorf("%q is %w", c.Address, err)
	}
	region, err := openRegionStore(ctx, c.Region, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer region.close()
	e := &export{region: region, report: exportReport{Maildir: c.Maildir, Lost: []lostOne{}, Damage: []string{}}}
	if err := e.find(ctx, address); err != nil {
		return err
	}
	if err := e.all(ctx, c.Maildir, k.Stderr); err != nil {
		return err
	}
	if err := e.report.show(k.Stdout, c.Output); err != nil {
		return err
	}
	if n := len(e.report.Lost) + len(e.report.Damage); n > 0 {
		return fmt.Errorf("not all could be read: run postern fsck --region %s --shard %d", c.Region, e.config.Number)
	}
	return nil
}

// export is the export of one mailbox.
type export struct {
	region  *regionStore
	config  shard.Config
	view    *shard.View
	address maildrop.Address
	report  exportReport
}

type exportReport struct {
	Address  string    `json:"address"` // the primary one
	Maildir  string    `json:"maildir"`
	Messages int       `json:"messages"`
	Octets   uint64    `json:"octets"`
	Gone     int       `json:"gone"` // removed or expired meanwhile
	Lost     []lostOne `json:"lost"` // damaged, and not exported
	Damage   []string  `json:"damage"`
}

type lostOne struct {
	UID  string `json:"unique_id"`
	What string `json:"what"`
}

func (r *exportReport) show(out io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := fmt.Fprintf(out, "%s: %d messages, %s, are in %s\n", clean(r.Address), r.Messages, octets(r.Octets), clean(r.Maildir))
	if r.Gone > 0 {
		fmt.Fprintf(out, "%d messages were removed or expired meanwhile\n", r.Gone)
	}
	for _, l := range r.Lost {
		fmt.Fprintf(out, "%s is damaged and left out: %s\n", clean(l.UID), clean(l.What))
	}
	for _, d := range r.Damage {
		fmt.Fprintf(out, "the shard is damaged, messages may be missing: %s\n", clean(d))
	}
	return err
}

// find finds the mailbox, in the shard of the address or of its primary one.
func (e *export) find(ctx context.Context, address maildrop.Address) error {
	for range 2 { // an alias's primary address is no alias
		e.address, e.report.Address = address, string(address)
		if err := e.look(ctx); err != nil {
			return err
		}
		record, known := e.view.Record(address)
		if !known || record.Primary == "" {
			if _, mail := e.first(); !known && !mail {
				return fmt.Errorf("%s has no record and no mail in region %s", address, e.region.Name)
			}
			break
		}
		address = record.Primary
	}
	for _, d := range e.view.Damage() {
		e.report.Damage = append(e.report.Damage, d.String())
	}
	return nil
}

func (e *export) first() (shard.Message, bool) {
	for m := range e.view.Messages(e.address) {
		return m, true
	}
	return shard.Message{}, false
}

// look makes a view of the address's shard.
func (e *export) look(ctx context.Context) (err error) {
	if e.config, err = e.region.shard(ctx, e.address.Shard(e.region.Shards)); err != nil {
		return err
	}
	if e.view, err = shard.Read(ctx, e.config); maildrop.KindOf(err) == maildrop.NotFound {
		return fmt.Errorf("%s: nobody has mail in shard %d of region %s: %w", e.address, e.config.Number, e.region.Name, err)
	}
	return err
}

// all writes the messages.
func (e *export) all(ctx context.Context, dir string, stderr io.Writer) error {
	var messages []shard.Message
	now := time.Now()
	for m := range e.view.Messages(e.address) {
		if m.Lives(now) {
			messages = append(messages, m)
		}
	}
	out, err := newMaildir(dir)
	if err != nil {
		return err
	}
	defer out.close()
	progress, finish := exportBar(stderr, string(e.address), len(messages))
	defer finish()
	for i, m := range messages {
		if err := e.one(ctx, out, m); err != nil {
			if ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			return fmt.Errorf("%w; %s has no messages yet: run it again", err, dir)
		}
		progress(i + 1)
	}
	return out.publish(now)
}

func exportBar(stderr io.Writer, what string, count int) (progress func(int), finish func()) {
	file, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || count == 0 {
		return func(int) {}, func() {}
	}
	bar := progressbar.NewOptions(count, progressbar.OptionSetWriter(file), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("messages"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetDescription(what), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	return func(n int) { _ = bar.Set(n) }, func() { _ = bar.Clear() }
}

// one writes a message; one that moves meanwhile is looked for where it is now.
func (e *export) one(ctx context.Context, out *maildirWriter, m shard.Message) error {
	for range exportLooks {
		err := e.write(ctx, out, m)
		switch {
		case err == nil:
			e.report.Messages++
			e.report.Octets += m.Size
			return nil
		case errors.Is(err, ledger.ErrCorrupt):
			e.report.Lost = append(e.report.Lost, lostOne{string(e.view.UID(m)), err.Error()})
			return nil
		case !errors.Is(err, ledger.ErrGone):
			return err
		}
		missed := m
		if err := e.look(ctx); err != nil {
			return err
		}
		var known bool
		if m, known = e.view.Find(e.address, m.Position); !known || !m.Lives(time.Now()) {
			e.report.Gone++
			return nil
		}
		if m.Object == missed.Object && m.Place == missed.Place {
			e.report.Lost = append(e.report.Lost, lostOne{string(e.view.UID(m)), err.Error()})
			return nil
		}
	}
	return errors.New("the mailbox's shard changes faster than it can be read")
}

func (e *export) write(ctx context.Context, out *maildirWriter, m shard.Message) error {
	open := func() (io.ReadCloser, error) {
		if m.Wire == 0 {
			return io.NopCloser(eof{}), nil
		}
		return e.view.Open(ctx, m)
	}
	return out.add(exported{uid: e.view.UID(m), received: m.Received, size: m.Size, order: m.Position.String()}, open)
}

// eof is a body without any octet.
type eof struct{}

// Read implements io.Reader.
func (eof) Read([]byte) (int, error) { return 0, io.EOF }
