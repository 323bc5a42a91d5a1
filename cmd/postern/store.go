package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/blob/measured"
	"github.com/postern-pop/postern/pkg/blob/s3"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/blob/slow"
	"github.com/postern-pop/postern/pkg/blob/verify"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
	"github.com/postern-pop/postern/pkg/shard"
)

// openStore opens where a region's mail is at rest. Metrics of it go to the
// registerer, unless that is nil. The closer is for when no call is running.
func openStore(ctx context.Context, cfg config.Storage, log *slog.Logger, to prometheus.Registerer) (blob.Store, io.Closer, error) {
	var store closingStore
	var err error
	if cfg.S3 != nil {
		store, err = openBucket(ctx, cfg.S3, log)
	} else {
		store, err = dir.Open(string(cfg.Dir.Path))
	}
	if err != nil {
		return nil, nil, err
	}
	if cfg.DelayFile != "" {
		store = slowStore{slow.New(store, string(cfg.DelayFile)), store}
	}
	return counting(store, to)
}

// slowStore is a store that may be late, and how the one within is given up.
type slowStore struct {
	*slow.Store
	io.Closer
}

// openStoreReadOnly is openStore for who only reads: what is in a directory may belong to
// somebody else, or be mounted read-only. Package s3 writes nothing by itself.
func openStoreReadOnly(ctx context.Context, cfg config.Storage, log *slog.Logger) (blob.Store, io.Closer, error) {
	if cfg.S3 != nil {
		return openStore(ctx, cfg, log, nil)
	}
	store, err := dir.OpenReadOnly(string(cfg.Dir.Path))
	if err != nil {
		return nil, nil, err
	}
	return store, store, nil
}

// closingStore is a store that is given up by closing it.
type closingStore interface {
	blob.Store
	io.Closer
}

func counting(store closingStore, to prometheus.Registerer) (blob.Store, io.Closer, error) {
	counted, err := measured.New(store, to)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return counted, store, nil
}

func openBucket(ctx context.Context, cfg *config.S3, log *slog.Logger) (*s3.Store, error) {
	opened := s3.Config{
		Bucket: cfg.Bucket, Prefix: cfg.Prefix, Region: cfg.Region, PathStyle: cfg.PathStyle,
		CA: string(cfg.CA), CredentialsFile: string(cfg.CredentialsFile), Log: log,
	}
	for _, endpoint := range cfg.Endpoints {
		if inTheClear(string(endpoint)) {
			log.Warn("mail travels unencrypted to the store: use https", "endpoint", endpoint)
		}
		opened.Endpoints = append(opened.Endpoints, string(endpoint))
	}
	store, err := s3.Open(ctx, opened)
	if err != nil {
		return nil, advised(err)
	}
	return store, nil
}

// storeAgain is how long a server waits before it tries anew to open a store
// that it couldn't reach.
const storeAgain = time.Second

// awaitStore is openStore for a server: a store that can't be reached is waited
// for, since a restart wouldn't bring it nearer.
func awaitStore(ctx context.Context, cfg config.Storage, log *slog.Logger, to prometheus.Registerer) (blob.Store, io.Closer, error) {
	for {
		store, closer, err := openStore(ctx, cfg, log, to)
		if err == nil || !errors.Is(err, s3.ErrUnreachable) && !errors.Is(err, blob.ErrThrottled) {
			return store, closer, err
		}
		log.Error("waiting for the store", "error", err)
		timer := time.NewTimer(storeAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, err
		}
	}
}

// sealer encrypts a shard's part of a store.
type sealer = func(ctx context.Context, store blob.Store, prefix string, found func(key string, octet int64, what string)) (blob.Store, error)

// seal is what encrypts a shard's part of the store; nil when the settings ask
// for no encryption.
func seal(cfg *config.Encryption, log *slog.Logger) (sealer, error) {
	if cfg == nil {
		return nil, nil
	}
	wrapper, err := sealed.OpenWrapper(string(cfg.KeyFile), cfg.KeyURI)
	if err != nil {
		return nil, fmt.Errorf("storage.encryption: %w", err)
	}
	return func(ctx context.Context, store blob.Store, prefix string, found func(string, int64, string)) (blob.Store, error) {
		return sealed.Open(ctx, store, prefix, wrapper, sealed.Options{Plain: cfg.AllowPlain, Log: log, Found: found})
	}, nil
}

// keyFits refuses a key that isn't the one of the mail in the store: a node with it
// would open nothing. The first shard that has a data key tells; where the store or a key
// service can't, the shards will.
func keyFits(ctx context.Context, store blob.Store, region *config.Region, log *slog.Logger) error {
	cfg := region.Storage.Encryption
	if cfg == nil {
		return nil
	}
	wrapper, err := sealed.OpenWrapper(string(cfg.KeyFile), cfg.KeyURI)
	if err != nil {
		return fmt.Errorf("storage.encryption: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, keyFitsTimeout)
	defer cancel()
	for number := range region.Shards {
		prefix := shard.Config{Region: string(region.Name), Number: number}.Prefix()
		found, err := sealed.Fits(ctx, store, prefix, wrapper)
		switch {
		case errors.Is(err, sealed.ErrWrongKey):
			return fmt.Errorf("storage.encryption: this isn't the key of the mail in the store: %w", err)
		case err != nil:
			log.Error("not known whether storage.encryption has the key of the mail in the store", "error", err)
			return nil
		case found:
			return nil
		}
	}
	return nil
}

const keyFitsTimeout = 10 * time.Second

// verifyEvery is how often a store is tried that couldn't be tested.
const verifyEvery = time.Minute

// verified refuses a store that breaks a promise, for good. One that can't be
// tested now, being full or out of reach, is tested until it can be: a node on it
// serves what it may.
func verified(ctx context.Context, p *run.Process, store blob.Store, log *slog.Logger) error {
	err := verify.Quick(ctx, store)
	if err == nil || errors.Is(err, verify.ErrBroken) {
		return advised(err)
	}
	log.Error("the store could not be tested, trying again", "error", err)
	p.Go(ctx, "store verify", func(ctx context.Context) error {
		ticker := time.NewTicker(verifyEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			if err = verify.Quick(ctx, store); errors.Is(err, verify.ErrBroken) {
				return err
			} else if err == nil {
				log.Info("the store keeps its promises")
				<-ctx.Done()
				return nil
			}
		}
	})
	return nil
}

// inTheClear reports whether octets leave this machine unencrypted on their way
// to a URL.
func inTheClear(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// advised adds what to do about a store that can't be opened.
func advised(err error) error {
	for _, known := range []struct {
		is   error
		does string
	}{
		{s3.ErrUnreachable, "check storage.s3.endpoints, DNS, and whether a firewall is between"},
		{s3.ErrCertificate, "name the authority that signed the store's certificate in storage.s3.ca, or correct the host in storage.s3.endpoints"},
		{s3.ErrCredentials, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.s3.credentials_file, to a key that the store knows, and check this machine's clock"},
		{s3.ErrNoBucket, "create the bucket, or correct storage.s3.bucket, region and path_style: Postern makes no buckets"},
		{s3.ErrDenied, "allow this key to get, put, delete and list objects, and to list and abort uploads, in the bucket below storage.s3.prefix"},
		{verify.ErrBroken, "use another store, and see postern store verify"},
		{s3.ErrPromise, "use another store: on this one two nodes could both believe that they own a mailbox"},
		{blob.ErrFull, "make room in the store, or raise the bucket's quota"},
		{blob.ErrThrottled, "wait, or raise the store's limits: the node goes on trying"},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w\nwhat to do: %s", err, known.does)
		}
	}
	return err
}
