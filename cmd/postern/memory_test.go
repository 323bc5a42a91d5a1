package main

import (
	"io"
	"log/slog"
	"math"
	"runtime/debug"
	"testing"

	"github.com/postern-pop/postern/pkg/shard"
)

func TestPlanMemory(t *testing.T) {
	for name, c := range map[string]struct {
		limit, cache, waiting int64
		tight                 bool
	}{
		"no limit":             {0, 64 << 20, shard.DefaultBudget, false},
		"a large one":          {8 << 30, 64 << 20, shard.DefaultBudget, false},
		"half a gibibyte":      {480 << 20, 64 << 20, 128 << 20, false},
		"just enough":          {228 << 20, 64 << 20, leastMail, false},
		"less than the cache":  {100 << 20, 256 << 20, leastMail, true},
		"nothing but the rest": {192 << 20, 64 << 20, leastMail, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := planMemory(c.limit, c.cache)
			if p.waiting != c.waiting || (err != nil) != c.tight {
				t.Errorf("%d MiB for mail, want %d; %v", p.waiting>>20, c.waiting>>20, err)
			}
			if whole := c.cache + ownMemory + p.arriving + p.waiting; c.limit > 0 && !c.tight && whole > c.limit {
				t.Errorf("all in all %d MiB of %d", whole>>20, c.limit>>20)
			}
		})
	}
}

// GOMEMLIMIT, which the runtime has read already, is the operator's word.
func TestLimitMemory(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(was) })
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(1 << 30)
	if limit := limitMemory(log); limit != 1<<30 {
		t.Errorf("limit %d", limit)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if limit := limitMemory(log); limit != 0 {
		t.Errorf("limit %d where there is none", limit)
	}
}
