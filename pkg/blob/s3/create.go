package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/postern-pop/postern/pkg/blob"
)

var errNoTag = fmt.Errorf("%w: success without an ETag", errForeign)

// nonceKey is the metadata by which an object's creator knows it again.
const nonceKey = "Nonce"

// creation is one call of Create: an object's name, and what tells this
// call's object from all others of the name.
type creation struct{ name, nonce string }

func newCreation(name string) creation { return creation{name: name, nonce: rand.Text()} }

// options are the condition that everything stands on, and the nonce.
func (c creation) options() minio.PutObjectOptions {
	options := minio.PutObjectOptions{UserMetadata: map[string]string{nonceKey: c.nonce}}
	options.SetMatchETagExcept("*")
	return options
}

func (s *Store) create(ctx context.Context, name string, body io.Reader, size int64) error {
	c := newCreation(name)
	if size <= partSize {
		return s.createSmall(ctx, c, body, size)
	}
	completes, err := s.completing(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("trying whether large objects may come in parts: %w", err)
	case completes == kept:
		return s.createInParts(ctx, c, body, size)
	case size > maxPut:
		return fmt.Errorf("%d octets, at most %d: this store drops the condition on objects in parts", size, int64(maxPut))
	}
	return s.createStreaming(ctx, c, body, size)
}

// createSmall sends a body from memory, with its SHA-256 in the signature.
func (s *Store) createSmall(ctx context.Context, c creation, body io.Reader, size int64) error {
	p, err := s.load(ctx, body, size)
	if err != nil {
		return err
	}
	defer p.release()
	return s.put(ctx, c, p.reader, size, p.sum)
}

// createStreaming sends a body as it comes.
func (s *Store) createStreaming(ctx context.Context, c creation, body io.Reader, size int64) error {
	once := &exact{src: body, size: size}
	return s.put(ctx, c, func() io.Reader { return once }, size, "")
}

// put is the one conditional PUT. Another endpoint is only tried while no
// connection came up, and then nothing was read.
func (s *Store) put(ctx context.Context, c creation, content func() io.Reader, size int64, sum string) error {
	options := c.options()
	options.DisableContentSha256 = sum != "" // else each chunk is signed, where there is no TLS
	whole := false
	var fail error
	r := s.once(ctx, s.cfg.Stall, func(ctx context.Context, core *minio.Core) error {
		body := newOutgoing(ctx, content(), size)
		info, err := core.PutObject(ctx, s.cfg.Bucket, c.name, body, size, "", sum, options)
		whole, fail = body.stop()
		if err == nil && info.ETag == "" {
			return errNoTag
		}
		return err
	})
	if fail != nil {
		r.err = fail
	}
	return s.outcome(ctx, c, r, whole)
}

// outcome is what the end of a create's last request means; whole says whether
// the server can have had all of it.
func (s *Store) outcome(ctx context.Context, c creation, r result, whole bool) error {
	answer, answered := answerOf(r.err)
	exists := answered && answer.is(http.StatusPreconditionFailed, minio.PreconditionFailed)
	conflict := answered && answer.is(http.StatusConflict, "ConditionalRequestConflict")
	switch {
	case r.err == nil:
		return nil
	case !r.sent, errors.Is(r.err, blob.ErrFull):
		return r.err
	case answered && !exists && !conflict && answer.refused():
		return r.err
	}
	switch ours, err := s.look(ctx, c, r.err); {
	case err == nil && ours:
		return nil // the answer was lost, or something in between sent it twice
	case err == nil, exists:
		return fmt.Errorf("%w: %w", blob.ErrExists, r.err)
	case !whole:
		return r.err
	}
	return fmt.Errorf("%w: %w", blob.ErrMaybe, r.err)
}

// look finds out what is at the name of a create that ended with cause, unless
// it is better not to ask now. An error says nothing of the create.
func (s *Store) look(ctx context.Context, c creation, cause error) (ours bool, err error) {
	var stalled *stalledError
	if errors.Is(cause, blob.ErrThrottled) || errors.As(cause, &stalled) || ctx.Err() != nil {
		return false, cause
	}
	r := s.once(ctx, s.cfg.Stall, func(ctx context.Context, core *minio.Core) error {
		info, err := core.StatObject(ctx, s.cfg.Bucket, c.name, minio.StatObjectOptions{})
		ours = info.UserMetadata[nonceKey] == c.nonce
		return err
	})
	return ours, r.err
}

// stat fails with blob.ErrNotFound where there is no object.
func (s *Store) stat(ctx context.Context, op, name string) error {
	return s.repeat(ctx, op, func(ctx context.Context, core *minio.Core) error {
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
