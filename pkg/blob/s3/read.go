package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/postern-pop/postern/pkg/blob"
)

// readAt makes one ranged GET, anew from the beginning when it breaks.
func (s *Store) readAt(ctx context.Context, name string, p []byte, offset int64) (n int, err error) {
	if len(p) == 0 {
		return 0, s.stat(ctx, opRead, name)
	}
	var options minio.GetObjectOptions
	if err := options.SetRange(offset, offset+int64(len(p))-1); err != nil {
		return 0, err
	}
	want := len(p)
	err = s.repeat(ctx, opRead, func(ctx context.Context, core *minio.Core) error {
		body, _, header, err := core.GetObject(ctx, s.cfg.Bucket, name, options)
		if err != nil {
			return err
		}
		defer body.Close()
		size, err := sizeOf(header, offset)
		if err != nil {
			return err
		}
		want = int(min(int64(len(p)), max(0, size-offset)))
		if n, err = io.ReadFull(body, p[:want]); err != nil {
			return fmt.Errorf("%w: %d of %d octets: %w", errShort, n, want, io.ErrUnexpectedEOF)
		}
		return nil
	})
	if a, answered := answerOf(err); answered && a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return 0, io.EOF
	}
	if err == nil && want < len(p) {
		return n, io.EOF
	}
	return n, err
}

var errShort = errors.New("the answer broke off")

// sizeOf is the object's size as an answer says it that begins at offset
// (RFC 9110, section 14.4).
func sizeOf(header http.Header, offset int64) (int64, error) {
	text := header.Get("Content-Range")
	if text == "" && offset == 0 { // the whole object: the range was ignored
		return strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	}
	span, size, ok := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	begin, err := strconv.ParseInt(first, 10, 64)
	total, err2 := strconv.ParseInt(size, 10, 64)
	if !ok || err != nil || err2 != nil || begin != offset {
		return 0, fmt.Errorf("%w: asked from octet %d, answered %q", errForeign, offset, text)
	}
	return total, nil
}

// remove deletes an object, or nothing.
func (s *Store) remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.repeat(ctx, opDelete, func(ctx context.Context, core *minio.Core) error {
		return core.RemoveObject(ctx, s.cfg.Bucket, name, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	return err
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for more := blob.BeginsKeys(prefix); more; {
			page, err := s.page(ctx, prefix, after)
			if err != nil {
				yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			for _, info := range page.infos {
				if err := ctx.Err(); err != nil {
					yield(blob.Info{}, fmt.Errorf("list %s: %w", prefix, err))
					return
				}
				if !yield(info, nil) {
					return
				}
			}
			after, more = page.last, page.more
		}
	}
}

// page is a piece of a list.
type page struct {
	infos []blob.Info
	last  string // where the next one begins
	more  bool
}

// page reads the next objects after a key. It stands by itself: no token of the
// server's is kept while the caller uses what it has.
func (s *Store) page(ctx context.Context, prefix, after string) (p page, err error) {
	owner := false
	options := minio.ListObjectsOptions{
		Prefix: s.prefix + prefix, Recursive: true, MaxKeys: pageSize, FetchOwner: &owner,
	}
	if after != "" {
		options.StartAfter = s.prefix + after
	}
	err = s.repeat(ctx, opList, func(ctx context.Context, core *minio.Core) error {
		p = page{last: after}
		seen := 0
		for object := range core.ListObjectsIter(ctx, s.cfg.Bucket, options) {
			if object.Err != nil {
				return object.Err
			}
			if err := p.add(s, object, prefix); err != nil {
				return err
			}
			if seen++; seen == pageSize {
				p.more = true
				break
			}
		}
		return ctx.Err()
	})
	return p, err
}

// add takes the next object of an answer.
func (p *page) add(s *Store, object minio.ObjectInfo, prefix string) error {
	key, below := strings.CutPrefix(object.Key, s.prefix)
	switch {
	case !below || !strings.HasPrefix(key, prefix):
		return fmt.Errorf("%w: %q in a list of %q", errForeign, object.Key, s.prefix+prefix)
	case len(p.infos) == 0 && key <= p.last:
		return nil // the server begins before where it was asked to
	case key <= p.last:
		return fmt.Errorf("%w: a list with %q after %q", errForeign, key, p.last)
	}
	p.last = key
	if blob.CheckKey(key) == nil {
		p.infos = append(p.infos, blob.Info{Key: key, Size: object.Size})
	}
	return nil
}
