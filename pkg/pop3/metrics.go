package pop3

import (
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// metrics are the front's series. Labels come from the protocol's table and from
// fixed lists, never from a client.
type metrics struct {
	region string

	connections *prometheus.CounterVec // result
	active      *prometheus.GaugeVec   // phase
	limit       prometheus.Gauge
	draining    prometheus.Gauge
	handshakes  *prometheus.CounterVec   // result
	versions    *prometheus.CounterVec   // version
	handshakeS  *prometheus.HistogramVec // resumed
	attempts    *prometheus.CounterVec   // mechanism, result
	logins      *prometheus.CounterVec   // result, route
	loginS      *prometheus.HistogramVec // route
	delayed     prometheus.Histogram
	sessions    *prometheus.CounterVec // end
	sessionS    prometheus.Histogram
	commands    *prometheus.CounterVec   // command, result
	commandS    *prometheus.HistogramVec // command
	firstS      *prometheus.HistogramVec // route
	received    prometheus.Counter
	sent        prometheus.Counter
	retrieved   prometheus.Counter
	deleted     prometheus.Counter
	refusals    *prometheus.CounterVec // reason

	byCommand map[string]*commandSeries
}

// commandSeries are one command's series, looked up once.
type commandSeries struct {
	results  [3]prometheus.Counter // by Status
	duration prometheus.Observer
}

// The phases of a connection.
const (
	phaseTLS           = "tls"
	phaseAuthorization = "authorization"
	phaseTransaction   = "transaction"
	phaseUpdate        = "update"
)

var (
	fast  = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 15}
	slow  = []float64{0.1, 0.5, 1, 5, 15, 60, 300, 600, 1800, 7200}
	login = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15}
)

// maker registers metrics and keeps the first error.
type maker struct {
	registerer prometheus.Registerer
	err        error
}

func made[C prometheus.Collector](m *maker, c C) C {
	if m.registerer != nil {
		m.err = errors.Join(m.err, m.registerer.Register(c))
	}
	return c
}

const prefix = "postern_front_"

func (m *maker) counters(name, help string, labels ...string) *prometheus.CounterVec {
	return made(m, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels))
}

func (m *maker) counter(name, help string) prometheus.Counter {
	return made(m, prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help}))
}

func (m *maker) gauge(name, help string) prometheus.Gauge {
	return made(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help}))
}

func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: prefix + name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
	}
}

func (m *maker) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return made(m, prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels))
}

// newMetrics makes the series and registers them, unless registerer is nil.
func newMetrics(registerer prometheus.Registerer, p *Protocol, region string) (*metrics, error) {
	m := &maker{registerer: registerer}
	s := &metrics{
		region:      region,
		connections: m.counters("connections_total", "TCP connections by admission result.", "result"),
		active: made(m, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "connections_active", Help: "Open client connections by phase."}, []string{"phase"})),
		limit:      m.gauge("connections_limit", "Configured maximum of open client connections in this pod."),
		draining:   m.gauge("draining", "1 while the pod refuses new sessions because it is draining."),
		handshakes: m.counters("tls_handshakes_total", "TLS handshakes by result.", "result"),
		versions:   m.counters("tls_versions_total", "Completed TLS handshakes by protocol version.", "version"),
		handshakeS: m.histograms("tls_handshake_duration_seconds", "Time from accept to completed TLS handshake.", fast, "resumed"),
		attempts:   m.counters("auth_attempts_total", "Credential checks by mechanism and result.", "mechanism", "result"),
		logins:     m.counters("logins_total", "Login outcomes.", "result", "route"),
		loginS:     m.histograms("login_duration_seconds", "Time the mailbox took to open for successful logins.", login, "route"),
		delayed: made(m, prometheus.NewHistogram(histogramOpts("logins_delayed_seconds",
			"How long logins waited because their source had failed often.", login))),
		sessions:  m.counters("sessions_total", "Finished sessions by end.", "end"),
		sessionS:  made(m, prometheus.NewHistogram(histogramOpts("session_duration_seconds", "Duration of finished sessions.", slow))),
		commands:  m.counters("commands_total", "POP3 commands by command and result.", "command", "result"),
		commandS:  m.histograms("command_duration_seconds", "Time from the complete command line to its reply.", fast, "command"),
		firstS:    m.histograms("retrieve_first_byte_seconds", "Time from RETR or TOP to the first body byte.", fast, "route"),
		received:  m.counter("receive_bytes_total", "Application bytes received from clients."),
		sent:      m.counter("transmit_bytes_total", "Application bytes sent to clients."),
		retrieved: m.counter("messages_retrieved_total", "Messages fully sent by RETR."),
		deleted:   m.counter("messages_deleted_total", "Messages whose deletion was committed in UPDATE."),
		refusals:  m.counters("refusals_total", "Replies that refuse a client, by their reason code.", "reason"),
		byCommand: make(map[string]*commandSeries),
	}
	for _, m := range maildrop.Meanings() {
		s.refusals.WithLabelValues(string(m.Reason))
	}
	for _, verb := range p.Commands() {
		series := &commandSeries{duration: s.commandS.WithLabelValues(verb)}
		for status, result := range [...]string{StatusOK: "ok", StatusErr: "err", StatusTemp: "temp"} {
			series.results[status] = s.commands.WithLabelValues(verb, result)
		}
		s.byCommand[verb] = series
	}
	return s, m.err
}

func (m *metrics) enter(phase string) { m.active.WithLabelValues(phase).Inc() }
func (m *metrics) leave(phase string) { m.active.WithLabelValues(phase).Dec() }

func (m *metrics) handshake(state *tls.ConnectionState, took time.Duration) {
	m.handshakes.WithLabelValues("ok").Inc()
	m.versions.WithLabelValues(strings.TrimPrefix(tls.VersionName(state.Version), "TLS ")).Inc()
	resumed := "false"
	if state.DidResume {
		resumed = "true"
	}
	m.handshakeS.WithLabelValues(resumed).Observe(took.Seconds())
}

func (m *metrics) handshakeFailed(err error) {
	result := "client_error"
	if timeout(err) {
		result = "timeout"
	}
	m.handshakes.WithLabelValues(result).Inc()
}

// route tells a maildrop of this region from one that is reached through another.
func (m *metrics) route(region string) string {
	if region == "" || region == m.region {
		return "local"
	}
	return "remote"
}

// step counts the command and the login that a step ended.
func (m *metrics) step(c *conn, step Step, began time.Time) {
	if series := m.byCommand[step.Command]; series != nil {
		series.results[step.Status].Inc()
		series.duration.Observe(time.Since(began).Seconds())
		if step.Command == "RETR" && step.Status == StatusOK {
			m.retrieved.Inc()
		}
	}
	if step.Reason != maildrop.ReasonNone {
		m.refusals.WithLabelValues(string(step.Reason)).Inc()
	}
	if step.Login == LoginNone {
		return
	}
	checked, result, route := "ok", "ok", "none"
	switch step.Login {
	case LoginOK:
		route = m.route(c.session.Info().Region)
		m.loginS.WithLabelValues(route).Observe(c.opened.Seconds())
	case LoginRefused:
		checked, result = "failed", "auth_failed"
	case LoginDenied:
		result = resultOf[responseOf(step.Reason)]
	case LoginUnavailable:
		checked, result = "unavailable", "sys_temp"
	}
	m.attempts.WithLabelValues(c.session.Mechanism(), checked).Inc()
	m.logins.WithLabelValues(result, route).Inc()
}

// resultOf is the label of a refused login by its response code.
var resultOf = map[maildrop.Response]string{
	maildrop.ResponseAuth: "auth_failed", maildrop.ResponseTemp: "sys_temp",
	maildrop.ResponsePerm: "sys_perm", maildrop.ResponseLoginDelay: "login_delay",
}

func responseOf(reason maildrop.Reason) maildrop.Response {
	m, _ := reason.Meaning()
	return m.Response
}

func (m *metrics) firstOctet(c *conn, took time.Duration) {
	m.firstS.WithLabelValues(m.route(c.session.Info().Region)).Observe(took.Seconds())
}

// ended counts a session. The log has the ends in more detail.
func (m *metrics) ended(end End, started time.Time) {
	label := "protocol_error"
	switch end {
	case EndQuit, EndUpdate:
		label = "quit"
	case endClient, endIdle, endLogin, EndRestart, EndBackend:
		label = string(end)
	case EndAccess, EndRefused, EndFull, endPanic:
		label = "killed"
	}
	m.sessions.WithLabelValues(label).Inc()
	m.sessionS.Observe(time.Since(started).Seconds())
}
