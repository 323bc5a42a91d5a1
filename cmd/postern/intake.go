package main

import (
	"context"
	"crypto/tls"
	"os"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/lmtp"
	"github.com/postern-pop/postern/pkg/run"
)

// intake wires an intake: the router of its region, and LMTP.
func intake(ctx context.Context, p *run.Process, h *host, cfg *config.Process) error {
	me, err := h.joinAs(ctx, p, cfg)
	if err != nil {
		return err
	}
	route, err := h.router(ctx, p, me, cfg)
	if err != nil {
		return err
	}
	with, err := intakeTLS(ctx, p, cfg, me)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(cfg.Intake.Spool), 0o700); err != nil {
		return err
	}
	server, err := lmtp.NewServer(lmtp.Config{
		Deliverer: route, TLS: with, Networks: cfg.Intake.LMTP.Networks,
		Hostname: cfg.Region.Hostname, Region: string(cfg.Region.Name),
		MaxSize: int64(cfg.Intake.MaxMessageMiB) << 20, Spool: string(cfg.Intake.Spool),
		MaxConnections: connectionsFor(lmtp.DefaultMaxConnections), Log: me.log, Registerer: me.metrics,
	})
	if err != nil {
		return err
	}
	return serve(ctx, p, "lmtp", string(cfg.Intake.LMTP.Listen), server.Serve, server.Shutdown)
}

// intakeTLS is for STARTTLS; nil when no certificate is configured. A client
// needn't show one, but one that it shows must be of the client CA.
func intakeTLS(ctx context.Context, p *run.Process, cfg *config.Process, me *party) (*tls.Config, error) {
	door := cfg.Intake.LMTP
	if door.Cert == "" {
		return nil, nil
	}
	shown, err := certificates(ctx, p, []config.Pair{{Cert: door.Cert, Key: door.Key}}, cfg.Region.Hostname, me.log, me.metrics)
	if err != nil {
		return nil, err
	}
	with := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: shown.Certificate}
	if door.ClientCA == "" {
		return with, nil
	}
	with.ClientCAs, err = readPool(string(door.ClientCA))
	with.ClientAuth = tls.VerifyClientCertIfGiven
	return with, err
}
