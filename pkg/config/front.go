package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Front is the role that mail clients talk to.
type Front struct {
	Certificates []Pair         `yaml:"certificates" want:"a list of cert and key, one of them for the region's hostname"`
	POP3S        Listener       `yaml:"pop3s" want:"listen"`                              // TLS from the first octet
	POP3SProxy   *ProxyListener `yaml:"pop3s_proxy,omitempty" want:"listen and networks"` // the same, behind balancers
	POP3         *Listener      `yaml:"pop3,omitempty" want:"listen"`                     // STLS, and nothing without it; nil: off
	POP3Proxy    *ProxyListener `yaml:"pop3_proxy,omitempty" want:"listen and networks"`  // the same, behind balancers
	Gateway      Gateway        `yaml:"gateway" want:"listen"`
	Limits       *Limits        `yaml:"limits,omitempty" want:"a mapping of limits"` // nil: DefaultLimits
	// SASL are the mechanisms that clients may log in by, beside USER and PASS; absent: all
	// but SCRAM-SHA-256-PLUS, with which mutt on Debian 12 can't log in.
	SASL []string `yaml:"sasl,omitempty" want:"a list of PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS"`
	// Anonymous leaves the product's name out of the greeting and of CAPA.
	Anonymous bool `yaml:"anonymous,omitempty" want:"true or false"`
}

// Mechanisms are what front.sasl may name.
func Mechanisms() []string { return []string{"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"} }

// Pair is a certificate that mail clients see, and its key.
type Pair struct {
	Cert Path `yaml:"cert" want:"the path of a PEM file"` // intermediate ones behind it
	Key  Path `yaml:"key" want:"the path of a PEM file"`
}

// Listener is a door for mail clients.
type Listener struct {
	Listen HostPort `yaml:"listen" want:"host:port, such as :995"`
}

// ProxyListener is a door for load balancers that send the PROXY protocol, version 1
// or 2, ahead of each connection. Nobody else gets in: whoever may send such a header
// may say to be any client.
type ProxyListener struct {
	Listen   HostPort       `yaml:"listen" want:"host:port, such as :9995"`
	Networks []netip.Prefix `yaml:"networks" want:"a list of the balancers' networks, such as 192.0.2.0/24"`
}

// Gateway is the door for other regions and operators.
type Gateway struct {
	Listen HostPort `yaml:"listen" want:"host:port, such as :9950"`
}

// Validate reports a front without a certificate, files that are named twice, and
// mechanisms that aren't there.
func (f *Front) Validate(report Report) {
	if len(f.Certificates) == 0 {
		report("certificates", "an empty list", "at least one cert and key, for the region's hostname")
	}
	seen := map[Path]bool{}
	for _, pair := range f.Certificates {
		if seen[pair.Cert] {
			report("certificates", "cert "+string(pair.Cert)+" twice", "each file once")
		}
		seen[pair.Cert] = true
	}
	for i, name := range f.SASL {
		switch {
		case !slices.Contains(Mechanisms(), name):
			report("sasl", strconv.Quote(name), "a list of "+strings.Join(Mechanisms(), ", "))
		case slices.Contains(f.SASL[:i], name):
			report("sasl", name+" twice", "each mechanism once")
		}
	}
	if f.SASL != nil && len(f.SASL) == 0 {
		report("sasl", "an empty list", "a list of "+strings.Join(Mechanisms(), ", "))
	}
}

// Validate reports a door that nobody or anybody could pass.
func (p *ProxyListener) Validate(report Report) {
	if len(p.Networks) == 0 {
		report("networks", "an empty list", "at least one network: where the balancers are")
	}
	for _, network := range p.Networks {
		if network.Bits() == 0 {
			report("networks", network.String()+", everybody", "the balancers' networks only: who sends a PROXY header may say to be any client")
		}
	}
}
