package shard

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/guard"
	"github.com/postern-pop/postern/pkg/ledger"
)

// Metrics are those of all shards of a process. A nil Metrics counts nothing.
type Metrics struct {
	commits        *prometheus.CounterVec
	commitDuration prometheus.Histogram
	commitRecords  prometheus.Histogram
	cacheRequests  *prometheus.CounterVec
	cacheBytes     *prometheus.GaugeVec
	cacheEvictions *prometheus.CounterVec
	unflushed      prometheus.Gauge
	replayed       prometheus.Counter
	deliveries     *prometheus.CounterVec
	deliveredBytes prometheus.Counter
	messages       prometheus.Gauge
	mailboxes      prometheus.Gauge
	refusals       *prometheus.CounterVec
	damage         *prometheus.CounterVec
	checkpoints    *prometheus.CounterVec
	checkpointTime prometheus.Histogram
	repacked       prometheus.Counter
	deleted        *prometheus.CounterVec

	lockouts prometheus.Counter
	mu       sync.Mutex                // guards open
	open     map[*guard.Guard]struct{} // of the shards that are open
}

// Reasons of refused deliveries, as the metric's label says them.
const (
	refusedMemory = "memory"
	refusedQueue  = "queue"
)

// bodyCache is the value of the label that metrics of caches have.
const bodyCache = "body"

// NewMetrics registers the metrics: once a registerer.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_commits_total", Help: "Objects appended to ledgers by result: ok, fenced, broken, full, error."}, []string{"result"}),
		commitDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_node_commit_duration_seconds", Help: "Duration of appending one object to a ledger.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2, 16)}),
		commitRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_node_commit_records", Help: "Records appended in one object.", Buckets: prometheus.ExponentialBuckets(1, 2, 13)}),
		cacheRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_cache_requests_total", Help: "Cache lookups (cache: index, body) by result: hit, miss."}, []string{"cache", "result"}),
		cacheBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_node_cache_bytes", Help: "Bytes held by the cache."}, []string{"cache"}),
		cacheEvictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_cache_evictions_total", Help: "Cache evictions."}, []string{"cache"}),
		unflushed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_node_commit_queue_bytes", Help: "Bytes that wait to be appended, not acknowledged yet."}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_node_replay_records_total", Help: "Log records replayed while acquiring shards."}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_delivery_messages_total", Help: "Messages offered for delivery: accepted, rejected, deferred, duplicate."}, []string{"result"}),
		deliveredBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_delivery_accepted_bytes_total", Help: "Bytes of accepted messages."}),
		messages: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_node_index_messages", Help: "Messages in the index, removed and expired ones that sessions may hold included."}),
		mailboxes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_node_index_mailboxes", Help: "Addresses in the index."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_deliveries_refused_total", Help: "Deliveries and changes refused for now, by reason: memory (too many octets wait to be written), queue (too many requests)."}, []string{"reason"}),
		damage: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_damage_total", Help: "Times that a stored object was found damaged or missing, by its kind: ledger, pack, body, checkpoint, manifest, key, forgotten."}, []string{"object"}),
		checkpoints: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_checkpoints_total", Help: "Checkpoints of ledgers by result: ok, error."}, []string{"result"}),
		checkpointTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_node_checkpoint_duration_seconds", Help: "Duration of writing one checkpoint.",
			Buckets: prometheus.ExponentialBuckets(.005, 2, 16)}),
		repacked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_node_repacked_bytes_total", Help: "Bytes of messages copied into packs."}),
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_deleted_objects_total", Help: "Objects deleted from the store by kind: ledger, pack, body."}, []string{"object"}),
	}
	m.lockouts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_node_lockouts_total", Help: "Addresses locked out after too many wrong passwords, names that don't exist among them."})
	m.open = make(map[*guard.Guard]struct{})
	active := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_node_lockouts_active", Help: "Addresses that are locked out at the moment, names that don't exist among them."}, m.lockedNow)
	r.MustRegister(m.lockouts, active, m.commits, m.commitDuration, m.commitRecords, m.cacheRequests, m.cacheBytes, m.cacheEvictions,
		m.unflushed, m.replayed, m.deliveries, m.deliveredBytes, m.messages, m.mailboxes,
		m.refusals, m.damage, m.checkpoints, m.checkpointTime, m.repacked, m.deleted)
	return m
}

func (m *Metrics) cacheAsked(hit bool) {
	if m == nil {
		return
	}
	result := "miss"
	if hit {
		result = "hit"
	}
	m.cacheRequests.WithLabelValues(bodyCache, result).Inc()
}

func (m *Metrics) cacheEvicted() {
	if m != nil {
		m.cacheEvictions.WithLabelValues(bodyCache).Inc()
	}
}

func (m *Metrics) cacheHolds(octets int64) {
	if m != nil {
		m.cacheBytes.WithLabelValues(bodyCache).Add(float64(octets))
	}
}

func (m *Metrics) queueHolds(octets int64) {
	if m != nil {
		m.unflushed.Add(float64(octets))
	}
}

func (m *Metrics) committed(result string, records int, took time.Duration) {
	if m != nil {
		m.commits.WithLabelValues(result).Inc()
		m.commitRecords.Observe(float64(records))
		m.commitDuration.Observe(took.Seconds())
	}
}

func (m *Metrics) delivered(result string, octets uint64) {
	if m != nil {
		m.deliveries.WithLabelValues(result).Inc()
		m.deliveredBytes.Add(float64(octets))
	}
}

func (m *Metrics) replay(records uint64) {
	if m != nil {
		m.replayed.Add(float64(records))
	}
}

func (m *Metrics) index(messages, mailboxes int) {
	if m != nil {
		m.messages.Add(float64(messages))
		m.mailboxes.Add(float64(mailboxes))
	}
}

func (m *Metrics) refused(reason string) {
	if m != nil {
		m.refusals.WithLabelValues(reason).Inc()
	}
}

// Mended counts damage in an object that was made good below the shard.
func (m *Metrics) Mended(key string) { m.damaged(ledger.Damage{Key: key}.Kind()) }

func (m *Metrics) damaged(object string) {
	if m != nil {
		m.damage.WithLabelValues(object).Inc()
	}
}

func (m *Metrics) checkpoint(ok bool, took time.Duration) {
	if m == nil {
		return
	}
	result := "error"
	if ok {
		result = "ok"
	}
	m.checkpoints.WithLabelValues(result).Inc()
	m.checkpointTime.Observe(took.Seconds())
}

func (m *Metrics) packed(octets int64) {
	if m != nil {
		m.repacked.Add(float64(octets))
	}
}

func (m *Metrics) removed(object string, n int) {
	if m != nil {
		m.deleted.WithLabelValues(object).Add(float64(n))
	}
}

func (m *Metrics) lockedOut() {
	if m != nil {
		m.lockouts.Inc()
	}
}

// guards takes a shard's guard in, or out when the shard is closed.
func (m *Metrics) guards(g *guard.Guard, open bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if open {
		m.open[g] = struct{}{}
	} else {
		delete(m.open, g)
	}
}

func (m *Metrics) lockedNow() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for g := range m.open {
		n += g.Locked(time.Now())
	}
	return float64(n)
}
