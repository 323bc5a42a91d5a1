package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/rpc"
)

// initCmd makes what a cluster's region is first started with, where there is no
// cert-manager and no vault.
type initCmd struct {
	Dir      string   `arg:"" type:"path" help:"Directory for all of it; made when it isn't there. The same one for all regions."`
	Region   string   `required:"" type:"existingfile" placeholder:"FILE" help:"The region's file."`
	Prefix   string   `placeholder:"NAME" help:"What the names of Secrets begin with: the chart's full name; else REGION-postern."`
	Host     []string `placeholder:"NAME" help:"Another name for the certificate that mail clients see; may be repeated."`
	EtcdHost []string `default:"postern-etcd,*.postern-etcd,localhost,127.0.0.1" placeholder:"NAME" help:"Where etcd is reached (${default})."`
	Gateway  string   `placeholder:"HOST:PORT" help:"Where the operator's commands reach the region; else the gateway that its file says."`
	Operator string   `default:"operator" help:"The name that is in the audit for the operator's certificate (${default})."`
}

// Help is shown by --help.
func (initCmd) Help() string {
	return `DIR/authorities has four private authorities. Keep it away from the cluster: who has it can be anybody.
DIR/secrets has a directory for each Secret of the chart, named as it, with a file for each key.
DIR/operator/REGION.yaml is the context for the operator's commands.

Nothing that is there is replaced, but certificates that have less than a third of their 90
days left: run it again each month, and apply the Secrets.`
}

// material is what init makes.
type material struct {
	*initCmd
	region                             *config.Region
	processes, etcd, public, gatewayCA *pki.Authority
}

// Run makes what isn't there yet.
func (c *initCmd) Run(k *kong.Kong) error {
	region, err := config.LoadRegion(c.Region)
	if err != nil {
		return err
	}
	if c.Prefix == "" {
		c.Prefix = string(region.Name) + "-postern"
	}
	m := &material{initCmd: c, region: region}
	for _, step := range []func() error{m.authorities, m.identities, m.doors, m.etcdCertificates, m.keys, m.context} {
		if err := step(); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(k.Stdout, "Secrets: %s\nOperator's context: %s\nKeep %s to yourself.\n",
		filepath.Join(c.Dir, "secrets"), m.contextFile(), filepath.Join(c.Dir, "authorities"))
	return err
}

func (m *material) authorities() error {
	for _, authority := range []struct {
		into        **pki.Authority
		name, title string
	}{
		{&m.processes, "processes", "Postern processes"}, {&m.etcd, "etcd", "Postern etcd"},
		{&m.public, "public", "Postern private CA"}, {&m.gatewayCA, "gateways", "Postern gateways"},
	} {
		opened, err := pki.Open(filepath.Join(m.Dir, "authorities", authority.name), authority.title, time.Now)
		if err != nil {
			return err
		}
		*authority.into = opened
	}
	return nil
}

// issue makes sure of a certificate, and copies it to a Secret.
func (m *material) issue(authority *pki.Authority, secret string, subject pki.Subject) error {
	pair, err := authority.Issue(subject)
	if err != nil {
		return err
	}
	for key, file := range map[string]string{"ca.crt": authority.CA(), "tls.crt": pair.Cert, "tls.key": pair.Key} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = writeFile(filepath.Join(m.Dir, "secrets", secret, key), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *material) identities() error {
	for _, role := range []string{rpc.RoleFront, rpc.RoleIntake, rpc.RoleMailbox} {
		id := rpc.Identity{Region: string(m.region.Name), Role: role, Name: m.Prefix + "-" + role}
		if !id.Valid() {
			return fmt.Errorf("--prefix: found %q, expected lower-case letters, digits and hyphens, not many", m.Prefix)
		}
		err := m.issue(m.processes, m.Prefix+"-"+role+"-identity", pki.Subject{Name: m.named(role), URI: id.URI(), Server: true, Client: true})
		if err != nil {
			return err
		}
	}
	return nil
}

// named is the name of a region's files at an authority.
func (m *material) named(what string) string { return string(m.region.Name) + "-" + what }

// doors are for those outside: mail clients, and mail gateways.
func (m *material) doors() error {
	err := m.issue(m.public, m.Prefix+"-pop", pki.Subject{Name: m.named("pop"), Hosts: append([]string{m.region.Hostname}, m.Host...), Server: true})
	if err != nil {
		return err
	}
	if err := m.issue(m.gatewayCA, m.Prefix+"-test-gateway", pki.Subject{Name: m.named("test-gateway"), Client: true}); err != nil {
		return err
	}
	ca, err := os.ReadFile(m.gatewayCA.CA())
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(m.Dir, "secrets", m.Prefix+"-gateways", "ca.crt"), ca)
}

func (m *material) etcdCertificates() error {
	if err := m.issue(m.etcd, m.Prefix+"-etcd", pki.Subject{Name: m.named("client"), Client: true}); err != nil {
		return err
	}
	// A member is a client of the others.
	return m.issue(m.etcd, "postern-etcd-server", pki.Subject{Name: "server", Hosts: m.EtcdHost, Server: true, Client: true})
}

// keys are those that nobody signs.
func (m *material) keys() error {
	gossip := filepath.Join(m.Dir, "secrets", m.Prefix+"-gossip", "gossip.key")
	if err := os.MkdirAll(filepath.Dir(gossip), 0o700); err != nil {
		return err
	}
	if err := makeGossipKey(gossip); err != nil {
		return err
	}
	log := filepath.Join(m.Dir, "secrets", m.Prefix+"-log", "log.key")
	if _, err := os.Stat(log); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return writeFile(log, []byte(rand.Text()+rand.Text()))
}

func (m *material) contextFile() string {
	return filepath.Join(m.Dir, "operator", string(m.region.Name)+".yaml")
}

// context is for the operator's commands.
func (m *material) context() error {
	id := rpc.Identity{Region: systemRegion, Role: rpc.RoleOperator, Name: strings.ToLower(m.Operator)}
	if !id.Valid() {
		return fmt.Errorf("--operator: found %q, expected letters, digits and hyphens", m.Operator)
	}
	pair, err := m.processes.Issue(pki.Subject{Name: "operator-" + id.Name, URI: id.URI(), Client: true})
	if err != nil {
		return err
	}
	for name, file := range map[string]string{"ca.pem": m.processes.CA(), id.Name + ".pem": pair.Cert, id.Name + ".key": pair.Key} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = writeFile(filepath.Join(m.Dir, "operator", name), text)
		}
		if err != nil {
			return err
		}
	}
	if _, err := os.Stat(m.contextFile()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return writeFile(m.contextFile(), fmt.Appendf(nil, "servers: [%q]\ntls: {ca: ca.pem, cert: %s.pem, key: %s.key}\n", cmp.Or(m.Gateway, string(m.region.Gateway)), id.Name, id.Name))
}
