package sealed

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	maxKeyObjects = 10000 // of one shard: a list of more is not ours
	keyTries      = 4     // of what another process may have changed meanwhile
)

// shard is the place of a shard's keys.
type shard struct {
	store  blob.Store
	prefix string
	mended func(key string, octet int64, what string) // nil: nobody is told
}

// root is what all keys of the shard's objects begin with.
func (s shard) root() string {
	if s.prefix == "" {
		return ""
	}
	return s.prefix + "/"
}

// folder is where the key objects are.
func (s shard) folder() string { return s.root() + "key/" }

// slots lists the shard's key objects: of each generation, the newest wrap first.
func (s shard) slots(ctx context.Context) (map[uint32][]slot, error) {
	found, count := make(map[uint32][]slot), 0
	for info, err := range s.store.List(ctx, s.folder(), "") {
		if err != nil {
			return nil, err
		}
		if count++; count > maxKeyObjects {
			return nil, fmt.Errorf("%s has over %d objects", s.folder(), maxKeyObjects)
		}
		if at, ok := parseSlot(strings.TrimPrefix(info.Key, s.folder())); ok {
			found[at.generation] = append(found[at.generation], at)
		}
	}
	for _, slots := range found {
		slices.SortFunc(slots, func(a, b slot) int { return int(b.wrap) - int(a.wrap) })
	}
	return found, nil
}

// wrapped is a key object and where it is.
type wrapped struct {
	at slot
	keyObject
}

// read reads a key object. One that isn't there any more is blob.ErrNotFound.
func (s shard) read(ctx context.Context, at slot) (wrapped, error) {
	name := s.folder() + at.name()
	buffer := make([]byte, 2*maxKeyObject+1)
	n, err := s.store.ReadAt(ctx, name, buffer, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return wrapped{}, err
	}
	k, damaged, err := decodeKeyObject(buffer[:n])
	if damaged != nil && s.mended != nil {
		s.mended(name, 0, damaged.Error())
	}
	if err == nil && k.generation != at.generation {
		err = fmt.Errorf("%w: it says that it is of generation %d", errKeyObject, k.generation)
	}
	if err != nil {
		return wrapped{}, fmt.Errorf("%s: %w", name, err)
	}
	return wrapped{at: at, keyObject: k}, nil
}

// wraps reads the wraps of one data key, the newest first. Damaged ones are left
// out, and others that wrap another key than the newest does: see Decisions, the
// creator that overslept. The error is the last one met, when none is left.
func (s shard) wraps(ctx context.Context, slots []slot) (found []wrapped, err error) {
	for _, at := range slots {
		w, failed := s.read(ctx, at)
		switch {
		case errors.Is(failed, errKeyObject):
			err = failed
		case failed != nil:
			return nil, failed
		case len(found) == 0 || same(found[0].check, w.check):
			found = append(found, w)
		}
	}
	if len(found) > 0 {
		err = nil
	}
	return found, err
}

// open unwraps a generation's data key: the newest wrap that one of the wrappers
// can read.
func (s shard) open(ctx context.Context, slots []slot, wrappers ...*Wrapper) (*secret, error) {
	wraps, err := s.wraps(ctx, slots)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, w := range wraps {
		for _, wrapper := range wrappers {
			data, err := wrapper.unwrap(ctx, s.prefix, w.keyObject)
			if err == nil {
				return data, nil
			}
			if failed == nil || wrapper.holds(w.name) {
				failed = fmt.Errorf("%s%s: %w", s.folder(), w.at.name(), err)
			}
		}
	}
	return nil, failed
}

// create puts a key object at a slot. After nil there is one there, by whomever:
// what it says is for a read to tell.
func (s shard) create(ctx context.Context, at slot, object []byte) (err error) {
	for range keyTries {
		err = s.store.Create(ctx, s.folder()+at.name(), strings.NewReader(string(object)), int64(len(object)))
		if err == nil || errors.Is(err, blob.ErrExists) {
			return nil
		}
		if !errors.Is(err, blob.ErrMaybe) {
			return err
		}
	}
	return err
}

// generate makes the data key of a generation, unless there is one already.
func (s shard) generate(ctx context.Context, generation uint32, wrapper *Wrapper) error {
	object, err := wrapper.wrap(ctx, s.prefix, generation, randomSecret())
	if err != nil {
		return err
	}
	return s.create(ctx, slot{generation: generation}, object)
}

func same(a, b [checkSize]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// ring has a shard's data keys, by generation.
type ring struct {
	shard
	wrapper *Wrapper
	loading chan struct{} // holds one token while somebody loads

	mu     sync.Mutex
	keys   map[uint32]*secret
	failed map[uint32]error // why a generation that is there can't be had
}

func newRing(s shard, wrapper *Wrapper) *ring {
	return &ring{
		shard: s, wrapper: wrapper, loading: make(chan struct{}, 1),
		keys: make(map[uint32]*secret), failed: make(map[uint32]error),
	}
}

// load takes in the generations that aren't in the ring yet, and returns the
// highest that there is, 0 when there is none. Its error is the store's, or ctx's;
// that of one generation is kept for who wants it.
func (r *ring) load(ctx context.Context) (highest uint32, err error) {
	for range keyTries {
		highest, err = r.once(ctx)
		if !errors.Is(err, blob.ErrNotFound) { // else wrapped anew while we read: list again
			break
		}
	}
	return highest, err
}

func (r *ring) once(ctx context.Context) (highest uint32, err error) {
	generations, err := r.slots(ctx)
	if err != nil {
		return 0, err
	}
	for generation, slots := range generations {
		highest = max(highest, generation)
		if _, err := r.known(generation); err == nil {
			continue
		}
		data, err := r.open(ctx, slots, r.wrapper)
		if errors.Is(err, blob.ErrNotFound) || ctx.Err() != nil {
			return 0, errors.Join(err, ctx.Err())
		}
		r.keep(generation, data, err)
	}
	return highest, nil
}

func (r *ring) keep(generation uint32, data *secret, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.failed, generation)
	if err != nil {
		r.failed[generation] = err
		return
	}
	r.keys[generation] = data
}

// known is a data key of the ring, or says what is missing.
func (r *ring) known(generation uint32) (*secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data := r.keys[generation]; data != nil {
		return data, nil
	}
	if err := r.failed[generation]; err != nil {
		return nil, fmt.Errorf("%w of generation %d: %w", ErrNoKey, generation, err)
	}
	return nil, fmt.Errorf("%w of generation %d: restore %s%s", ErrNoKey, generation, r.folder(), slot{generation: generation}.name())
}

// key is the data key of a generation. One that isn't in the ring is looked
// for: it may be newer than this process.
func (r *ring) key(ctx context.Context, generation uint32) (*secret, error) {
	if data, err := r.known(generation); err == nil {
		return data, nil
	}
	select {
	case r.loading <- struct{}{}:
		defer func() { <-r.loading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if data, err := r.known(generation); err == nil {
		return data, nil
	}
	if _, err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("looking for the data key of generation %d: %w", generation, err)
	}
	return r.known(generation)
}
