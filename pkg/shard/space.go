package shard

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
)

const (
	spaceEvery   = 10 * time.Minute // between looks, give or take a half
	spaceTimeout = 30 * time.Minute // of one look and what it leads to
	listEvery    = time.Hour        // between lists of packs and bodies that nobody names
	orphanAge    = 15 * time.Minute // seen without a name before it is deleted
)

// space keeps what is stored near what lives: see the package's picture. The
// index is looked through every ten minutes, and what is to be done is worked out anew
// each time. Nothing is deleted but what a durable record has made dead: a removal, an
// expiry, or a pack that holds the copy.
//
//	survey ─▶ plan ─▶ move what lives ─▶ survey ─▶ trim, delete packs, bodies, orphans
//
// Its fields are of one goroutine, where nothing else is said.
type space struct {
	trimmed atomic.Uint64 // sequence up to which the ledger objects were trimmed; 0: not known

	since   time.Time                    // since when there is something to trim
	kept    map[uint64]bool              // sequences that trimming left, for damaged bodies
	stuck   map[ledger.Position]struct{} // damaged bodies that live
	deleted map[string]bool              // packs and bodies of messages that the index still has
	orphans map[orphan]time.Time         // named by nothing: when that was first seen
	listed  time.Time

	mu     sync.Mutex
	flying map[string]struct{} // packs and bodies that a record on its way may name
}

type orphan struct {
	kind ledger.ObjectKind
	name string
}

func newSpace(now time.Time) space {
	return space{
		since: now, listed: now, stuck: make(map[ledger.Position]struct{}), deleted: make(map[string]bool),
		orphans: make(map[orphan]time.Time), flying: make(map[string]struct{}),
	}
}

// flies keeps an object from being taken for an orphan until it flew.
func (p *space) flies(object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if object != "" {
		p.flying[object] = struct{}{}
	}
}

func (p *space) flew(object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.flying, object)
}

// flights are the objects on their way, to be asked for before the survey: what
// isn't among them then is in the survey, or will never be named.
func (p *space) flights() map[string]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]struct{}, len(p.flying))
	for object := range p.flying {
		all[object] = struct{}{}
	}
	return all
}

// cleaning looks every ten minutes.
func (s *Shard) cleaning(ctx context.Context) {
	for {
		timer := time.NewTimer(spaceEvery/2 + rand.N(spaceEvery)) //nolint:gosec // chance, no secret
		select {
		case <-timer.C:
		case <-s.done:
			timer.Stop()
			return
		}
		select {
		case s.config.Repack <- struct{}{}:
		case <-s.done:
			return
		}
		if err := s.clean(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("space not given back, trying again later", "error", err)
		}
		<-s.config.Repack
	}
}

// clean is one look and what it leads to.
func (s *Shard) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, spaceTimeout)
	defer cancel()
	horizon, flights := s.ledger.Horizon(), s.space.flights()
	v := s.survey(horizon)
	s.forgetStuck(v)
	w := s.plan(v, time.Now())
	if w.retire || len(w.rewrite) > 0 {
		if err := s.move(ctx, w, horizon); err != nil {
			return err
		}
		flights = s.space.flights()
		v = s.survey(horizon)
	}
	if w.retire {
		if err := s.trim(ctx, horizon, v); err != nil {
			return err
		}
	}
	if err := s.deleteDead(ctx, v); err != nil {
		return err
	}
	return s.deleteOrphans(ctx, v, flights)
}

// work is what a survey leads to.
type work struct {
	retire  bool
	rewrite map[uint32]bool // numbers of packs
}

func (s *Shard) plan(v *survey, now time.Time) work {
	p, w := &s.space, work{rewrite: make(map[uint32]bool)}
	fresh := v.horizon > p.trimmed.Load()
	if !fresh {
		p.since = now
	}
	w.retire = fresh && v.inline.retires(now.Sub(p.since), now.Unix())
	for sequence := range p.kept {
		w.retire = w.retire || !v.kept[sequence] // what was damaged has died
	}
	for number, u := range v.packs {
		w.rewrite[number] = u.rewrites(v.table[number], now.Unix())
		if !w.rewrite[number] {
			delete(w.rewrite, number)
		}
	}
	return w
}

// trim deletes ledger objects in which nothing lives any more. What came under the
// horizon since the survey is none of its business.
func (s *Shard) trim(ctx context.Context, horizon uint64, v *survey) error {
	n, err := s.ledger.Trim(ctx, func(sequence uint64) bool { return sequence > horizon || v.kept[sequence] })
	s.config.Metrics.removed(string(ledger.ObjectLedger), n)
	if err != nil {
		return err
	}
	s.space.trimmed.Store(horizon)
	s.space.kept, s.space.since = v.kept, time.Now()
	return nil
}

// deleteDead deletes the packs and bodies in which nothing lives.
func (s *Shard) deleteDead(ctx context.Context, v *survey) error {
	for number, one := range v.table {
		u := v.packs[number]
		if u != nil && u.live > 0 {
			continue
		}
		if err := s.deleteOnce(ctx, ledger.ObjectPack, one.object); err != nil {
			return err
		}
		if u == nil {
			s.forgetPack(number)
		}
	}
	for _, object := range v.deadBodies {
		if err := s.deleteOnce(ctx, ledger.ObjectBody, object); err != nil {
			return err
		}
	}
	s.forgetDeleted(v)
	return nil
}

// deleteOnce deletes an object, and remembers that for as long as the index has
// dead messages that name it.
func (s *Shard) deleteOnce(ctx context.Context, kind ledger.ObjectKind, object string) error {
	if s.space.deleted[object] {
		return nil
	}
	if err := s.ledger.Delete(ctx, kind, object); err != nil {
		return err
	}
	s.space.deleted[object] = true
	s.config.Metrics.removed(string(kind), 1)
	return nil
}

// forgetPack ends a deleted pack that no message names any more.
func (s *Shard) forgetPack(number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.packs.forget(number)
}

func (s *Shard) forgetDeleted(v *survey) {
	named := make(map[string]bool, len(s.space.deleted))
	for number, one := range v.table {
		if v.packs[number] != nil && s.space.deleted[one.object] {
			named[one.object] = true
		}
	}
	for _, object := range v.deadBodies {
		named[object] = s.space.deleted[object]
	}
	s.space.deleted = named
}

// forgetStuck forgets damaged bodies whose messages have died.
func (s *Shard) forgetStuck(v *survey) {
	for position := range s.space.stuck {
		if _, lives := v.stuck[position]; !lives {
			delete(s.space.stuck, position)
		}
	}
}

// deleteOrphans deletes packs and bodies that no record names: what an append
// or an upload that failed has left. One is named by a record soon, or never.
func (s *Shard) deleteOrphans(ctx context.Context, v *survey, flights map[string]struct{}) error {
	now := time.Now()
	if now.Sub(s.space.listed) >= listEvery {
		if err := s.listOrphans(ctx, v, now); err != nil {
			return err
		}
		s.space.listed = now
	}
	for o, seen := range s.space.orphans {
		_, flying := flights[o.name]
		switch {
		case v.names(o):
			delete(s.space.orphans, o)
		case !flying && now.Sub(seen) >= orphanAge:
			if err := s.ledger.Delete(ctx, o.kind, o.name); err != nil {
				return err
			}
			s.config.Metrics.removed(string(o.kind), 1)
			delete(s.space.orphans, o)
		}
	}
	return nil
}

func (s *Shard) listOrphans(ctx context.Context, v *survey, now time.Time) error {
	orphans := make(map[orphan]time.Time)
	for _, kind := range []ledger.ObjectKind{ledger.ObjectPack, ledger.ObjectBody} {
		for stored, err := range s.ledger.Stored(ctx, kind) {
			if err != nil {
				return err
			}
			o := orphan{kind, stored.Name}
			if stored.Epoch > s.ledger.Epoch() || v.names(o) {
				continue
			}
			orphans[o] = now
			if seen, known := s.space.orphans[o]; known {
				orphans[o] = seen
			}
		}
	}
	s.space.orphans = orphans
	return nil
}
