package main

import (
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/config"
)

// TestRoleFlags: what one of many processes with one file says of itself.
func TestRoleFlags(t *testing.T) {
	file := func() *config.Process {
		return &config.Process{
			Name: "node", Gossip: config.Gossip{Bind: ":7946", Advertise: "192.0.2.9:1"},
			Mailbox: &config.Mailbox{GRPC: config.GRPC{Listen: ":9940"}},
		}
	}
	for name, c := range map[string]struct {
		flags                      roleFlags
		process, gossip, grpc, bad string
	}{
		"nothing": {roleFlags{}, "node", "192.0.2.9:1", "", ""},
		"name":    {roleFlags{Name: "eu-postern-mailbox-a-0"}, "eu-postern-mailbox-a-0", "192.0.2.9:1", "", ""},
		"IPv4":    {roleFlags{Advertise: "10.1.2.3"}, "node", "10.1.2.3:7946", "10.1.2.3:9940", ""},
		"IPv6":    {roleFlags{Advertise: "fd00::3"}, "node", "[fd00::3]:7946", "[fd00::3]:9940", ""},
		"host":    {roleFlags{Advertise: "localhost"}, "node", "127.0.0.1:7946", "127.0.0.1:9940", ""},
		"no name": {roleFlags{Name: "Node 1"}, "", "", "", `--name: found "Node 1", expected up to 63 letters a-z, digits and hyphens`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := file()
			err := c.flags.apply(t.Context(), cfg)
			if c.bad != "" {
				if err == nil || err.Error() != c.bad {
					t.Errorf("got %v, want %s", err, c.bad)
				}
				return
			}
			if err != nil || string(cfg.Name) != c.process || string(cfg.Gossip.Advertise) != c.gossip || string(cfg.Mailbox.GRPC.Advertise) != c.grpc {
				t.Errorf("got %+v %+v %+v, %v", cfg.Name, cfg.Gossip, cfg.Mailbox.GRPC, err)
			}
		})
	}
	if err := (roleFlags{Advertise: "no host"}).apply(t.Context(), file()); err == nil || !strings.HasPrefix(err.Error(), "--advertise: ") {
		t.Errorf("a host that isn't there: %v", err)
	}
	front := &config.Process{Name: "front", Gossip: config.Gossip{Bind: ":7946"}}
	if err := (roleFlags{Advertise: "10.1.2.3"}).apply(t.Context(), front); err != nil || front.Gossip.Advertise != "10.1.2.3:7946" {
		t.Errorf("a front: %+v, %v", front.Gossip, err)
	}
}
