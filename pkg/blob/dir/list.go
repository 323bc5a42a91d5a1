package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/blob"
)

// List implements blob.Store. It holds the names of one directory at each level
// of the tree, and of those only what may be yielded.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		l := &lister{store: s, prefix: prefix, after: after, yield: yield}
		if !blob.BeginsKeys(prefix) {
			return
		}
		if err := l.all(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1]); err != nil {
			yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// all looks before and after: a store that is gone would have an empty list.
func (l *lister) all(ctx context.Context, folder string) error {
	if err := l.store.present(); err != nil {
		return err
	}
	if more, err := l.walk(ctx, folder); err != nil || !more {
		return err
	}
	return l.store.present()
}

type lister struct {
	store         *Store
	prefix, after string
	yield         func(blob.Info, error) bool
}

// walk yields what is in a folder ("" or ending with a slash); more is false when
// the caller has enough.
func (l *lister) walk(ctx context.Context, folder string) (more bool, err error) {
	names, err := l.names(folder)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if strings.HasSuffix(name, "/") {
			more, err = l.walk(ctx, folder+name)
		} else {
			more, err = l.object(folder + name)
		}
		if !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (l *lister) object(key string) (more bool, err error) {
	info, err := os.Lstat(l.store.file(key))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil // deleted meanwhile
	case err != nil:
		return false, err
	}
	return l.yield(blob.Info{Key: key, Size: info.Size()}, nil), nil
}

// names reads a folder's names, folders with a slash at the end, in the octet
// order of the keys: "a.b" is before "a/b".
func (l *lister) names(folder string) (names []string, err error) {
	d, err := os.Open(l.store.file(folder))
	if err != nil {
		if isMissing(err) {
			return nil, nil
		}
		return nil, err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1024)
		for _, entry := range entries {
			if name, ok := l.wanted(folder, entry); ok {
				names = append(names, name)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			slices.Sort(names)
			return names, nil
		case isMissing(err): // the path is an object
			return nil, nil
		case err != nil:
			return nil, err
		}
	}
}

// wanted is the entry's name if it is, or may hold, something to yield.
func (l *lister) wanted(folder string, entry fs.DirEntry) (string, bool) {
	name := entry.Name()
	if blob.CheckKey(name) != nil {
		return "", false
	}
	if !entry.IsDir() {
		key := folder + name
		return name, strings.HasPrefix(key, l.prefix) && key > l.after
	}
	name += "/"
	key := folder + name
	begins := strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)
	return name, begins && (key > l.after || strings.HasPrefix(l.after, key))
}
