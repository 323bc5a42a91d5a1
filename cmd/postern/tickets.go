package main

import (
	"context"
	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/run"
)

// shareTickets lets the sessions of a TLS configuration resume at all fronts of the
// region.
func (h *host) shareTickets(ctx context.Context, p *run.Process, me *party, cfg *config.Process, with *tls.Config) error {
	keys, err := readGossipKeys(string(cfg.Gossip.KeyFile))
	if err != nil {
		return err
	}
	tickets, err := placement.FollowTickets(ctx, h.regional, placement.TicketsConfig{
		Region: string(cfg.Region.Name), Secret: keys[0], Apply: with.SetSessionTicketKeys, Log: me.log,
	})
	if err != nil {
		return err
	}
	p.Go(ctx, "session ticket keys", tickets.Run)
	return registerTickets(me.metrics, tickets)
}

func registerTickets(registerer prometheus.Registerer, tickets *placement.Tickets) error {
	shared := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_front_ticket_key_shared",
		Help: "1 while the key that encrypts TLS session tickets is the region's, 0 while it is this front's own.",
	}, func() float64 {
		if shared, _ := tickets.Shared(); shared {
			return 1
		}
		return 0
	})
	since := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_front_ticket_key_since_seconds",
		Help: "When the time of the key that encrypts TLS session tickets began, in Unix time; 6 hours each.",
	}, func() float64 {
		_, since := tickets.Shared()
		return float64(since.Unix())
	})
	if err := registerer.Register(shared); err != nil {
		return err
	}
	return registerer.Register(since)
}
