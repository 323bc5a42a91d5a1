// Package mailclient is the other side of Postern's two protocols: a POP3 and
// an LMTP client for tools that look at a cluster as its users do, and for
// tests. It is strict, since a client that forgives hides the server's faults,
// and it shows a message exactly as it came, less the dot-stuffing.
//
//	DialPOP  ── Login ── Stat List UIDL Retr Top Dele … ── Quit
//	DialLMTP ── Deliver (one verdict a recipient)       ── Quit
//
// A client is for one goroutine. Every call renews the connection's deadline.
//
// # Decisions
//
//   - 2026-11-23: our own, not a library. Those that exist for Go read whole
//     messages into memory or turn CRLF into LF (net/textproto's DotReader), so
//     they can neither fetch 100 MB slowly nor show that octets are exact.
package mailclient
