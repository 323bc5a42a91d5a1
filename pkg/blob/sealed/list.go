package sealed

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

// looksAtOnce is how many objects are looked into at once, to see whether they are
// sealed.
const looksAtOnce = 64

// List implements blob.Store. Sizes are those of the plaintext; an object of a
// size that no sealed one has is listed with 0, and a read of it tells more. While plain
// objects are allowed each one listed costs a read of its first octets.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		if strings.HasPrefix(s.root(), prefix) {
			prefix = s.root()
		} else if !strings.HasPrefix(prefix, s.root()) {
			return // of other shards
		}
		for object, err := range s.objects(ctx, prefix, after) {
			if err == nil && object.sealed {
				object.Size = plainSize(object.Size)
			}
			if !yield(object.Info, err) {
				return
			}
		}
	}
}

// object is one as it is stored.
type object struct {
	blob.Info
	sealed bool
}

// objects lists the stored objects but those of the data keys. Where plain ones may
// be it looks into each object.
func (s *Store) objects(ctx context.Context, prefix, after string) iter.Seq2[object, error] {
	look := s.plain || s.current == 0
	return func(yield func(object, error) bool) {
		batch := make([]object, 0, looksAtOnce)
		for info, err := range s.store.List(ctx, prefix, after) {
			switch {
			case err != nil:
				yield(object{}, err)
				return
			case strings.HasPrefix(info.Key, s.folder()):
				continue
			}
			if batch = append(batch, object{Info: info, sealed: true}); look && len(batch) < looksAtOnce {
				continue
			}
			if !s.yieldAll(ctx, batch, look, yield) {
				return
			}
			batch = batch[:0]
		}
		s.yieldAll(ctx, batch, look, yield)
	}
}

// yieldAll yields a batch, after looking into its objects if need be.
func (s *Store) yieldAll(ctx context.Context, batch []object, look bool, yield func(object, error) bool) bool {
	errs := make([]error, len(batch))
	if look {
		var looking sync.WaitGroup
		for i := range batch {
			looking.Go(func() { batch[i].sealed, errs[i] = s.look(ctx, batch[i].Key) })
		}
		looking.Wait()
	}
	for i, object := range batch {
		if errors.Is(errs[i], blob.ErrNotFound) {
			continue // deleted meanwhile
		}
		if !yield(object, errs[i]) || errs[i] != nil {
			return false
		}
	}
	return true
}

// look tells whether an object is sealed.
func (s *Store) look(ctx context.Context, key string) (bool, error) {
	var begin [headerSize]byte
	n, err := s.store.ReadAt(ctx, key, begin[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if isSealed(begin[:n]) {
		return true, nil
	}
	_, _, mended := mend(begin[:n])
	return mended, nil
}
