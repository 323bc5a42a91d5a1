// Package scram is SCRAM-SHA-256 (RFC 5802, RFC 7677) from the server's side: the
// keys that are kept of a password, and the four messages. It is pure: no exchange,
// clock or chance but the salt of new keys.
//
//	client-first   n,,n=anna@example.com,r=<client's nonce>
//	server-first   r=<client's nonce><ours>,s=<salt>,i=<iterations>
//	client-final   c=<header, channel binding>,r=<both nonces>,p=<proof>
//	server-final   v=<signature>
//
// Who reads the client's messages need not have the keys: a front parses them, and
// the owner of the address verifies the Proof over the text that both know.
//
// # Contract
//
//   - Parsing takes the grammar of RFC 5802 section 7 and nothing else, and at most
//     MaxMessage octets. An extension that the client says is mandatory (m=) is refused.
//   - Keys don't hold the password, nor anything that a client could log in with;
//     they can be guessed at: they are secrets.
//   - Comparisons take the same time wherever the difference is.
//
// # Decisions
//
//   - 2026-11-25: a password is prepared by SASLprep (RFC 4013, asked for by RFC 5802
//     section 2.2), as clients do. One that it refuses, or leaves nothing of, counts as its
//     octets, so that each password that works with PASS works here with a client that
//     does the same. Refused: OpaqueString of RFC 8265, which makes other octets (NFC in
//     place of NFKC) than the clients of today send.
//   - 2026-11-25: 15,000 iterations, the tenth of a second of RFC 7677 section 4 on the
//     clients of its day; the client pays for them, at each login. Who steals the keys
//     guesses faster than at argon2id: it is the price of the mechanism, and why keys are
//     encrypted at rest with all the rest.
//   - 2026-11-25: keys are written as RFC 5803 section 3 has them for directories, as
//     other servers do.
//   - 2026-11-25: SCRAM-SHA-1 isn't there: every client at hand that knows it knows
//     SHA-256 as well, and it would be a second set of keys for each address.
package scram
