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
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/verify"
	"github.com/postern-pop/postern/pkg/config"
)

// storeCmd is "postern store".
type storeCmd struct {
	Verify storeVerifyCmd `cmd:"" help:"Find out whether a store keeps the promises that mail depends on."`
}

type storeVerifyCmd struct {
	Config  string `required:"" xor:"of" placeholder:"FILE" help:"The configuration file of a role: the store of its region."`
	Region  string `required:"" xor:"of" placeholder:"FILE" help:"A region's file: its store."`
	Output  string `short:"o" enum:"table,json" default:"table" help:"How to answer: table or json."`
	Writers int    `default:"64" help:"How many race for one key (${default})."`
	Rounds  int    `default:"1000" help:"How many races (${default}); the other promises are tried a tenth as often, 5 to 100 times."`
}

// Help is shown by --help.
func (storeVerifyCmd) Help() string {
	return `Not every "S3-compatible" store lets one of two writers win, and none says so
itself. All of this store's endpoints are tried at once, with objects under
postern-verify/ that are removed in the end, also after an interrupt. The exit code
is 1 when a promise is broken, or when it couldn't be tested.`
}

// Run tests the store and reports.
func (c *storeVerifyCmd) Run(ctx context.Context, k *kong.Kong) error {
	if c.Writers < 2 || c.Rounds < 1 {
		return errors.New("--writers, --rounds: expected at least 2 writers and 1 round")
	}
	storage, err := c.storage()
	if err != nil {
		return err
	}
	stores, closeStores, err := endpoints(ctx, storage)
	if err != nil {
		return err
	}
	report := c.verify(ctx, stores, k.Stderr)
	return errors.Join(c.show(k.Stdout, report), report.Err(), closeStores())
}

// storage is what the files say.
func (c *storeVerifyCmd) storage() (config.Storage, error) {
	if c.Region != "" {
		region, err := config.LoadRegion(c.Region)
		if err != nil {
			return config.Storage{}, err
		}
		return region.Storage, nil
	}
	cfg, err := config.Load(c.Config)
	if err != nil {
		return config.Storage{}, err
	}
	return cfg.Region.Storage, nil
}

// endpoints opens a Store for each of a storage's endpoints, without encryption
// or cache between.
func endpoints(ctx context.Context, storage config.Storage) (stores []blob.Store, closeAll func() error, err error) {
	each := []config.Storage{storage}
	if storage.S3 != nil {
		each = make([]config.Storage, 0, len(storage.S3.Endpoints))
		for _, endpoint := range storage.S3.Endpoints {
			one := *storage.S3
			one.Endpoints = []config.Endpoint{endpoint}
			each = append(each, config.Storage{S3: &one})
		}
	}
	closers := make([]io.Closer, 0, len(each))
	closeAll = func() (err error) {
		for _, c := range closers {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	for _, one := range each {
		store, closer, err := openStore(ctx, one, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		stores, closers = append(stores, store), append(closers, closer)
	}
	return stores, closeAll, nil
}

// verify runs all, with a progress bar if somebody sees it. An interrupt ends it
// early; what was made is removed then, too.
func (c *storeVerifyCmd) verify(ctx context.Context, stores []blob.Store, stderr io.Writer) verify.Report {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the process
	o := verify.Options{Writers: c.Writers, Rounds: c.Rounds}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		bar := progressbar.NewOptions(1, progressbar.OptionSetWriter(f), progressbar.OptionClearOnFinish(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowCount())
		defer func() { _ = bar.Finish() }()
		o.Progress = func(promise string, done, total int) {
			bar.ChangeMax(total)
			bar.Describe(fmt.Sprintf("%-20s", promise))
			_ = bar.Set(done)
		}
	}
	return verify.Run(ctx, stores, o)
}

type verifyView struct {
	OK        bool          `json:"ok"`
	Endpoints int           `json:"endpoints"`
	Promises  []promiseView `json:"promises"`
	Prefix    string        `json:"prefix"` // of all keys that were made
	Left      int           `json:"left"`   // objects that couldn't be removed
}

type promiseView struct {
	Promise string       `json:"promise"`
	Says    string       `json:"says"`
	State   verify.State `json:"state"`
	Tries   int          `json:"tries"`
	Seconds float64      `json:"seconds"`
	Seen    string       `json:"seen,omitempty"`
	Means   string       `json:"means,omitempty"` // if it is broken
}

func (c *storeVerifyCmd) show(w io.Writer, r verify.Report) error {
	if c.Output == "json" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(viewReport(r))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row(table, "PROMISE", "STATE", "TRIES", "TIME", "")
	for _, p := range r.Results {
		state := string(p.State)
		if p.State == verify.Broken {
			state = strings.ToUpper(state)
		}
		row(table, p.Promise, state, strconv.Itoa(p.Tries), p.Took.Round(10*time.Millisecond).String(), p.Seen)
	}
	if r.Left > 0 {
		row(table, fmt.Sprintf("WARNING: %d objects could not be removed; their keys begin with %s", r.Left, r.Prefix))
	}
	return table.Flush()
}

func viewReport(r verify.Report) verifyView {
	v := verifyView{OK: r.Err() == nil, Endpoints: r.Endpoints, Promises: []promiseView{}, Prefix: r.Prefix, Left: r.Left}
	for _, p := range r.Results {
		view := promiseView{Promise: p.Promise, Says: p.Says, State: p.State, Tries: p.Tries, Seconds: p.Took.Seconds(), Seen: p.Seen}
		if p.State == verify.Broken {
			view.Means = p.Means
		}
		v.Promises = append(v.Promises, view)
	}
	return v
}
