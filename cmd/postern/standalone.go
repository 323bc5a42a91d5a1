package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
)

// standaloneCmd runs one region on one machine.
type standaloneCmd struct {
	Data   string `required:"" type:"path" help:"Directory for everything; made when it isn't there."`
	Region string `required:"" type:"existingfile" placeholder:"FILE" help:"The region's file. Its gateway is replaced, and its storage unless --keep-storage says otherwise."`

	KeepStorage bool `help:"Keep the mail where the region's file says, in a bucket for example, encrypted or not; without it the mail is in the data directory, as it is."`

	POP3S    string         `name:"pop3s" default:":995" placeholder:"HOST:PORT" help:"Where mail clients connect to (${default})."`
	POP3     string         `name:"pop3" placeholder:"HOST:PORT" help:"Where mail clients connect to that begin without TLS and go on by STLS; off by default."`
	LMTP     string         `name:"lmtp" default:"127.0.0.1:24" placeholder:"HOST:PORT" help:"Where gateways deliver to (${default})."`
	Networks []netip.Prefix `default:"127.0.0.0/8,::1/128" placeholder:"NETWORK" help:"Who may deliver without a certificate (${default})."`
	Cert     string         `type:"existingfile" placeholder:"FILE" help:"PEM certificate for mail clients; without one the private authority's in the data directory is used."`
	Key      string         `type:"existingfile" placeholder:"FILE" help:"Its key."`
	Gateway  string         `default:"127.0.0.1:9950" placeholder:"HOST:PORT" help:"Where operators connect to (${default})."`
	HTTP     string         `name:"http" default:"127.0.0.1:9960" placeholder:"HOST:PORT" help:"Metrics and health (${default})."`
	BasePort int            `default:"9940" placeholder:"N" help:"The parts talk to each other on loopback, on ports from N to N+4 (${default})."`
}

// Help is shown by --help.
func (standaloneCmd) Help() string {
	return `Front, intake, mailbox node, etcd and, if not said otherwise, a directory store, wired as the roles of a
cluster are, in one process. DIR/operator.yaml is the context for the operator's
commands.`
}

// Run is the process's life.
func (c *standaloneCmd) Run(ctx context.Context) error {
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("--cert and --key: expected both or neither")
	}
	region, err := config.LoadRegion(c.Region)
	if err != nil {
		return err
	}
	lock, err := lockDir(c.Data)
	if err != nil {
		return err
	}
	defer lock.Close()
	region.Gateway = config.HostPort(c.Gateway)
	if !c.KeepStorage && (region.Storage.S3 != nil || region.Storage.Encryption != nil) {
		return fmt.Errorf("%s: storage is a bucket, or encrypted: say --keep-storage, or give a region's file with storage.dir alone, for mail in the data directory as it is", c.Region)
	}
	if !c.KeepStorage {
		region.Storage = localStorage(c.Data, region.Name)
	}
	mailboxes, intakes, fronts := c.roles(*region)
	if err := c.write(mailboxes, intakes, fronts); err != nil {
		return err
	}
	log := serverLog().With("region", string(region.Name))
	return run.Main(ctx, run.Options{Log: log}, func(ctx context.Context, p *run.Process) error {
		if err := startEtcd(ctx, p, c.Data, string(c.internal(0)), log); err != nil {
			return err
		}
		h, err := openHost(ctx, p, mailboxes, log)
		if err != nil {
			return err
		}
		h.metricsOf = func(role string) prometheus.Registerer {
			return prometheus.WrapRegistererWith(prometheus.Labels{"role": role}, h.metrics)
		}
		for _, part := range []struct {
			wire wiring
			cfg  *config.Process
		}{{mailbox, mailboxes}, {front, fronts}, {intake, intakes}} {
			if err := part.wire(ctx, p, h, part.cfg); err != nil {
				return fmt.Errorf("%s: %w", part.cfg.Role, err)
			}
		}
		return nil
	})
}

// internal is an address for the parts among themselves.
func (c *standaloneCmd) internal(n int) config.HostPort { return at(c.BasePort + n) }

// roles are the configurations of the three roles.
func (c *standaloneCmd) roles(region config.Region) (mailboxes, intakes, fronts *config.Process) {
	role := func(name string, gossip config.HostPort) *config.Process {
		tls := identityTLS(c.Data, string(region.Name), name)
		etcd := config.Etcd{Endpoints: []config.HostPort{c.internal(0)}, TLS: &tls}
		return &config.Process{
			Role: name, Name: config.Name(name), Region: region, TLS: tls,
			Etcd:   config.Etcds{Global: etcd, Regional: etcd},
			Gossip: config.Gossip{Bind: gossip, KeyFile: config.Path(gossipKey(c.Data)), Seeds: []config.HostPort{c.internal(2)}},
			HTTP:   config.HTTP{Listen: config.HostPort(c.HTTP)},

			StateDir: config.Path(filepath.Join(c.Data, string(region.Name), "state")),
		}
	}
	cert, key := c.certificate(region)
	mailboxes = role(config.RoleMailbox, c.internal(2))
	mailboxes.Mailbox = &config.Mailbox{GRPC: config.GRPC{Listen: c.internal(1)}, CacheMiB: 64}
	intakes = role(config.RoleIntake, c.internal(3))
	intakes.Intake = &config.Intake{
		LMTP: config.LMTP{
			Listen: config.HostPort(c.LMTP), Networks: c.Networks, Cert: cert, Key: key,
			ClientCA: config.Path(filepath.Join(gatewaysDir(c.Data), "ca.pem")),
		},
		Spool: config.Path(filepath.Join(c.Data, string(region.Name), "spool")), MaxMessageMiB: 150,
	}
	fronts = role(config.RoleFront, c.internal(4))
	fronts.Front = &config.Front{
		Certificates: []config.Pair{{Cert: cert, Key: key}},
		POP3S:        config.Listener{Listen: config.HostPort(c.POP3S)},
		Gateway:      config.Gateway{Listen: config.HostPort(c.Gateway)},
	}
	if c.POP3 != "" {
		fronts.Front.POP3 = &config.Listener{Listen: config.HostPort(c.POP3)}
	}
	return mailboxes, intakes, fronts
}

func (c *standaloneCmd) certificate(region config.Region) (cert, key config.Path) {
	if c.Cert != "" {
		return config.Path(c.Cert), config.Path(c.Key)
	}
	pair := filepath.Join(publicDir(c.Data), string(region.Name))
	return config.Path(pair + ".pem"), config.Path(pair + ".key")
}

// write makes the certificates and the operator's context.
func (c *standaloneCmd) write(roles ...*config.Process) error {
	install, err := openInstallation(c.Data)
	if err != nil {
		return err
	}
	if err := install.issueSystem(); err != nil {
		return err
	}
	if _, err := install.issueGateway(); err != nil {
		return err
	}
	if err := install.issuePublic(roles[0].Region); err != nil {
		return err
	}
	for _, cfg := range roles {
		if err := install.issueIdentity(identityOf(cfg)); err != nil {
			return err
		}
	}
	gateway := c.Gateway
	if host, port, err := net.SplitHostPort(gateway); err == nil && host == "" {
		gateway = net.JoinHostPort(loopback, port)
	}
	return writeContext(c.Data, systemRegion, []string{gateway})
}
