package rpc

import "time"

// What may arrive, and what is spent on it.
const (
	maxMessage       = 16 << 20  // octets of one gRPC message; a Remove of some 700,000 of our UIDs
	maxBody          = 1 << 30   // octets of one mail body; intakes allow far less
	maxStreams       = 8192      // calls at once on one connection: each slow reader holds one
	maxHeader        = 16 << 10  // octets of a call's metadata
	maxListing       = 4 << 20   // entries of one listing
	maxRecords       = 4 << 20   // address records of one account
	maxName          = 255       // octets of an account's or a session's name
	maxSender        = 1024      // octets of a return path; RFC 5321 section 4.5.3.1.3 has 256, UTF-8 takes more
	maxPassword      = 4096      // octets
	maxProof         = 4096      // octets of a Proof's parts together
	maxMechanism     = 32        // octets of a mechanism's name; SASL's have 20 (RFC 4422 section 3.1)
	maxLanguage      = 32        // octets of a language's tag
	maxToken         = 4096      // octets of a session's token
	maxThen          = 1024      // messages that one Read is asked to go on with
	maxCause         = 512       // octets of a cause on its way to the caller's log
	maxText          = 512       // octets of words for the user
	maxFinding       = 8 << 10   // octets of one finding's words: an account may have many networks
	maxSnapshot      = 256 << 20 // octets of what is known of a view of etcd, compressed
	maxBuffered      = 1 << 20   // a body up to this is read whole before it is delivered
	defaultBodyBytes = 256 << 20 // octets of such bodies at once in one server; beyond: Busy

	chunkOctets     = 256 << 10 // of a body, in one gRPC message
	listingChunk    = 4096      // entries in one message of a listing
	inlineListing   = 256       // entries that Open's answer holds itself
	maxUID          = 70        // octets of a unique-id (RFC 1939 section 7)
	typicalUID      = 24        // the same of those we mint
	typicalRest     = 4         // octets that neighbours' unique-ids don't share
	smallChunk      = 32 << 10  // the same for a reader that asks for small ones
	maxResting      = 64        // goroutines of a feed that wait for its next call
	streamWindow    = 4 << 20   // octets under way in one call, each way
	narrowWindow    = 64 << 10  // the same of a narrow connection
	maxWide         = 16        // messages that one process reads at once through wide windows: 64 MiB
	connWindow      = 16 << 20  // the same of one connection
	transportBuffer = 64 << 10  // octets read and written at once
)

// How long things take. The server's enforcement must allow what the client
// does, or a healthy connection ends with "too many pings".
const (
	clientPing       = 10 * time.Second // gRPC's own floor
	clientPingWait   = 4 * time.Second  // also TCP_USER_TIMEOUT: octets nobody acknowledges end the connection
	serverPing       = 30 * time.Second
	serverPingWait   = 5 * time.Second
	serverPingMin    = 5 * time.Second  // the enforcement: half of clientPing
	serverConnAge    = time.Hour        // then the peer connects anew, and shows a certificate again
	serverConnIdle   = 15 * time.Minute //
	handshakeTimeout = 10 * time.Second
	connectTimeout   = 3 * time.Second // an address that swallows packets is given up
	backoffBase      = 50 * time.Millisecond
	backoffMax       = time.Second
	fetchIdle        = 10 * time.Second // what was fetched ahead and nobody reads is let go
	feedAge          = 5 * time.Minute  // of a feed; then another is begun, so that connections can end
	poolIdle         = 10 * time.Minute // a connection without calls is closed after this
	poolSweep        = time.Minute
	reloadEvery      = time.Second // certificate files are looked at no more often
)
