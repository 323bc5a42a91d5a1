package sealed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

var (
	// ErrCorrupt says that an object, or a part of it, isn't what was sealed under
	// its name.
	ErrCorrupt = blob.ErrCorrupt
	// ErrNoKey says that a data key can't be had; its error says which, and what to do.
	ErrNoKey = errors.New("no data key")
	// ErrWrongKey says that a data key is wrapped by another key than the ones at hand.
	ErrWrongKey = errors.New("another key-encryption key is needed")
)

// Options of Open.
type Options struct {
	// Plain lets objects be read that were stored before encryption was turned on.
	// While it is set, whoever can write to the store can put plain objects there.
	Plain bool
	Log   *slog.Logger // nil: none
	// Found is told of damage that was mended, and so isn't seen in any answer, each time
	// that it is met. It may be called by several goroutines at once. nil: nobody is.
	Found func(key string, octet int64, what string)
}

// Store seals what is below one key prefix of another store.
type Store struct {
	shard
	found   func(key string, octet int64, what string)
	ring    *ring
	plain   bool
	current uint32 // generation of new objects
	data    *secret
	known   *cache
	buffers sync.Pool // of *[]byte
}

var _ blob.Store = (*Store)(nil)

// Open opens what the store has below the prefix, "" for all of it, and makes the
// first data key where there is none yet. Errors: ErrNoKey (Kind Transient: it may be
// there later) with what to do; Invalid; the store's.
func Open(ctx context.Context, store blob.Store, prefix string, wrapper *Wrapper, options Options) (*Store, error) {
	log := options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if prefix != strings.Trim(prefix, "/") {
		return nil, &maildrop.Error{Op: "sealed.open", Kind: maildrop.Invalid, Err: fmt.Errorf("prefix %q: slashes at its ends", prefix)}
	}
	found := func(key string, octet int64, what string) {
		log.Error("sealed store: damage, mended", "key", key, "octet", octet, "what", what)
		if options.Found != nil {
			options.Found(key, octet, what)
		}
	}
	place := shard{store: store, prefix: prefix, mended: found}
	s := &Store{
		shard: place, found: found, ring: newRing(place, wrapper), plain: options.Plain, known: newCache(maxKnown),
		buffers: sync.Pool{New: func() any { return new([]byte) }},
	}
	if err := s.begin(ctx); err != nil {
		kind := maildrop.Transient
		if ctx.Err() != nil {
			kind = maildrop.Canceled
		}
		return nil, &maildrop.Error{Op: "sealed.open", Kind: kind, Err: fmt.Errorf("shard %q: %w", prefix, err)}
	}
	if s.plain {
		log.Warn("sealed store: plain objects are read too", "prefix", prefix)
	}
	for generation, err := range s.ring.failed {
		log.Error("sealed store: an old data key can't be had, what it sealed can't be read", "prefix", prefix, "generation", generation, "error", err)
	}
	return s, nil
}

// Fits reports whether there is a data key below the prefix, and whether the wrapper
// can open the newest one: ErrWrongKey. It writes nothing.
func Fits(ctx context.Context, store blob.Store, prefix string, wrapper *Wrapper) (found bool, err error) {
	s := shard{store: store, prefix: prefix}
	generations, err := s.slots(ctx)
	if err != nil || len(generations) == 0 {
		return false, err
	}
	newest := slices.Max(slices.Collect(maps.Keys(generations)))
	_, err = s.open(ctx, generations[newest], wrapper)
	return true, err
}

// begin finds the generation that new objects are sealed with, or makes the first.
func (s *Store) begin(ctx context.Context) error {
	highest, err := s.ring.load(ctx)
	if err == nil && highest == 0 {
		highest, err = s.first(ctx)
	}
	if err != nil {
		return err
	}
	s.current = highest
	s.data, err = s.ring.known(highest)
	return err
}

// first makes generation 1. Which key that is, the store decides: any number of
// processes may be here at once.
func (s *Store) first(ctx context.Context) (highest uint32, err error) {
	refusal := s.virgin(ctx)
	if refusal == nil {
		if err := s.ring.generate(ctx, 1, s.ring.wrapper); err != nil {
			return 0, err
		}
	}
	highest, err = s.ring.load(ctx)
	switch {
	case err != nil:
		return 0, err
	case highest > 0:
		return highest, nil // what virgin met was another process's, sealed
	case refusal == nil:
		refusal = fmt.Errorf("%w: %s is empty after a key was created there", ErrNoKey, s.folder())
	}
	return 0, refusal
}

// virgin refuses to begin where something is that a new key would not open: it
// would hide that the keys were lost.
func (s *Store) virgin(ctx context.Context) error {
	for object, err := range s.objects(ctx, s.root(), "") {
		switch {
		case err != nil:
			return err
		case object.sealed:
			return fmt.Errorf("%w: there are sealed objects (%s) and nothing in %s: restore it", ErrNoKey, object.Key, s.folder())
		case !s.plain:
			return fmt.Errorf("%w: there are objects that aren't sealed (%s): allow plain reads until they are gone", ErrNoKey, object.Key)
		}
	}
	return nil
}

// mine refuses keys of other shards, and those of the data keys.
func (s *Store) mine(key string) error {
	switch {
	case !strings.HasPrefix(key, s.root()):
		return fmt.Errorf("key %q is not below %q", key, s.root())
	case strings.HasPrefix(key+"/", s.folder()):
		return fmt.Errorf("key %q is the data keys' place", key)
	}
	return nil
}

// Create implements blob.Store. It holds one segment of the body in memory.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	if err := s.mine(key); err != nil {
		return err
	}
	if size < 1 || size > maxPlain {
		return fmt.Errorf("create %s: an object of %d octets", key, size)
	}
	sealing, err := s.newSealing(key, body, size)
	if err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	err = s.store.Create(ctx, key, sealing, sealedSize(size))
	if err == nil {
		s.known.drop(key) // of one that was there before and deleted
	}
	return err
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.mine(key); err != nil {
		return err
	}
	s.known.drop(key)
	return s.store.Delete(ctx, key)
}

func corrupt(key string, octet int64, what string) error {
	return &maildrop.Error{Op: "sealed.read", Kind: maildrop.Corrupt, Err: fmt.Errorf("%s: octet %d: %s: %w", key, octet, what, ErrCorrupt)}
}
