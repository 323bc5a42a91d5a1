package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/link"
)

// harm is one kind of thing that is done to a cluster, and how long it lasts.
type harm struct {
	name        string
	weight      int
	least, most time.Duration
	targets     []string
	do          func(r *chaosRig, target string, a act) (undo func())
}

// act is one thing that is done.
type act struct {
	at, lasts time.Duration
	target    string
	chance    uint64 // what is left to chance in it
	harm      *harm
}

func (a act) String() string {
	return fmt.Sprintf("%6.1f s  %s: %s, %.1f s", a.at.Seconds(), a.target, a.harm.name, a.lasts.Seconds())
}

// Bounds of a plan.
const (
	chaosFirst  = 2 * time.Second         // of calm
	chaosAtOnce = 5                       // acts that last at a time
	chaosGap    = 1500 * time.Millisecond // at most, between the beginnings of two
	comesBack   = 4 * time.Second         // after a kill
)

// chaosPlan is what a seed has in store. Nothing has two harms at a time.
func chaosPlan(seed uint64, length time.Duration, harms []*harm) (plan []act) {
	random := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, h := range harms {
		total += h.weight
	}
	for at := chaosFirst; at < length; at += time.Duration(random.Int64N(int64(chaosGap))) {
		h := drawHarm(random.IntN(total), harms)
		a := act{at: at, target: h.targets[random.IntN(len(h.targets))], chance: random.Uint64(), harm: h,
			lasts: h.least + time.Duration(random.Int64N(int64(h.most-h.least)+1))}
		lasting := slices.DeleteFunc(slices.Clone(plan), func(b act) bool { return b.at+b.lasts < at })
		busy := slices.ContainsFunc(lasting, func(b act) bool { return b.target == a.target })
		if !busy && len(lasting) < chaosAtOnce {
			plan = append(plan, a)
		}
	}
	return plan
}

func drawHarm(n int, harms []*harm) *harm {
	for _, h := range harms {
		if n -= h.weight; n < 0 {
			return h
		}
	}
	return harms[0]
}

// play does what is planned, in time, and takes all of it back in the end.
func (r *chaosRig) play(plan []act) {
	type end struct {
		at   time.Duration
		undo func()
	}
	var ends []end
	began := time.Now()
	until := func(at time.Duration) { sleep(r.t.Context(), at-time.Since(began)) }
	undo := func(before time.Duration) {
		slices.SortFunc(ends, func(a, b end) int { return cmp.Compare(a.at, b.at) })
		for len(ends) > 0 && ends[0].at <= before {
			until(ends[0].at)
			ends[0].undo()
			ends = ends[1:]
		}
	}
	for _, a := range plan {
		undo(a.at)
		until(a.at)
		ends = append(ends, end{a.at + a.lasts, a.harm.do(r, a.target, a)})
	}
	undo(1 << 62)
}

// killedInCommits kills one node after the other while commits take long.
func (r *chaosRig) killedInCommits() (plan []act) {
	const all = 20 * time.Second
	for name := range r.stores {
		plan = append(plan, act{lasts: all, target: name, harm: &harm{name: "the store is slow", do: sick(storeSlow)}})
	}
	slow := &harm{name: "fsync is slow", do: slowSync}
	for _, title := range r.titled("mailbox", "us") {
		plan = append(plan, act{lasts: all, target: diskOf + title, chance: uint64(time.Second / 2), harm: slow})
	}
	for i, title := range r.titled("mailbox") {
		plan = append(plan, act{at: time.Duration(3+3*i) * time.Second, target: title, harm: &harm{name: "kill -9", do: kill}})
	}
	return plan
}

// replacedUnheard has a node's lease end without its hearing of it, or the doors hearing who took
// over: they go on delivering to it.
func (r *chaosRig) replacedUnheard() (plan []act) {
	const each = 12 * time.Second // a lease is 5 s
	cut := &harm{name: "cut", do: cabled(link.State{Out: true, Back: true})}
	doors := slices.Concat(r.titled("front"), r.titled("intake"))
	for i, node := range r.titled("mailbox", "eu") {
		for _, deaf := range append(doors[:len(doors):len(doors)], node) {
			plan = append(plan, act{at: chaosFirst + time.Duration(i)*(each+time.Second), lasts: each, target: "etcd of " + deaf, harm: cut})
		}
	}
	return plan
}

// harms are all that can be done here.
func (r *chaosRig) harms() []*harm {
	nodes := r.titled("mailbox")
	doors := slices.Concat(r.titled("intake"), r.titled("front"))
	var cables, stores []string
	for name := range r.links {
		cables = append(cables, name)
	}
	for name := range r.stores {
		stores = append(stores, name)
	}
	slices.Sort(cables)
	slices.Sort(stores)
	second := time.Second
	all := []*harm{
		{"kill -9", 6, comesBack, comesBack, nodes, kill},
		{"kill -9", 2, comesBack, comesBack, slices.Concat(doors, []string{chaosEtcd}), kill},
		{"SIGSTOP", 8, second, 20 * second, nodes, halted}, // a lease is 5 s
		{"SIGSTOP", 2, second, 6 * second, doors, halted},
		{"SIGSTOP", 2, second, 12 * second, []string{chaosEtcd}, halted},
		{"cut", 5, second, 15 * second, cables, cabled(link.State{Out: true, Back: true})},
		{"cut outwards", 5, second, 15 * second, cables, cabled(link.State{Out: true})},
		{"cut backwards", 6, second, 15 * second, cables, cabled(link.State{Back: true})},
		{"broken", 4, second, 8 * second, cables, cabled(link.State{Broken: true})},
		{"slow", 3, second, 10 * second, cables, cabled(link.State{Delay: 100 * time.Millisecond})},
		{"the store fails", 3, 2 * second, 8 * second, stores, sick(storeErrors)},
		{"the store does and says it failed", 4, 2 * second, 8 * second, stores, sick(storeForgets)},
		{"the store is slow", 2, 2 * second, 8 * second, stores, sick(storeSlow)},
		{"the store is down", 2, second, 8 * second, stores, sick(storeDown)},
		{"kill -9", 1, second, 3 * second, []string{"the S3 server"}, serverKilled},
		{"fsync is slow", 3, 2 * second, 8 * second, prefixed(diskOf, r.titled("mailbox", "us")), slowSync},
	}
	if clockSteps {
		all = append(all, &harm{"wall clock an hour off", 4, 3 * second, 20 * second, prefixed(clockOf, nodes), clockOff})
	} else {
		r.t.Log("NOT TESTED: steps of the wall clock: their stand-in is written for amd64")
	}
	if r.mounted() {
		all = append(all, &harm{"full", 2, second, 6 * second, []string{"the disk of us"}, fullDisk})
	}
	return all
}

func kill(r *chaosRig, target string, _ act) func() {
	r.children[target].signal(syscall.SIGKILL)
	return func() {} // the nursery starts it again
}

func halted(r *chaosRig, target string, _ act) func() {
	r.children[target].signal(syscall.SIGSTOP)
	return func() { r.children[target].signal(syscall.SIGCONT) }
}

func cabled(state link.State) func(*chaosRig, string, act) func() {
	return func(r *chaosRig, target string, _ act) func() {
		r.links[target].Set(state)
		return func() { r.links[target].Set(link.State{}) }
	}
}

func sick(illness int64) func(*chaosRig, string, act) func() {
	return func(r *chaosRig, target string, _ act) func() {
		r.stores[target].illness.Store(illness)
		return func() { r.stores[target].illness.Store(storeWell) }
	}
}

func serverKilled(r *chaosRig, _ string, _ act) func() {
	r.server.Kill()
	return r.server.Restart
}

// What belongs to a process and may be off besides it.
const (
	diskOf  = "the disk of "
	clockOf = "the clock of "
)

func prefixed(prefix string, titles []string) (all []string) {
	for _, title := range titles {
		all = append(all, prefix+title)
	}
	return all
}

func slowSync(r *chaosRig, target string, a act) func() {
	title := strings.TrimPrefix(target, diskOf)
	r.throw(title, "disk", int64(100*time.Millisecond)+int64(a.chance%uint64(time.Second)))
	return func() { r.throw(title, "disk", 0) }
}

func clockOff(r *chaosRig, target string, a act) func() {
	title, step := strings.TrimPrefix(target, clockOf), int64(3600)
	if a.chance%2 == 0 {
		step = -step
	}
	pid := r.throw(title, "clock", step)
	return func() {
		if r.clocks.told++; r.wasOff(pid, step) {
			r.clocks.off++
		}
		r.throw(title, "clock", 0)
	}
}

func fullDisk(r *chaosRig, _ string, _ act) func() {
	r.fillDisk(true)
	return func() { r.fillDisk(false) }
}

// planText is a plan for a person.
func planText(plan []act) string {
	var text strings.Builder
	for _, a := range plan {
		fmt.Fprintln(&text, a)
	}
	return text.String()
}
