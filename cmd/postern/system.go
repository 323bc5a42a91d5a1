package main

import (
	"context"
	"log/slog"

	"github.com/postern-pop/postern/pkg/embedetcd"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/run"
)

// Names of an installation's own identities. They are of no region's processes.
const (
	systemRegion = "system"
	operatorName = "operator"
	etcdName     = "etcd"
)

// issueSystem makes the certificates of the operator and of etcd. The latter is
// no process of ours and has no identity.
func (i *installation) issueSystem() error {
	if err := i.issueIdentity(rpc.Identity{Region: systemRegion, Role: rpc.RoleOperator, Name: operatorName}); err != nil {
		return err
	}
	_, err := i.internal.Issue(pki.Subject{
		Name: systemRegion + "-" + etcdName, Hosts: []string{"localhost", loopback}, Server: true, Client: true,
	})
	return err
}

// startEtcd starts the installation's etcd, which is global and regional in one.
func startEtcd(ctx context.Context, p *run.Process, dir, listen string, log *slog.Logger) error {
	own := identityTLS(dir, systemRegion, etcdName)
	etcd, err := embedetcd.Start(ctx, embedetcd.Config{
		Dir: etcdDir(dir), Listen: listen, Log: log,
		CA: string(own.CA), Cert: string(own.Cert), Key: string(own.Key),
	})
	if err != nil {
		return err
	}
	p.Go(ctx, "etcd", func(ctx context.Context) error {
		defer etcd.Close()
		select {
		case <-ctx.Done():
			return nil
		case err := <-etcd.Failed():
			return err
		}
	})
	return nil
}
