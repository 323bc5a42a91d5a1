package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the health port's requests.
const (
	healthHeaderTimeout = 5 * time.Second
	healthTimeout       = 30 * time.Second
	healthHeaderOctets  = 16 << 10
)

// Health serves /metrics, /healthz and /readyz on the listener, from now
// until every part registered after it has stopped: register it first, and a
// load balancer sees the drain from its first moment.
func (p *Process) Health(listener net.Listener, metrics prometheus.Gatherer) {
	server := &http.Server{
		Handler:           p.healthHandler(metrics),
		ReadHeaderTimeout: healthHeaderTimeout,
		ReadTimeout:       healthTimeout,
		WriteTimeout:      healthTimeout,
		MaxHeaderBytes:    healthHeaderOctets,
	}
	p.Serve("health", func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, func(context.Context) error {
		// At once: a scraper that keeps its connection open is no work in hand.
		return server.Close()
	})
}

func (p *Process) healthHandler(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		state := p.State()
		if state != Serving {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, state)
		for _, line := range p.explanations() {
			fmt.Fprintln(w, line)
		}
	})
	return mux
}
