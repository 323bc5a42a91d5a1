package rpc

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// methodOther is the label of methods that aren't Maildrop's or Transfer's.
const methodOther = "other"

// meter counts calls on one side, by method and kind. Its labels are bounded by
// the table of methods and the kinds; both are resolved once.
type meter struct {
	methods map[string]*methodMeter // by full method name; nil: no metrics
}

type methodMeter struct {
	kinds    [maildrop.Kinds]prometheus.Counter
	ok       prometheus.Counter
	duration prometheus.Observer
}

// newMeter makes the meter of a side, "server" or "client". Two of one side in
// one registry share their series. Metrics that can't be registered are no
// reason not to serve: it says so and counts nothing.
func newMeter(registry prometheus.Registerer, side string, log *slog.Logger) *meter {
	m := &meter{}
	if registry == nil {
		return m
	}
	calls, err1 := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_rpc_" + side + "_calls_total",
		Help: "Calls between processes by method and kind of the answer; ok when there was no error.",
	}, []string{"method", "kind"}))
	durations, err2 := register(registry, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "postern_rpc_" + side + "_call_duration_seconds",
		Help:    "Duration of calls between processes by method, bodies included.",
		Buckets: prometheus.ExponentialBuckets(0.000_25, 4, 9), // up to 16 s
	}, []string{"method"}))
	if err := errors.Join(err1, err2); err != nil {
		log.Warn("no metrics of calls between processes", "side", side, "err", err)
		return m
	}
	m.methods = map[string]*methodMeter{methodOther: newMethodMeter(calls, durations, methodOther)}
	for _, desc := range []grpc.ServiceDesc{posternv1.Maildrop_ServiceDesc, posternv1.Transfer_ServiceDesc} {
		for _, method := range desc.Methods {
			m.methods["/"+desc.ServiceName+"/"+method.MethodName] = newMethodMeter(calls, durations, method.MethodName)
		}
		for _, stream := range desc.Streams {
			m.methods["/"+desc.ServiceName+"/"+stream.StreamName] = newMethodMeter(calls, durations, stream.StreamName)
		}
	}
	return m
}

func newMethodMeter(calls *prometheus.CounterVec, durations *prometheus.HistogramVec, method string) *methodMeter {
	m := &methodMeter{ok: calls.WithLabelValues(method, "ok"), duration: durations.WithLabelValues(method)}
	for kind := range m.kinds {
		m.kinds[kind] = calls.WithLabelValues(method, maildrop.Kind(kind).String())
	}
	return m
}

// register registers a collector, or finds the one that is there already.
func register[C prometheus.Collector](registry prometheus.Registerer, c C) (C, error) {
	err := registry.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, err
}

// observe counts one call that began at start and ended with err.
func (m *meter) observe(method string, start time.Time, err error) {
	if m.methods == nil {
		return
	}
	mm := m.methods[method]
	if mm == nil {
		mm = m.methods[methodOther]
	}
	mm.duration.Observe(time.Since(start).Seconds())
	if err == nil {
		mm.ok.Inc()
		return
	}
	kind := maildrop.KindOf(err)
	if int(kind) >= len(mm.kinds) {
		kind = maildrop.Internal
	}
	mm.kinds[kind].Inc()
}
