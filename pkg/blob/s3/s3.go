// Package s3 is a blob.Store in a bucket of S3-compatible storage.
//
//	Create ─┬─ up to 16 MiB ─▶ one PUT, If-None-Match: *, SHA-256 of the body signed
//	        └─ larger ─▶ parts of 16 MiB, a SHA-256 each ─▶ complete, If-None-Match: *
//	                     (a store that drops this condition: one streaming PUT, up to 5 GiB)
//
//	ReadAt ─▶ one ranged GET       List ─▶ pages of 1000, each after the last key
//
// Several endpoints are doors of one store. A call goes to the first that isn't
// known to be shut, and on to the next when it can't connect.
//
// # What an answer to a Create means
//
//	2xx with an ETag                     created
//	507, a quota's code                  ErrFull
//	400-499 but 408, 409, 412 and 499    not created
//	anything else, and no answer         look what is there, once:
//	    an object with our nonce             created
//	    another one                          ErrExists
//	    nothing, or it can't be seen         412: ErrExists; else ErrMaybe, or not created
//	                                         where the server can't have had all of the body
//
// # Decisions
//
//   - 2026-11-23: a create is sent once. The client library's own retries are
//     off, and it follows no redirects: a second try turns our own success into "exists".
//     Reads, lists, deletes and parts have no such outcome and are tried three times.
//   - 2026-11-23: the last octets of a body decide. While they haven't been given
//     to the connection no server can hold the whole request, so an error is a
//     clean one; once they have been, it is ErrMaybe. A body that turns out too long,
//     too short or broken is found out before its last octets are given away.
//   - 2026-11-23: each create writes a nonce into the object's metadata. It settles
//     most answers that were lost, and tells our own success from another's where
//     a proxy sent a request twice. No look at a store that is silent or asks to slow
//     down: that is ErrMaybe at once.
//   - 2026-11-23: 409 is never taken for ErrExists as such: AWS gives it also when
//     a delete came in between and nothing is there.
//   - 2026-11-23: parts above 16 MiB, because a part that fails can be sent again and
//     a whole PUT of 2 GiB can't. Only on stores that keep the condition when
//     parts are completed (AWS does, versitygw does, by test: 8 writers, one winner).
//     Others may drop it in silence, so the first large object of a process finds out,
//     with an object of its own. Refused: to trust a list of products.
//   - 2026-11-23: SHA-256 in the signed header over trailing checksums: every store
//     that knows signature version 4 holds the body to it, also old ones (Ceph 16
//     knows no trailers). It costs a buffer, so buffers have a budget of 128 MiB for
//     the whole Store. The streaming PUT signs its chunks without TLS, and
//     relies on TLS with it.
//   - 2026-11-23: a body that is a bytes.Reader isn't copied and takes nothing of the
//     budget: commits never wait for large mail.
//   - 2026-11-23: time limits are on standing still (30 s), not on the whole: 2 GiB may
//     take as long as it moves.
//   - 2026-11-23: an upload whose completion has no known outcome isn't aborted: the
//     server may be putting its parts together. It goes with those of dead processes,
//     and with those that a part reached after they were aborted: all are aborted when
//     older than 12 hours, looked for at start and every hour.
//   - 2026-11-23: Open tries what Create stands on, as blob/dir does: a bucket where
//     the second create of one key succeeds is refused.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	maxName   = 1024      // octets of an object's name, the prefix included
	partSize  = 16 << 20  // octets
	maxParts  = 10000     // of one object
	maxPut    = 5 << 30   // octets in one PUT
	inFlight  = 2         // parts of one object at once
	budget    = 128 << 20 // octets of bodies in memory at once, of the whole Store
	pageSize  = 1000      // objects in one answer to a list
	attempts  = 3         // of what may be repeated
	pause     = 100 * time.Millisecond
	abandoned = 12 * time.Hour  // age of an upload that nobody completes any more
	sweepings = time.Hour       // between looks for such
	afterwork = 5 * time.Second // for cleaning up after a call that failed
	patience  = 10              // times Stall for the server to put parts together
)

// What an error means to an operator. Each is wrapped by what was seen.
var (
	ErrUnreachable = errors.New("no endpoint can be connected to")
	ErrCertificate = errors.New("the endpoint's certificate isn't trusted")
	ErrCredentials = errors.New("no credentials that the store takes")
	ErrDenied      = errors.New("access denied")
	ErrNoBucket    = errors.New("no such bucket")
	ErrPromise     = errors.New("the store doesn't keep create-if-absent")
)

// Config is where the bucket is.
type Config struct {
	Endpoints       []string // URLs of one store, http or https, without a path; the first that answers is used
	Bucket          string
	Prefix          string // what every object's name begins with, a key itself; empty: nothing
	Region          string // the store's name for its region; empty: us-east-1
	PathStyle       bool   // the bucket is in the path always; else the host has it on AWS
	CA              string // PEM file: who signs the endpoints' certificates; empty: the system's authorities
	CredentialsFile string // AWS format; asked after the environment and before the shared file

	Connections int           // at most, to each endpoint; 0: 128
	Stall       time.Duration // a request that stands still so long has failed; 0: 30 s
	Log         *slog.Logger  // nil: none
}

// Store keeps objects in a bucket.
type Store struct {
	cfg       Config
	prefix    string // of names: empty, or ending with a slash
	endpoints []*endpoint
	keys      *keyring
	memory    *semaphore.Weighted // of bodies
	parts     sync.Pool           // of *[partSize]byte
	retries   retries
	log       *slog.Logger

	mu        sync.Mutex
	completes completing

	stop  context.CancelFunc
	swept sync.WaitGroup
}

// completing says whether the store keeps the condition when parts are completed.
type completing int

const (
	unknown completing = iota
	kept
	dropped
)

func newStore(cfg Config) (*Store, error) {
	if cfg.Connections == 0 {
		cfg.Connections = 128
	}
	if cfg.Stall == 0 {
		cfg.Stall = 30 * time.Second
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, memory: semaphore.NewWeighted(budget),
		parts: sync.Pool{New: func() any { return new([partSize]byte) }},
		keys:  newKeyring(cfg.CredentialsFile),
	}
	if cfg.Prefix != "" {
		if err := blob.CheckKey(cfg.Prefix); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
		s.prefix = cfg.Prefix + "/"
	}
	return s, s.dial()
}

// dial makes the endpoints; nothing is sent yet.
func (s *Store) dial() error {
	roots, err := readRoots(s.cfg.CA)
	if err != nil {
		return err
	}
	for _, text := range s.cfg.Endpoints {
		u, err := url.Parse(text)
		if err != nil {
			return err
		}
		e, err := newEndpoint(s.cfg, u, s.keys, roots)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		s.endpoints = append(s.endpoints, e)
	}
	if len(s.endpoints) == 0 {
		return errors.New("no endpoint")
	}
	return nil
}

// name is the object's name in the bucket.
func (s *Store) name(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	if n := len(s.prefix) + len(key); n > maxName {
		return "", fmt.Errorf("key of %d octets with its prefix, at most %d", n, maxName)
	}
	return s.prefix + key, nil
}

// key is the key of an object in the bucket; false: it is none of the store's.
func (s *Store) key(name string) (string, bool) {
	key, ours := strings.CutPrefix(name, s.prefix)
	return key, ours && blob.CheckKey(key) == nil
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	if size < 1 {
		return fmt.Errorf("create %s: an object of %d octets", key, size)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.create(ctx, name, body, size); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}

// ReadAt implements blob.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	name, err := s.name(key)
	if err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("read %s: offset %d", key, offset)
	}
	n, err := s.readAt(ctx, name, p, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read %s: %w", key, err)
	}
	return n, err
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	if err := s.remove(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}
