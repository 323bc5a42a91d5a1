package node

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/shard"
)

// metrics are a node's own, and those that its shards share.
type metrics struct {
	shards      *shard.Metrics
	holding     *prometheus.GaugeVec
	configured  prometheus.Gauge
	epochs      *prometheus.GaugeVec
	waiting     *prometheus.GaugeVec
	absences    prometheus.Gauge
	transitions *prometheus.CounterVec
	durations   *prometheus.HistogramVec
}

// newMetrics makes them; with a nil registerer they are counted and never seen.
func newMetrics(registerer prometheus.Registerer, shards int) (*metrics, error) {
	m := &metrics{
		holding: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_node_shards",
			Help: "Shards held by this pod: serving, acquiring, releasing, recovering.",
		}, []string{"state"}),
		configured: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_shards_configured",
			Help: "Number of shards this region has to serve, from the routing view.",
		}),
		absences: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_node_leases_absent",
			Help: "Nodes without a lease in etcd that gossip still hears, as this pod sees it; it takes nothing over from them for a while.",
		}),
		epochs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_shard_epoch",
			Help: "Fencing epoch under which this pod serves the shard; exported only by the pod that believes it is the owner.",
		}, []string{"shard"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_node_shard_waiting",
			Help: "1 for a shard that this pod tried to open and that waits for a person: lost_object, key, other_store. /readyz and the log say what to do.",
		}, []string{"shard", "reason"}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_shard_transitions_total",
			Help: "Shard ownership changes: acquire, release, takeover by reason: startup, drain, failover, rebalance, admin.",
		}, []string{"transition", "reason", "result"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postern_node_shard_takeover_duration_seconds",
			Help:    "Takeover time by phase: acquire; replay, or catch_up where the shard was read before it was handed over; total. And prepare, at a former owner: how long its heir took to read the shard.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"phase"}),
	}
	m.configured.Set(float64(shards))
	for s := range states {
		m.held(s, 0)
	}
	m.recovering(0)
	if registerer == nil {
		return m, nil
	}
	m.shards = shard.NewMetrics(registerer)
	var all []error
	for _, c := range []prometheus.Collector{m.holding, m.configured, m.absences, m.epochs, m.waiting, m.transitions, m.durations} {
		all = append(all, registerer.Register(c))
	}
	return m, errors.Join(all...)
}

func (m *metrics) held(s state, n int) {
	m.holding.WithLabelValues(stateNames[s]).Set(float64(n))
}

func (m *metrics) recovering(n int) { m.holding.WithLabelValues("recovering").Set(float64(n)) }

func (m *metrics) absent(n int) { m.absences.Set(float64(n)) }

func (m *metrics) epoch(number int, epoch uint64) {
	m.epochs.WithLabelValues(strconv.Itoa(number)).Set(float64(epoch))
}

// waits says what a shard waits for; "": nothing that a person has to do.
func (m *metrics) waits(number int, reason string) {
	m.waiting.DeletePartialMatch(prometheus.Labels{"shard": strconv.Itoa(number)})
	if reason != "" {
		m.waiting.WithLabelValues(strconv.Itoa(number), reason).Set(1)
	}
}

func (m *metrics) noEpoch(number int) { m.epochs.DeleteLabelValues(strconv.Itoa(number)) }

func (m *metrics) transition(what string, why placement.Reason, result string) {
	m.transitions.WithLabelValues(what, string(why), result).Inc()
}

func (m *metrics) phase(name string, began time.Time) {
	m.durations.WithLabelValues(name).Observe(time.Since(began).Seconds())
}

// outcome is an action's result in metrics: lost means that another node was
// meant to have the shard, or that we end.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	switch maildrop.KindOf(err) {
	case maildrop.NotOwner, maildrop.Canceled:
		return "lost"
	}
	return "error"
}

// gaining names the transition of a shard that comes to us.
func gaining(why placement.Reason) string {
	if why == placement.Failover {
		return "takeover"
	}
	return "acquire"
}
