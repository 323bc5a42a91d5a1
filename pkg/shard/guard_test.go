package shard

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestLockoutsAreCounted: how many there were, and how many there are at the moment, of
// the shards that are open.
func TestLockoutsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		config := testConfig(blobtest.NewMemory())
		config.Metrics = NewMetrics(registry)
		first := open(t, config)
		user(t, first, anna)
		says := func(when string, active, total int) {
			t.Helper()
			want := fmt.Sprintf(`
# HELP postern_node_lockouts_active Addresses that are locked out at the moment, names that don't exist among them.
# TYPE postern_node_lockouts_active gauge
postern_node_lockouts_active %d
# HELP postern_node_lockouts_total Addresses locked out after too many wrong passwords, names that don't exist among them.
# TYPE postern_node_lockouts_total counter
postern_node_lockouts_total %d
`, active, total)
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "postern_node_lockouts_active", "postern_node_lockouts_total"); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		guess := func(s *Shard, address maildrop.Address) {
			for i := range 6 {
				_, err := s.Open(t.Context(), maildrop.Login{Address: address, Password: fmt.Sprint(i)})
				wants(t, err, maildrop.Denied)
			}
		}
		says("at first", 0, 0)
		guess(first, anna)
		guess(first, "nobody@local.example")
		says("two", 2, 2)
		time.Sleep(15 * time.Minute)
		says("later", 0, 2)
		guess(first, anna)
		says("again", 1, 3)

		// Who owns the shard next begins anew: as many tries, and no more.
		next := open(t, config)
		ok(t, first.Close(t.Context()))
		says("after a take-over", 0, 3)
		guess(next, anna)
		_, err := next.Open(t.Context(), maildrop.Login{Address: anna, Password: password})
		if maildrop.ReasonOf(err) != maildrop.ReasonLockout {
			t.Error(err)
		}
		says("at the next owner", 1, 4)
	})
}

// TestTroubleIsNoGuess: while passwords can't be verified nobody is locked out, and
// nobody is told that his is wrong.
func TestTroubleIsNoGuess(t *testing.T) {
	for _, kind := range []maildrop.Kind{maildrop.Internal, maildrop.Busy, maildrop.Transient, maildrop.Canceled} {
		config := testConfig(blobtest.NewMemory())
		trouble := true
		config.Verify = func(ctx context.Context, login maildrop.Login, hash string) error {
			if trouble {
				return &maildrop.Error{Op: "test", Kind: kind}
			}
			return plain(ctx, login, hash)
		}
		s := open(t, config)
		user(t, s, anna)
		for i := range 20 {
			_, err := s.Open(t.Context(), maildrop.Login{Address: anna, Password: fmt.Sprint(i)})
			wants(t, err, kind)
		}
		trouble = false
		login(t, s, anna)
		for _, a := range s.journal.Of(anna) {
			if a.Reason != "" && a.Reason != maildrop.ReasonUnavailable {
				t.Errorf("%v is remembered as %q", kind, a.Reason)
			}
		}
	}
}
