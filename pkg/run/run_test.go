package run

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// trail is what happened, in order.
type trail struct {
	mu    sync.Mutex
	steps []string
}

func (t *trail) add(step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, step)
}

func (t *trail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.steps, " ")
}

// server registers a part that takes some time to stop.
func (t *trail) server(p *Process, name string, takes time.Duration) {
	quit := make(chan struct{})
	t.add("+" + name)
	p.Serve(name, func() error {
		<-quit
		t.add("-" + name)
		return nil
	}, func(ctx context.Context) error {
		t.add("stop:" + name)
		select {
		case <-time.After(takes):
			close(quit)
			return nil
		case <-ctx.Done():
			close(quit)
			return ctx.Err()
		}
	})
}

func options(signals chan os.Signal) Options {
	return Options{Log: slog.New(slog.DiscardHandler), Signals: signals, Drain: 10 * time.Second}
}

// silence is a channel that no signal comes by.
func silence() chan os.Signal { return make(chan os.Signal) }

func TestStopsInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps trail
		signals := make(chan os.Signal, 2)
		time.AfterFunc(time.Hour, func() { signals <- syscall.SIGTERM })
		err := Main(t.Context(), options(signals), func(ctx context.Context, p *Process) error {
			steps.server(p, "a", time.Second)
			p.OnStop("b", func(context.Context) error { steps.add("stop:b"); return nil })
			p.Go(ctx, "c", func(ctx context.Context) error {
				<-ctx.Done()
				<-time.After(time.Second)
				steps.add("-c")
				return ctx.Err()
			})
			steps.server(p, "d", time.Second)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if want := "+a +d stop:d -d -c stop:b stop:a -a"; steps.String() != want {
			t.Errorf("got %s, want %s", &steps, want)
		}
	})
}

func TestPartThatFailsEndsTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps trail
		broken := errors.New("broken")
		err := Main(t.Context(), options(silence()), func(ctx context.Context, p *Process) error {
			steps.server(p, "a", 0)
			p.Go(ctx, "b", func(context.Context) error { <-time.After(time.Minute); return broken })
			p.Go(ctx, "c", func(ctx context.Context) error { <-ctx.Done(); return nil })
			return nil
		})
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "b: ") {
			t.Errorf("got %v", err)
		}
		if want := "+a stop:a -a"; steps.String() != want {
			t.Errorf("got %s, want %s", &steps, want)
		}
	})
}

func TestPartThatEndsWithoutErrorIsMissedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := Main(t.Context(), options(silence()), func(ctx context.Context, p *Process) error {
			p.Go(ctx, "a", func(context.Context) error { return nil })
			return nil
		})
		if err == nil || err.Error() != "a: ended by itself" {
			t.Errorf("got %v", err)
		}
	})
}

func TestStartThatFailsStopsWhatWasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps trail
		broken := errors.New("port taken")
		err := Main(t.Context(), options(silence()), func(ctx context.Context, p *Process) error {
			steps.server(p, "a", 0)
			return broken
		})
		if !errors.Is(err, broken) || steps.String() != "+a stop:a -a" {
			t.Errorf("got %v after %s", err, &steps)
		}
	})
}

func TestSignalEndsAStartThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		time.AfterFunc(time.Second, func() { signals <- syscall.SIGINT })
		err := Main(t.Context(), options(signals), func(ctx context.Context, p *Process) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil {
			t.Errorf("got %v, want an orderly end", err)
		}
	})
}

func TestCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		signals []time.Duration // when
		want    time.Duration   // of the end
	}{
		"by time":   {[]time.Duration{time.Minute}, time.Minute + 10*time.Second},
		"by signal": {[]time.Duration{time.Minute, time.Minute + 3*time.Second}, time.Minute + 3*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var steps trail
				signals, began := make(chan os.Signal, 2), time.Now()
				for _, when := range c.signals {
					time.AfterFunc(when, func() { signals <- syscall.SIGTERM })
				}
				err := Main(t.Context(), options(signals), func(ctx context.Context, p *Process) error {
					steps.server(p, "a", 0)
					steps.server(p, "slow", time.Hour)
					return nil
				})
				if !errors.Is(err, ErrCutOff) || time.Since(began) != c.want {
					t.Errorf("got %v after %v, want a cut after %v", err, time.Since(began), c.want)
				}
				if !strings.Contains(steps.String(), "stop:a") {
					t.Errorf("the parts after the slow one weren't stopped: %s", &steps)
				}
			})
		})
	}
}

// TestDeafPart: a stop that doesn't even listen to its context can't hold up
// the end.
func TestDeafPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals, began, release := make(chan os.Signal, 2), time.Now(), make(chan struct{})
		signals <- syscall.SIGTERM
		err := Main(t.Context(), options(signals), func(ctx context.Context, p *Process) error {
			p.OnStop("deaf", func(context.Context) error { <-release; return nil })
			return nil
		})
		if !errors.Is(err, ErrCutOff) || time.Since(began) != 11*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		close(release)
	})
}

func TestHealth(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + listener.Addr().String()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_test_answer", Help: "h"}))

	ctx, cancel := context.WithCancel(t.Context())
	proceed, draining, release, result := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error)
	var process *Process
	registered := make(chan struct{})
	go func() {
		result <- Main(ctx, options(silence()), func(_ context.Context, p *Process) error {
			p.Health(listener, registry)
			p.OnStop("slow", func(context.Context) error { close(draining); <-release; return nil })
			process = p
			close(registered)
			<-proceed
			return nil
		})
	}()
	<-registered
	expect(t, base+"/readyz", http.StatusServiceUnavailable, "starting")
	expect(t, base+"/healthz", http.StatusOK, "ok")
	close(proceed)
	for process.State() != Serving {
		runtime.Gosched()
	}
	expect(t, base+"/readyz", http.StatusOK, "serving")
	expect(t, base+"/metrics", http.StatusOK, "postern_test_answer 0")
	expect(t, base+"/debug/pprof/", http.StatusNotFound, "")
	cancel()
	<-draining
	expect(t, base+"/readyz", http.StatusServiceUnavailable, "draining")
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func expect(t *testing.T, url string, status int, text string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != status || !bytes.Contains(body, []byte(text)) {
		t.Errorf("%s: %d %q, want %d with %q", url, answer.StatusCode, body, status, text)
	}
}

func TestOwnSignals(t *testing.T) {
	started := make(chan struct{})
	go func() {
		<-started
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	err := Main(t.Context(), Options{Log: slog.New(slog.DiscardHandler)}, func(context.Context, *Process) error {
		close(started)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStates(t *testing.T) {
	if got := []string{Starting.String(), Serving.String(), Draining.String()}; !slices.Equal(got, []string{"starting", "serving", "draining"}) {
		t.Error(got)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
