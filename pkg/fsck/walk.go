package fsck

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/shard"
)

// A batch is checked, settled and written down before the next one.
const (
	batchObjects  = 256
	batchMessages = 1 << 18
)

// walk is the verification of one shard.
type walk struct {
	*run
	config  shard.Config
	listed  *listing
	view    *shard.View // nil: nothing can be made of the ledger
	broken  error       // why
	checker *ledger.Checker
	current *current
	certain []Damage // of the batch at work

	mu     sync.Mutex
	mended map[string]Damage // by key: what the store below made good
}

// object names an object to be read whole; of a checkpoint the manifest, for all
// of it.
type object struct {
	kind ledger.ObjectKind
	name string
}

func (o object) String() string { return string(o.kind) + "/" + o.name }

// walk verifies a shard; nil: there is none.
func (r *run) walk(ctx context.Context, number int) (*Shard, error) {
	w := &walk{run: r, config: shard.Config{Region: r.Region, Number: number, Store: r.reading(r.Store), Log: r.Log}}
	if err := w.list(ctx); err != nil || !w.listed.owned() {
		return nil, err
	}
	if err := w.unseal(ctx); err != nil {
		return nil, err
	}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	s, objects := w.survey(time.Now())
	w.current = r.state.begin(number, s.Identity)
	r.again(w.current.Checked, w.current.Damage)
	if err := w.objects(ctx, objects); err != nil {
		return nil, errors.Join(err, r.state.save(true))
	}
	if err := w.viewDamage(ctx); err != nil {
		return nil, errors.Join(err, r.state.save(true))
	}
	w.mendedDamage()
	s.Forgotten = slices.Sorted(maps.Keys(w.listed.names[ledger.ObjectForgotten]))
	s.Checked, s.Damage, s.More = w.current.Checked, append(s.Damage, w.current.Damage...), w.current.More
	return &s, nil
}

// list comes before the view: what is in it, and not named by a view that was made
// later, is garbage.
func (w *walk) list(ctx context.Context) error {
	return patiently(ctx, func() (err error) {
		w.listed, err = list(ctx, w.config.Store, w.config.Prefix())
		return err
	})
}

// unseal goes on with the decrypted store, whose list has other sizes. It comes
// after the first list: a shard without anything has no key.
func (w *walk) unseal(ctx context.Context) (err error) {
	if w.Unseal == nil {
		return nil
	}
	opened, err := w.Unseal(ctx, w.config.Store, w.config.Prefix(), w.mend)
	if err != nil {
		return err
	}
	w.config.Store = w.reading(opened)
	return w.list(ctx)
}

// mend takes in what the store below found damaged and made good.
func (w *walk) mend(key string, octet int64, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mended == nil {
		w.mended = make(map[string]Damage)
	}
	w.mended[key] = Damage{Key: key, Octet: int(octet), What: what}
}

// mendedDamage reports it, but for objects that are known to be damaged already.
func (w *walk) mendedDamage() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.current.Damage {
		delete(w.mended, d.Key)
	}
	for _, d := range w.mended {
		w.confirm(d)
	}
	w.commit()
}

// open makes the view. A ledger that can't be read, twice, is damage.
func (w *walk) open(ctx context.Context) (err error) {
	for range 2 {
		w.view, err = shard.Read(ctx, w.config)
		switch {
		case err == nil:
			w.checker = w.view.Checker()
			return nil
		case ctx.Err() != nil, errors.Is(err, ledger.ErrVersion):
			return err
		}
	}
	w.broken = err
	w.checker = ledger.NewChecker(w.config.Store, w.config.Prefix())
	return nil
}

// wanted is what the index says of an object.
type wanted struct {
	messages int
	live     bool // some of them are
}

// survey goes through the index once: sums, and which objects are to be read.
func (w *walk) survey(now time.Time) (Shard, map[object]wanted) {
	s, objects := newShard(w.config.Number), make(map[object]wanted)
	s.Stored = w.listed.stored
	for _, name := range w.listed.manifests {
		objects[object{KindManifest, name}] = wanted{}
	}
	if w.view == nil {
		for kind, names := range w.listed.names {
			if kind == ledger.ObjectForgotten {
				continue // read with the view
			}
			for name := range names {
				objects[object{kind, name}] = wanted{}
			}
		}
		return s, objects
	}
	s.Identity, s.Epoch, s.Last = w.view.Identity(), w.view.Epoch(), w.view.Last()
	s.Addresses, s.Mailboxes = w.view.Counts()
	s.Garbage = w.listed.garbage(w.view.Names)
	for m := range w.view.All() {
		s.count(&m, now)
		if kind, name, ok := m.Kept(); ok {
			at := objects[object{kind, name}]
			objects[object{kind, name}] = wanted{at.messages + 1, at.live || m.Lives(now)}
		}
	}
	w.prune(objects)
	return s, objects
}

// prune adds the ledger objects that no message is in, and takes out what is
// gone as it may be: all of its messages are dead.
func (w *walk) prune(objects map[object]wanted) {
	for name := range w.listed.names[ledger.ObjectLedger] {
		if o := (object{ledger.ObjectLedger, name}); objects[o].messages == 0 {
			objects[o] = wanted{}
		}
	}
	for o, is := range objects {
		if names, known := w.listed.names[o.kind]; known && !is.live {
			if _, there := names[o.name]; !there {
				delete(objects, o)
			}
		}
	}
}

func (s *Shard) count(m *shard.Message, now time.Time) {
	sum := s.Classes[m.Class.String()]
	if m.Lives(now) {
		sum.Messages++
		sum.Octets += int64(m.Wire)
	} else {
		sum.DeadMessages++
		sum.DeadOctets += int64(m.Wire)
	}
	s.Classes[m.Class.String()] = sum
}

// objects checks what an earlier run has not.
func (w *walk) objects(ctx context.Context, objects map[object]wanted) error {
	var left []object
	for o := range objects {
		if !w.current.Names[o.String()] {
			left = append(left, o)
		}
	}
	slices.SortFunc(left, func(a, b object) int { return strings.Compare(a.String(), b.String()) })
	for len(left) > 0 {
		n := w.fits(left, objects)
		if err := w.batch(ctx, left[:n]); err != nil {
			return err
		}
		left = left[n:]
		if err := w.state.save(false); err != nil {
			return err
		}
	}
	return nil
}

// fits is how many of the objects make the next batch.
func (w *walk) fits(left []object, objects map[object]wanted) int {
	messages := 0
	for n, o := range left {
		if messages += objects[o].messages; n == w.Config.batch || n > 0 && messages > batchMessages {
			return n
		}
	}
	return len(left)
}

func (w *walk) batch(ctx context.Context, some []object) error {
	jobs := w.gather(some)
	outcomes, err := w.checkAll(ctx, jobs)
	if err != nil {
		return err
	}
	if err := w.settle(ctx, outcomes); err != nil {
		return err
	}
	for _, o := range outcomes {
		w.current.Names[o.object.String()] = true
		if !o.gone {
			w.current.Checked.add(o.checked.Octets)
		}
	}
	w.commit()
	return nil
}

// gather finds the messages that are in some objects.
func (w *walk) gather(some []object) []*job {
	jobs, at := make([]*job, len(some)), make(map[object]*job, len(some))
	for i, o := range some {
		jobs[i] = &job{object: o}
		at[o] = jobs[i]
	}
	if w.view == nil {
		return jobs
	}
	for m := range w.view.All() {
		if kind, name, ok := m.Kept(); ok {
			if j := at[object{kind, name}]; j != nil {
				j.messages = append(j.messages, m)
			}
		}
	}
	return jobs
}

// viewDamage reports what the view has lost, and the next one too, unless it is
// known already by the objects that were read.
func (w *walk) viewDamage(ctx context.Context) error {
	defer w.commit()
	if w.broken != nil {
		w.confirm(Damage{Key: w.config.Prefix(), Octet: -1, What: "the shard can't be opened: " + w.broken.Error()})
		return nil
	}
	known := make(map[string]bool)
	for _, d := range w.current.Damage {
		known[w.within(d.Key)] = true
	}
	var news []ledger.Damage
	for _, d := range w.view.Damage() {
		if !known[w.within(d.Key)] {
			news = append(news, d)
		}
	}
	if len(news) == 0 {
		return nil
	}
	fresh, err := shard.Read(ctx, w.config)
	if err != nil {
		return err
	}
	for _, d := range news {
		if slices.ContainsFunc(fresh.Damage(), func(again ledger.Damage) bool { return again.Key == d.Key }) {
			w.confirm(Damage{Key: d.Key, Octet: d.Octet, What: d.What})
		}
	}
	return nil
}

// within is the object, or the checkpoint, that a key is in.
func (w *walk) within(key string) string {
	folder, name, _ := strings.Cut(strings.TrimPrefix(key, w.config.Prefix()+"/"), "/")
	switch ledger.ObjectKind(folder) {
	case KindManifest:
		name, _ = ledger.CheckpointOf(name)
		return string(KindPart) + "/" + name
	case KindPart:
		name, _, _ = strings.Cut(name, "/")
	}
	return folder + "/" + name
}

// confirm takes in what is certain.
func (w *walk) confirm(d Damage) {
	d.Shard = w.config.Number
	if name, ok := strings.CutPrefix(d.Key, w.checker.Key(ledger.ObjectLedger, "")); ok {
		if _, forgotten := w.listed.names[ledger.ObjectForgotten][name]; forgotten {
			d.What, d.Dead = d.What+"; it is forgotten, by postern ledger forget", true
		}
	}
	w.certain = append(w.certain, d)
}

// commit tells of what is certain, once: a batch that was interrupted is checked
// again as a whole.
func (w *walk) commit() {
	for _, d := range w.certain {
		if len(w.current.Damage) == maxDamage {
			w.current.More++
			continue
		}
		w.current.Damage = append(w.current.Damage, d)
		w.Found(d)
	}
	w.certain = nil
}

// whose fills in whose message a damage is about.
func (w *walk) whose(d Damage, m shard.Message, view *shard.View) Damage {
	d.Mailbox, d.UID = m.Mailbox, view.UID(m)
	d.Dead = !m.Lives(time.Now())
	return d
}

var errUnsettled = errors.New("the shard changes faster than it can be read: run it again")
