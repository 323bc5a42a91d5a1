package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
)

// wiring hangs a role's parts on a process.
type wiring func(ctx context.Context, p *run.Process, h *host, cfg *config.Process) error

// roleFlags are the flags of a role's command.
type roleFlags struct {
	Config    string `required:"" placeholder:"FILE" help:"The role's configuration file."`
	Name      string `placeholder:"NAME" help:"The process's name, instead of the file's: for processes that share a file."`
	Advertise string `placeholder:"HOST" help:"Where the others reach this process, at the ports that it listens on, instead of what the file says: an IP address, or a name that has one now."`
}

type (
	frontCmd   struct{ roleFlags }
	intakeCmd  struct{ roleFlags }
	mailboxCmd struct{ roleFlags }
)

// Run is the process's life.
func (c *frontCmd) Run(ctx context.Context) error {
	return c.run(ctx, config.RoleFront, front)
}

// Run is the process's life.
func (c *intakeCmd) Run(ctx context.Context) error {
	return c.run(ctx, config.RoleIntake, intake)
}

// Run is the process's life.
func (c *mailboxCmd) Run(ctx context.Context) error {
	return c.run(ctx, config.RoleMailbox, mailbox)
}

func (f roleFlags) run(ctx context.Context, role string, wire wiring) error {
	cfg, err := config.Load(f.Config)
	if err != nil {
		return err
	}
	if cfg.Role != role {
		return config.Problems{{File: f.Config, Line: 1, Key: "role", Found: strconv.Quote(cfg.Role),
			Expected: role + ", for this command"}}
	}
	if err := f.apply(ctx, cfg); err != nil {
		return err
	}
	log := serverLog().With("region", string(cfg.Region.Name))
	return run.Main(ctx, run.Options{Log: log, Drain: drainOf(cfg)}, func(ctx context.Context, p *run.Process) error {
		h, err := openHost(ctx, p, cfg, log)
		if err != nil {
			return err
		}
		return wire(ctx, p, h, cfg)
	})
}

// drainOf is how long a process may take to stop, its turn included.
func drainOf(cfg *config.Process) time.Duration {
	drain := cmp.Or(time.Duration(cfg.DrainSeconds)*time.Second, run.DefaultDrain)
	if cfg.Mailbox != nil {
		drain += time.Duration(cfg.Mailbox.TurnSeconds) * time.Second
	}
	return drain
}

// apply puts what one process says of itself in place of what its file says.
func (f roleFlags) apply(ctx context.Context, cfg *config.Process) error {
	if f.Name != "" {
		if err := cfg.Name.UnmarshalText([]byte(f.Name)); err != nil {
			return fmt.Errorf("--name: found %q, expected up to 63 letters a-z, digits and hyphens", f.Name)
		}
	}
	if f.Advertise == "" {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", f.Advertise) // of an address: itself
	if err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	cfg.Gossip.Advertise = reachedAt(ips[0], cfg.Gossip.Bind)
	if cfg.Mailbox != nil {
		cfg.Mailbox.GRPC.Advertise = reachedAt(ips[0], cfg.Mailbox.GRPC.Listen)
	}
	return nil
}

// reachedAt is an address with the port of another one.
func reachedAt(ip netip.Addr, listen config.HostPort) config.HostPort {
	_, port, _ := net.SplitHostPort(string(listen)) // it has been read as host:port
	return config.HostPort(net.JoinHostPort(ip.Unmap().String(), port))
}

// serverLog is for machines: one JSON object a line, on standard error.
func serverLog() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }
