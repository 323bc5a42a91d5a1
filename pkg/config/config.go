// Package config reads the files that a Postern process is started with: a
// role file for each process and a region file for each region.
//
//	front.yaml ── role, name, etcd, tls, gossip, http ── front: {…}
//	     └─ region: eu.yaml ── name, hostname, shards, storage …
//
// Reading is strict. A key that nobody knows, a value of the wrong type or
// range and a key that is missing are refused, all of them at once, each as
//
//	FILE:LINE: key.path: found WHAT, expected WHAT
//
// A field is required unless its yaml tag says omitempty; its `want` tag holds
// the words of what is expected. Relative paths are relative to the file that
// says them.
//
// # Decisions
//
//   - 2026-11-23: a decoder of our own over yaml.Node, driven by the struct's
//     tags. Refused: yaml.v3's KnownFields, which stops at the first wrong key
//     of a kind, names Go types instead of key paths, and knows no missing key.
//   - 2026-11-23: text is text: `name: 7` is refused instead of read as "7",
//     since the same leniency turns `no` and `1e3` into something else.
//   - 2026-11-23: anchors, aliases and merge keys are refused. A role file is
//     short, and an alias makes "the line of this key" ambiguous.
//   - 2026-11-23: a file that a path names isn't looked for: a configuration
//     is checked where it is written, often far from the machine that has the
//     certificate.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
)

// Roles of a process.
const (
	RoleFront   = "front"
	RoleIntake  = "intake"
	RoleMailbox = "mailbox"
)

// CrossRegion says what happens to a session or delivery that reaches another
// region than its own.
const (
	Relay  = "relay"
	Refuse = "refuse"
)

// MaxFile is the longest configuration file in octets.
const MaxFile = 1 << 20

// MaxShards is the largest number of shards a region may have.
const MaxShards = 4096

// HostPort is "host:port", the host perhaps empty (all interfaces).
type HostPort string

// UnmarshalText refuses what net.SplitHostPort refuses, and port names.
func (h *HostPort) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port: %w", err)
	}
	*h = HostPort(text)
	return nil
}

// Endpoint is the URL of a server: http or https, a host, perhaps a port, and
// nothing else.
type Endpoint string

// UnmarshalText refuses what is no such URL.
func (e *Endpoint) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("neither http nor https, or no host")
	}
	if rest := (url.URL{Scheme: u.Scheme, Host: u.Host}); *u != rest {
		return errors.New("more than a scheme and a host")
	}
	*e = Endpoint(text)
	return nil
}

// Path is the name of a file or directory. Decoding makes it relative to the
// directory of the file that says it.
type Path string

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Name is the name of a region or of a process: a DNS label in lower case, as
// object keys and certificates hold it.
type Name string

// UnmarshalText refuses what is no DNS label in lower case.
func (n *Name) UnmarshalText(text []byte) error {
	if !nameForm.Match(text) {
		return fmt.Errorf("not a name: %q", text)
	}
	*n = Name(text)
	return nil
}

// Process is a role file: everything that one process is started with.
type Process struct {
	Role   string `yaml:"role" want:"front, intake or mailbox"`
	Name   Name   `yaml:"name" want:"the process's name, unique in its region: letters a-z, digits and hyphens"`
	Region Region `yaml:"region" want:"the path of a region file, or what is in one"`

	Etcd   Etcds  `yaml:"etcd" want:"global and regional etcd"`
	TLS    TLS    `yaml:"tls" want:"ca, cert and key of the process's identity"`
	Gossip Gossip `yaml:"gossip" want:"bind, key_file and seeds"`
	HTTP   HTTP   `yaml:"http" want:"listen"`
	Log    *Log   `yaml:"log,omitempty" want:"addresses, and key_file"` // nil: addresses are clear
	// StateDir is where the process keeps what it knows of accounts and owners, for a
	// start while etcd is away; empty: its neighbours alone know it then.
	StateDir Path `yaml:"state_dir,omitempty" want:"the path of a directory of this process's own"`
	// DrainSeconds is how long the process may take to stop, from a signal on; 0: 30.
	DrainSeconds int `yaml:"drain_seconds,omitempty" want:"seconds, 5 to 3600"`

	Front   *Front   `yaml:"front,omitempty" want:"certificates, pop3s and gateway"`
	Intake  *Intake  `yaml:"intake,omitempty" want:"lmtp and spool"`
	Mailbox *Mailbox `yaml:"mailbox,omitempty" want:"grpc"`
}

// Etcds are the two stores of the cluster's own state. Both may be one.
type Etcds struct {
	Global   Etcd `yaml:"global" want:"endpoints, and tls"`   // regions, accounts, domains
	Regional Etcd `yaml:"regional" want:"endpoints, and tls"` // nodes and shard owners
}

// Etcd is how to reach an etcd cluster.
type Etcd struct {
	Endpoints []HostPort `yaml:"endpoints" want:"a list of host:port"`
	TLS       *TLS       `yaml:"tls,omitempty" want:"ca, cert and key"` // nil: without TLS
}

// TLS names PEM files.
type TLS struct {
	CA   Path `yaml:"ca" want:"the path of a PEM file"`   // who signed the peers' certificates
	Cert Path `yaml:"cert" want:"the path of a PEM file"` // own certificate, then intermediate ones
	Key  Path `yaml:"key" want:"the path of a PEM file"`
}

// Gossip is who seems alive, within a region.
type Gossip struct {
	Bind      HostPort   `yaml:"bind" want:"host:port, TCP and UDP"`
	Advertise HostPort   `yaml:"advertise,omitempty" want:"host:port as the others reach it"`
	KeyFile   Path       `yaml:"key_file" want:"the path of a file of keys, one a line, the first in use: 16, 24 or 32 octets in base64"`
	Seeds     []HostPort `yaml:"seeds,omitempty" want:"a list of host:port"`
}

// HTTP is the port of metrics and health.
type HTTP struct {
	Listen HostPort `yaml:"listen" want:"host:port, such as 127.0.0.1:9260"`
}

// Intake is the role that the provider's gateways deliver to.
type Intake struct {
	LMTP          LMTP `yaml:"lmtp" want:"listen, and networks or client_ca"`
	Spool         Path `yaml:"spool" want:"the path of a directory for messages in transit"`
	MaxMessageMiB int  `yaml:"max_message_mib,omitempty" want:"mebibytes, 1 to 2048"`
}

// LMTP is the door for mail. A gateway may come from one of the networks, or
// show a certificate of the client CA after STARTTLS.
type LMTP struct {
	Listen   HostPort       `yaml:"listen" want:"host:port, such as :9241"`
	Networks []netip.Prefix `yaml:"networks,omitempty" want:"a list of networks, such as 192.0.2.0/24"`
	ClientCA Path           `yaml:"client_ca,omitempty" want:"the path of a PEM file"`
	Cert     Path           `yaml:"cert,omitempty" want:"the path of a PEM file"`
	Key      Path           `yaml:"key,omitempty" want:"the path of a PEM file"`
}

// Mailbox is the role that owns shards.
type Mailbox struct {
	GRPC     GRPC   `yaml:"grpc" want:"listen, and advertise"`
	Zone     string `yaml:"zone,omitempty" want:"the failure zone's name"`
	CacheMiB int    `yaml:"cache_mib,omitempty" want:"mebibytes, 1 to 1048576"`
	// TurnSeconds is how long a node that is to stop waits, serving, until nodes that
	// stopped before it are back; 0: it stops at once. It comes before DrainSeconds.
	TurnSeconds int `yaml:"turn_seconds,omitempty" want:"seconds, 0 to 3600"`
}

// GRPC is the door for the region's own fronts and intakes.
type GRPC struct {
	Listen    HostPort `yaml:"listen" want:"host:port, such as :9940"`
	Advertise HostPort `yaml:"advertise,omitempty" want:"host:port as the others reach it"`
}

// Region is a region file.
type Region struct {
	// File is the path that the role file named the region by; empty: the role
	// file holds the region itself.
	File Path `yaml:"-"`

	Name        Name     `yaml:"name" want:"the region's name: letters a-z, digits and hyphens"`
	Title       string   `yaml:"title" want:"the region's name for people"`
	Hostname    string   `yaml:"hostname" want:"the hostname that mail clients connect to"`
	Shards      int      `yaml:"shards" want:"1 to 4096"`
	CrossRegion string   `yaml:"cross_region" want:"relay or refuse"`
	Gateway     HostPort `yaml:"gateway" want:"host:port as other regions reach it"`
	Storage     Storage  `yaml:"storage" want:"s3 or dir, and encryption"`
}

// Storage is where a region's mail is at rest: one of S3 and Dir.
type Storage struct {
	S3         *S3         `yaml:"s3,omitempty" want:"endpoints, bucket"`
	Dir        *Dir        `yaml:"dir,omitempty" want:"path"`
	Encryption *Encryption `yaml:"encryption,omitempty" want:"key_file or key_uri"` // nil: mail is stored as it is
	DelayFile  Path        `yaml:"delay_file,omitempty" want:"the path of a file"`  // of package blob/slow; empty: the store is never late
}

// S3 is a bucket of an S3-compatible store. It exists, and it belongs to this
// region, or to regions with prefixes of their own. Its credentials come from
// the environment (AWS_ACCESS_KEY_ID, …), CredentialsFile, the shared
// credentials file, or the instance's role, in this order.
//
// Mail travels as it is to an endpoint with http instead of https: use it on
// loopback, or where the network between is encrypted by other means.
type S3 struct {
	Endpoints       []Endpoint `yaml:"endpoints" want:"a list of URLs, such as https://s3.example.net"` // of one store; the first that answers is used
	Bucket          string     `yaml:"bucket" want:"the bucket's name"`
	Prefix          string     `yaml:"prefix,omitempty" want:"what every key begins with, without slashes at its ends"`
	Region          string     `yaml:"region,omitempty" want:"the store's name for its region, such as eu-central-1"` // empty: us-east-1
	PathStyle       bool       `yaml:"path_style,omitempty" want:"true or false"`                                     // the bucket in the URL's path, not in its host; always so except on AWS
	CA              Path       `yaml:"ca,omitempty" want:"the path of a PEM file"`                                    // empty: the system's authorities
	CredentialsFile Path       `yaml:"credentials_file,omitempty" want:"the path of a file in the AWS credentials format"`
}

// Encryption is how mail at rest is encrypted: each shard's data keys are
// wrapped by one key, which a file holds or a key service keeps.
type Encryption struct {
	KeyFile Path   `yaml:"key_file,omitempty" want:"the path of a keyset file"`
	KeyURI  string `yaml:"key_uri,omitempty" want:"the URI of a key service's key"`
	// AllowPlain lets mail be read that was stored before encryption was turned on.
	AllowPlain bool `yaml:"allow_plain,omitempty" want:"true or false"`
}

// Dir is a directory store: every mailbox node of the region sees the same one.
type Dir struct {
	Path Path `yaml:"path" want:"the path of a directory"`
}

// MarshalYAML writes the path of the region's file when it has one.
func (r Region) MarshalYAML() (any, error) {
	if r.File != "" {
		return string(r.File), nil
	}
	type plain Region
	return plain(r), nil
}

// resolve makes path relative to the directory of file.
func (p Path) resolve(file string) Path {
	if p == "" || filepath.IsAbs(string(p)) {
		return p
	}
	return Path(filepath.Join(filepath.Dir(file), string(p)))
}
