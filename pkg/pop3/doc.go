// Package pop3 hands out mail by POP3 (RFC 1939, 2449, 3206, 5034, 6856, 7677) over TLS
// (RFC 8314), from the first octet or by STLS (RFC 2595). It promises: no password is
// taken without TLS, and nothing that was sent without it counts with it; a message is
// removed only by a QUIT that came whole in TRANSACTION state, all marked messages or none,
// and QUIT is answered +OK only after the back end said that the removal is durable; message numbers, sizes and
// unique-ids stay as they are from login to the end of the session; a multi-line
// reply ends with its final dot only if it is complete; no octet of a client's
// input is ever sent back; trouble of the back end never looks like a wrong
// password or an empty maildrop.
//
// Two things of RFC 1939 are left out. APOP (section 7) needs each password in the clear at
// the server, and MD5; what it was for TLS does better, and SCRAM without TLS's help. So the
// greeting has no timestamp, and APOP is an unknown command. And USER and PASS in the clear:
// whoever listens has the mailbox (RFC 8314 section 3.3).
//
// testdata/checklist names each item of the protocol and its test.
//
// Two parts. [Session] is the protocol: a pure machine without I/O, clock or
// goroutine. conn, inside [Server], moves octets and asks the maildrop, and knows no
// protocol.
//
//	      octets                 line, result
//	client ───────── conn ────────────────────▶ Session
//	       ◀────────  │  ◀──────────────────────
//	                  │      reply, request, end
//	                  ▼
//	     maildrop.Opener, maildrop.Drop
//
//	                  connection, TLS handshake     or   connection
//	                           │ greeting                 │ greeting
//	                           ▼                          ▼
//	                           │◀── TLS handshake ── CLEARTEXT: CAPA STLS QUIT
//	  ┌──────────────── AUTHORIZATION ◀─┐ refused (3 refused credentials: closed)
//	  │ QUIT              │    └────────┘
//	  │        USER+PASS, AUTH ── (Challenge) Open
//	  │                   ▼
//	  │             TRANSACTION ◀─┐  STAT LIST UIDL TOP RETR DELE RSET NOOP CAPA
//	  │            │  │    │  └───┘  (first Check, when the last is over a second old)
//	  │     silence│  │    │ Check: access ended
//	  │      or cut│  │QUIT└──────────────┐
//	  │            │  ▼                   │
//	  │            │ UPDATE ── Remove     │
//	  ▼            ▼  ▼                   ▼
//	  +OK   nothing  +OK or -ERR    -ERR [SYS/PERM]      then closed
//	         is removed             nothing is removed
//
// A Session waits for one thing at a time. Line is called when it waits for none;
// Result answers the request of the Step before:
//
//	            Line ─▶ Step{Reply}                               next Line
//	            Line ─▶ Step{Do: Check} ─ Result ─▶ Step{Do: List} ─ Result ─▶ Step{Reply}
//	UIDL:       Line ─▶ Step{Reply, Do: More} ─ Result ─▶ … ─▶ Step{Reply}
//	RETR:       Line ─▶ Step{Do: Read} ─ Result{Begun} ─▶ Step{Reply: ".CRLF"}
//
// # Decisions
//
//   - 2026-11-25: by SCRAM a front learns nothing that it could log in with later: it
//     carries the client's words to the mailbox's owner, whose nonce counts for two minutes.
//     The drop is open before the
//     client has seen the owner's signature, since one call verifies and opens; a client that
//     then cancels has it closed. Refused: a third call.
//   - 2026-11-25: SCRAM fails with -ERR alone, which RFC 5802 section 5.1 allows, with the
//     value of e= in its words. Refused: e= in a challenge; clients that don't answer it
//     would wait for us. A malformed message, another nonce or another channel is no guess:
//     nobody is asked for it.
//   - 2026-11-25: SCRAM-SHA-256-PLUS is offered by configuration alone: mutt on Debian 12
//     takes it where it is, has no binding to give, and tries nothing else.
//   - 2026-11-25: LOGIN takes the name as an initial response too, though its draft has the
//     server speak first: Outlook sends it so.
//   - 2026-11-25: OAUTHBEARER and XOAUTH2 are not in the table before there is somebody to
//     verify tokens: a mechanism that is offered must be able to succeed.
//   - 2026-11-25: the state before STLS is one of its own, so that the table of commands
//     says what is possible without TLS. Octets behind STLS end the connection, before
//     TLS. Refused: to drop them and go on; a client that sends them is broken or isn't
//     alone, and either is better found at once.
//   - 2026-11-25: a session in which the client sent nothing and left is logged at debug
//     level: balancers look every few seconds whether we are there.
//   - 2026-11-23: the listing is fetched at the first command that needs unique-ids
//     or single sizes. LIST n and UIDL n of a number that doesn't exist, STAT, and
//     DELE don't. Refused: with the login; a poll that finds nothing new asks STAT
//     only.
//   - 2026-11-23: an empty line gets no reply. Clients that send one send it behind a
//     command by mistake, and an -ERR would shift all their replies by one.
//   - 2026-11-23: a user name that is no mail address gets the reply of a wrong
//     password and counts as one; so does a password that isn't UTF-8. Neither is
//     asked of the back end: nobody can have them.
//   - 2026-11-23: AUTH lines may be as long as a response (RFC 5034 section 4 has 255
//     octets for the command and 12288 for responses): clients with long tokens
//     put them into the initial response all the same. All other lines: 255 octets.
//   - 2026-11-23: protocol errors after the login neither close nor slow a session.
//     Before it, lines are limited in number, so that a stranger holds his slot for a
//     bounded time.
//   - 2026-11-23: TOP with at least as many lines as the message has octets is RETR,
//     since fetchmail fetches that way.
//   - 2026-11-23: a failed Check other than Denied counts as a Check for the next
//     second. Refused: to ask again at each command, which would make each wait for a
//     mailbox node that is away.
//   - 2026-11-23: QUIT without marks doesn't Check. It changes nothing, and the
//     client only wants to go.
//   - 2026-11-23: a client that closes its connection takes the call under way with
//     it; one that has only finished sending (close_notify) doesn't, and neither does one
//     whose commands are still waiting. Nothing but the server's end cancels the calls of
//     a QUIT: it was said (RFC 1939 section 6).
//   - 2026-11-23: TLS records are as large as may be, and cut here, not in
//     crypto/tls, so that CRLF.CRLF is never cut in two. Refused: its growing record
//     size, which helps web pages and cuts where it likes.
//   - 2026-11-25: every word for a user has a name, and a table in each language. LANG
//     (RFC 6856 section 3) chooses one; without it replies are English and ASCII, also
//     after UTF8. Response codes, reasons and references are for machines and support, and in no
//     language. Refused: a catalogue of golang.org/x/text, whose plural rules and fallbacks
//     five complete tables don't need, and whose missing text shows at run time.
//   - 2026-11-25: UTF8 changes nothing about messages: none is stored that was sent by
//     SMTPUTF8 (see package lmtp), so all of them are fit for every client, and octets and
//     sizes are the same in both modes.
//   - 2026-11-25: UTF8 is taken after the login too, until the first command that says
//     something of the maildrop; from then on it is -ERR. RFC 6856 section 2 has it in
//     AUTHORIZATION only, so that no size changes that was told; but classic Outlook says
//     it right behind PASS, and gives the whole download up at -ERR. Refused: always -ERR, and
//     always +OK.
//   - 2026-11-25: a first line that no POP3 client can mean (HTTP, SMTP, control octets)
//     ends the session. A later one, or a mere mistake, is an unknown command. A stranger
//     who sends no line end is left to the time before login.
package pop3
