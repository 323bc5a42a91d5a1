package auth

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Results of a check, as the metric's label says them.
const (
	resultCached = "cached"
	resultOK     = "ok"
	resultWrong  = "wrong"
	resultBusy   = "busy"
	resultError  = "error"
)

func resultOf(err error) string {
	switch {
	case err == nil:
		return resultOK
	case maildrop.KindOf(err) == maildrop.Denied:
		return resultWrong
	case maildrop.KindOf(err) == maildrop.Busy:
		return resultBusy
	}
	return resultError
}

// metrics is nil where nobody asked for any.
type metrics struct {
	checks   *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, queued func() float64) *metrics {
	if r == nil {
		return nil
	}
	m := &metrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_node_password_checks_total",
			Help: "Password checks by result: cached, ok, wrong, busy, error.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postern_node_password_check_duration_seconds",
			Help:    "Duration of one argon2id run, without waiting for it.",
			Buckets: []float64{.02, .04, .06, .08, .1, .15, .2, .3, .5, 1, 2},
		}),
	}
	r.MustRegister(m.checks, m.duration, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_node_password_checks_queued",
		Help: "Password checks that wait for a worker.",
	}, queued))
	return m
}

func (m *metrics) count(result string) {
	if m != nil {
		m.checks.WithLabelValues(result).Inc()
	}
}

func (m *metrics) took(d time.Duration) {
	if m != nil {
		m.duration.Observe(d.Seconds())
	}
}
