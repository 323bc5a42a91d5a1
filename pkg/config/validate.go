package config

import (
	"regexp"
	"strconv"

	"github.com/postern-pop/postern/pkg/blob"
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

// Validate reports a role without its section, or with another role's one, and a drain
// of no use.
func (p *Process) Validate(report Report) {
	if p.DrainSeconds != 0 {
		between(report, "drain_seconds", p.DrainSeconds, 5, 3600)
	}
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

// Validate reports no place for the mail, or two.
func (s *Storage) Validate(report Report) {
	switch {
	case s.S3 == nil && s.Dir == nil:
		report("", "neither s3 nor dir", "one of them: where the mail is")
	case s.S3 != nil && s.Dir != nil:
		report("dir", "a directory besides s3", "one of them: where the mail is")
	}
}

// bucketForm is what the S3 interface allows.
var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Validate reports an empty list of endpoints, and names that no bucket or object
// can have.
func (s *S3) Validate(report Report) {
	if len(s.Endpoints) == 0 {
		report("endpoints", "an empty list", "at least one URL, such as https://s3.example.net")
	}
	if !bucketForm.MatchString(s.Bucket) {
		report("bucket", strconv.Quote(s.Bucket), "3 to 63 of a-z, 0-9, hyphen and dot, such as postern-mail")
	}
	if s.Prefix != "" && blob.CheckKey(s.Prefix) != nil {
		report("prefix", strconv.Quote(s.Prefix), "segments of a-z, 0-9, dot, underscore and hyphen, with slashes between and none at the ends")
	}
}

// Validate reports no key, or two.
func (e *Encryption) Validate(report Report) {
	switch {
	case e.KeyFile == "" && e.KeyURI == "":
		report("", "neither key_file nor key_uri", "one of them: where the key is")
	case e.KeyFile != "" && e.KeyURI != "":
		report("key_uri", "a key_uri besides key_file", "one of them: where the key is")
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

// Validate reports a cache, or a wait, out of range.
func (m *Mailbox) Validate(report Report) {
	between(report, "cache_mib", m.CacheMiB, 1, 1<<20)
	between(report, "turn_seconds", m.TurnSeconds, 0, 3600)
}

func (m *Mailbox) setDefaults() { m.CacheMiB = 64 }

func between(report Report, key string, value, low, high int) {
	if value < low || value > high {
		report(key, strconv.Itoa(value), strconv.Itoa(low)+" to "+strconv.Itoa(high))
	}
}
