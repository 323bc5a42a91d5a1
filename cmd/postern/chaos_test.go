package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/mutation"
)

// The chaos suite: two regions of real processes, users and gateways at work all the while, and a
// seed's plan of everything that goes wrong. Then all is well again, every mailbox is read to its
// end, and what was said is held against what is promised (README, What is promised, 1 to 5 and 9).
//
//	make chaos                      a seed of chance, 3 minutes
//	make chaos SEED=7 MINUTES=20    that one's plan; who wins a race is still chance

// Bounds of the suite.
const (
	chaosMinutes  = 3
	chaosPatience = 2 * time.Minute  // until a user's mailbox can be read again when all is well
	chaosStale    = 2 * time.Second  // an owner that was replaced may answer from the past for one
	huntPatience  = 20 * time.Second // a mutant may have made a mailbox unreadable for ever
	huntTries     = 5
	chaosAround   = 40 // events of a finding's message that are printed
)

// TestChaos plays one seed.
func TestChaos(t *testing.T) {
	if os.Getenv("POSTERN_CHAOS") == "" {
		t.Skip("takes minutes: make chaos")
	}
	seed, length := chaosSettings(t)
	t.Logf("seed %d, %v", seed, length)
	c := playChaos(t, buildChaos(t), func(r *chaosRig) []act { return chaosPlan(seed, length, r.harms()) }, chaosPatience)
	c.report(t)
	if t.Failed() {
		t.Logf("to run it again: make chaos SEED=%d MINUTES=%g\nhistory and logs: %s", seed, length.Minutes(), c.keep(t, seed))
	}
	for _, region := range c.rig.layout.regions {
		soundStore(t, string(region.File))
	}
}

// TestChaosBites: the suite finds what is broken in earnest.
func TestChaosBites(t *testing.T) {
	if os.Getenv("POSTERN_CHAOS") == "" {
		t.Skip("takes minutes: make chaos")
	}
	program := buildChaos(t, chaosMutants...)
	for _, m := range chaosMutants {
		t.Run(m.name, func(t *testing.T) {
			t.Setenv(mutation.Switch, m.name)
			for range huntTries {
				c := playChaos(t, program, m.plan, huntPatience)
				if found := c.bitten(); found != "" {
					t.Logf("found: %s", found)
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}

// bitten is a finding that shows a promise broken. A mailbox that can't be read in time is no proof: the
// machine may be slow.
func (c *chaosRun) bitten() string {
	for _, f := range c.findings {
		if !strings.HasSuffix(f.Text, "nobody knows what is in it") {
			return f.Text
		}
	}
	return ""
}

func chaosSettings(t *testing.T) (seed uint64, length time.Duration) {
	t.Helper()
	seed, length = rand.Uint64N(1_000_000), chaosMinutes*time.Minute
	var err error
	if text := os.Getenv("POSTERN_CHAOS_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		noError(t, err)
	}
	if text := os.Getenv("POSTERN_CHAOS_MINUTES"); text != "" {
		minutes, err := strconv.ParseFloat(text, 64)
		noError(t, err)
		length = time.Duration(minutes * float64(time.Minute))
	}
	return seed, length
}

// chaosRun is one seed's run.
type chaosRun struct {
	rig      *chaosRig
	load     *chaosLoad
	findings []history.Finding
}

func playChaos(t *testing.T, program string, draw func(*chaosRig) []act, patience time.Duration) *chaosRun {
	t.Helper()
	rig := startChaos(t, program)
	plan := draw(rig)
	c := &chaosRun{rig: rig, load: newChaosLoad(rig.tls(), rig.layout.regions)}
	t.Logf("%d acts:\n%s", len(plan), planText(plan))
	var boxes []*chaosBox
	for _, user := range rig.users {
		if user.Kind == kindLocal {
			boxes = append(boxes, c.load.settleIn(t, user))
		}
	}
	c.underLoad(t, plan, boxes)
	c.inspect(boxes, patience)
	c.findings = append(c.findings, history.Check(c.load.history.Events(), chaosStale)...)
	return c
}

// underLoad plays the plan while users and gateways are at work.
func (c *chaosRun) underLoad(t *testing.T, plan []act, boxes []*chaosBox) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	for _, b := range boxes {
		work(ctx, &group, chaosDeliverEvery, func() { b.deliver(ctx) })
		work(ctx, &group, chaosVisitEvery, b.visit)
		work(ctx, &group, chaosVisitEvery, func() { b.stay(ctx) })
	}
	c.rig.play(plan)
	stop()
	group.Wait()
	sleep(t.Context(), chaosStale) // the last session is held to every answer
}

// inspect reads every mailbox to its end, now that all is well.
func (c *chaosRun) inspect(boxes []*chaosBox, patience time.Duration) {
	ctx, cancel := context.WithTimeout(c.rig.t.Context(), patience)
	defer cancel()
	var group sync.WaitGroup
	for _, b := range boxes {
		group.Go(func() {
			if err := b.inspect(ctx); err != nil {
				c.rig.t.Logf("%s: %v", b.user.Address, err) // the history has no end, which is a finding
			}
		})
	}
	group.Wait()
}

// report says what was seen, and fails the test for what must not be.
func (c *chaosRun) report(t *testing.T) {
	t.Helper()
	l := c.load
	t.Logf("%d deliveries, %d visits, %d messages read in long sessions", l.delivered.Load(), l.visits.Load(), l.reads.Load())
	for _, text := range slices.Sorted(maps.Keys(l.errors)) {
		t.Logf("%5d × %s", l.errors[text], text)
	}
	if clocks := c.rig.clocks; clocks.told > 3 && clocks.off == 0 {
		t.Errorf("%d times a clock was to be off, and none ever was", clocks.told)
	}
	for text := range l.wrong {
		t.Errorf("an answer that nobody may be given (%d times): %s", l.errors[text], text)
	}
	for _, f := range c.findings {
		t.Errorf("%s: %s\n%s", f.Invariant, f.Text, c.around(f))
	}
}

// around is what the history has of a finding's message, the latest events.
func (c *chaosRun) around(f history.Finding) string {
	var lines []string
	for _, e := range c.load.history.Events() {
		if !strings.HasPrefix(f.Text, e.Mailbox+":") {
			continue
		}
		about := e.UID != "" && strings.Contains(f.Text, e.UID) || e.Number > 0 && strings.Contains(f.Text, fmt.Sprintf("message %d ", e.Number))
		for _, uid := range e.UIDs {
			about = about || strings.Contains(f.Text, uid)
		}
		if about {
			lines = append(lines, fmt.Sprintf("    %s %s session %d message %d %s", e.At.Format("15:04:05.000"), e.Kind, e.Session, e.Number, e.UID))
		}
	}
	return strings.Join(lines[max(0, len(lines)-chaosAround):], "\n")
}

// keep saves the history and the processes' logs, and says where.
func (c *chaosRun) keep(t *testing.T, seed uint64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", fmt.Sprintf("postern-chaos-%d-", seed)) //nolint:usetesting // it outlives the test
	noError(t, err)
	file, err := os.Create(filepath.Join(dir, "history.json"))
	noError(t, err)
	defer file.Close()
	noError(t, history.Write(file, c.load.history.Events()))
	noError(t, os.CopyFS(filepath.Join(dir, "log"), os.DirFS(filepath.Join(c.rig.dir, "log"))))
	return dir
}
