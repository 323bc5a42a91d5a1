package ledger

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// preparedFor is how long what Prepare has read counts: what it didn't read stays in the
// store for an hour at least (see Horizon).
const preparedFor = 10 * time.Minute

// Prepared is a ledger as far as Prepare has read it, for Open to go on from.
type Prepared struct {
	opener *opener
	at     time.Duration // of the clock
}

// Prepare reads a ledger that another process still owns: the newest checkpoint, and
// what came after it. It writes nothing and takes nothing over. An Open whose Config has the
// result reads only what came since. begin is as Open's, and so are the errors;
// the Epoch and what the ledger is held against don't matter yet.
func Prepare(ctx context.Context, config Config, begin func() State) (*Prepared, error) {
	o := newOpener(config, begin)
	o.take = o.takeAhead
	at := o.clock()
	if err := o.readAll(ctx); err != nil {
		return nil, &maildrop.Error{Op: "ledger.prepare", Kind: o.kind(err), Err: err}
	}
	return &Prepared{opener: o, at: at}, nil
}

// takeAhead takes in what a list showed, of a ledger whose owner is at work: behind a hole
// the rest is for Open, which will find it filled, or judge it.
func (o *opener) takeAhead(_ context.Context, got fetched) error {
	if o.hole == nil && errors.Is(got.err, errMissing) {
		o.hole = got.err
	}
	if o.hole == nil {
		return lostAt(got.sequence, got.key, o.apply(got))
	}
	return nil
}

// resume makes the opener of a take-over of what was prepared; nil: it is of no use.
func (p *Prepared) resume(config Config, log *slog.Logger) *opener {
	if p == nil || p.opener == nil {
		return nil
	}
	o := p.opener
	p.opener = nil // its State can be gone on with once
	if o.clock()-p.at > preparedFor || o.prefix != config.Prefix {
		return nil
	}
	o.config, o.log, o.hole = config, log, nil
	o.store = patient{Store: config.Store, log: log}
	o.take = o.takeStrictly
	return o
}
