package directory

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// global is the value of the label scope: the regional etcd has a view of its
// own.
const global = "global"

// A View is a prometheus.Collector: register it where metrics are wanted.
var _ prometheus.Collector = (*View)(nil)

type descriptions struct {
	revision, heard, degraded, restarts, entries, corrupt, garbage *prometheus.Desc
}

func describe() descriptions {
	scope := prometheus.Labels{"scope": global}
	return descriptions{
		revision: prometheus.NewDesc("postern_route_view_revision",
			"etcd revision of the routing view in use; scope: global, region.", nil, scope),
		heard: prometheus.NewDesc("postern_route_view_synced_timestamp_seconds",
			"Unix time when the view was last known to be current (event or progress notification).", nil, scope),
		degraded: prometheus.NewDesc("postern_route_view_degraded",
			"1 while serving from a snapshot instead of a live watch.", nil, scope),
		restarts: prometheus.NewDesc("postern_route_watch_restarts_total",
			"Watch restarts: compacted, canceled, stalled, error.", []string{"reason"}, scope),
		entries: prometheus.NewDesc("postern_directory_entries",
			"Entries in the directory's view: region, account, domain.", []string{"kind"}, nil),
		corrupt: prometheus.NewDesc("postern_directory_corrupt_entries",
			"Records whose newest value cannot be read, so that the last good one is in use.", nil, nil),
		garbage: prometheus.NewDesc("postern_directory_corrupt_values_total",
			"Unreadable values seen.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (v *View) Describe(ch chan<- *prometheus.Desc) {
	d := describe()
	for _, desc := range []*prometheus.Desc{d.revision, d.heard, d.degraded, d.restarts, d.entries, d.corrupt, d.garbage} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (v *View) Collect(ch chan<- prometheus.Metric) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	d := describe()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	degraded := 1.0
	if v.synced {
		degraded = 0
	}
	gauge(d.revision, float64(v.revision))
	// The age is measured on a clock that nobody sets, and shown as a date.
	gauge(d.heard, float64(time.Now().Add(-time.Since(v.heard)).UnixMilli())/1000)
	gauge(d.degraded, degraded)
	gauge(d.entries, float64(len(v.state.regions.byName)), "region")
	gauge(d.entries, float64(len(v.state.accounts.byName)), "account")
	gauge(d.entries, float64(len(v.state.domains.byName)), "domain")
	gauge(d.corrupt, float64(len(v.state.corrupt)))
	ch <- prometheus.MustNewConstMetric(d.garbage, prometheus.CounterValue, float64(v.garbage))
	for _, reason := range []string{"compacted", "canceled", "stalled", "error"} {
		ch <- prometheus.MustNewConstMetric(d.restarts, prometheus.CounterValue, float64(v.restarts[reason]), reason)
	}
}
