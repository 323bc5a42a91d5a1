package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"go.yaml.in/yaml/v3"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
	"github.com/postern-pop/postern/regions"
)

// demoStop is how long a demo may take to stop.
const demoStop = 10 * time.Second

// demoCmd runs a whole cluster on this machine.
type demoCmd struct {
	Data            string `default:"demo" type:"path" help:"Directory for everything; made when it isn't there."`
	BasePort        int    `placeholder:"N" help:"Use ports from N to N+199 instead of the default ones (POP3S 9951.., LMTP 9241.., others 9260..)."`
	Regions         string `type:"existingdir" placeholder:"DIR" help:"Region files to use instead of those that are built in."`
	NoLimits        bool   `help:"Lift the fronts' limits on connections, sessions and wrong passwords, to test protocols and loads."`
	Nodes           int    `default:"2" placeholder:"N" help:"Mailbox nodes of each region (${default})."`
	KeepStorage     bool   `help:"Keep the mail where the region files say, not in the data directory. Never give it the files of regions that are in use: the demo's nodes would take their mailboxes over."`
	RestartChildren bool   `default:"true" negatable:"" help:"Start a process that ended by itself again after 2 seconds, with the same configuration. demo.json has its new pid."`
}

// Help is shown by --help.
func (demoCmd) Help() string {
	return `Five regions (or those of --regions), each with a front, an intake and two
(or --nodes) mailbox nodes as processes of their own, and etcd, all on loopback. It makes
certificates, customers and users, delivers sample messages, writes what scripts
need to know to DIR/demo.json and prints the same as a table. Ctrl-C stops
everything in order; the next start on the same directory finds all mail.

Kill what you like: a process that dies is started again after 2 seconds. Or let
postern drill do it, which checks that nothing is lost.`
}

// Run is the demo's life.
func (c *demoCmd) Run(ctx context.Context) error {
	lock, err := lockDir(c.Data)
	if err != nil {
		return err
	}
	defer lock.Close()
	layout, err := c.layout()
	if err != nil {
		return err
	}
	if err := layout.checkPorts(ctx); err != nil {
		return err
	}
	// One that was killed has left it behind.
	if err := os.Remove(demoFile(layout.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d := &demo{layout: layout, out: terminal{}, children: map[*demoProcess]*child{}}
	if d.binary, err = os.Executable(); err != nil {
		return err
	}
	if err := layout.write(); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(layout.dir, "log", "demo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	log := slog.New(slog.NewJSONHandler(file, nil))
	options := run.Options{Log: log, Drain: demoStop}
	return run.Main(ctx, options, func(ctx context.Context, p *run.Process) error {
		return d.start(ctx, p, c.RestartChildren, log)
	})
}

func (c *demoCmd) layout() (*demoLayout, error) {
	dir, err := filepath.Abs(c.Data)
	if err != nil {
		return nil, err
	}
	var files fs.FS = regions.Files
	if c.Regions != "" {
		files = os.DirFS(c.Regions)
	}
	all, err := config.Regions(files)
	if err != nil {
		return nil, err
	}
	if !c.KeepStorage {
		for i := range all {
			all[i].Storage = localStorage(dir, all[i].Name)
		}
	}
	for i := range all {
		all[i].Storage.DelayFile = config.Path(storeSwitch(dir, string(all[i].Name)))
	}
	layout, err := layOut(dir, c.BasePort, c.Nodes, all)
	if err == nil && c.NoLimits {
		layout.liftLimits()
	}
	return layout, err
}

// write makes certificates and configuration files. They are the same at each
// start with the same ports.
func (l *demoLayout) write() error {
	install, err := openInstallation(l.dir)
	if err != nil {
		return err
	}
	if _, err := install.issueGateway(); err != nil {
		return err
	}
	if err := install.issueSystem(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "log"), 0o700); err != nil {
		return err
	}
	for _, r := range l.regions {
		if err := install.issuePublic(r.Region); err != nil {
			return err
		}
		plain := r.Region
		plain.File = ""
		if err := writeYAML(string(r.File), plain); err != nil {
			return err
		}
		for _, p := range r.processes {
			if err := install.issueIdentity(identityOf(p.config)); err != nil {
				return err
			}
			if err := writeYAML(p.file, p.config); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeYAML(file string, what any) error {
	text, err := yaml.Marshal(what)
	if err != nil {
		return err
	}
	return writeFile(file, text)
}

// demo is a demo that runs.
type demo struct {
	layout *demoLayout
	binary string
	out    terminal

	mu       sync.Mutex // guards what follows: children change their pids at any time
	children map[*demoProcess]*child
	users    []demoUser
	written  bool // demo.json is there
}

// terminal prints a demo's progress for a person.
type terminal struct{}

func (terminal) printf(format string, args ...any) {
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}

// start brings everything up: etcd, the processes of all regions, users and
// mail; then it says so.
func (d *demo) start(ctx context.Context, p *run.Process, restart bool, log *slog.Logger) error {
	began := time.Now()
	p.OnStop("terminal", func(context.Context) error { d.out.printf("Stopped."); return nil })
	d.out.printf("Starting etcd and %d regions in %s", len(d.layout.regions), d.layout.dir)
	if err := startEtcd(ctx, p, d.layout.dir, string(d.layout.etcd), log); err != nil {
		return err
	}
	for _, l := range d.layout.links() {
		if err := l.start(ctx, p); err != nil {
			return err
		}
	}
	nursery := newNursery(d.binary, d.out.printf)
	nursery.changed = d.rewrite
	p.OnStop("nursery", func(context.Context) error { nursery.close(); return nil })
	p.Go(ctx, "processes", nursery.oversee)
	if err := d.raise(ctx, p, nursery); err != nil {
		return err
	}
	d.out.printf("All processes serve after %.1f s; making users and delivering samples", time.Since(began).Seconds())
	users, err := seed(ctx, d.layout)
	if err != nil {
		return err
	}
	nursery.upkeep.Store(upkeepReport)
	if restart {
		nursery.upkeep.Store(upkeepRestart)
	}
	if err := d.ready(p, users); err != nil {
		return err
	}
	d.out.printf("Ready after %.1f s.", time.Since(began).Seconds())
	return nil
}

// raise starts all processes and waits until they serve. They stop in two
// groups: the doors to the world first, then what they stand on.
func (d *demo) raise(ctx context.Context, p *run.Process, n *nursery) error {
	var nodes, doors []*child
	nodesLive, stopNodes := context.WithCancel(context.WithoutCancel(ctx))
	doorsLive, stopDoors := context.WithCancel(context.WithoutCancel(ctx))
	group, waiting := errgroup.WithContext(ctx)
	var failed error
	for _, process := range d.layout.all() {
		live, list := doorsLive, &doors
		if process.config.Role == config.RoleMailbox {
			live, list = nodesLive, &nodes
		}
		child, err := n.raise(live, process)
		if err != nil {
			failed = err
			break
		}
		d.mu.Lock()
		d.children[process] = child
		d.mu.Unlock()
		*list = append(*list, child)
		group.Go(func() error { return child.awaitReady(waiting) })
	}
	group.Go(func() error { return failed })
	stopInOrder(p, "mailbox nodes", stopNodes, nodes)
	stopInOrder(p, "fronts and intakes", stopDoors, doors)
	return group.Wait()
}

// all are the processes of all regions, mailbox nodes first.
func (l *demoLayout) all() []*demoProcess {
	var nodes, doors []*demoProcess
	for _, r := range l.regions {
		for _, p := range r.processes {
			if p.config.Role == config.RoleMailbox {
				nodes = append(nodes, p)
			} else {
				doors = append(doors, p)
			}
		}
	}
	return append(nodes, doors...)
}

// ready writes and prints what there is, until the demo stops.
func (d *demo) ready(p *run.Process, users []demoUser) error {
	gateways := make([]string, 0, len(d.layout.regions))
	for _, r := range d.layout.regions {
		gateways = append(gateways, string(r.gateway))
	}
	if err := writeContext(d.layout.dir, systemRegion, gateways); err != nil {
		return err
	}
	p.OnStop("demo.json", func(context.Context) error {
		d.out.printf("Stopping.")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.written = false
		return os.Remove(demoFile(d.layout.dir))
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users, d.written = users, true
	out := report(d.layout, d.children, users)
	out.print(os.Stdout, d.binary, "Ctrl-C stops it.")
	return out.write(d.layout.dir)
}

// rewrite brings demo.json up to date with the processes' pids.
func (d *demo) rewrite() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.written {
		return
	}
	if err := report(d.layout, d.children, d.users).write(d.layout.dir); err != nil {
		d.out.printf("demo.json: %v", err)
	}
}
