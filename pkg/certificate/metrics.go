package certificate

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series of a Set. The label file is a path of the configuration.
type metrics struct {
	notAfter  *prometheus.GaugeVec   // file
	refused   *prometheus.GaugeVec   // file
	reloads   *prometheus.CounterVec // file, result
	strangers *prometheus.CounterVec // sni
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	gauges := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_certificate_" + name, Help: help}, []string{"file"})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_certificate_" + name, Help: help}, labels)
	}
	m := &metrics{
		notAfter:  gauges("not_after_seconds", "When the certificate that is shown expires, in Unix time."),
		refused:   gauges("refused", "1 while the files hold something that can't be used and an older certificate is shown."),
		reloads:   counters("reloads_total", "Changes of a certificate's files by result.", "file", "result"),
		strangers: counters("default_shown_total", "Handshakes that got the default certificate, by the name asked for: none, or unknown.", "sni"),
	}
	for _, sni := range []string{"none", "unknown"} {
		m.strangers.WithLabelValues(sni)
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(registerer.Register(m.notAfter), registerer.Register(m.refused),
		registerer.Register(m.reloads), registerer.Register(m.strangers))
}

func (m *metrics) reload(p *pair, result string) { m.reloads.WithLabelValues(p.Cert, result).Inc() }

func (m *metrics) stranger(name string) {
	sni := "unknown"
	if name == "" {
		sni = "none"
	}
	m.strangers.WithLabelValues(sni).Inc()
}

func (m *metrics) update(pairs []*pair) {
	for _, p := range pairs {
		m.notAfter.WithLabelValues(p.Cert).Set(float64(p.kept.Leaf.NotAfter.Unix()))
		bad := 0.0
		if p.refused {
			bad = 1
		}
		m.refused.WithLabelValues(p.Cert).Set(bad)
	}
}
