package pop3

import (
	"context"
	"crypto/tls"
	"log/slog"
	"strconv"
	"time"
)

// report writes the session's one line of log and its metrics.
func (c *conn) report(end End) {
	m := c.server.metrics
	m.ended(end, c.started)
	m.received.Add(float64(c.in.octets))
	m.sent.Add(float64(c.out.octets))
	tally, info := c.session.Tally(), c.session.Info()
	m.deleted.Add(float64(tally.Removed))
	level := slog.LevelInfo
	if end == endClient && c.in.octets == 0 {
		level = slog.LevelDebug // a balancer that looks whether we are there, every few seconds
	}
	if !c.server.log.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("session", c.id),
		slog.String("remote", c.remote.String()),
		slog.String("end", string(end)),
		slog.Float64("seconds", time.Since(c.started).Seconds()),
		slog.Uint64("octets_in", c.in.octets),
		slog.Uint64("octets_out", c.out.octets),
	}
	if c.tls != nil {
		state := c.tls.ConnectionState()
		attrs = append(attrs, slog.String("tls", tls.VersionName(state.Version)),
			slog.String("cipher", tls.CipherSuiteName(state.CipherSuite)), slog.Bool("resumed", state.DidResume), slog.Bool("stls", c.clear))
	}
	if info.Address != "" { // logged in, by his own last word too
		attrs = append(attrs, slog.String("user", string(info.Address)), slog.String("mechanism", c.session.Mechanism()),
			slog.String("home", info.Region), slog.String("node", info.Node), slog.String("class", info.Class.String()),
			slog.Int("messages", info.Count), slog.Int("retr", tally.Retr), slog.Int("top", tally.Top),
			slog.Int("dele", tally.Dele), slog.Int("removed", tally.Removed))
		if before, after, ok := c.session.UIDs(); ok {
			attrs = append(attrs, slog.String("uids", strconv.FormatUint(before, 16)+"->"+strconv.FormatUint(after, 16)))
		}
	}
	c.server.log.LogAttrs(context.Background(), level, "session", attrs...)
}
