package sealed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/postern-pop/postern/pkg/blob"
)

// Generation is one data key of a shard, without the key.
type Generation struct {
	Number    uint32
	WrappedBy []string // names of keys, that of the newest wrap first
}

// Generations lists a shard's data keys, the oldest first. It needs no key.
func Generations(ctx context.Context, store blob.Store, prefix string) ([]Generation, error) {
	s := shard{store: store, prefix: prefix}
	all, err := s.slots(ctx)
	if err != nil {
		return nil, err
	}
	var found []Generation
	for number, slots := range byGeneration(all) {
		wraps, err := s.wraps(ctx, slots)
		if err != nil {
			return nil, err
		}
		g := Generation{Number: number}
		for _, w := range wraps {
			g.WrappedBy = append(g.WrappedBy, w.name)
		}
		found = append(found, g)
	}
	return found, nil
}

func byGeneration(all map[uint32][]slot) iter.Seq2[uint32, []slot] {
	return func(yield func(uint32, []slot) bool) {
		for _, number := range slices.Sorted(maps.Keys(all)) {
			if !yield(number, all[number]) {
				return
			}
		}
	}
}

// Plain counts a shard's objects that aren't sealed. It needs no key, and reads
// the begin of every object.
func Plain(ctx context.Context, store blob.Store, prefix string) (count int, err error) {
	s := &Store{shard: shard{store: store, prefix: prefix}, plain: true}
	for object, err := range s.objects(ctx, s.root(), "") {
		if err != nil {
			return 0, err
		}
		if !object.sealed {
			count++
		}
	}
	return count, nil
}

// NewGeneration makes a shard's next data key and returns its generation. Who
// opens the shard after it seals new objects with that one.
func NewGeneration(ctx context.Context, store blob.Store, prefix string, wrapper *Wrapper) (uint32, error) {
	r := newRing(shard{store: store, prefix: prefix}, wrapper)
	highest, err := r.load(ctx)
	if err != nil {
		return 0, err
	}
	if highest == 0 || highest == math.MaxUint32 {
		return 0, fmt.Errorf("shard %q: its newest data key is number %d: there is no next one to make", prefix, highest)
	}
	// A newer one would hide for a time that this one can't be had.
	if _, err := r.known(highest); err != nil {
		return 0, err
	}
	if err := r.generate(ctx, highest+1, wrapper); err != nil {
		return 0, err
	}
	if _, err := r.load(ctx); err != nil {
		return 0, err
	}
	_, err = r.known(highest + 1)
	return highest + 1, err
}

// Rewrap wraps all data keys of a shard by the key that `to` wraps by now, and
// returns how many it wrapped. They are unwrapped by `to`, which has its older keys,
// or by one of `from`. Unless keep is set the wraps before are deleted, after the new
// ones were read back: every process that opens the shard needs `to` from then on.
// It may be repeated, after an error as well; one runs at a time.
func Rewrap(ctx context.Context, store blob.Store, prefix string, to *Wrapper, keep bool, from ...*Wrapper) (count int, err error) {
	s := shard{store: store, prefix: prefix}
	all, err := s.slots(ctx)
	if err != nil {
		return 0, err
	}
	for generation, slots := range byGeneration(all) {
		again, err := s.rewrap(ctx, slots, to, from)
		if err != nil {
			return count, fmt.Errorf("shard %q, data key %d: %w", prefix, generation, err)
		}
		if again {
			count++
		}
		if keep {
			continue
		}
		if err := s.prune(ctx, generation, to); err != nil {
			return count, fmt.Errorf("shard %q, data key %d: %w", prefix, generation, err)
		}
	}
	return count, nil
}

// rewrap puts a new wrap beside those of one data key, unless the newest is of
// this key already. A key service's may be of an older version: always again.
func (s shard) rewrap(ctx context.Context, slots []slot, to *Wrapper, from []*Wrapper) (bool, error) {
	wraps, err := s.wraps(ctx, slots)
	if err != nil {
		return false, err
	}
	if wraps[0].name == to.name && !to.service {
		return false, nil
	}
	data, err := s.open(ctx, slots, append([]*Wrapper{to}, from...)...)
	if err != nil {
		return false, err
	}
	at := slot{generation: slots[0].generation, wrap: slots[0].wrap + 1}
	if at.wrap > maxWraps {
		return false, fmt.Errorf("wrapped %d times: make a new generation", maxWraps)
	}
	object, err := to.wrap(ctx, s.prefix, at.generation, data)
	if err != nil {
		return false, err
	}
	return true, s.create(ctx, at, object)
}

// prune deletes all wraps of a data key but the newest, once that is known to be
// readable.
func (s shard) prune(ctx context.Context, generation uint32, to *Wrapper) error {
	all, err := s.slots(ctx)
	if err != nil {
		return err
	}
	slots := all[generation]
	if len(slots) == 0 {
		return fmt.Errorf("%w: gone meanwhile", blob.ErrNotFound)
	}
	if _, err := s.open(ctx, slots[:1], to); err != nil {
		return err
	}
	for _, at := range slots[1:] {
		err = errors.Join(err, s.store.Delete(ctx, s.folder()+at.name()))
	}
	return err
}
