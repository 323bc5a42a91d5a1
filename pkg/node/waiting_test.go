package node

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/placement"
)

// Without the key of the mail at rest no epoch is begun, and what is missing is said;
// with it the shards are opened.
func TestWithoutAKeyNoEpochBegins(t *testing.T) {
	r := newRegion(t)
	var fits atomic.Bool
	registry := prometheus.NewRegistry()
	a := r.start("a", func(c *Config) {
		c.Registerer = registry
		c.Seal = func(_ context.Context, store blob.Store, _ string, _ func(string, int64, string)) (blob.Store, error) {
			if !fits.Load() {
				return nil, fmt.Errorf("a test: %w", sealed.ErrWrongKey)
			}
			return store, nil
		}
	})
	view := r.await("all shards wait", func(placement.View) bool { return len(a.Waiting()) == shards })
	for _, claim := range view.Claims {
		if claim.Epoch > 0 {
			t.Errorf("shard %d is in epoch %d", claim.Shard, claim.Epoch)
		}
	}
	if line := a.Waiting()[2]; !strings.Contains(line, "shard 2 waits") || !strings.Contains(line, sealed.ErrWrongKey.Error()) {
		t.Errorf("%q", line)
	}
	if n := waitingShards(t, registry, waitsForKey); n != shards {
		t.Errorf("%d shards are said to wait", n)
	}
	fits.Store(true)
	r.awaitServed("all shards", a)
	if n := waitingShards(t, registry, waitsForKey); n != 0 || len(a.Waiting()) != 0 {
		t.Errorf("%d shards are said to wait: %v", n, a.Waiting())
	}
}

func waitingShards(t *testing.T, registry *prometheus.Registry, reason string) (n int) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "postern_node_shard_waiting" && label.GetName() == "reason" && label.GetValue() == reason {
					n++
				}
			}
		}
	}
	return n
}

// A shard that has lost an object waits, and says for which one; once that is
// forgotten it is served.
func TestLostObjectIsWaitedFor(t *testing.T) {
	r := newRegion(t)
	a := r.start("a")
	r.awaitServed("all shards", a)
	r.enroll(a, user(1))
	if err := deliver(t.Context(), a, user(1), "Subject: hi\r\n\r\nhi\r\n"); err != nil {
		t.Fatal(err)
	}
	a.stop()
	<-a.ended
	const lost = "eu/shard-0001/ledger/00000000000000000002"
	if err := r.store.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	b := r.start("a")
	r.await("one shard waits", func(placement.View) bool { return len(b.Waiting()) == 1 && len(b.Shards()) == shards-1 })
	if line := b.Waiting()[0]; !strings.Contains(line, lost) || !strings.Contains(line, "postern ledger forget --region FILE --shard 1 2") {
		t.Errorf("%q", line)
	}
	if _, err := ledger.Forget(t.Context(), ledger.Config{Store: r.store, Prefix: "eu/shard-0001"}, ledger.Forgotten{Sequence: 2, By: "somebody"}); err != nil {
		t.Fatal(err)
	}
	r.awaitServed("all shards", b)
	if len(b.Waiting()) != 0 {
		t.Errorf("%v", b.Waiting())
	}
}
