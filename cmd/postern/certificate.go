package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/certificate"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/run"
)

// certificates are what a door shows, followed while the process lives.
// registerer may be nil.
func certificates(ctx context.Context, p *run.Process, pairs []config.Pair, hostname string, log *slog.Logger, registerer prometheus.Registerer) (*certificate.Set, error) {
	files := make([]certificate.Files, len(pairs))
	for i, pair := range pairs {
		files[i] = certificate.Files{Cert: string(pair.Cert), Key: string(pair.Key)}
	}
	set, err := certificate.Open(certificate.Config{Files: files, Hostname: hostname, Log: log, Registerer: registerer})
	if err != nil {
		return nil, err
	}
	p.Go(ctx, "certificates", set.Run)
	return set, nil
}
