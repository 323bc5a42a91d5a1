package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

// shut is how long an endpoint that couldn't be connected to is asked last.
const shut = 10 * time.Second

// endpoint is one door of the store.
type endpoint struct {
	url       string
	core      *minio.Core
	transport *transport

	mu    sync.Mutex
	until time.Time // it is asked last until then
}

func newEndpoint(cfg Config, u *url.URL, keys *keyring, roots *x509.CertPool) (*endpoint, error) {
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	through := newTransport(cfg, roots)
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: keys.credentials, Secure: u.Scheme == "https", Transport: through,
		Region: cfg.Region, BucketLookup: lookup, MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	return &endpoint{url: u.Scheme + "://" + u.Host, core: core, transport: through}, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return roots, nil
}

func (e *endpoint) close(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.until = now.Add(shut)
}

func (e *endpoint) open(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !now.Before(e.until)
}

// order is the endpoints as they are asked: those that are open first, each
// group in the configured order.
func (s *Store) order() []*endpoint {
	now := time.Now()
	ordered := slices.Clone(s.endpoints)
	slices.SortStableFunc(ordered, func(a, b *endpoint) int {
		switch x, y := a.open(now), b.open(now); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	return ordered
}

// request is one request to one endpoint.
type request func(ctx context.Context, core *minio.Core) error

// result is how a request ended.
type result struct {
	err  error
	sent bool // a connection was there: the server may have heard of it
}

// try makes one request, which fails when it stands still for stall.
func (s *Store) try(ctx context.Context, e *endpoint, stall time.Duration, do request) result {
	inner, x := begin(ctx, stall)
	defer x.end()
	err := do(inner, e.core)
	sent := x.sent.Load()
	switch {
	case err == nil:
		return result{sent: sent}
	case x.stalled() && ctx.Err() == nil:
		err = &stalledError{after: stall, connected: sent}
	case ctx.Err() != nil:
		return result{err: ctx.Err(), sent: sent}
	}
	if _, answered := answerOf(err); !answered && !errors.Is(err, ErrCredentials) {
		e.close(time.Now())
	}
	s.keys.refused(err)
	return result{err: fmt.Errorf("%s: %w", e.url, explained(err, sent)), sent: sent}
}

// once makes a request that must not be repeated: it goes on to the next
// endpoint only when none of it can have been heard.
func (s *Store) once(ctx context.Context, stall time.Duration, do request) (r result) {
	for i, e := range s.order() {
		if i > 0 {
			s.retries.of(opCreate).Add(1)
		}
		r = s.try(ctx, e, stall, do)
		if r.err == nil || r.sent || ctx.Err() != nil {
			return r
		}
	}
	return r
}

// repeat makes a request that may be repeated, until there is an answer that
// another try wouldn't change. op is what it is done for.
func (s *Store) repeat(ctx context.Context, op string, do request) error {
	var r result
	for attempt := range attempts {
		if attempt > 0 {
			if err := wait(ctx, pause<<(2*(attempt-1))); err != nil {
				return fmt.Errorf("%w (%w)", err, r.err)
			}
		}
		for i, e := range s.order() {
			if attempt+i > 0 {
				s.retries.of(op).Add(1)
			}
			r = s.try(ctx, e, s.cfg.Stall, do)
			if r.err == nil || ctx.Err() != nil || final(r.err) {
				return r.err
			}
		}
	}
	return r.err
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
