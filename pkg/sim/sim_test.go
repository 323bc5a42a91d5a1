package sim

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func full() bool { return os.Getenv("POSTERN_SIM") == "full" }

// TestSim runs seeds, from 1 (or POSTERN_SIM_FROM) on, until one fails.
func TestSim(t *testing.T) { campaign(t, run) }

// life runs a seed and returns what was violated.
type life func(t *testing.T, seed uint64) []string

func campaign(t *testing.T, run life) {
	if seed := setting(t, "POSTERN_SIM_SEED", 0); seed > 0 {
		again(t, run, seed)
		return
	}
	seeds, limit := uint64(300), uint64(10) // a small part, for every go test
	if full() {
		seeds, limit = 5000, 3600
	}
	if n := setting(t, "POSTERN_SIM_SEEDS", 0); n > 0 {
		seeds, limit = n, 3600
	}
	if n := setting(t, "POSTERN_SIM_SECONDS", 0); n > 0 {
		seeds, limit = math.MaxUint32, n
	}
	from := setting(t, "POSTERN_SIM_FROM", 1)
	began := time.Now()
	ends := began.Add(time.Duration(limit) * time.Second)
	ran := search(t, run, from, seeds, ends)
	t.Logf("%d seeds in %.1f s: %.0f a second", ran, time.Since(began).Seconds(), float64(ran)/time.Since(began).Seconds())
}

// search runs seeds on all processors, and ends with the first that fails.
func search(t *testing.T, run life, from, seeds uint64, ends time.Time) (ran uint64) {
	var next, done atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !failed.Load() {
				seed := from + next.Add(1) - 1
				if seed >= from+seeds || time.Now().After(ends) {
					return
				}
				if found := run(t, seed); len(found) > 0 && !failed.Swap(true) {
					report(t, seed, found)
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	return done.Load()
}

func report(t *testing.T, seed uint64, found []string) {
	t.Helper()
	t.Errorf("seed %d: VIOLATED: %s", seed, found[0])
	for _, line := range found[1:] {
		t.Errorf("seed %d, and then: %s", seed, line)
	}
	t.Errorf("run it alone: POSTERN_SIM_SEED=%d go test ./pkg/sim -run '^%s$' -v", seed, t.Name())
}

// again runs a seed often enough to see how surely it fails.
func again(t *testing.T, run life, seed uint64) {
	t.Helper()
	const times = 20
	failed := 0
	var first []string
	for range times {
		if found := run(t, seed); len(found) > 0 {
			if failed++; failed == 1 {
				first = found
			}
		}
	}
	t.Logf("seed %d fails in %d of %d runs", seed, failed, times)
	if failed > 0 {
		report(t, seed, first)
	}
}
