package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/shard"
)

type ledgerForgetCmd struct {
	Sequence uint64 `arg:"" help:"The lost object's number, as the node's log and /readyz say it."`
	Region   string `required:"" type:"existingfile" placeholder:"FILE" help:"The region's file: the object was in its store."`
	Shard    int    `required:"" placeholder:"N" help:"The shard that waits for it."`
	Epoch    uint64 `placeholder:"E" help:"Only for a ledger that has lost its end: the last epoch that is known to have begun."`
	By       string `placeholder:"NAME" help:"Who decides it; default: the user at this host."`
	Yes      bool   `help:"Do it. Without this the command only says what would be lost."`
	Output   string `short:"o" enum:"text,json" default:"text" help:"How to answer: text or json."`
}

// Help is shown by --help.
func (ledgerForgetCmd) Help() string {
	return `A ledger object behind the last checkpoint that is missing, or damaged in both copies
of its headers, keeps its shard from being taken over: nobody can tell what it said. Put
it back from a copy of the store, under the same key, and the shard opens by itself. If there
is no copy, this command lets the shard go on without it, for good: mail that it delivered
is lost, messages that it removed come back, and accesses and passwords that it changed are as
they were before. Unique-ids are not given again. It refuses an object that can be read.

Without --yes nothing is written: it says what is known of what would be lost.`
}

// forgetView is the answer.
type forgetView struct {
	Object    string    `json:"object"`
	Sequence  uint64    `json:"sequence"`
	Why       string    `json:"why"`
	Before    []string  `json:"before"`   // what the object before says
	Readable  []string  `json:"readable"` // of the object itself
	After     []string  `json:"after"`
	Forgotten bool      `json:"forgotten"`
	By        string    `json:"by,omitempty"`
	Time      time.Time `json:"time,omitzero"`
}

// Run says what is lost, and with --yes writes down that the ledger goes on without it.
func (c *ledgerForgetCmd) Run(ctx context.Context, k *kong.Kong) error {
	region, err := openRegionStoreToWrite(ctx, c.Region, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer region.close()
	if c.Shard < 0 || c.Shard >= region.Shards {
		return config.Problems{{File: c.Region, Line: 1, Key: "shards", Found: strconv.Itoa(region.Shards) + " and --shard " + strconv.Itoa(c.Shard), Expected: "a shard below that"}}
	}
	of, err := region.ledger(ctx, c.Shard)
	if err != nil {
		return err
	}
	view, err := c.view(ctx, of)
	if err == nil && c.Yes {
		err = c.forget(ctx, of, &view, slog.New(slog.NewJSONHandler(k.Stderr, nil)))
	}
	if errors.Is(err, ledger.ErrNotLost) {
		return fmt.Errorf("%w; postern fsck --region %s --shard %d says what is damaged", err, c.Region, c.Shard)
	}
	if err != nil {
		return err
	}
	return c.show(k.Stdout, view)
}

// ledger is a shard's, to be written to.
func (r *regionStore) ledger(ctx context.Context, number int) (ledger.Config, error) {
	store, prefix := r.store, shard.Config{Region: string(r.Name), Number: number}.Prefix()
	if r.unseal != nil {
		var err error
		if store, err = r.unseal(ctx, store, prefix, nil); err != nil {
			return ledger.Config{}, err
		}
	}
	return ledger.Config{Store: store, Prefix: prefix, Log: r.log}, nil
}

// view finds out what is known of the object.
func (c *ledgerForgetCmd) view(ctx context.Context, of ledger.Config) (forgetView, error) {
	why, err := ledger.Forgettable(ctx, of, c.wanted())
	view := forgetView{Object: ledgerKey(of, c.Sequence), Sequence: c.Sequence, Why: why}
	if err != nil {
		return view, err
	}
	for _, one := range []struct {
		into     *[]string
		sequence uint64
	}{{&view.Before, c.Sequence - 1}, {&view.Readable, c.Sequence}, {&view.After, c.Sequence + 1}} {
		if *one.into, err = describedLines(ctx, of.Store, ledgerKey(of, one.sequence)); err != nil {
			return view, err
		}
	}
	return view, nil
}

func (c *ledgerForgetCmd) wanted() ledger.Forgotten {
	return ledger.Forgotten{Sequence: c.Sequence, Epoch: c.Epoch, By: cmp.Or(c.By, whoever())}
}

func ledgerKey(of ledger.Config, sequence uint64) string {
	return fmt.Sprintf("%s/ledger/%020d", of.Prefix, sequence)
}

// describedLines are what can be read of an object, none if it isn't there.
func describedLines(ctx context.Context, store blob.Store, key string) ([]string, error) {
	lines := []string{}
	content, err := readAtMost(&objectReader{ctx, store, key, 0})
	if err != nil && !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, ledger.ErrCorrupt) {
		return nil, err
	}
	var text bytes.Buffer
	_ = ledger.Describe(&text, key, content) // its damage is why we are here
	for line := range strings.Lines(text.String()) {
		lines = append(lines, strings.TrimRight(line, "\n"))
	}
	return lines, nil
}

func (c *ledgerForgetCmd) forget(ctx context.Context, of ledger.Config, view *forgetView, audit *slog.Logger) error {
	done, err := ledger.Forget(ctx, of, c.wanted())
	if err != nil {
		return err
	}
	view.Forgotten, view.By, view.Time = true, done.By, done.Time
	audit.Info("audit", "action", "ledger.forget", "object", view.Object, "epoch", done.Epoch, "by", done.By, "why", done.Why)
	return nil
}

// whoever runs this.
func whoever() string {
	name, host := strconv.Itoa(os.Getuid()), "unknown host"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

func (c *ledgerForgetCmd) show(out io.Writer, view forgetView) error {
	if c.Output == "json" {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(view)
	}
	fmt.Fprintf(out, "lost: %s\n  %s\n", clean(view.Object), clean(view.Why))
	for _, part := range []struct {
		name  string
		lines []string
	}{{"the object before it", view.Before}, {"what can be read of it", view.Readable}, {"the object after it", view.After}} {
		if len(part.lines) == 0 {
			fmt.Fprintf(out, "%s: nothing\n", part.name)
			continue
		}
		fmt.Fprintf(out, "%s:\n", part.name)
		for _, line := range part.lines {
			fmt.Fprintf(out, "  %s\n", clean(line))
		}
	}
	if view.Forgotten {
		_, err := fmt.Fprintf(out, "forgotten, by %s: the shard is taken over within half a minute. People whose mail or settings were in it should be told.\n", clean(view.By))
		return err
	}
	_, err := fmt.Fprintln(out, "nothing was written. Put the object back if there is a copy of it; if there is none, run this again with --yes.")
	return err
}
