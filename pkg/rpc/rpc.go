// Package rpc carries the Maildrop service over gRPC: a server around any
// maildrop.Service, and a client that is one. What a caller sees of a mailbox
// is the same whether it is in its own process or on another continent: a Kind
// that goes in comes out, with its reason, words and primary address.
//
//	front, intake ── Pool.Client(address) ──TLS 1.3, both sides──▶ Server ── Service
//	                      │                                          │
//	       maildrop.Error ◀── Fault, the detail of the status ◀── maildrop.Error
//
// # What a broken call means
//
// An error that the server answered comes with a Fault and says what it says.
// Without one the transport broke, and the Kind depends on what is known:
//
//	                          Open List Read Check …   Remove Deliver Put…
//	never left this process   Transient                Transient
//	left, no answer came      Transient                Maybe
//	the caller's context      Canceled                 Canceled before it left, else Maybe
//	too large, unknown method Internal                 Internal
//
// A Deliver has "left" only when its last chunk was handed over: the server
// stores nothing of a body that is shorter than its envelope says.
//
// # Feeds
//
// An intake makes its calls of Accept and Deliver by one stream to each server, many of
// them at once, each answered when it is done (feed.go, feed_serve.go). Kinds, permissions
// and metrics are those of the calls, whichever way they went. Bodies of more than 256 KiB, imports, and what goes
// to a server of an earlier version, which has no Feed, have a stream each, as all
// calls of other processes. A feed is given up for another after 5 minutes, so that
// connections and certificates get old no more than otherwise; a server that stops
// says so in it.
//
// # Bodies on the server
//
// A body of up to 1 MiB is read whole before the service sees it, and may be
// opened any number of times. A larger one is a stream off the network: it may
// be opened ONCE, a second Open is Internal. The declared length is enforced in
// both: a reader ends with io.EOF only after exactly so many octets.
//
// # Identities
//
// Every process has a certificate of the deployment's own CA with a URI
// postern://<region>/<role>/<name> in it; both sides verify. Nothing else of a
// certificate matters, names and addresses included: a process is who its URI
// says wherever it runs. [NodeAllow] and [GatewayAllow] say who may call what;
// everything not allowed there is refused.
//
// # Decisions
//
//   - 2026-11-25: an account's move between regions is a service of its own, Transfer. What
//     is handed over is taken at a gateway from mailbox nodes of other regions alone, and there
//     from those of the region that the account's record says it leaves. Fronts of any region bring
//     shards to a stage, which the shards hold against that record. Refused: Import and PutAddress
//     for it, which any front may call for any account.
//   - 2026-11-23: message bodies don't pass through the protobuf codec. The wire
//     format is the one in the .proto file, byte for byte (a test compares), but
//     the octets are framed where they lie and handed on in the pieces they came
//     in: one copy at the sender, none at the receiver. Refused: a bytes field
//     decoded by the generated code, which allocates and copies each chunk twice.
//   - 2026-11-23: between crypto/tls and the socket is a buffer of 64 KiB each way
//     (gather.go). crypto/tls makes a system call for each record of 16 KiB; together
//     they cost more than the cipher. It saves 12 % of the CPU of a Read of 16 MiB and 19 %
//     of a Deliver of 90 KB, both ends counted. Refused: workers that are
//     kept for calls (grpc.NumStreamWorkers), which saved nothing.
//   - 2026-11-23: static windows, 4 MiB a stream and 16 MiB a connection. A call
//     may cross an ocean, 250 ms there and back, and must not crawl; gRPC's
//     estimator begins at 64 KiB and learns anew on each connection. The price is
//     up to 4 MiB at a front for each slow reader of a large message.
//   - 2026-11-23: fail-fast calls and no retries in gRPC. Whoever calls decides
//     what to repeat and where (package router); two layers that repeat multiply.
//   - 2026-11-23: a front may Accept and Deliver at the nodes of its region. The
//     front's process is also its region's gateway, and relays what another
//     region's intake hands in; the gateway itself takes that from intakes only.
//     Refused: intakes in the path of the gateway (a second door to keep), and
//     passing the intake's identity on in the message (the node would believe
//     the front anyway).
//   - 2026-11-23: a message with a UID or a time of its own is sent by the method
//     Import, and Deliver refuses one. Only fronts may call Import, at the nodes of
//     their region and at other regions' gateways: an operator's import goes
//     through one, and a front may write every region's address records anyway, which
//     is more. Refused: a look into Deliver's envelope for who may say what (who may
//     call would no longer be one table), and operators at the nodes.
//   - 2026-11-23: a caller that may not call is told Internal, not Denied. Denied
//     is about users and makes a front say "wrong password" and an intake 550
//     where a certificate was made out wrongly.
//   - 2026-11-23: no TLS session resumption. Connections live for an hour, and a
//     resumed session skips the look at a certificate that was replaced.
//   - 2026-11-23: password and sender are bytes on the wire: clients and gateways
//     send octets that are no UTF-8, and a string field refuses to carry them.
//   - 2026-11-25: sixteen messages at a time are read through windows of 4 MiB, and the
//     others through a second connection with windows of 64 KiB, in pieces of 32 KiB.
//     gRPC fixes the window when it connects, and a reader that stops keeps it full. On
//     one machine or in one region narrow windows are as quick; from another region
//     they give some 400 KB/s at a round trip of 150 ms. Refused: narrow windows for all.
//   - 2026-11-25: a Read may go on with messages that the caller expects to read next, which
//     then arrive while the one before is being read, as many octets as its window has. Who
//     is asked is the router: only from another region is it worth its while. What nobody
//     reads within 10 s is let go. Refused: many Reads at once, each with a window of
//     its own, and a cache of messages at the front, which is what windows are already.
//   - 2026-11-25: feeds. Two streams of gRPC for each delivery, one for the question and one
//     for the message, took 270 allocations, and goroutines whose stacks grow anew. Without
//     them a delivery of 4 KB takes 0.21 ms of processor time instead of 0.29 to 0.41, intake and
//     node together, and one of 90 KB 0.87 to 1.07 instead of 1.07 to 1.27. The price: the calls of one
//     feed share a window of 4 MiB, which at 250 ms there and back is 16 MB/s of mail for
//     each pair of an intake and a gateway. Refused: to keep the answer to Accept, and to
//     ask with Deliver (package lmtp says why); feeds for fronts, which hand over few deliveries,
//     and may not deliver at gateways; and many calls in one message: gRPC's writer makes one write
//     of what is there anyway.
package rpc
