// Package certificate shows the right certificate to each client, and takes new
// ones without a restart. It promises: a handshake never waits for a file and
// never fails because one is being replaced; what is shown was read whole, its
// halves fit and it was valid when it was taken; a client that names nobody we
// know, or nobody, sees the default.
//
//	              every second                two looks alike, halves fit, valid now
//	files ──────── look ─────▶ as kept ─────▶ (nothing)
//	                  │
//	                  └──────▶ changed ─────▶ shown from the next handshake on
//	                              │
//	                              └─────────▶ refused: the older one stays, said in
//	                                          the log once and in a metric until mended
//
//	ClientHello ─▶ SNI ─▶ exact name ─▶ *.parent ─▶ default   ─▶ the first that the
//	                                                (counted)    client can verify,
//	                                                             ECDSA before RSA
//
// # Decisions
//
//   - 2026-11-25: files are compared by their octets. Refused: by their times,
//     which copies can keep and which a symbolic link that is turned to another
//     directory, as Kubernetes does it, need not change in order.
//   - 2026-11-25: a change is taken when two looks in a row see the same octets. A
//     chain that is cut off after a whole certificate is good PEM; only time tells
//     that more of it is coming.
//   - 2026-11-25: the default is whatever is for the region's own hostname, so it may
//     be two, ECDSA and RSA. Refused: a mark in the configuration, which can be
//     on the wrong one. If none is for it, the first is the default, with a warning.
//   - 2026-11-25: a process doesn't start when its default isn't valid: a rollout of
//     the wrong file stops at its first process. Another one that has expired is
//     shown as it is, with an error in the log: one customer's name must not keep
//     a front from starting, and a client's "expired" is truer than "wrong name".
//   - 2026-11-25: a changed pair that isn't valid now is refused also if the one kept
//     has expired, and looked at again every second. It is taken when its time comes.
package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// lookEvery is how often the files are read.
	lookEvery = time.Second
	// maxFile is the longest file in octets.
	maxFile = 1 << 20
)

// Files names a certificate, its intermediate ones behind it, and its key: PEM.
type Files struct{ Cert, Key string }

// Config is what a Set is made of.
type Config struct {
	Files    []Files
	Hostname string       // whose certificate is the default; empty: the first is
	Log      *slog.Logger // nil: none
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Set is the certificates that a server shows.
type Set struct {
	hostname string
	pairs    []*pair
	log      *slog.Logger
	metrics  *metrics
	shown    atomic.Pointer[table]
}

// Open reads all files. It fails when one can't be used, or when the default isn't
// valid now; the error says which, why, and what to do.
func Open(config Config) (*Set, error) {
	if len(config.Files) == 0 {
		return nil, errors.New("certificate: none is configured")
	}
	s := &Set{hostname: config.Hostname, log: config.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.metrics, err = newMetrics(config.Registerer); err != nil {
		return nil, err
	}
	for _, files := range config.Files {
		p := &pair{Files: files}
		err = errors.Join(err, p.read())
		s.pairs = append(s.pairs, p)
	}
	if err != nil {
		return nil, err
	}
	if err := s.checkTimes(time.Now()); err != nil {
		return nil, err
	}
	s.show()
	return s, nil
}

// checkTimes holds the default to its time, and says what the others' is.
func (s *Set) checkTimes(now time.Time) error {
	defaults, named := s.defaults()
	if !named && s.hostname != "" {
		s.log.Warn("no certificate is for the region's hostname: the first is the default, and clients that verify names will refuse it",
			"hostname", s.hostname, "file", s.pairs[0].Cert, "names", s.pairs[0].kept.Leaf.DNSNames)
	}
	var invalid error
	for _, p := range s.pairs {
		err := validAt(p.kept.Leaf, now)
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", p.Cert, err)
		if slices.Contains(defaults, p) {
			invalid = errors.Join(invalid, err)
		} else {
			s.log.Error("certificate that clients will refuse", "error", err)
		}
	}
	return invalid
}

// defaults are the pairs for the hostname; if there is none (named is false), the
// first.
func (s *Set) defaults() (all []*pair, named bool) {
	for _, p := range s.pairs {
		if p.isFor(s.hostname) {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return s.pairs[:1], false
	}
	return all, true
}

// validAt is nil when a certificate is valid, and else says what is to be done.
func validAt(leaf *x509.Certificate, now time.Time) error {
	const layout = "2006-01-02 15:04 MST"
	name, clock := strings.Join(leaf.DNSNames, ", "), now.UTC().Format(layout)
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate for %s expired on %s: renew it (this machine's clock says %s)", name, leaf.NotAfter.UTC().Format(layout), clock)
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the certificate for %s is not valid before %s: wait, or set this machine's clock, which says %s", name, leaf.NotBefore.UTC().Format(layout), clock)
	}
	return nil
}

// Run looks at the files every second until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			s.look(now)
		}
	}
}

// look takes what has changed.
func (s *Set) look(now time.Time) {
	changed := false
	for _, p := range s.pairs {
		fresh, err := p.look(now, s.hostname)
		switch {
		case fresh:
			s.metrics.reload(p, "ok")
			s.log.Info("certificate replaced", "file", p.Cert, "names", p.kept.Leaf.DNSNames, "not_after", p.kept.Leaf.NotAfter)
			changed = true
		case err != nil && p.complain():
			s.metrics.reload(p, "refused")
			s.log.Error("certificate not replaced, the one from before is still shown", "error", err, "not_after", p.kept.Leaf.NotAfter)
		}
	}
	if changed {
		s.show()
	}
	s.metrics.update(s.pairs)
}

// show puts what is kept in front of the next handshakes.
func (s *Set) show() {
	t := &table{byName: map[string][]*tls.Certificate{}}
	for _, p := range s.pairs {
		t.add(p.kept)
	}
	defaults, _ := s.defaults()
	for _, p := range defaults {
		t.fallback = byPreference(append(t.fallback, p.kept))
	}
	s.shown.Store(t)
	s.metrics.update(s.pairs)
}

// Certificate is for tls.Config.GetCertificate.
func (s *Set) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := s.shown.Load()
	found := t.find(hello.ServerName)
	if found == nil {
		s.metrics.stranger(hello.ServerName)
		found = t.fallback
	}
	return verifiable(found, hello), nil
}

// Own is for tls.Config.GetClientCertificate: the default.
func (s *Set) Own(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.shown.Load().fallback[0], nil
}
