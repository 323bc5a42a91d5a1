package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/postern-pop/postern/pkg/blob"
)

var errNoTag = fmt.Errorf("%w: success without an ETag", errForeign)

// ifAbsent is the condition that everything stands on.
func ifAbsent() minio.PutObjectOptions {
	options := minio.PutObjectOptions{DisableContentSha256: true}
	options.SetMatchETagExcept("*")
	return options
}

func (s *Store) create(ctx context.Context, name string, body io.Reader, size int64) error {
	if size <= partSize {
		return s.createSmall(ctx, name, body, size)
	}
	completes, err := s.completing(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("trying whether large objects may come in parts: %w", err)
	case completes == kept:
		return s.createInParts(ctx, name, body, size)
	case size > maxPut:
		return fmt.Errorf("%d octets, at most %d: this store drops the condition on objects in parts", size, int64(maxPut))
	}
	return s.createStreaming(ctx, name, body, size)
}

// createSmall sends a body from memory, with its SHA-256 in the signature.
func (s *Store) createSmall(ctx context.Context, name string, body io.Reader, size int64) error {
	p, err := s.load(ctx, body, size)
	if err != nil {
		return err
	}
	defer p.release()
	return s.put(ctx, name, p.reader, size, p.sum)
}

// createStreaming sends a body as it comes.
func (s *Store) createStreaming(ctx context.Context, name string, body io.Reader, size int64) error {
	once := &exact{src: body, size: size}
	return s.put(ctx, name, func() io.Reader { return once }, size, "")
}

// put is the one conditional PUT. Another endpoint is only tried while no
// connection came up, and then nothing was read.
func (s *Store) put(ctx context.Context, name string, content func() io.Reader, size int64, sum string) error {
	options := ifAbsent()
	options.DisableContentSha256 = sum != "" // else each chunk is signed, where there is no TLS
	whole := false
	var fail error
	r := s.once(ctx, s.cfg.Stall, func(ctx context.Context, core *minio.Core) error {
		body := newOutgoing(ctx, content(), size)
		info, err := core.PutObject(ctx, s.cfg.Bucket, name, body, size, "", sum, options)
		whole, fail = body.stop()
		if err == nil && info.ETag == "" {
			return errNoTag
		}
		return err
	})
	if fail != nil {
		r.err = fail
	}
	return s.outcome(ctx, name, r, whole)
}

// outcome is what the end of a create's last request means; whole says whether
// the server can have had all of it.
func (s *Store) outcome(ctx context.Context, name string, r result, whole bool) error {
	answer, answered := answerOf(r.err)
	switch {
	case r.err == nil:
		return nil
	case answered && answer.is(http.StatusPreconditionFailed, minio.PreconditionFailed):
		return fmt.Errorf("%w: %w", blob.ErrExists, r.err)
	case answered && answer.is(http.StatusConflict, "ConditionalRequestConflict"):
		return s.conflict(ctx, name, r.err)
	case !r.sent, !whole, errors.Is(r.err, blob.ErrFull), answered && answer.refused():
		return r.err
	}
	return fmt.Errorf("%w: %w", blob.ErrMaybe, r.err)
}

// conflict finds out what a 409 left behind.
func (s *Store) conflict(ctx context.Context, name string, cause error) error {
	err := s.stat(ctx, name)
	if err == nil {
		return fmt.Errorf("%w: %w", blob.ErrExists, cause)
	}
	return fmt.Errorf("%w: %w (then: %s)", blob.ErrMaybe, cause, err.Error())
}

// stat fails with blob.ErrNotFound where there is no object.
func (s *Store) stat(ctx context.Context, name string) error {
	return s.repeat(ctx, func(ctx context.Context, core *minio.Core) error {
		_, err := core.StatObject(ctx, s.cfg.Bucket, name, minio.StatObjectOptions{})
		return err
	})
}

// answer is a server's refusal.
type answer struct{ minio.ErrorResponse }

// answerOf is the server's answer in an error; false: there was none that can be
// read.
func answerOf(err error) (answer, bool) {
	var a answer
	ok := errors.As(err, &a.ErrorResponse)
	return a, ok
}

// is compares the status, or the code where an error came with status 200.
func (a answer) is(status int, code string) bool { return a.StatusCode == status || a.Code == code }

// refused reports whether the request was certainly not carried out.
func (a answer) refused() bool {
	switch status := a.StatusCode; status {
	case http.StatusRequestTimeout, 499: // said by proxies, of a request that they passed on
		return false
	case http.StatusNotImplemented:
		return true
	default:
		return status >= 400 && status < 500
	}
}

// passes reports whether another try may be answered otherwise.
func (a answer) passes() bool {
	switch a.Code {
	case "SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable":
		return true
	}
	return a.StatusCode == http.StatusRequestTimeout || a.StatusCode == http.StatusTooManyRequests ||
		a.StatusCode >= 500 && a.StatusCode != http.StatusNotImplemented
}
