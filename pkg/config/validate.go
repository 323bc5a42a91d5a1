package config

import (
	"strconv"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Report takes one problem of a section: the key within the section (empty: the
// section itself), what was found there and what was expected.
type Report func(key, found, expected string)

// section is a part of a file with rules beyond each key's own type. Validate
// is asked only when every key of the section could be read.
type section interface{ Validate(report Report) }

// defaulted is a section whose optional keys have values of their own when the
// file is silent.
type defaulted interface{ setDefaults() }

// Validate reports a role without its section, or with another role's one.
func (p *Process) Validate(report Report) {
	sections := map[string]bool{RoleFront: p.Front != nil, RoleIntake: p.Intake != nil, RoleMailbox: p.Mailbox != nil}
	if _, known := sections[p.Role]; !known {
		report("role", strconv.Quote(p.Role), "front, intake or mailbox")
		return
	}
	for _, role := range []string{RoleFront, RoleIntake, RoleMailbox} {
		switch {
		case role == p.Role && !sections[role]:
			report(role, "nothing", "the section of role "+role)
		case role != p.Role && sections[role]:
			report(role, "a section", "only the section of role "+p.Role)
		}
	}
}

// Validate reports an empty list of endpoints.
func (e *Etcd) Validate(report Report) {
	if len(e.Endpoints) == 0 {
		report("endpoints", "an empty list", "at least one host:port")
	}
}

// Validate reports a hostname that is none, and numbers and words out of range.
func (r *Region) Validate(report Report) {
	if _, err := maildrop.ParseDomain(r.Hostname); err != nil {
		report("hostname", strconv.Quote(r.Hostname), "a hostname, such as eu-pop.example.com")
	}
	between(report, "shards", r.Shards, 1, MaxShards)
	if r.CrossRegion != Relay && r.CrossRegion != Refuse {
		report("cross_region", strconv.Quote(r.CrossRegion), "relay or refuse")
	}
}

// Validate reports a message limit out of range.
func (i *Intake) Validate(report Report) {
	between(report, "max_message_mib", i.MaxMessageMiB, 1, 2048)
}

func (i *Intake) setDefaults() { i.MaxMessageMiB = 150 }

// Validate reports a door that nobody or anybody could pass, and half a
// certificate.
func (l *LMTP) Validate(report Report) {
	if len(l.Networks) == 0 && l.ClientCA == "" {
		report("", "neither networks nor client_ca", "at least one: who may deliver")
	}
	if (l.Cert == "") != (l.Key == "") {
		report("", "one of cert and key", "both or neither")
	}
	if l.ClientCA != "" && l.Cert == "" {
		report("client_ca", "a client CA without cert and key", "cert and key too: client certificates come with STARTTLS")
	}
}

// Validate reports a cache out of range.
func (m *Mailbox) Validate(report Report) {
	between(report, "cache_mib", m.CacheMiB, 1, 1<<20)
}

func (m *Mailbox) setDefaults() { m.CacheMiB = 64 }

func between(report Report, key string, value, low, high int) {
	if value < low || value > high {
		report(key, strconv.Itoa(value), strconv.Itoa(low)+" to "+strconv.Itoa(high))
	}
}
