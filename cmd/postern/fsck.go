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
	"strconv"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/fsck"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

// regionStore is a region's store, for commands that read it themselves: with
// the store's credentials and the key of mail at rest, and no user's.
type regionStore struct {
	*config.Region
	store  blob.Store
	closer io.Closer
	unseal sealer // nil: nothing is encrypted
	where  string
	log    *slog.Logger
}

// openRegionStore opens a region's store to be read.
func openRegionStore(ctx context.Context, file string, log *slog.Logger) (*regionStore, error) {
	return openRegion(file, log, func(cfg config.Storage) (blob.Store, io.Closer, error) {
		store, closer, err := openStoreReadOnly(ctx, cfg, log)
		if err != nil {
			return nil, nil, err
		}
		return shard.ReadOnly(store), closer, nil
	})
}

// openRegionStoreToWrite opens it to be changed.
func openRegionStoreToWrite(ctx context.Context, file string, log *slog.Logger) (*regionStore, error) {
	return openRegion(file, log, func(cfg config.Storage) (blob.Store, io.Closer, error) {
		return openStore(ctx, cfg, log, nil)
	})
}

func openRegion(file string, log *slog.Logger, open func(config.Storage) (blob.Store, io.Closer, error)) (*regionStore, error) {
	region, err := config.LoadRegion(file)
	if err != nil {
		return nil, err
	}
	r := &regionStore{Region: region, log: log}
	if s := region.Storage; s.S3 != nil {
		r.where = "bucket " + s.S3.Bucket + "/" + s.S3.Prefix
	} else {
		r.where = "directory " + string(s.Dir.Path)
		if _, err := os.Stat(string(s.Dir.Path)); err != nil { // opening it would make it
			return nil, fmt.Errorf("no store of region %s: %w; check storage in %s", region.Name, err, file)
		}
	}
	if r.unseal, err = seal(region.Storage.Encryption, log); err != nil {
		return nil, err
	}
	r.store, r.closer, err = open(region.Storage)
	switch {
	case err != nil && region.Storage.Dir != nil:
		return nil, fmt.Errorf("%w; check storage in %s", err, file)
	case err != nil:
		return nil, err
	}
	return r, nil
}

func (r *regionStore) close() { _ = r.closer.Close() }

// shard is what shard.Read takes.
func (r *regionStore) shard(ctx context.Context, number int) (shard.Config, error) {
	c := shard.Config{Region: string(r.Name), Number: number, Store: r.store, Log: r.log}
	if r.unseal == nil {
		return c, nil
	}
	opened, err := r.unseal(ctx, r.store, c.Prefix(), nil)
	if err != nil {
		return c, err
	}
	c.Store = shard.ReadOnly(opened)
	return c, nil
}

// fsckCmd is "postern fsck".
type fsckCmd struct {
	Region   string `required:"" type:"existingfile" placeholder:"FILE" help:"The region's file: its store is verified."`
	Shard    int    `default:"-1" placeholder:"N" help:"This shard alone; else all."`
	State    string `type:"path" placeholder:"FILE" help:"Where to write down what is done: after an interrupt the next run goes on there."`
	Parallel int    `default:"8" help:"How many objects are read at once (${default})."`
	Output   string `short:"o" enum:"text,json" default:"text" help:"How to answer: text or json."`
}

// Help is shown by --help.
func (fsckCmd) Help() string {
	return `Every object that a mailbox or the region's history needs is read whole and its
checksums verified, and every message is looked for where the index says it is. The
region may be in use: nothing is written, locked or taken over. It reads the store
itself, with the store's credentials and the key of mail at rest.

The exit code is 0 when nothing is damaged, 1 when something is or when the store
couldn't be read, 2 when the command line is wrong.`
}

const maxParallel = 256

// Validate is asked before Run.
func (c *fsckCmd) Validate() error {
	if c.Parallel < 1 || c.Parallel > maxParallel {
		return fmt.Errorf("--parallel: expected 1 to %d", maxParallel)
	}
	return nil
}

// Run verifies and reports.
func (c *fsckCmd) Run(ctx context.Context, k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	region, err := openRegionStore(ctx, c.Region, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer region.close()
	if c.Shard < -1 || c.Shard >= region.Shards {
		return config.Problems{{File: c.Region, Line: 1, Key: "shards", Found: strconv.Itoa(region.Shards) + " and --shard " + strconv.Itoa(c.Shard), Expected: "a shard below that"}}
	}
	began := time.Now()
	report, err := c.verify(ctx, region, k)
	switch {
	case err != nil && ctx.Err() != nil && c.State != "":
		return fmt.Errorf("interrupted: run it again with --state %s to go on", c.State)
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted: with --state FILE the next run could go on")
	case err != nil:
		return err
	}
	if err := c.show(k.Stdout, report, time.Since(began)); err != nil {
		return err
	}
	return c.verdict(k.Stdout, report, region)
}

func (c *fsckCmd) verify(ctx context.Context, region *regionStore, k *kong.Kong) (*fsck.Report, error) {
	settings := fsck.Config{
		Region: string(region.Name), Shards: region.Shards, Only: c.Shard, Store: region.store, Where: region.where,
		Parallel: c.Parallel, State: c.State, Unseal: region.unseal,
	}
	bar, err := newReadBar(ctx, k.Stderr, settings)
	if err != nil {
		return nil, err
	}
	defer bar.clear()
	settings.Progress = bar.add
	if c.Output == "text" {
		settings.Found = func(d fsck.Damage) {
			bar.clear()
			fmt.Fprintln(k.Stdout, clean(d.String()))
		}
	}
	return fsck.Run(ctx, settings)
}

// readBar shows how far the reading is, if anybody looks.
type readBar struct {
	mu      sync.Mutex
	bar     *progressbar.ProgressBar // nil: nobody does
	objects int64
	all     fsck.Usage
}

func newReadBar(ctx context.Context, stderr io.Writer, settings fsck.Config) (*readBar, error) {
	b := &readBar{}
	file, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return b, nil
	}
	var err error
	if b.all, err = fsck.Size(ctx, settings); err != nil || b.all.Octets == 0 {
		return b, err
	}
	b.bar = progressbar.NewOptions64(b.all.Octets, progressbar.OptionSetWriter(file), progressbar.OptionShowBytes(true),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	return b, nil
}

func (b *readBar) add(objects, octets int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.objects += objects; b.bar != nil {
		b.bar.Describe(fmt.Sprintf("%d of %d objects", b.objects, b.all.Objects))
		_ = b.bar.Add64(octets)
	}
}

func (b *readBar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		_ = b.bar.Clear()
	}
}

// show writes the sums.
func (c *fsckCmd) show(out io.Writer, report *fsck.Report, took time.Duration) error {
	total := report.Total()
	if c.Output == "json" {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		all, grave := report.Damaged()
		return e.Encode(struct {
			*fsck.Report
			Total   fsck.Shard `json:"total"`
			Damages int        `json:"damages"`
			Missed  int        `json:"missed"` // of these, all but octets that nobody misses
			Seconds float64    `json:"seconds"`
		}{report, total, all, grave, took.Seconds()})
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	cells := func(name string, numbers ...int64) {
		fmt.Fprint(w, name, "\t")
		for _, n := range numbers {
			fmt.Fprint(w, n, "\t")
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "CLASS\tMESSAGES\tOCTETS\tDEAD MESSAGES\tDEAD OCTETS\t")
	for _, class := range []maildrop.Class{maildrop.ClassLocal, maildrop.ClassContinuity} {
		s := total.Classes[class.String()]
		cells(class.String(), s.Messages, s.Octets, s.DeadMessages, s.DeadOctets)
	}
	fmt.Fprintln(w, "STORED\tOBJECTS\tOCTETS\tUNNAMED OBJECTS\tUNNAMED OCTETS\t")
	for _, kind := range []ledger.ObjectKind{ledger.ObjectLedger, ledger.ObjectPack, ledger.ObjectBody, fsck.KindManifest, fsck.KindPart, fsck.KindOther} {
		cells(string(kind), total.Stored[kind].Objects, total.Stored[kind].Octets, total.Garbage[kind].Objects, total.Garbage[kind].Octets)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range report.Shards {
		for _, sequence := range s.Forgotten {
			fmt.Fprintf(out, "shard %d goes on without its ledger object %s: postern ledger dump %s/shard-%04d/forgotten/%s says why\n", s.Number, sequence, report.Region, s.Number, sequence)
		}
	}
	_, err := fmt.Fprintf(out, "shards in use: %d, never used: %d; addresses: %d; mailboxes with mail: %d; read: %d objects, %s, in %.1f s\n",
		len(report.Shards), report.Empty, total.Addresses, total.Mailboxes, total.Checked.Objects, octets(uint64(total.Checked.Octets)), took.Seconds())
	return err
}

// verdict says what to do: the last sentence, and the exit code.
func (c *fsckCmd) verdict(out io.Writer, report *fsck.Report, region *regionStore) error {
	all, grave := report.Damaged()
	switch {
	case len(report.Shards) == 0 && c.Shard < 0:
		return fmt.Errorf("region %s has nothing in %s: check storage in %s", region.Name, region.where, c.Region)
	case grave > 0:
		return fmt.Errorf("damaged places: %d, of them in what somebody needs: %d; put the named objects back, under the same keys, from a copy of the store or its older versions, and run it again", all, grave)
	case all > 0:
		return fmt.Errorf("damaged places: %d, all in octets that nobody needs; find out why the store changed them", all)
	case c.Output == "json":
		return nil
	}
	sentence := "Nothing is damaged: there is nothing to do."
	if len(report.Total().Garbage) > 0 {
		sentence = "Nothing is damaged: there is nothing to do, for owners delete what nothing names within hours; if it stays, look at their logs."
	}
	_, err := fmt.Fprintln(out, sentence)
	return err
}
