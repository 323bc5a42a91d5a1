package main

import (
	"context"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/pop3"
	"github.com/postern-pop/postern/pkg/proxy"
	"github.com/postern-pop/postern/pkg/run"
)

// doors opens a front's doors for mail clients. Whichever is closed first takes the
// others with it: a server drains once.
func doors(ctx context.Context, p *run.Process, cfg *config.Front, server *pop3.Server, metrics prometheus.Registerer) error {
	if err := serve(ctx, p, "pop3s", string(cfg.POP3S.Listen), server.Serve, server.Shutdown); err != nil {
		return err
	}
	if cfg.POP3 != nil {
		if err := serve(ctx, p, "pop3", string(cfg.POP3.Listen), server.ServeCleartext, server.Shutdown); err != nil {
			return err
		}
	}
	for _, door := range []struct {
		name  string
		cfg   *config.ProxyListener
		serve func(net.Listener) error
	}{{"pop3s_proxy", cfg.POP3SProxy, server.Serve}, {"pop3_proxy", cfg.POP3Proxy, server.ServeCleartext}} {
		if door.cfg == nil {
			continue
		}
		behind := introduced(door.cfg, prometheus.WrapRegistererWith(prometheus.Labels{"door": door.name}, metrics), door.serve)
		if err := serve(ctx, p, door.name, string(door.cfg.Listen), behind, server.Shutdown); err != nil {
			return err
		}
	}
	return nil
}

// introduced serves a door whose clients balancers introduce.
func introduced(cfg *config.ProxyListener, metrics prometheus.Registerer, serve func(net.Listener) error) func(net.Listener) error {
	return func(inner net.Listener) error {
		l, err := proxy.Listen(inner, proxy.Config{Networks: cfg.Networks, Registerer: metrics})
		if err != nil {
			return err
		}
		return serve(l)
	}
}
