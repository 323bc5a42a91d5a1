package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	// probePrefix is what the names of objects for trying begin with. The tilde
	// can't be in a key.
	probePrefix = "~probe/"
	probeSize   = 1 // octets
)

// Open opens the store in a bucket that exists. It tries all that the store is
// used for and refuses one that lacks it; see the Err variables for why.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, fmt.Errorf("blob store in S3: %w", err)
	}
	if err := s.probe(ctx); err != nil {
		return nil, fmt.Errorf("blob store in bucket %s: %w", cfg.Bucket, err)
	}
	sweeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.swept.Go(func() { s.sweepAlways(sweeping) })
	return s, nil
}

// Close ends what the store does by itself. No call may be running, and none
// may follow.
func (s *Store) Close() error {
	s.stop()
	s.swept.Wait()
	for _, e := range s.endpoints {
		e.transport.closeIdle()
	}
	return nil
}

// probe tries what the contract of package blob stands on.
func (s *Store) probe(ctx context.Context) error {
	name := s.probeName()
	create := func() error { return s.createSmall(ctx, newCreation(name), probeBody().src, probeSize) }
	if err := create(); err != nil {
		return err
	}
	defer s.removeProbe(ctx, name)
	switch err := create(); {
	case err == nil:
		return fmt.Errorf("%w: a second create of one object succeeded", ErrPromise)
	case !errors.Is(err, blob.ErrExists):
		return err
	}
	if n, err := s.readAt(ctx, name, make([]byte, probeSize+1), 0); n != probeSize || !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading: %d of %d octets: %w", n, probeSize, err)
	}
	if _, err := s.page(ctx, probePrefix, ""); err != nil {
		return fmt.Errorf("listing: %w", err)
	}
	if err := s.remove(ctx, name); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	return nil
}

// probeName is a name that nobody has used, and no key has.
func (s *Store) probeName() string { return s.prefix + probePrefix + strings.ToLower(rand.Text()) }

func (s *Store) isProbe(name string) bool { return strings.HasPrefix(name, s.prefix+probePrefix) }

func probeBody() *exact { return &exact{src: strings.NewReader("?"), size: probeSize} }

func (s *Store) removeProbe(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwork)
	defer cancel()
	if err := s.remove(ctx, name); err != nil {
		s.log.Warn("an object made for trying is left", "name", name, "error", err)
	}
}
