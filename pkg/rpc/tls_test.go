package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Who may call what. The table is written out: it is the lock on the door.
func TestAllow(t *testing.T) {
	const (
		session  = posternv1.Maildrop_Read_FullMethodName
		accept   = posternv1.Maildrop_Accept_FullMethodName
		delivery = posternv1.Maildrop_Deliver_FullMethodName
		imported = posternv1.Maildrop_Import_FullMethodName
		address  = posternv1.Maildrop_PutAddress_FullMethodName
		routes   = posternv1.Routes_Snapshot_FullMethodName
		census   = posternv1.Census_Holdings_FullMethodName
		heir     = posternv1.Heir_Prepare_FullMethodName
		push     = posternv1.Transfer_Push_FullMethodName
		stage    = posternv1.Transfer_Stage_FullMethodName
		arrival  = posternv1.Transfer_Receive_FullMethodName
		region   = "/postern.v1.Region/DrainNode"
		admin    = "/postern.v1.Admin/CreateAccount"
		other    = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	)
	for _, c := range []struct {
		region, role  string
		node, gateway string // s, q, d, i, a, r, c, h, p, t, v, A: what is allowed
	}{
		{"eu", rpc.RoleFront, "sqdiarcptv", "sqiart"},
		{"us", rpc.RoleFront, "", "sqiat"},
		{"eu", rpc.RoleIntake, "qdr", "qdr"},
		{"us", rpc.RoleIntake, "", "qd"},
		{"eu", rpc.RoleMailbox, "rh", "r"},
		{"us", rpc.RoleMailbox, "", "v"},
		{"eu", rpc.RoleOperator, "A", "A"},
		{"us", rpc.RoleOperator, "A", "A"},
		{"eu", "", "", ""},
	} {
		id := rpc.Identity{Region: c.region, Role: c.role, Name: "x"}
		for server, allow := range map[string]func(rpc.Identity, string) error{c.node + "|node": rpc.NodeAllow("eu"), c.gateway + "|gateway": rpc.GatewayAllow("eu")} {
			for method, letter := range map[string]byte{session: 's', accept: 'q', delivery: 'd', imported: 'i', address: 'a', routes: 'r', admin: 'A', census: 'c', heir: 'h', push: 'p', stage: 't', arrival: 'v', region: 'A', other: '?'} {
				want := false
				for i := 0; server[i] != '|'; i++ {
					want = want || server[i] == letter
				}
				if got := allow(id, method) == nil; got != want {
					t.Errorf("%s of %s calls %s at %s of eu: allowed is %v", c.role, c.region, method, server, got)
				}
			}
		}
	}
}

// Every method of the services is somebody's: none was forgotten in the table.
func TestAllowKnowsEveryMethod(t *testing.T) {
	for _, desc := range []grpc.ServiceDesc{posternv1.Maildrop_ServiceDesc, posternv1.Transfer_ServiceDesc} {
		var names []string
		for _, m := range desc.Methods {
			names = append(names, m.MethodName)
		}
		for _, s := range desc.Streams {
			names = append(names, s.StreamName)
		}
		for _, name := range names {
			if err := rpc.NodeAllow("eu")(front, "/"+desc.ServiceName+"/"+name); err != nil {
				t.Error(err)
			}
		}
	}
}

// What Allow refuses never reaches the service, over real connections, and
// reads as trouble, not as a wrong password.
func TestServerRefuses(t *testing.T) {
	a := newAuthority(t)
	reached := 0
	service := always(func(context.Context) error { reached++; return nil })
	service.open = func(context.Context, maildrop.Login) (maildrop.Drop, error) {
		reached++
		return nil, errors.New("reached")
	}
	for name, allow := range map[string]func(rpc.Identity, string) error{"nil": nil, "node of us": rpc.NodeAllow("us")} {
		_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: allow})
		pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front)})
		defer pool.Close()
		for call, do := range calls(t.Context(), pool.Client(address)) {
			if err := do(); err == nil || maildrop.KindOf(err) != maildrop.Internal {
				t.Errorf("allow %s: %s: %v", name, call, err)
			}
		}
	}
	if reached > 0 {
		t.Errorf("%d calls reached the service", reached)
	}
}

func TestPeerIdentity(t *testing.T) {
	var got rpc.Identity
	c := connect(t, always(func(ctx context.Context) error { got, _ = rpc.PeerIdentity(ctx); return nil }))
	if err := c.Accept(t.Context(), maildrop.Recipient{Address: anna}); err != nil || got != front {
		t.Errorf("peer is %v (%v), want %v", got, err, front)
	}
	if id, ok := rpc.PeerIdentity(t.Context()); ok {
		t.Errorf("a context of no call has the peer %v", id)
	}
}

// Only TLS 1.3 with certificates of the one CA and an identity connects.
func TestHandshakes(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	nobody := rpc.Identity{}
	only12 := func(c *tls.Config) *tls.Config {
		c = c.Clone()
		c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		return c
	}
	bare := a.client(front).Clone()
	bare.GetClientCertificate = nil
	everything := func(rpc.Identity, string) error { return nil }
	service := always(func(context.Context) error { return nil })
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		accept         func(rpc.Identity) error
		ok             bool
	}{
		{"both ours", a.server(node), a.client(front), nil, true},
		{"a front is a server too", a.server(front), a.client(front), nil, true},
		{"client of another CA", a.server(node), stranger.client(front), nil, false},
		{"server of another CA", stranger.server(node), a.client(front), nil, false},
		{"client without a certificate", a.server(node), bare, nil, false},
		{"client of TLS 1.2", a.server(node), only12(a.client(front)), nil, false},
		{"an intake as server", a.server(intake), a.client(front), nil, false},
		{"server that the client won't have", a.server(node), a.client(front), func(rpc.Identity) error { return errors.New("no") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, address := serve(t, rpc.ServerConfig{TLS: c.server, Service: service, Allow: everything})
			pool := rpc.NewPool(rpc.PoolConfig{TLS: c.client, Accept: c.accept})
			defer pool.Close()
			err := pool.Client(address).Accept(t.Context(), maildrop.Recipient{Address: anna})
			if (err == nil) != c.ok {
				t.Errorf("call gave %v", err)
			}
			if err != nil && maildrop.KindOf(err) != maildrop.Transient {
				t.Errorf("not Transient: %v", err)
			}
		})
	}
	if _, err := rpc.ServerTLS(a.files(nobody)); err == nil {
		t.Error("files without an identity were taken")
	}
}

// A certificate of the CA that names nobody is refused by both sides.
func TestCertificateWithoutIdentity(t *testing.T) {
	a := newAuthority(t)
	files := a.files(rpc.Identity{})
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	everything := func(rpc.Identity, string) error { return nil }
	service := always(func(context.Context) error { return nil })
	client := a.client(front).Clone()
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	server := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	for name, pair := range map[string][2]*tls.Config{
		"client": {a.server(node), client}, "server": {server, a.client(front)},
	} {
		_, address := serve(t, rpc.ServerConfig{TLS: pair[0], Service: service, Allow: everything})
		pool := rpc.NewPool(rpc.PoolConfig{TLS: pair[1]})
		defer pool.Close()
		if err := pool.Client(address).Accept(t.Context(), maildrop.Recipient{Address: anna}); err == nil {
			t.Errorf("a %s without identity was taken", name)
		}
	}
}
