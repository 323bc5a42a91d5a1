package router

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// meter counts what the router does. Its zero value counts nothing.
type meter struct {
	attempts *prometheus.CounterVec
	lookups  *prometheus.CounterVec
}

// newMeter makes a meter. Metrics that can't be registered are no reason not to
// serve: it says so and counts nothing.
func newMeter(registry prometheus.Registerer, log *slog.Logger) *meter {
	if registry == nil {
		return &meter{}
	}
	attempts, err1 := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_front_backend_attempts_total",
		Help: "Calls to mailbox nodes and gateways by attempt (first, retry, reroute) and result.",
	}, []string{"attempt", "result"}))
	lookups, err2 := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_route_lookups_total",
		Help: "Lookups of an address's account by source and result.",
	}, []string{"source", "result"}))
	if err := errors.Join(err1, err2); err != nil {
		log.Warn("no metrics of the router", "err", err)
		return &meter{}
	}
	return &meter{attempts: attempts, lookups: lookups}
}

// register registers a collector, or finds the one that is there already.
func register(registry prometheus.Registerer, c *prometheus.CounterVec) (*prometheus.CounterVec, error) {
	err := registry.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
			return existing, nil
		}
	}
	return c, err
}

// looked counts a lookup in the directory's view.
func (m *meter) looked(found bool) {
	if m.lookups == nil {
		return
	}
	result := "not_found"
	if found {
		result = "found"
	}
	m.lookups.WithLabelValues("memory", result).Inc()
}

// attempted counts an attempt: the number of those before it, and whether the
// last one was at the same place.
func (m *meter) attempted(before int, same bool, err error) {
	if m.attempts == nil {
		return
	}
	attempt := "reroute"
	if before == 0 {
		attempt = "first"
	} else if same {
		attempt = "retry"
	}
	m.attempts.WithLabelValues(attempt, result(err)).Inc()
}

// result is the label of an attempt's end. An answer that refuses is an answer.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	switch maildrop.KindOf(err) {
	case maildrop.Denied, maildrop.NotFound, maildrop.Alias, maildrop.Invalid:
		return "ok"
	case maildrop.NotOwner:
		return "not_owner"
	case maildrop.Transient, maildrop.Maybe:
		return "unavailable"
	case maildrop.Canceled:
		return "deadline"
	case maildrop.Internal, maildrop.Busy, maildrop.Full, maildrop.ReadOnly, maildrop.Corrupt:
	}
	return "error"
}
