package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	maxContextFile = 64 << 10        // octets
	maxAnswer      = 16 << 20        // octets of one message from a server
	dialTimeout    = 3 * time.Second // for one server, before the next is tried
)

// operator is what all of an operator's commands share: where to ask, and how
// to answer. Commands embed it; their subcommands' Run takes a *client.
type operator struct {
	Context string        `placeholder:"FILE" env:"POSTERN_CONTEXT" type:"path" help:"Servers and certificate to use (operator.yaml)."`
	Output  string        `short:"o" enum:"table,json" default:"table" help:"How to answer: table or json."`
	Timeout time.Duration `default:"60s" help:"How long to wait for the answer."`
}

// AfterApply gives the subcommand's Run its client.
func (o *operator) AfterApply(k *kong.Context) error { //nolint:unparam // kong's form
	k.Bind(&client{operator: *o, in: os.Stdin, out: k.Stdout})
	return nil
}

// client runs an operator's command.
type client struct {
	operator
	in  io.Reader
	out io.Writer
}

// contextConfig is operator.yaml. Relative paths in it are relative to it.
type contextConfig struct {
	Servers    []string `yaml:"servers"`     // gateways, host:port; tried in turn
	ServerName string   `yaml:"server_name"` // when set, the server's certificate must hold this name too
	TLS        struct {
		CA   string `yaml:"ca"`
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
	} `yaml:"tls"`
}

// readContext reads a context file strictly.
func readContext(file string) (*contextConfig, error) {
	if file == "" {
		return nil, errors.New("which installation? give --context FILE or set POSTERN_CONTEXT (a demo's is DIR/operator.yaml)")
	}
	opened, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	defer opened.Close()
	text, err := io.ReadAll(io.LimitReader(opened, maxContextFile+1))
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	if len(text) > maxContextFile {
		return nil, fmt.Errorf("%s: longer than %d octets", file, maxContextFile)
	}
	c, err := parseContext(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, path := range []*string{&c.TLS.CA, &c.TLS.Cert, &c.TLS.Key} {
		if !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
	}
	return c, nil
}

func parseContext(text []byte) (*contextConfig, error) {
	var c contextConfig
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("expected one YAML document")
	}
	if len(c.Servers) == 0 {
		return nil, errors.New("servers: expected at least one host:port")
	}
	for _, server := range c.Servers {
		if host, port, err := net.SplitHostPort(server); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("servers: found %q, expected host:port", server)
		}
	}
	for _, required := range [][2]string{{"ca", c.TLS.CA}, {"cert", c.TLS.Cert}, {"key", c.TLS.Key}} {
		if required[1] == "" {
			return nil, fmt.Errorf("tls.%s: expected a file", required[0])
		}
	}
	return &c, nil
}

// call makes one call at the first server that answers. A server is chosen
// before anything is asked of it, so a change is never made twice.
func (c *client) call(ctx context.Context, changes bool, ask func(context.Context, posternv1.AdminClient) error) error {
	config, err := readContext(c.Context)
	if err != nil {
		return err
	}
	transport, err := config.transport()
	if err != nil {
		return fmt.Errorf("%s: %w", c.Context, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	server, err := config.reachable(ctx, transport)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(credentials.NewTLS(transport)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return err
	}
	defer conn.Close()
	err = rpc.FromStatus("operator", ask(ctx, posternv1.NewAdminClient(conn)), changes)
	return inWords(server, err)
}

// transport is TLS with the operator's certificate, to a front.
func (c *contextConfig) transport() (*tls.Config, error) {
	config, err := rpc.ClientTLS(rpc.TLSFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key})
	if err != nil {
		return nil, err
	}
	verify := config.VerifyConnection
	config.ServerName = c.ServerName
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verify(state); err != nil {
			return err
		}
		id, err := rpc.ParseIdentity(state.PeerCertificates[0])
		if err != nil {
			return err
		}
		if id.Role != rpc.RoleFront {
			return fmt.Errorf("it is %s, not a front", id)
		}
		if c.ServerName != "" {
			return state.PeerCertificates[0].VerifyHostname(c.ServerName)
		}
		return nil
	}
	return config, nil
}

// reachable is the first server that we can connect to, in their order.
func (c *contextConfig) reachable(ctx context.Context, transport *tls.Config) (string, error) {
	return c.gatewayOf(ctx, transport, "")
}

// gatewayOf is the first server of a region that we can connect to; of any region,
// without one.
func (c *contextConfig) gatewayOf(ctx context.Context, transport *tls.Config, region string) (string, error) {
	var failed []string
	for _, server := range c.Servers {
		id, err := identityAt(ctx, transport, server)
		switch {
		case err == nil && (region == "" || id.Region == region):
			return server, nil
		case err == nil:
			err = fmt.Errorf("it is a gateway of region %s", id.Region)
		}
		failed = append(failed, fmt.Sprintf("%s: %v", server, err))
	}
	return "", errors.New("no server can be reached, nothing was asked:\n  " + strings.Join(failed, "\n  "))
}

// identityAt is whom we reach at an address.
func identityAt(ctx context.Context, transport *tls.Config, server string) (rpc.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: transport}).DialContext(ctx, "tcp", server)
	if err != nil {
		return rpc.Identity{}, err
	}
	defer conn.Close()
	return rpc.ParseIdentity(conn.(*tls.Conn).ConnectionState().PeerCertificates[0])
}

// inWords makes an error say what happened and what to do.
func inWords(server string, err error) error {
	if err == nil {
		return nil
	}
	if text := maildrop.TextOf(err); text != "" {
		return errors.New(text)
	}
	cause := errors.Unwrap(err)
	switch maildrop.KindOf(err) {
	case maildrop.Maybe:
		return fmt.Errorf("%s did not answer, so it is not known whether the change was made; look, then try again (%w)", server, cause)
	case maildrop.Canceled:
		return fmt.Errorf("%s did not answer in time; nothing was changed, try again (%w)", server, cause)
	case maildrop.Transient, maildrop.Busy, maildrop.ReadOnly:
		return fmt.Errorf("%s cannot answer now; nothing was changed, try again (%w)", server, cause)
	}
	return fmt.Errorf("%s refused: %w; does the certificate name an operator?", server, cause)
}
