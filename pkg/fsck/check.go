package fsck

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

const maxLooks = 20 // at what moves while it is looked for

// job is an object to be read, with the messages that the index says are in it.
type job struct {
	object
	messages []shard.Message
}

// outcome is what was found in it.
type outcome struct {
	*job
	checked ledger.Checked
	gone    bool
}

func (o outcome) sound() bool { return !o.gone && len(o.checked.Damage) == 0 }

// checkAll reads objects, several at once. An error is the store's.
func (w *walk) checkAll(ctx context.Context, jobs []*job) ([]outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	outcomes := make([]outcome, len(jobs))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(w.Parallel, len(jobs)) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(jobs)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				var err error
				if outcomes[i], err = w.check(ctx, jobs[i]); err != nil {
					cancel(err)
					return
				}
				w.Progress(1, outcomes[i].checked.Octets)
			}
		})
	}
	readers.Wait()
	return outcomes, context.Cause(ctx)
}

// check reads one object.
func (w *walk) check(ctx context.Context, j *job) (outcome, error) {
	checked, err := w.read(ctx, j)
	if errors.Is(err, ledger.ErrGone) {
		return outcome{job: j, gone: true}, nil
	}
	return outcome{job: j, checked: checked}, err
}

func (w *walk) read(ctx context.Context, j *job) (ledger.Checked, error) {
	switch j.kind {
	case KindManifest:
		return w.checker.Checkpoint(ctx, j.name)
	case ledger.ObjectPack:
		return w.checker.Pack(ctx, j.name, frames(j.messages))
	case ledger.ObjectBody:
		wire := uint64(0)
		if len(j.messages) > 0 {
			wire = j.messages[0].Wire
		}
		return w.checker.Body(ctx, j.name, wire)
	default:
		return w.checker.Ledger(ctx, j.name, frames(j.messages))
	}
}

func frames(messages []shard.Message) []ledger.Frame {
	list := make([]ledger.Frame, len(messages))
	for i, m := range messages {
		list[i] = ledger.Frame{Position: m.Position, Offset: m.Place.Offset, Wire: m.Wire}
	}
	return list
}

// settle finds out what is certain of what looked bad: see the package's picture.
func (w *walk) settle(ctx context.Context, outcomes []outcome) error {
	for range maxLooks {
		var moved []*job
		fresh := w.view
		for _, o := range outcomes {
			if o.sound() {
				continue
			}
			if fresh == w.view && w.view != nil {
				var err error
				if fresh, err = shard.Read(ctx, w.config); err != nil {
					return err
				}
			}
			elsewhere, err := w.judge(ctx, fresh, o)
			if err != nil {
				return err
			}
			moved = append(moved, elsewhere...)
		}
		if len(moved) == 0 {
			return nil
		}
		var err error
		if outcomes, err = w.checkAll(ctx, moved); err != nil {
			return err
		}
	}
	return errUnsettled
}

// judge holds what looked bad against a view that was made later. What is still
// open is to be looked at again.
func (w *walk) judge(ctx context.Context, fresh *shard.View, o outcome) ([]*job, error) {
	if o.gone {
		return w.judgeGone(fresh, o.job), nil
	}
	again, err := w.check(ctx, o.job)
	switch {
	case err != nil:
		return nil, err
	case again.gone:
		return []*job{o.job}, nil // so it was about to go: the next view says where to
	}
	var open []*job
	for _, d := range again.checked.Damage {
		if d.Position != 0 || o.kind == ledger.ObjectBody {
			open = append(open, w.judgeBody(fresh, again, d)...)
		} else {
			w.confirm(Damage{Key: d.Key, Octet: d.Octet, What: d.What})
		}
	}
	return open, nil
}

// judgeGone: the object isn't there. It should be if a message that lives is in
// it, and still was after we had missed it.
func (w *walk) judgeGone(fresh *shard.View, j *job) (open []*job) {
	now := time.Now()
	for _, m := range j.messages {
		is, known := fresh.Find(m.Mailbox, m.Position)
		if !known || !is.Lives(now) {
			continue
		}
		if kind, name, _ := is.Kept(); kind != j.kind || name != j.name {
			open = append(open, &job{object{kind, name}, []shard.Message{is}})
			continue
		}
		w.confirm(w.whose(Damage{Key: w.checker.Key(j.kind, j.name), Octet: -1, What: "the object is missing"}, is, fresh))
	}
	return open
}

// judgeBody: a body is damaged, unless it has moved, and is sound where it is now.
func (w *walk) judgeBody(fresh *shard.View, o outcome, d ledger.Damage) []*job {
	found := Damage{Key: d.Key, Octet: d.Octet, What: d.What}
	if fresh == nil {
		w.confirm(found)
		return nil
	}
	for _, m := range o.messages {
		if o.kind != ledger.ObjectBody && m.Position != d.Position {
			continue
		}
		is, known := fresh.Find(m.Mailbox, m.Position)
		if !known { // forgotten meanwhile
			is = m
		}
		if kind, name, _ := is.Kept(); kind != o.kind || name != o.name {
			return []*job{{object{kind, name}, []shard.Message{is}}}
		}
		w.confirm(w.whose(found, is, fresh))
		return nil
	}
	found.Dead = true // the index has forgotten it, or has it elsewhere by now
	for _, e := range o.checked.Entries {
		if delivery, ok := e.Record.(*ledger.Delivery); ok && e.Position == d.Position {
			found.Mailbox = maildrop.Address(delivery.Mailbox)
			found.UID = cmp.Or(maildrop.UID(delivery.UID), fresh.UID(shard.Message{Position: d.Position}))
		}
	}
	w.confirm(found)
	return nil
}
