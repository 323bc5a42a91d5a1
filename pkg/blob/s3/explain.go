package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/postern-pop/postern/pkg/blob"
)

// explained marks an error with what it means to the store's users and to
// operators.
func explained(err error, sent bool) error {
	if a, answered := answerOf(err); answered {
		return &refusedError{answer: a.ErrorResponse, meaning: a.meaning()}
	}
	var untrusted *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &untrusted), errors.As(err, &authority):
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	case !sent && !errors.Is(err, ErrCredentials):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// refusedError is a server's refusal in its words and ours.
type refusedError struct {
	answer  minio.ErrorResponse
	meaning error // nil: we have no word for it
}

func (e *refusedError) Error() string {
	const longest = 200
	text := fmt.Sprintf("status %d, %s: %.*s", e.answer.StatusCode, e.answer.Code, longest, e.answer.Message)
	if e.meaning != nil {
		text = e.meaning.Error() + ": " + text
	}
	if e.answer.RequestID != "" {
		text += " (request " + e.answer.RequestID + ")"
	}
	return text
}

// Unwrap is for errors.Is and errors.As.
func (e *refusedError) Unwrap() []error {
	if e.meaning == nil {
		return []error{e.answer}
	}
	return []error{e.answer, e.meaning}
}

// meaning is nil for what has no word.
func (a answer) meaning() error {
	switch a.Code {
	case minio.NoSuchKey:
		return blob.ErrNotFound
	case minio.NoSuchBucket:
		return ErrNoBucket
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return ErrCredentials
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "StorageFull":
		return blob.ErrFull
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestLimitExceeded", "Throttling":
		return blob.ErrThrottled
	}
	switch a.StatusCode {
	case http.StatusForbidden:
		return ErrDenied
	case http.StatusInsufficientStorage:
		return blob.ErrFull
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return blob.ErrThrottled
	case http.StatusNotImplemented:
		return ErrPromise
	}
	return nil
}

// final reports whether another try would change nothing.
func final(err error) bool {
	a, answered := answerOf(err)
	return answered && !a.passes() && !errors.Is(err, ErrCredentials)
}
