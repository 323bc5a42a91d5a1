package main

import (
	"fmt"
	"os"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/pop3"
)

// limitsOf is what a front's file says of limits. Connections are as many as the
// system's limit on open files allows besides.
func limitsOf(cfg *config.Limits) *pop3.Limits {
	if cfg == nil {
		cfg = config.DefaultLimits()
	}
	connections := connectionsFor(cfg.Connections)
	if cfg.Off {
		return &pop3.Limits{Connections: connections}
	}
	return &pop3.Limits{
		Connections: connections, PerIP: cfg.ConnectionsPerIP, Per64: cfg.ConnectionsPer64, PerAddress: cfg.SessionsPerAddr,
		LinesBeforeLogin: cfg.LinesBeforeLogin, OctetsBeforeLogin: cfg.OctetsBeforeLogin, FailedLogins: cfg.FailedLogins,
		Login: time.Duration(cfg.LoginSeconds) * time.Second, FreeFailures: cfg.FreeFailures,
		MaxDelay: time.Duration(cfg.LongestDelaySeconds) * time.Second, Delayed: cfg.DelayedLogins,
	}
}

// addressesOf is how the log names mail addresses.
func addressesOf(cfg *config.Log) (pop3.Addresses, error) {
	if cfg == nil || cfg.Addresses == config.AddressesClear {
		return pop3.ClearAddresses(), nil
	}
	key, err := os.ReadFile(string(cfg.KeyFile))
	if err != nil {
		return nil, fmt.Errorf("log.key_file: %w", err)
	}
	names, err := pop3.HashedAddresses(key)
	if err != nil {
		return nil, fmt.Errorf("log.key_file: %s: %w", cfg.KeyFile, err)
	}
	return names, nil
}

// liftLimits is for a demo in which protocols and loads are tested.
func (l *demoLayout) liftLimits() {
	l.lifted = true
	for _, p := range l.all() {
		if p.config.Front != nil {
			limits := config.DefaultLimits()
			limits.Off = true
			p.config.Front.Limits = limits
		}
	}
}
