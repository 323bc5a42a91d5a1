package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/postern-pop/postern/pkg/config"
)

// Ports of a demo, as distances from its base port. POP3S has ports of its own
// by default, near the 995 that people look for.
const (
	defaultBase  = 9200
	defaultPOP3S = 9951 // of the first region, without --base-port
	lmtpOffset   = 41
	pop3sOffset  = 51
	otherOffset  = 60
	maxRegions   = 9 // as many as fit between the offsets
	portsUsed    = 200
)

const loopback = "127.0.0.1"

// demoLayout is which processes a demo has and where they listen.
type demoLayout struct {
	lifted  bool // limits are, lock-outs among them
	dir     string
	etcd    config.HostPort
	regions []*demoRegion
}

// demoRegion is a region of the demo: its file with the addresses and places of
// this machine, and its processes in the order of their start.
type demoRegion struct {
	config.Region        // its gateway is a link's address
	pop3s, lmtp, gateway config.HostPort
	global, regional     config.HostPort // links to etcd
	processes            []*demoProcess
}

// demoProcess is one process of the demo.
type demoProcess struct {
	config *config.Process
	file   string // of its configuration
	log    string
}

// title is the process's name among those of all regions.
func (p *demoProcess) title() string {
	return string(p.config.Region.Name) + "/" + string(p.config.Name)
}

// portOrder are the regions that have the same ports in every demo; others come
// after them, so that one more region moves nobody's ports.
var portOrder = []config.Name{"eu", "us", "za", "au", "je"}

func inPortOrder(regions []config.Region) []config.Region {
	place := func(r config.Region) int {
		if i := slices.Index(portOrder, r.Name); i >= 0 {
			return i
		}
		return len(portOrder)
	}
	return slices.SortedStableFunc(slices.Values(regions), func(a, b config.Region) int { return place(a) - place(b) })
}

// localStorage is a region's mail in a data directory.
func localStorage(data string, region config.Name) config.Storage {
	return config.Storage{Dir: &config.Dir{Path: config.Path(filepath.Join(data, string(region), "store"))}}
}

// layOut decides on ports and places. A base of 0 means the default ports. nodes is how
// many mailbox nodes each region has; 0: 2.
func layOut(dir string, base, nodes int, regions []config.Region) (*demoLayout, error) {
	if len(regions) > maxRegions {
		return nil, fmt.Errorf("the demo has room for %d regions, there are %d", maxRegions, len(regions))
	}
	nodes = cmp.Or(nodes, 2)
	// etcd has a port, a region its gateway's and three links', an intake and a front two, a node three.
	if most := ((portsUsed-otherOffset-1)/max(1, len(regions)) - 8) / 3; nodes < 1 || nodes > most {
		return nil, fmt.Errorf("--nodes %d: expected 1 to %d, for %d regions", nodes, most, len(regions))
	}
	pop3s := defaultPOP3S
	if base != 0 {
		pop3s = base + pop3sOffset
	} else {
		base = defaultBase
	}
	if base < 1 || base+portsUsed > 1<<16 {
		return nil, fmt.Errorf("--base-port %d: expected 1 to %d", base, 1<<16-portsUsed)
	}
	next := base + otherOffset
	port := func() config.HostPort { next++; return at(next - 1) }
	layout := &demoLayout{dir: dir, etcd: port()}
	for i, region := range inPortOrder(regions) {
		r := &demoRegion{Region: region, pop3s: at(pop3s + i), lmtp: at(base + lmtpOffset + i)}
		r.gateway, r.Gateway, r.global, r.regional = port(), port(), port(), port()
		r.File = config.Path(filepath.Join(dir, string(r.Name), "region.yaml"))
		r.processes = layout.processes(r, nodes, port)
		layout.regions = append(layout.regions, r)
	}
	return layout, nil
}

// processes are a region's, mailbox nodes first: who starts later finds them.
func (l *demoLayout) processes(r *demoRegion, nodes int, port func() config.HostPort) []*demoProcess {
	all := make([]*demoProcess, 0, nodes+2)
	for i := range nodes {
		p := l.process(r, config.RoleMailbox, i+1, port)
		p.config.Mailbox = &config.Mailbox{GRPC: config.GRPC{Listen: port()}, Zone: string(rune('a' + i%26)), CacheMiB: 64}
		all = append(all, p)
	}
	intake := l.process(r, config.RoleIntake, 1, port)
	intake.config.Intake = demoIntake(l.dir, r)
	front := l.process(r, config.RoleFront, 1, port)
	pair := filepath.Join(publicDir(l.dir), string(r.Name))
	front.config.Front = &config.Front{
		Certificates: []config.Pair{{Cert: config.Path(pair + ".pem"), Key: config.Path(pair + ".key")}},
		POP3S:        config.Listener{Listen: r.pop3s},
		Gateway:      config.Gateway{Listen: r.gateway},
	}
	all = append(all, intake, front)
	seeds := make([]config.HostPort, len(all))
	for i, p := range all {
		seeds[i] = p.config.Gossip.Bind
	}
	for _, p := range all {
		p.config.Gossip.Seeds = seeds
	}
	return all
}

func (l *demoLayout) process(r *demoRegion, role string, n int, port func() config.HostPort) *demoProcess {
	name := role + "-" + strconv.Itoa(n)
	tls := identityTLS(l.dir, string(r.Name), name)
	etcd := func(link config.HostPort) config.Etcd {
		return config.Etcd{Endpoints: []config.HostPort{link}, TLS: &tls}
	}
	return &demoProcess{
		config: &config.Process{
			Role: role, Name: config.Name(name), Region: r.Region,
			Etcd:   config.Etcds{Global: etcd(r.global), Regional: etcd(r.regional)},
			TLS:    tls,
			Gossip: config.Gossip{Bind: port(), KeyFile: config.Path(gossipKey(l.dir))},
			HTTP:   config.HTTP{Listen: port()},

			StateDir: config.Path(filepath.Join(l.dir, string(r.Name), name+".state")),
		},
		file: filepath.Join(l.dir, string(r.Name), name+".yaml"),
		log:  filepath.Join(l.dir, "log", string(r.Name)+"-"+name+".log"),
	}
}

// demoIntake lets in whoever is on this machine, and gateways with a
// certificate.
func demoIntake(dir string, r *demoRegion) *config.Intake {
	pair := filepath.Join(publicDir(dir), string(r.Name))
	return &config.Intake{
		LMTP: config.LMTP{
			Listen:   r.lmtp,
			Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
			ClientCA: config.Path(filepath.Join(gatewaysDir(dir), "ca.pem")),
			Cert:     config.Path(pair + ".pem"), Key: config.Path(pair + ".key"),
		},
		Spool:         config.Path(filepath.Join(dir, string(r.Name), "spool")),
		MaxMessageMiB: 150,
	}
}

// listener is an address of the demo and what it is for.
type listener struct {
	address config.HostPort
	purpose string
	udp     bool // besides TCP
}

// listeners are all addresses of the demo.
func (l *demoLayout) listeners() []listener {
	var doors, others []listener
	for _, r := range l.regions {
		doors = append(doors,
			listener{address: r.pop3s, purpose: string(r.Name) + " POP3S"},
			listener{address: r.lmtp, purpose: string(r.Name) + " LMTP"})
		others = append(others, listener{address: r.gateway, purpose: string(r.Name) + " gateway"})
		for _, p := range r.processes {
			others = append(others,
				listener{p.config.Gossip.Bind, p.title() + " gossip", true},
				listener{address: p.config.HTTP.Listen, purpose: p.title() + " metrics"})
			if p.config.Mailbox != nil {
				others = append(others, listener{address: p.config.Mailbox.GRPC.Listen, purpose: p.title() + " gRPC"})
			}
		}
	}
	for _, link := range l.links() {
		others = append(others, listener{address: link.listen, purpose: link.name})
	}
	return append(append(doors, listener{address: l.etcd, purpose: "etcd"}), others...)
}

// free reports whether nobody listens there; err says what else is wrong.
func (l listener) free(ctx context.Context) (free bool, err error) {
	tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", string(l.address))
	if err == nil {
		tcp.Close()
	}
	if err == nil && l.udp {
		var udp net.PacketConn
		if udp, err = new(net.ListenConfig).ListenPacket(ctx, "udp", string(l.address)); err == nil {
			udp.Close()
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return false, nil
	}
	return err == nil, err
}

// listed is how many taken ports are named one by one.
const listed = 10

// checkPorts says which ports are taken, and what to do about it.
func (l *demoLayout) checkPorts(ctx context.Context) error {
	var taken []string
	for _, listener := range l.listeners() {
		free, err := listener.free(ctx)
		if err != nil {
			return fmt.Errorf("%s (%s): %w", listener.address, listener.purpose, err)
		}
		if !free {
			taken = append(taken, fmt.Sprintf("  %s (%s)", listener.address, listener.purpose))
		}
	}
	if len(taken) == 0 {
		return nil
	}
	if more := len(taken) - listed; more > 0 {
		taken = append(taken[:listed], fmt.Sprintf("  and %d more", more))
	}
	return fmt.Errorf("ports that another program uses:\n%s\nChoose others with --base-port N: the demo then uses ports from N to N+%d",
		strings.Join(taken, "\n"), portsUsed-1)
}

func at(port int) config.HostPort {
	return config.HostPort(net.JoinHostPort(loopback, strconv.Itoa(port)))
}
