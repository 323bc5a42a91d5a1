package measured

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

func measure(t *testing.T, store blob.Store) (*Store, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	s, err := New(store, registry)
	if err != nil {
		t.Fatal(err)
	}
	return s, registry
}

func TestContract(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, _ := measure(t, blobtest.NewMemory())
		return s
	})
}

func TestCounts(t *testing.T) {
	s, registry := measure(t, blobtest.NewMemory())
	for range 2 {
		_ = s.Create(t.Context(), "a", strings.NewReader("12345"), 5)
	}
	for _, key := range []string{"a", "none"} {
		_, _ = s.ReadAt(t.Context(), key, make([]byte, 9), 2)
		_ = s.Delete(t.Context(), key)
	}
	for range s.List(t.Context(), "", "") {
		t.Error("something is left")
	}
	want := map[string]float64{
		"read_bytes_total": 3, "written_bytes_total": 5, "requests_active": 0,
		"requests_total create ok": 1, "requests_total create precondition": 1,
		"requests_total delete ok": 2, "requests_total list ok": 1,
		"requests_total read ok": 1, "requests_total read not_found": 1,
		"request_duration_seconds create": 2, "request_duration_seconds delete": 2,
		"request_duration_seconds list": 1, "request_duration_seconds read": 2,
	}
	if got := values(t, registry); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// retrying is a store that has repeated requests.
type retrying struct{ blob.Store }

func (retrying) Retries(op string) uint64 { return uint64(len(op)) }

// What a store repeats by itself is counted for each op; one that repeats nothing has no
// such series.
func TestRetries(t *testing.T) {
	_, registry := measure(t, retrying{blobtest.NewMemory()})
	got := values(t, registry)
	for _, op := range []string{"create", "read", "list", "delete"} {
		if n, there := got["retries_total "+op]; !there || n != float64(len(op)) {
			t.Errorf("%s: %v (%v)", op, n, there)
		}
	}
	_, registry = measure(t, blobtest.NewMemory())
	for name := range values(t, registry) {
		if strings.HasPrefix(name, "retries_total") {
			t.Errorf("%s is there", name)
		}
	}
}

// values are all metrics by their name and labels; of a histogram, the count.
func values(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := strings.TrimPrefix(family.GetName(), "postern_objstore_")
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			found[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return found
}

func TestResults(t *testing.T) {
	for want, err := range map[string]error{
		"ok":           nil,
		"not_found":    fmt.Errorf("read: %w", blob.ErrNotFound),
		"precondition": blob.ErrExists,
		"throttled":    fmt.Errorf("%w: %w", blob.ErrMaybe, blob.ErrThrottled),
		"timeout":      fmt.Errorf("%w: %w", blob.ErrMaybe, context.DeadlineExceeded),
		"error":        errors.New("else"),
	} {
		if got := resultOf(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// The time of a list doesn't hold what its reader does.
func TestTimeOfAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, registry := measure(t, blobtest.NewFaulty(blobtest.NewMemory(), func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpList {
				return blobtest.Fault{Delay: time.Second}
			}
			return blobtest.Fault{}
		}))
		for _, key := range []string{"a", "b", "c"} {
			if err := s.Create(t.Context(), key, strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
		for range s.List(t.Context(), "", "") {
			<-time.After(time.Hour)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				if len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == "list" && m.GetHistogram().GetSampleSum() != 1 {
					t.Errorf("list took %v s", m.GetHistogram().GetSampleSum())
				}
			}
		}
	})
}
