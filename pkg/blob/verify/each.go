package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

// each is a step through every endpoint.
func (t *trial) each(step func(s blob.Store) error) error {
	for _, s := range t.stores {
		if err := step(s); err != nil {
			return err
		}
	}
	return nil
}

// readYourWrite reads before, too: some store might remember that there was nothing.
func readYourWrite(ctx context.Context, t *trial) error {
	return t.each(func(s blob.Store) error {
		key, content := t.key(), octets(100)
		defer t.remove(ctx, s, key)
		if err := t.hasNot(ctx, key, "before the create"); err != nil {
			return err
		}
		err := again(ctx, func() error { return create(ctx, s, key, content) })
		if err != nil && !exists(err) { // which an earlier try of ours would explain
			return fmt.Errorf("create: %w", err)
		}
		return t.has(ctx, key, content, "right after the create")
	})
}

// A page of a list has at most 1,000 keys (S3's limit), so these are more than one.
const (
	overAPage  = 1001
	pageMakers = 16 // that create them at once
)

// wholeLists makes more objects than a page has, and lists them right after.
func wholeLists(ctx context.Context, t *trial) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	made, turns := make([]string, overAPage), make(chan int, overAPage)
	for i := range overAPage {
		turns <- i
	}
	close(turns)
	var makers sync.WaitGroup
	for n := range pageMakers {
		makers.Go(func() {
			for i := range turns {
				var err error
				if made[i], err = t.fresh(ctx, t.stores[n%len(t.stores)], octets(1)); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	makers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for i, s := range t.stores {
		listed, err := t.list(ctx, s)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for _, key := range made {
			if _, there := listed[key]; !there {
				return brokenf("of %d objects, the list of endpoint %d lacks %s, and has %d", overAPage, i+1, key, len(listed))
			}
		}
	}
	return nil
}

func listAfterWrite(ctx context.Context, t *trial) error {
	return t.each(func(s blob.Store) error {
		content := octets(100 + t.serial)
		key, err := t.fresh(ctx, s, content)
		if err != nil {
			return err
		}
		defer t.remove(ctx, s, key)
		for i, other := range t.stores {
			listed, err := t.list(ctx, other)
			if err != nil {
				return fmt.Errorf("list: %w", err)
			}
			size, there := listed[key]
			switch {
			case !there:
				return brokenf("right after a create, the list of endpoint %d hadn't the object", i+1)
			case size != int64(len(content)):
				return brokenf("the list of endpoint %d said %d octets of an object of %d", i+1, size, len(content))
			}
		}
		return nil
	})
}

// missingIsMissing asks often: some store might make something of it.
func missingIsMissing(ctx context.Context, t *trial) error {
	content := octets(10)
	there, err := t.fresh(ctx, t.stores[0], content)
	if err != nil {
		return err
	}
	defer t.remove(ctx, t.stores[0], there)
	key := t.key()
	for n := range 5 {
		err := t.hasNot(ctx, key, fmt.Sprintf("of a key without object, read %d times before", n*len(t.stores)))
		var seen broken
		if err == nil {
			continue
		}
		if errors.As(err, &seen) {
			return err
		}
		// Where reading works, it is the missing object that this is said of.
		if works := t.has(ctx, there, content, ""); works != nil || ctx.Err() != nil {
			return err
		}
		return brokenf("of a key without object it was said, %d times: %v", tries, err)
	}
	return t.each(func(s blob.Store) error {
		listed, err := t.list(ctx, s)
		if _, there := listed[key]; there {
			return brokenf("a key without object is listed")
		}
		return err
	})
}

func neverChanges(ctx context.Context, t *trial) error {
	return t.each(func(s blob.Store) error {
		content := octets(1000)
		key, err := t.fresh(ctx, s, content)
		if err != nil {
			return err
		}
		defer t.remove(ctx, s, key)
		for _, others := range [][]byte{octets(1000), octets(10), octets(5000), content} {
			for i, other := range t.stores {
				switch err := again(ctx, func() error { return create(ctx, other, key, others) }); {
				case err == nil:
					return brokenf("endpoint %d created an object that was there", i+1)
				case !exists(err):
					return fmt.Errorf("create: %w", err)
				}
			}
			if err := t.has(ctx, key, content, "after another create of the key"); err != nil {
				return err
			}
		}
		return nil
	})
}

func exactRanges(ctx context.Context, t *trial) error {
	content := octets(100_003)
	size := int64(len(content))
	key, err := t.fresh(ctx, t.stores[0], content)
	if err != nil {
		return err
	}
	defer t.remove(ctx, t.stores[0], key)
	for _, r := range []struct{ offset, octets int64 }{
		{0, 1}, {0, size}, {0, size + 1}, {1, size - 1}, {1, size}, {4095, 4098}, {size - 1, 1}, {size - 1, 2}, {size, 1}, {size + 5, 3},
	} {
		err := t.each(func(s blob.Store) error { return exactRange(ctx, s, key, content, r.offset, r.octets) })
		if err != nil {
			return err
		}
	}
	return nil
}

func exactRange(ctx context.Context, s blob.Store, key string, content []byte, offset, count int64) error {
	size := int64(len(content))
	want := content[min(offset, size):min(offset+count, size)]
	var got []byte
	ended := false
	err := again(ctx, func() error {
		p := make([]byte, count)
		n, err := s.ReadAt(ctx, key, p, offset)
		got = p[:n]
		if ended = errors.Is(err, io.EOF); ended {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("read of %d octets at %d of %d: %w", count, offset, size, err)
	case !bytes.Equal(got, want):
		return brokenf("a read of %d octets at %d of an object of %d: got %d octets that aren't the %d there", count, offset, size, len(got), len(want))
	case int64(len(got)) < count && !ended:
		return brokenf("a read of %d octets at %d of an object of %d: got %d, and not that it ends there", count, offset, size, len(got))
	}
	return nil
}

// deletes uses one key three times.
func deletes(ctx context.Context, t *trial) error {
	return t.each(func(s blob.Store) error {
		content := octets(500)
		key, err := t.fresh(ctx, s, content)
		if err != nil {
			return err
		}
		for range 2 {
			if err := t.has(ctx, key, content, "after a create"); err != nil {
				return err
			}
			if err := t.deleted(ctx, s, key); err != nil {
				return err
			}
			content = octets(600)
			switch err := create(ctx, s, key, content); {
			case exists(err):
				if got, err := read(ctx, s, key, len(content)); err != nil || !bytes.Equal(got, content) {
					return brokenf("a key whose object was deleted was said to exist")
				}
				return nil // it was there by a client's own repetition
			case err != nil:
				return nil //nolint:nilerr // of unknown outcome, perhaps: this key is no longer good for a test
			}
		}
		return nil
	})
}

// deleted deletes twice and looks everywhere.
func (t *trial) deleted(ctx context.Context, s blob.Store, key string) error {
	for range 2 {
		if err := again(ctx, func() error { return s.Delete(ctx, key) }); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		if err := t.hasNot(ctx, key, "after a deletion"); err != nil {
			return err
		}
	}
	return t.each(func(s blob.Store) error {
		listed, err := t.list(ctx, s)
		if _, there := listed[key]; there {
			return brokenf("after a deletion the object was listed")
		}
		return err
	})
}
