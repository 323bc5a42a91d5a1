package fsck

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/shard"
)

// DefaultParallel is how many objects are read at once if nothing is said.
const DefaultParallel = 8

// Config says what to verify.
type Config struct {
	Region   string
	Shards   int // of the region
	Only     int // one shard; below 0: all
	Store    blob.Store
	Where    string // where that is, for people and the state file
	Parallel int    // objects read at once; 0: DefaultParallel
	State    string // the state file; empty: none
	Log      *slog.Logger

	// Unseal makes what reads a shard's part of the store out of the store, where
	// mail at rest is encrypted; nil: it isn't. It tells found of damage that it makes good.
	Unseal func(ctx context.Context, store blob.Store, prefix string, found func(key string, octet int64, what string)) (blob.Store, error)

	// Found is told of damage as soon as it is certain, one at a time; of what an
	// interrupted run had found, at the begin. nil: nobody is.
	Found func(Damage)
	// Progress is told of objects and octets read, and of those that this run need
	// not read again. It may be called by several goroutines at once. nil: nobody is.
	Progress func(objects, octets int64)

	batch int // objects that are written down together; 0: batchObjects
}

// run is one run over a region.
type run struct {
	Config
	state *stateFile
	end   context.CancelCauseFunc // of all, when the store refuses for too long
}

// reading is a shard's store, for reading only.
func (r *run) reading(store blob.Store) blob.Store { return patient{shard.ReadOnly(store), r.end} }

// Run verifies a region. An error means that it could not go on: the store can't be read,
// the context has ended, or ErrState. With a state file the next run goes on there.
// Damage is no error.
func Run(ctx context.Context, config Config) (*Report, error) {
	if config.Parallel < 1 {
		config.Parallel = DefaultParallel
	}
	if config.batch < 1 {
		config.batch = batchObjects
	}
	config.Only = max(config.Only, -1)
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Found == nil {
		config.Found = func(Damage) {}
	}
	if config.Progress == nil {
		config.Progress = func(int64, int64) {}
	}
	state, err := openState(&config)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &run{Config: config, state: state, end: end}
	for number := range config.Shards {
		if config.Only >= 0 && number != config.Only {
			continue
		}
		if err := r.shard(ctx, number); err != nil {
			return nil, fmt.Errorf("shard %d: %w", number, cmp.Or(context.Cause(ctx), err))
		}
	}
	state.Finished = true
	return r.report(), state.save(true)
}

// shard verifies one, unless an earlier run has.
func (r *run) shard(ctx context.Context, number int) error {
	if s, done := r.state.Done[number]; done {
		if s != nil {
			r.again(s.Checked, s.Damage)
		}
		return nil
	}
	s, err := r.walk(ctx, number)
	if err != nil {
		return err
	}
	return r.state.end(number, s)
}

// again tells of what an earlier run has read and found.
func (r *run) again(checked Usage, damage []Damage) {
	r.Progress(checked.Objects, checked.Octets)
	for _, d := range damage {
		r.Found(d)
	}
}

func (r *run) report() *Report {
	report := &Report{Region: r.Region, Shards: []Shard{}}
	for _, s := range r.state.Done {
		if s == nil {
			report.Empty++
			continue
		}
		report.Shards = append(report.Shards, *s)
	}
	slices.SortFunc(report.Shards, func(a, b Shard) int { return a.Number - b.Number })
	return report
}

// Size is how much there is to read, for a bar that shows progress.
func Size(ctx context.Context, config Config) (u Usage, err error) {
	for number := range config.Shards {
		if config.Only >= 0 && number != config.Only {
			continue
		}
		prefix := shard.Config{Region: config.Region, Number: number}.Prefix() + "/"
		for info, err := range config.Store.List(ctx, prefix, "") {
			if err != nil {
				return u, fmt.Errorf("list %s: %w", prefix, err)
			}
			u.add(info.Size)
		}
	}
	return u, nil
}
