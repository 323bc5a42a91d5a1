// Package throttle slows guessers down and bounds what one network may hold open,
// at the fronts of a region together. It promises: a source that fails waits longer
// and longer, up to a bound, and nobody is refused for what others failed; memory is
// bounded, and what is forgotten first is the least harmful; what fronts tell each
// other may come late, twice, in any order or never.
//
// A source is an IPv4 address or an IPv6 /64.
//
//	 a login                     the other fronts
//	    │ Delay    Failed            ▲     │
//	    ▼            │           Say │     │ Hear
//	┌───────────────────────────────────────────┐
//	│ Table: of each source                     │   Gate: a lock, a clock and the
//	│   own     level, connections              │   memory of logins around it
//	│   peers'  level, connections, as heard    │
//	└───────────────────────────────────────────┘
//
//	level   one for each wrong password, halved every ten minutes
//	delay   of a source's next login: none up to the free level, then 250 ms,
//	        doubled with each further one up to the longest
//
// Each front tells the others of its own failures and connections only, and numbers
// what it says: of what a peer said of a source the highest number counts. The sum
// over all fronts decides. No front's clock is compared with another's: a level is
// told as it is at the time of sending, and halves on at the receiver's.
//
// # Decisions
//
//   - 2026-11-25: the delay comes before the password is looked at, and for whoever
//     comes from the source. Refused: to delay only the answer that refuses. A guesser
//     would hang up as soon as an answer takes longer than a right password's.
//   - 2026-11-25: a carrier's NAT has thousands of users behind one address, and some
//     of them guess, or have forgotten devices. So: the delay is bounded (8 s, well
//     below what mail clients wait); a login that succeeded from the source before
//     isn't delayed, for a day; the same wrong password for the same user
//     counts once in an hour or two, however often a device repeats it; ten failures are
//     free. What is left for a user of such a network is that his first login of
//     the day at a front takes 8 s longer while somebody behind the same address
//     guesses. Guesses at a user who isn't delayed are the lock-out's, which counts
//     by mail address.
//   - 2026-11-25: a success lowers nothing. A guesser with an account of his own would
//     else be as fast as he likes.
//   - 2026-11-25: of IPv6 the /64 counts, the least that one customer gets. Refused: the
//     single address (a customer has 2^64 of them), and a /48 or /56 (some carriers
//     put many customers into one).
//   - 2026-11-25: levels add up, and are not shared as one counter: a counter that
//     two fronts write needs agreement, and sums of what each one alone writes don't.
//   - 2026-11-25: connections below an eighth of the limit aren't told to the others. So
//     a source that spreads over all fronts may have up to an eighth of the limit at
//     each of them above it; telling every client's one connection would
//     cost more than it saves.
package throttle
