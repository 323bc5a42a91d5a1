package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/blob/slow"
	"github.com/postern-pop/postern/pkg/drill"
)

// demoDrilled is a demo's region. Processes get signals, and the demo starts them again; links and
// the store have switches, which turn themselves off in the end.
type demoDrilled struct {
	regionDrilled

	dir     string
	regions []string
	atMost  time.Duration // how long a switch stays on if nobody turns it off
	delay   time.Duration
}

func (c *drillCmd) demoGround(region string) (*ground, error) {
	if err := demoRuns(c.Demo); err != nil {
		return nil, err
	}
	all, err := readDemo(c.Demo)
	if err != nil {
		return nil, err
	}
	at, err := all.region(region)
	if err != nil {
		return nil, err
	}
	roots, err := readPool(all.CA)
	if err != nil {
		return nil, err
	}
	cluster := &demoDrilled{
		regionDrilled: drilled(region, all.Context), dir: c.Demo, delay: c.Delay,
		// region-cut waits twice for a node, with its link cut.
		atMost: c.For + 3*c.Patience,
	}
	for _, r := range all.Regions {
		cluster.regions = append(cluster.regions, r.Name)
	}
	for i, p := range at.Processes {
		cluster.processes = append(cluster.processes, drill.Process{Name: p.Name, Role: p.Role})
		cluster.http[p.Name] = at.Metrics[i]
	}
	g := &ground{region: region, cluster: cluster, doors: drill.Doors{
		POP3S: []string{at.POP3S}, POP3TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: at.Hostname},
		LMTP: []string{at.LMTP},
	}}
	for _, u := range all.Users {
		if u.Region == region && u.Kind == kindLocal {
			g.users = append(g.users, drill.User{Address: u.Address, Password: u.Password})
		}
	}
	return g, nil
}

// demoRuns is nil when a demo runs in a directory: it holds the lock.
func demoRuns(dir string) error {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err == nil {
		defer lock.Close()
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	return fmt.Errorf("no demo runs in %s: start one (postern demo --data %s), or name another by --demo DIR, or another cluster by --target FILE", dir, quote(dir))
}

func readDemo(dir string) (*demoReport, error) {
	text, err := os.ReadFile(demoFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the demo in %s is not ready yet: wait until it says so", dir)
	}
	var r demoReport
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return &r, err
}

func (r *demoReport) region(name string) (*demoRegionReport, error) {
	names := make([]string, len(r.Regions))
	for i := range r.Regions {
		if names[i] = r.Regions[i].Name; names[i] == name {
			return &r.Regions[i], nil
		}
	}
	return nil, fmt.Errorf("the demo has no region %q; it has %s", name, strings.Join(names, ", "))
}

// Around is nothing: a demo has no pager.
func (d *demoDrilled) Around() *drill.Order { return nil }

// Harm is a signal, or switches.
func (d *demoDrilled) Harm(h drill.Harm, p drill.Process) (*drill.Order, error) {
	switch h {
	case drill.Kill:
		return d.signal(p, syscall.SIGKILL, "SIGKILL"), nil
	case drill.Term:
		return d.signal(p, syscall.SIGTERM, "SIGTERM"), nil
	case drill.CutEtcd:
		return d.turn("cut "+d.name+"'s links to etcd", d.cut(d.name, linkGlobal), d.cut(d.name, linkRegional)), nil
	case drill.CutRegion:
		switches := []demoSwitch{d.cut(d.name, linkGlobal)}
		for _, region := range d.regions {
			switches = append(switches, d.cut(region, linkGateway))
		}
		return d.turn("cut all links between regions, and "+d.name+"'s to the global etcd", switches...), nil
	case drill.SlowStore:
		on := func(until time.Time) []byte { return slow.Switch(until, d.delay) }
		return d.turn(fmt.Sprintf("delay each answer of %s's store by %v", d.name, d.delay), demoSwitch{storeSwitch(d.dir, d.name), on}), nil
	}
	return nil, fmt.Errorf("a demo has no %s", h)
}

// signal sends a signal to the process's present life. The demo starts it again.
func (d *demoDrilled) signal(p drill.Process, s syscall.Signal, word string) *drill.Order {
	return &drill.Order{Words: word + " to " + p.Name + "; the demo starts it again", Do: func(context.Context) error {
		pid, err := d.pid(p.Name)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, s)
	}}
}

func (d *demoDrilled) pid(name string) (int, error) {
	all, err := readDemo(d.dir)
	if err != nil {
		return 0, err
	}
	at, err := all.region(d.name)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(at.Processes, func(one demoProcessReport) bool { return one.Name == name })
	if i < 0 {
		return 0, errors.New("the demo has no process " + strconv.Quote(name) + " any more")
	}
	return at.Processes[i].PID, nil
}

// demoSwitch is a file, and what it holds to be on until then.
type demoSwitch struct {
	file string
	on   func(until time.Time) []byte
}

func (d *demoDrilled) cut(region, link string) demoSwitch {
	return demoSwitch{linkSwitch(d.dir, region, link), func(until time.Time) []byte { return []byte(until.UTC().Format(time.RFC3339)) }}
}

// turn turns switches on, and off again.
func (d *demoDrilled) turn(words string, switches ...demoSwitch) *drill.Order {
	files := make([]string, len(switches))
	for i, s := range switches {
		files[i] = quote(s.file)
	}
	on := func(context.Context) error {
		for _, s := range switches {
			if err := writeFile(s.file, s.on(time.Now().Add(d.atMost))); err != nil {
				return err
			}
		}
		return nil
	}
	off := func(context.Context) error {
		var errs []error
		for _, s := range switches {
			if err := os.Remove(s.file); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	return &drill.Order{Words: words, Do: on, Undo: &drill.Order{Words: "undo that: rm " + strings.Join(files, " "), Do: off}}
}
