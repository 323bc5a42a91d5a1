package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/rpc"
)

// An installation is the data directory of a demo or of a standalone region:
//
//	DIR/lock                 held while it runs, with the pid inside
//	DIR/pki/internal/        identities of processes and operators
//	DIR/pki/ca.pem …         what mail clients and gateways see
//	DIR/pki/gateways/        who may deliver by certificate
//	DIR/pki/gossip.key
//	DIR/etcd/                accounts, domains, owners of shards
//	DIR/<region>/store/      mail
type installation struct {
	dir                        string
	internal, public, gateways *pki.Authority
}

func internalDir(dir string) string { return filepath.Join(dir, "pki", "internal") }
func publicDir(dir string) string   { return filepath.Join(dir, "pki") }
func gatewaysDir(dir string) string { return filepath.Join(dir, "pki", "gateways") }
func etcdDir(dir string) string     { return filepath.Join(dir, "etcd") }
func gossipKey(dir string) string   { return filepath.Join(dir, "pki", "gossip.key") }

// identityTLS names the files of a process's identity.
func identityTLS(dir, region, name string) config.TLS {
	pair := filepath.Join(internalDir(dir), region+"-"+name)
	return config.TLS{
		CA:   config.Path(filepath.Join(internalDir(dir), "ca.pem")),
		Cert: config.Path(pair + ".pem"), Key: config.Path(pair + ".key"),
	}
}

// openInstallation makes the directory and its authorities, or takes those
// that are there.
func openInstallation(dir string) (*installation, error) {
	i := &installation{dir: dir}
	for _, authority := range []struct {
		into       **pki.Authority
		dir, title string
	}{
		{&i.internal, internalDir(dir), "Postern processes"},
		{&i.public, publicDir(dir), "Postern private CA"},
		{&i.gateways, gatewaysDir(dir), "Postern gateways"},
	} {
		opened, err := pki.Open(authority.dir, authority.title, time.Now)
		if err != nil {
			return nil, err
		}
		*authority.into = opened
	}
	return i, makeGossipKey(gossipKey(dir))
}

// issueIdentity makes the certificate of a process, an operator or etcd.
func (i *installation) issueIdentity(id rpc.Identity) error {
	_, err := i.internal.Issue(pki.Subject{
		Name: id.Region + "-" + id.Name, URI: id.URI(), Server: true, Client: true,
		Hosts: []string{"localhost", loopback},
	})
	return err
}

// issuePublic makes the certificate that a region shows to mail clients and
// gateways.
func (i *installation) issuePublic(region config.Region) error {
	_, err := i.public.Issue(pki.Subject{
		Name: string(region.Name), Server: true,
		Hosts: []string{region.Hostname, "localhost", loopback},
	})
	return err
}

// issueGateway makes a certificate that may deliver mail.
func (i *installation) issueGateway() (pki.Pair, error) {
	return i.gateways.Issue(pki.Subject{Name: "gateway", Client: true})
}

func makeGossipKey(file string) error {
	var key [32]byte
	rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	opened, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = opened.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	return errors.Join(err, opened.Close())
}

// lockDir makes the directory and keeps everybody else out of it until the
// returned file is closed, or the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := file.ReadAt(pid, 0)
		file.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%s is in use by a running postern (pid %s); stop that one first, or use another --data",
			dir, strings.TrimSpace(string(pid[:n])))
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// writeFile replaces a file at once: a reader sees the old one or the new one.
// Only its owner can read it.
func writeFile(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	fresh := file + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil { //nolint:gosec // G703: where it goes is whoever starts it to say
		return err
	}
	return os.Rename(fresh, file)
}
