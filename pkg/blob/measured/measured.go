// Package measured counts what any blob.Store does, and how long it takes.
//
//	node ─▶ measured.Store ─▶ blob/s3 or blob/dir
//	             └─▶ postern_objstore_…
//
// It changes nothing of what the Store says.
//
// # Decisions
//
//   - 2026-11-23: a wrapper instead of metrics in each Store: one set of names
//     with one meaning for a directory and a bucket. It counts calls, not the
//     requests that one takes.
//   - 2026-11-25: a Store that repeats requests by itself counts them, for nobody else sees
//     them. A directory repeats nothing and has no such series. Refused: a
//     registerer for each Store, of which a process may open several.
//   - 2026-11-23: the time of a list is without what its reader does in between.
package measured

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
)

// Store is a blob.Store that is measured.
type Store struct {
	store    blob.Store
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	active   prometheus.Gauge
	read     prometheus.Counter
	written  prometheus.Counter
}

// New measures a store. The metrics are registered unless the registerer is nil.
func New(store blob.Store, to prometheus.Registerer) (*Store, error) {
	octets := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_objstore_" + name, Help: help})
	}
	s := &Store{
		store: store,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_objstore_requests_total",
			Help: "Object store requests by op and result: ok, not_found, precondition, throttled, timeout, error.",
		}, []string{"op", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_objstore_request_duration_seconds", Help: "Duration of object store requests including retries.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18), NativeHistogramBucketFactor: 1.1,
		}, []string{"op"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_objstore_requests_active", Help: "Object store requests in flight.",
		}),
		read:    octets("read_bytes_total", "Bytes read from the object store."),
		written: octets("written_bytes_total", "Bytes written to the object store."),
	}
	if to == nil {
		return s, nil
	}
	all := []prometheus.Collector{s.requests, s.duration, s.active, s.read, s.written}
	if r, ok := store.(retrier); ok {
		all = append(all, retriesOf(r)...)
	}
	for _, c := range all {
		if err := to.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// retrier is a Store that repeats requests by itself, as blob/s3 does.
type retrier interface{ Retries(op string) uint64 }

func retriesOf(store retrier) (counters []prometheus.Collector) {
	for _, op := range []string{"create", "read", "list", "delete"} {
		counters = append(counters, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "postern_objstore_retries_total", Help: "Object store retries.", ConstLabels: prometheus.Labels{"op": op},
		}, func() float64 { return float64(store.Retries(op)) }))
	}
	return counters
}

// call is one call under way.
type call struct {
	store  *Store
	op     string
	begin  time.Time
	paused time.Duration
}

func (s *Store) begin(op string) *call {
	s.active.Inc()
	return &call{store: s, op: op, begin: time.Now()}
}

func (c *call) end(err error) {
	c.store.active.Dec()
	c.store.duration.WithLabelValues(c.op).Observe((time.Since(c.begin) - c.paused).Seconds())
	c.store.requests.WithLabelValues(c.op, resultOf(err)).Inc()
}

// resultOf is the label of how a call ended.
func resultOf(err error) string {
	var late interface{ Timeout() bool }
	switch {
	case err == nil, errors.Is(err, io.EOF) && !errors.Is(err, blob.ErrNotFound):
		return "ok"
	case errors.Is(err, blob.ErrThrottled):
		return "throttled"
	case errors.As(err, &late) && late.Timeout():
		return "timeout"
	case errors.Is(err, blob.ErrMaybe):
		return "error"
	case errors.Is(err, blob.ErrNotFound):
		return "not_found"
	case errors.Is(err, blob.ErrExists):
		return "precondition"
	}
	return "error"
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	c := s.begin("create")
	err := s.store.Create(ctx, key, body, size)
	c.end(err)
	if err == nil {
		s.written.Add(float64(size))
	}
	return err
}

// ReadAt implements blob.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	c := s.begin("read")
	n, err := s.store.ReadAt(ctx, key, p, offset)
	c.end(err)
	s.read.Add(float64(n))
	return n, err
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		c := s.begin("list")
		var failed error
		defer func() { c.end(failed) }()
		for info, err := range s.store.List(ctx, prefix, after) {
			failed = err
			pause := time.Now()
			more := yield(info, err)
			c.paused += time.Since(pause)
			if !more {
				return
			}
		}
	}
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	c := s.begin("delete")
	err := s.store.Delete(ctx, key)
	c.end(err)
	return err
}
