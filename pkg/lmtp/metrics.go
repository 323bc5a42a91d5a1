package lmtp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// metrics counts what an intake does. Labels are bounded: verbs from the
// table, kinds from package maildrop.
type metrics struct {
	connections *prometheus.CounterVec
	active      prometheus.Gauge
	limit       prometheus.Gauge
	draining    prometheus.Gauge
	handshakes  *prometheus.CounterVec
	commands    *prometheus.CounterVec
	recipients  *prometheus.CounterVec
	deliveries  *prometheus.CounterVec
	messages    *prometheus.CounterVec
	received    prometheus.Counter
	size        prometheus.Histogram
	duration    *prometheus.HistogramVec
}

// newMetrics makes the metrics and, unless the registerer is nil, registers them.
func newMetrics(to prometheus.Registerer) (*metrics, error) {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_intake_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_intake_" + name, Help: help})
	}
	m := &metrics{
		connections: counters("connections_total", "TCP connections by admission result: accepted, conn_limit, denied, draining.", "result"),
		active:      gauge("connections_active", "Open connections."),
		limit:       gauge("connections_limit", "Configured maximum of open connections in this pod."),
		draining:    gauge("draining", "1 while the pod refuses new transactions because it is draining."),
		handshakes:  counters("tls_handshakes_total", "TLS handshakes by result: gateway (verified certificate), anonymous, error.", "result"),
		commands:    counters("commands_total", "LMTP commands by command (fixed list, else OTHER) and result: ok, temp, err.", "command", "result"),
		recipients:  counters("recipients_total", "Recipients asked for by result: accepted, or the kind of the refusal.", "result"),
		deliveries:  counters("deliveries_total", "Deliveries to one recipient by result: delivered, or the kind of the error.", "result"),
		messages:    counters("messages_total", "Messages by how their content came in: whole, too_large, spool_error, cut.", "result"),
		received:    prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_intake_receive_bytes_total", Help: "Application bytes received from gateways."}),
		size: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_intake_message_size_bytes", Help: "Size of messages that came in whole.",
			Buckets: prometheus.ExponentialBuckets(1024, 4, 10), NativeHistogramBucketFactor: 1.1,
		}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_intake_delivery_duration_seconds", Help: "Time by stage: receive (DATA to the final dot), deliver (from there to the replies).",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 18), NativeHistogramBucketFactor: 1.1,
		}, []string{"stage"}),
	}
	if to == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.connections, m.active, m.limit, m.draining, m.handshakes, m.commands, m.recipients,
		m.deliveries, m.messages, m.received, m.size, m.duration,
	} {
		if err := to.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) command(verb string, r reply) {
	m.commands.WithLabelValues(verb, r.result()).Inc()
}

func (m *metrics) recipient(err error) {
	m.recipients.WithLabelValues(outcome(err, "accepted")).Inc()
}

func (m *metrics) delivery(err error) {
	m.deliveries.WithLabelValues(outcome(err, "delivered")).Inc()
}

// outcome is the label of an error, or good if there is none.
func outcome(err error, good string) string {
	if err == nil {
		return good
	}
	return maildrop.KindOf(err).String()
}
