package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Scheme is the scheme of the URI that names a process in its certificate.
const Scheme = "postern"

// The roles of processes.
const (
	RoleFront    = "front"    // serves users, and its region's gateway
	RoleIntake   = "intake"   // takes mail in
	RoleMailbox  = "mailbox"  // owns shards
	RoleOperator = "operator" // a person, or a tool of one
)

// Identity is who a process is, as its certificate says it.
type Identity struct {
	Region string // "eu"
	Role   string // one of the roles above
	Name   string // of this one process, "eu-front-1"
}

var errIdentity = errors.New("certificate has no identity: expected one URI postern://<region>/<role>/<name>")

// String is the identity as a URI.
func (id Identity) String() string { return id.URI().String() }

// URI is the identity in the form that certificates hold it.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: Scheme, Host: id.Region, Path: "/" + id.Role + "/" + id.Name}
}

// Valid reports whether the identity has a known role, and names of 1 to 63
// lower-case letters, digits, dots and hyphens.
func (id Identity) Valid() bool {
	switch id.Role {
	case RoleFront, RoleIntake, RoleMailbox, RoleOperator:
		return validName(id.Region) && validName(id.Name)
	}
	return false
}

func validName(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// ParseIdentity is the identity that a certificate gives its holder. It says
// nothing about whether the certificate is to be trusted.
func ParseIdentity(cert *x509.Certificate) (Identity, error) {
	if cert == nil || len(cert.URIs) != 1 {
		return Identity{}, errIdentity
	}
	u := cert.URIs[0]
	role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	id := Identity{Region: u.Host, Role: role, Name: name}
	if u.Scheme != Scheme || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !id.Valid() {
		return Identity{}, errIdentity
	}
	return id, nil
}

// PeerIdentity is who calls, in the context of a call that a Server handles.
// ok is false in any other context.
func PeerIdentity(ctx context.Context) (id Identity, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return Identity{}, false
	}
	id, err := ParseIdentity(info.State.VerifiedChains[0][0])
	return id, err == nil
}
