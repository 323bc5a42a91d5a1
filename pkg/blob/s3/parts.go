package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/blob"
)

// createInParts uploads parts, which nobody sees, and then makes the object of
// them. Until then every failure is a clean one.
func (s *Store) createInParts(ctx context.Context, c creation, body io.Reader, size int64) error {
	if size > partSize*maxParts {
		return fmt.Errorf("%d octets, at most %d", size, int64(partSize*maxParts))
	}
	switch err := s.stat(ctx, opCreate, c.name); {
	case err == nil:
		return blob.ErrExists // found out before the body is on its way for nothing
	case !errors.Is(err, blob.ErrNotFound):
		return err
	}
	id, err := s.beginUpload(ctx, c)
	if err != nil {
		return err
	}
	parts, err := s.upload(ctx, c.name, id, &exact{src: body, size: size})
	if err == nil {
		err = s.complete(ctx, c, id, parts)
	}
	if err != nil && !errors.Is(err, blob.ErrMaybe) {
		s.giveUp(ctx, c.name, id)
	}
	return err
}

// beginUpload may be repeated: an upload that nobody knows of is swept up.
func (s *Store) beginUpload(ctx context.Context, c creation) (id string, err error) {
	err = s.repeat(ctx, opCreate, func(ctx context.Context, core *minio.Core) (err error) {
		id, err = core.NewMultipartUpload(ctx, s.cfg.Bucket, c.name, minio.PutObjectOptions{UserMetadata: c.options().UserMetadata})
		return err
	})
	return id, err
}

// upload sends a body part by part, reading ahead while some are on their way.
func (s *Store) upload(ctx context.Context, name, id string, body *exact) ([]minio.CompletePart, error) {
	parts := make([]minio.CompletePart, (body.size+partSize-1)/partSize)
	sending, inner := errgroup.WithContext(ctx)
	sending.SetLimit(inFlight)
	var broken error
	for i := range parts {
		p, err := s.loadPart(inner, body, min(partSize, body.size-body.done))
		if err != nil {
			broken = err
			break
		}
		sending.Go(func() error {
			defer p.release()
			tag, err := s.uploadPart(inner, name, id, i+1, p)
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: tag}
			return err
		})
	}
	// A part that failed ends inner, and so the reading: it is the cause.
	if err := sending.Wait(); err != nil {
		return nil, err
	}
	return parts, broken
}

func (s *Store) uploadPart(ctx context.Context, name, id string, number int, p piece) (tag string, err error) {
	err = s.repeat(ctx, opCreate, func(ctx context.Context, core *minio.Core) error {
		body := newOutgoing(ctx, p.reader(), p.size)
		part, err := core.PutObjectPart(ctx, s.cfg.Bucket, name, id, number, body, p.size,
			minio.PutObjectPartOptions{Sha256Hex: p.sum, DisableContentSha256: true})
		_, _ = body.stop() // an unfinished part is nothing
		tag = part.ETag
		if err == nil && tag == "" {
			return errNoTag
		}
		return err
	})
	return tag, err
}

// complete makes the object, unless there is one. The server may be busy with
// it for a while.
func (s *Store) complete(ctx context.Context, c creation, id string, parts []minio.CompletePart) error {
	r := s.once(ctx, patience*s.cfg.Stall, func(ctx context.Context, core *minio.Core) error {
		condition := c.options()
		condition.UserMetadata = nil // it came with the upload's begin
		info, err := core.CompleteMultipartUpload(ctx, s.cfg.Bucket, c.name, id, parts, condition)
		if err == nil && info.ETag == "" {
			return errNoTag
		}
		return err
	})
	return s.outcome(ctx, c, r, true)
}

// giveUp aborts an upload, also when the caller has no time left.
func (s *Store) giveUp(ctx context.Context, name, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwork)
	defer cancel()
	s.abort(ctx, name, id)
}

func (s *Store) abort(ctx context.Context, name, id string) {
	err := s.repeat(ctx, opCreate, func(ctx context.Context, core *minio.Core) error {
		return core.AbortMultipartUpload(ctx, s.cfg.Bucket, name, id)
	})
	if a, answered := answerOf(err); err != nil && (!answered || a.StatusCode != http.StatusNotFound) {
		s.log.Warn("upload not aborted, it will be swept up later", "name", name, "error", err)
	}
}

// completing finds out, once, whether the store keeps the condition when parts
// are completed.
func (s *Store) completing(ctx context.Context) (completing, error) {
	s.mu.Lock()
	known := s.completes
	s.mu.Unlock()
	if known != unknown {
		return known, nil
	}
	found, err := s.tryCompleting(ctx)
	if err != nil {
		return unknown, err
	}
	if found == dropped {
		s.log.Warn("the store drops the condition on objects in parts: large objects are sent in one PUT")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.completes = found
	return found, nil
}

// tryCompleting makes an object in parts where there is one.
func (s *Store) tryCompleting(ctx context.Context) (completing, error) {
	there := newCreation(s.probeName())
	second := newCreation(there.name)
	content, err := s.loadPart(ctx, probeBody(), probeSize)
	if err != nil {
		return unknown, err
	}
	defer content.release()
	if err := s.put(ctx, there, content.reader, content.size, content.sum); err != nil {
		return unknown, err
	}
	defer s.removeProbe(ctx, there.name)
	id, err := s.beginUpload(ctx, second)
	if err != nil {
		return unknown, err
	}
	tag, err := s.uploadPart(ctx, there.name, id, 1, content)
	if err == nil {
		err = s.complete(ctx, second, id, []minio.CompletePart{{PartNumber: 1, ETag: tag}})
	}
	if err == nil {
		return dropped, nil
	}
	s.giveUp(ctx, there.name, id)
	a, answered := answerOf(err)
	switch {
	case errors.Is(err, blob.ErrExists):
		return kept, nil
	case answered && a.refused() && a.StatusCode != http.StatusForbidden:
		return dropped, nil // it doesn't know parts, or not with a condition
	}
	return unknown, err
}

// sweep aborts uploads that were begun so long ago that whoever began them is
// gone.
func (s *Store) sweep(ctx context.Context, age time.Duration) error {
	before := time.Now().Add(-age)
	var key, id string
	for {
		var page minio.ListMultipartUploadsResult
		err := s.repeat(ctx, opCreate, func(ctx context.Context, core *minio.Core) (err error) {
			page, err = core.ListMultipartUploads(ctx, s.cfg.Bucket, s.prefix, key, id, "", pageSize)
			return err
		})
		if err != nil {
			return err
		}
		for _, upload := range page.Uploads {
			if upload.Initiated.Before(before) && s.mayAbort(upload.Key) {
				s.abort(ctx, upload.Key, upload.UploadID)
				s.log.Info("abandoned upload aborted", "name", upload.Key, "begun", upload.Initiated)
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return ctx.Err()
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// mayAbort reports whether an upload can only be one of ours.
func (s *Store) mayAbort(name string) bool {
	_, ours := s.key(name)
	return ours || s.isProbe(name)
}

// sweepAlways sweeps now and every hour until ctx ends.
func (s *Store) sweepAlways(ctx context.Context) {
	for {
		if err := s.sweep(ctx, abandoned); err != nil && ctx.Err() == nil {
			s.log.Warn("abandoned uploads not looked for", "error", err)
		}
		if wait(ctx, sweepings) != nil {
			return
		}
	}
}
