package pop3

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Addresses is how the log names a mail address.
type Addresses func(maildrop.Address) string

// ClearAddresses names them as they are.
func ClearAddresses() Addresses { return func(a maildrop.Address) string { return string(a) } }

// minKey is the shortest key of hashed addresses in octets.
const minKey = 32

// HashedAddresses names them by HMAC-SHA256 under the key, of which there are 16
// digits: enough to find all sessions of one address, and who has no key can't try
// addresses. The key is at least 32 octets.
func HashedAddresses(key []byte) (Addresses, error) {
	if len(key) < minKey {
		return nil, fmt.Errorf("a key of %d octets: expected at least %d", len(key), minKey)
	}
	return func(a maildrop.Address) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(a))
		return hex.EncodeToString(mac.Sum(nil)[:8])
	}, nil
}

// report writes the session's one line of log and its metrics. README has a table of
// the line's fields.
func (c *conn) report(end End) {
	m := c.server.metrics
	m.ended(end, c.started)
	m.received.Add(float64(c.in.octets))
	m.sent.Add(float64(c.out.octets))
	m.deleted.Add(float64(c.session.Tally().Removed))
	level := slog.LevelInfo
	if end == endClient && c.in.octets == 0 {
		level = slog.LevelDebug // a balancer that looks whether we are there, every few seconds
	}
	if !c.server.log.Enabled(context.Background(), level) {
		return
	}
	attrs := append(c.reportConnection(end), c.reportLogin()...)
	c.server.log.LogAttrs(context.Background(), level, "session", attrs...)
}

// reportOrigin is what every line has.
func (c *conn) reportOrigin(end End) []slog.Attr {
	return []slog.Attr{
		slog.String("session", c.id),
		slog.String("remote", c.remote.String()),
		slog.String("end", string(end)),
		slog.Float64("seconds", time.Since(c.started).Seconds()),
	}
}

// reportConnection is what every session has.
func (c *conn) reportConnection(end End) []slog.Attr {
	attrs := append(c.reportOrigin(end),
		slog.Int("commands", c.commands),
		slog.Uint64("octets_in", c.in.octets),
		slog.Uint64("octets_out", c.out.octets))
	if c.reason != maildrop.ReasonNone {
		attrs = append(attrs, slog.String("reason", string(c.reason)))
	}
	if c.refused > 0 {
		attrs = append(attrs, slog.Int("failed_logins", c.refused))
	}
	if c.paused > 0 {
		attrs = append(attrs, slog.Float64("delay_seconds", c.paused.Seconds()))
	}
	return append(attrs, c.reportTLS()...)
}

// reportTLS is what came of the handshake, if there was one.
func (c *conn) reportTLS() []slog.Attr {
	switch {
	case c.failure != nil:
		return []slog.Attr{slog.String("tls_failure", causeOf(c.failure)), slog.String("tls_error", ascii(c.failure.Error(), failureText))}
	case c.tls == nil:
		return nil
	}
	state := c.tls.ConnectionState()
	return []slog.Attr{slog.String("tls", tls.VersionName(state.Version)),
		slog.String("cipher", tls.CipherSuiteName(state.CipherSuite)), slog.Bool("resumed", state.DidResume), slog.Bool("stls", c.clear)}
}

// reportLogin is what a session has whose user has logged in, if only by his own word
// until he took it back.
func (c *conn) reportLogin() []slog.Attr {
	tally, info := c.session.Tally(), c.session.Info()
	if info.Address == "" {
		return nil
	}
	attrs := []slog.Attr{
		slog.String("user", c.server.config.Addresses(info.Address)),
		slog.String("mechanism", c.session.Mechanism()),
		slog.Float64("login_seconds", c.opened.Seconds()),
		slog.String("home", info.Region),
		slog.String("route", c.server.metrics.route(info.Region)),
		slog.String("node", info.Node),
		slog.String("class", info.Class.String()),
		slog.Int("messages", info.Count),
		slog.Int("retr", tally.Retr),
		slog.Int("top", tally.Top),
		slog.Int("dele", tally.Dele),
		slog.Int("removed", tally.Removed),
	}
	if before, after, ok := c.session.UIDs(); ok {
		attrs = append(attrs, slog.String("uids_before", fmt.Sprintf("%016x", before)), slog.String("uids_after", fmt.Sprintf("%016x", after)))
	}
	return attrs
}
