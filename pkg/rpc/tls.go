package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles are the PEM files that a process proves itself with. They are read
// again when they change, so certificates are replaced without a restart.
type TLSFiles struct {
	CA   string // certificates of the authorities that peers are verified by
	Cert string // this process's own certificate, and intermediates after it
	Key  string // its private key

	Log *slog.Logger // hears of files that can't be read again; nil: nobody does
}

// ServerTLS is the configuration of a side that is called: TLS 1.3, and a
// caller must show a certificate of the CA with an identity. It fails when the
// files can't be read now.
func ServerTLS(files TLSFiles) (*tls.Config, error) {
	k, err := newKeeper(files)
	if err != nil {
		return nil, err
	}
	config := k.current().server.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current().server, nil }
	return config, nil
}

// ClientTLS is the configuration of a side that calls: TLS 1.3, and the server
// must show a certificate of the CA with an identity. Its names and addresses
// don't matter. It fails when the files can't be read now.
func ClientTLS(files TLSFiles) (*tls.Config, error) {
	k, err := newKeeper(files)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.current().cert, nil
		},
		// The library's own verification wants a host's name in the certificate. Ours,
		// below, is the same without that, and knows a replaced CA.
		InsecureSkipVerify:          true, //nolint:gosec // VerifyConnection verifies
		VerifyConnection:            func(state tls.ConnectionState) error { return k.verifyServer(state) },
		DynamicRecordSizingDisabled: true,
	}, nil
}

// material is what the files held when they were last read.
type material struct {
	cert   tls.Certificate
	roots  *x509.CertPool
	server *tls.Config
}

// keeper keeps the material up to date with the files.
type keeper struct {
	files TLSFiles

	mu      sync.Mutex
	looked  time.Time // when the files were last looked at
	stamps  [3]stamp  // what they looked like when they were last read
	kept    *material
	warning string // the last trouble logged; not repeated each second
}

// stamp tells whether a file changed.
type stamp struct {
	changed time.Time
	size    int64
}

func newKeeper(files TLSFiles) (*keeper, error) {
	k := &keeper{files: files}
	stamps, err := k.look()
	if err != nil {
		return nil, err
	}
	k.kept, err = k.read()
	if err != nil {
		return nil, err
	}
	k.stamps, k.looked = stamps, time.Now()
	return k, nil
}

// current is the material of the files as they are now, within a second. Files
// that can't be read, or don't fit together because one of them was replaced
// and the other not yet, change nothing.
func (k *keeper) current() *material {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < reloadEvery {
		return k.kept
	}
	k.looked = time.Now()
	if err := k.reload(); err != nil {
		k.warn(err)
	}
	return k.kept
}

func (k *keeper) reload() error {
	stamps, err := k.look()
	if err != nil || stamps == k.stamps {
		return err
	}
	fresh, err := k.read()
	if err != nil {
		return err
	}
	k.kept, k.stamps, k.warning = fresh, stamps, ""
	return nil
}

func (k *keeper) warn(err error) {
	if k.files.Log == nil || err.Error() == k.warning {
		return
	}
	k.warning = err.Error()
	k.files.Log.Warn("certificate files can't be read again; the former ones stay in use", "err", err)
}

func (k *keeper) look() (stamps [3]stamp, err error) {
	for i, name := range []string{k.files.CA, k.files.Cert, k.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (k *keeper) read() (*material, error) {
	ca, err := os.ReadFile(k.files.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate in it", k.files.CA)
	}
	cert, err := tls.LoadX509KeyPair(k.files.Cert, k.files.Key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", k.files.Cert, k.files.Key, err)
	}
	if _, err := ParseIdentity(cert.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", k.files.Cert, err)
	}
	return &material{cert: cert, roots: roots, server: serverConfig(cert, roots)}, nil
}

func serverConfig(cert tls.Certificate, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := ParseIdentity(state.PeerCertificates[0])
			return err
		},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// verifyServer is the client's look at whom it has reached.
func (k *keeper) verifyServer(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("server showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: k.current().roots, Intermediates: intermediates}); err != nil {
		return err // for use by servers, which is the default
	}
	_, err := ParseIdentity(leaf)
	return err
}
