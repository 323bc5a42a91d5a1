// Package lmtp is the door that mail comes in by: a server of LMTP (RFC 2033)
// for the provider's own mail gateways. It says 250 for a recipient only after
// Deliver returned nil for it, and what it delivers is, behind the trace header
// it adds, what it was sent, octet for octet.
//
//	           220                  LHLO
//	connection ───▶ greeted ───────────────▶ ready ◀─────────────┐
//	                  ▲                        │ MAIL            │ RSET, LHLO,
//	                  │ STARTTLS: all is       ▼                 │ or a reply for
//	                  └──────────────────── transaction ── RCPT  │ each recipient
//	                         forgotten         │ DATA, 354       │
//	                                           ▼                 │
//	                         spool ◀── content ── CRLF.CRLF ─────┘
//	                           │
//	                           └─▶ Return-Path, Delivered-To, Received + content
//	                                 ─▶ Deliverer, each recipient, some at once
//
// The rooms within: command reads lines, session is the protocol and does no
// I/O but asking the Deliverer about recipients, conn is the socket and its
// timers, server counts connections, spool keeps a message until it is
// delivered, trace writes the header, reply chooses words.
//
// Only gateways may deliver: those of Config.Networks, and those that show a
// certificate which the TLS configuration verifies. Others may get as far as
// STARTTLS, within a minute.
//
// # Decisions
//
//   - 2026-11-23: our own server on package wire. Refused: emersion/go-smtp. It
//     is good and wide, but a message that ends CR CR LF . CR LF hung its session,
//     a CR after a line's dot was lost, a message exactly at the limit was refused,
//     a limit on lines holds for content too (with a permanent 554), an error that
//     isn't of its own type becomes a permanent 554, and it has neither a limit on
//     connections nor a context. What it would have saved is a table of ten
//     commands; what it must not get wrong is the content, and that is wire's.
//   - 2026-11-23: no CHUNKING. Gateways don't need it from a server that takes
//     8BITMIME, and content without a final CRLF has no wire form of its own.
//   - 2026-11-25: no SMTPUTF8 (RFC 6531): a gateway that has a message for it bounces it, with
//     5.6.7. So every message that is stored was sent to be read by anybody, sizes and
//     octets are the same whether a POP3 client says UTF8 or not, and none has to be
//     downgraded (RFC 6857, RFC 6858) or withheld with [UTF8] (RFC 6856 section 5). Raw
//     8-bit octets in headers of other mail pass as they are. Refused: to take such mail and
//     downgrade it, which alters what was delivered and makes two sizes of each message;
//     and to withhold it, which stops the clients of today at that message for ever. Mailboxes
//     whose local part isn't ASCII can be logged in to, and get mail by an alias that is.
//   - 2026-11-23: a Return-Path that the message has already stays, under ours.
//     RFC 5321 section 4.4 would have it removed at final delivery; that what is
//     fetched is what was delivered comes first.
//   - 2026-11-23: an address given twice in a transaction is delivered once and
//     answered twice.
//   - 2026-11-23: a delivery of unknown outcome (Maybe) is repeated here, under
//     the same ID, before it is answered 451: a message without a Received field
//     gets a new ID if the gateway repeats it, and would be stored twice.
//   - 2026-11-23: each connection reads into 64 KiB. With 16 KiB, taking in 90 KB costs
//     7 % more CPU, the gateway's counted too. Gateways are few, so the memory is.
//   - 2026-11-23: RCPT asks the mailbox's owner each time, one round trip a delivery.
//     Refused: to keep a yes for a second, which helps benchmarks with a few
//     recipients and hardly anybody else; and to say yes unasked to a gateway that
//     pipelines DATA behind it, which would send it the whole of each message that is refused.
//   - 2026-11-23: a line that is an HTTP request ends the connection. A page in
//     a browser on a permitted network could otherwise post mail.
//   - 2026-11-23: errors of the client don't end its session: a gateway with
//     one odd message in its queue must get the others delivered.
package lmtp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits on what arrives. They are not settings: gateways rely on them.
const (
	// MaxLine is the longest command line in octets, with its end. RFC 5321
	// section 4.5.3.1.4 says 512, to which the extensions add.
	MaxLine = 4096
	// MaxRecipients is how many recipients a transaction has at most. RFC 5321
	// section 4.5.3.1.8 asks for 100.
	MaxRecipients = 1000
	// MaxSwallow is how many octets of a message that is refused already are
	// read on, to get to its end.
	MaxSwallow = 1 << 30
)

// What Config means by zero.
const (
	DefaultMaxSize        = 150 << 20
	DefaultIdle           = 5 * time.Minute // RFC 5321 section 4.5.3.2.7
	DefaultMaxConnections = 1000
)

// How long things may take. A gateway waits 5 minutes for the reply to RCPT and
// 10 for the one to the final dot (RFC 5321 section 4.5.3.2).
const (
	strangerTime  = time.Minute      // until one from outside the networks has shown its certificate
	handshakeTime = 30 * time.Second // for the TLS handshake
	acceptTime    = time.Minute      // for one Accept
	deliverTime   = 5 * time.Minute  // for all deliveries of a transaction
	farewellTime  = 5 * time.Second  // for the last reply of a connection
	refuseTime    = time.Second      // for the only reply of a refused one
)

const (
	readBuffer         = 64 << 10 // of each connection; a message comes in a few reads
	replyBuffer        = 4 << 10
	maxRefusing        = 100 // connections that are told why they are refused; others are closed
	parallelDeliveries = 8
	deliverTries       = 3 // of a delivery whose outcome stays unknown
)

// Config is what a Server needs. Zero values of Idle, MaxSize and MaxConnections
// mean the defaults.
type Config struct {
	Deliverer      maildrop.Deliverer
	TLS            *tls.Config    // for STARTTLS; nil: not offered. Shared by all connections
	Networks       []netip.Prefix // gateways that need no certificate
	Hostname       string         // our name in the greeting and in Received
	Region         string         // named in the greeting
	MaxSize        int64          // octets of a message, as RFC 1870 section 5 counts them
	Spool          string         // directory for messages over 1 MiB while they are delivered; empty: the system's
	Idle           time.Duration  // silence that ends a connection
	MaxConnections int            // open at once; others are told 421
	Log            *slog.Logger
	Registerer     prometheus.Registerer // nil: no metrics
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.Deliverer == nil:
		return errors.New("no deliverer")
	case c.Log == nil:
		return errors.New("no log")
	case c.MaxSize < 0 || c.Idle < 0 || c.MaxConnections < 0:
		return errors.New("a limit below zero")
	case len(c.Networks) == 0 && (c.TLS == nil || c.TLS.GetConfigForClient == nil && c.TLS.ClientAuth < tls.VerifyClientCertIfGiven):
		return errors.New("nobody could deliver: no networks, and no TLS that verifies client certificates")
	}
	if name, err := parseHost(c.Hostname); err != nil || name == "" {
		return fmt.Errorf("hostname %q: expected a name such as lmtp.eu.example.com", c.Hostname)
	}
	for _, n := range c.Networks {
		if !n.IsValid() {
			return errors.New("a network that is none: expected a prefix such as 10.0.0.0/8")
		}
	}
	return nil
}

// withDefaults fills in what zero means.
func (c Config) withDefaults() Config {
	if c.MaxSize == 0 {
		c.MaxSize = DefaultMaxSize
	}
	if c.Idle == 0 {
		c.Idle = DefaultIdle
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	if c.Spool == "" {
		c.Spool = os.TempDir()
	}
	return c
}
