package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// expectAbove is the body, in octets, from which a PUT waits for the server's "100
// continue": who loses a race then learns it before the body is on its way, instead of
// seeing the connection reset in the middle of it.
const expectAbove = 64 << 10

var (
	errStopped = errors.New("the request is over")
	errForeign = errors.New("an answer that isn't an S3 store's")
)

// stalledError says that a request stood still.
type stalledError struct {
	after     time.Duration
	connected bool
}

func (e *stalledError) Error() string {
	if !e.connected {
		return fmt.Sprintf("no connection within %v", e.after)
	}
	return fmt.Sprintf("no progress for %v", e.after)
}

// Timeout is asked by those who count timeouts.
func (e *stalledError) Timeout() bool { return true }

// exchange watches one request on its way.
type exchange struct {
	sent   atomic.Bool // there was a connection for it
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
}

type exchangeKey struct{}

// begin gives a context that ends when the exchange doesn't progress for stall.
func begin(ctx context.Context, stall time.Duration) (context.Context, *exchange) {
	ctx, cancel := context.WithCancelCause(ctx)
	x := &exchange{stall: stall, cancel: cancel, cause: func() error { return context.Cause(ctx) }}
	x.timer = time.AfterFunc(stall, func() { cancel(&stalledError{}) })
	return context.WithValue(ctx, exchangeKey{}, x), x
}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

func (x *exchange) progress() { x.timer.Reset(x.stall) }

func (x *exchange) stalled() bool {
	var stalled *stalledError
	return errors.As(x.cause(), &stalled)
}

func (x *exchange) end() {
	x.timer.Stop()
	x.cancel(errStopped)
}

// transport sends requests and keeps their exchanges up to date.
type transport struct{ next *http.Transport }

func (t *transport) closeIdle() { t.next.CloseIdleConnections() }

func newTransport(cfg Config, roots *x509.CertPool) *transport {
	dialer := &net.Dialer{Timeout: min(5*time.Second, cfg.Stall), KeepAlive: 15 * time.Second}
	return &transport{next: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   min(10*time.Second, cfg.Stall),
		ExpectContinueTimeout: time.Second,
		MaxConnsPerHost:       cfg.Connections,
		MaxIdleConnsPerHost:   cfg.Connections,
		IdleConnTimeout:       15 * time.Second, // before the servers' own: a connection they close just then costs an ErrMaybe
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}}
}

// RoundTrip implements http.RoundTripper. Several requests may share one
// exchange, such as the pages of a list.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	if x == nil {
		return nil, errStopped // nothing but try asks
	}
	traced := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { x.sent.Store(true); x.progress() },
		GotFirstResponseByte: x.progress,
	})
	req = req.Clone(traced)
	if req.Method == http.MethodPut && req.ContentLength > expectAbove {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := acceptable(req, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	resp.Body = &incoming{ReadCloser: resp.Body, progress: x.progress}
	return resp, nil
}

// acceptable refuses "not found" from something in between: it makes the ledger
// believe that mail is gone, and a proxy's page must not.
func acceptable(req *http.Request, resp *http.Response) error {
	kind := resp.Header.Get("Content-Type")
	if resp.StatusCode == http.StatusNotFound && req.Method == http.MethodGet && !strings.Contains(kind, "xml") {
		return fmt.Errorf("%w: %s of type %q", errForeign, resp.Status, kind)
	}
	return nil
}

// incoming reports progress for each piece of an answer.
type incoming struct {
	io.ReadCloser
	progress func()
}

// Read implements io.Reader.
func (b *incoming) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.progress()
	return n, err
}
