package main

import (
	"context"
	"log/slog"
	"os"
	"strconv"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
)

// wiring hangs a role's parts on a process.
type wiring func(ctx context.Context, p *run.Process, h *host, cfg *config.Process) error

// roleFlags are the flags of a role's command.
type roleFlags struct {
	Config string `required:"" placeholder:"FILE" help:"The role's configuration file."`
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
	log := serverLog().With("region", string(cfg.Region.Name))
	return run.Main(ctx, run.Options{Log: log}, func(ctx context.Context, p *run.Process) error {
		h, err := openHost(ctx, p, cfg, log)
		if err != nil {
			return err
		}
		return wire(ctx, p, h, cfg)
	})
}

// serverLog is for machines: one JSON object a line, on standard error.
func serverLog() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }
