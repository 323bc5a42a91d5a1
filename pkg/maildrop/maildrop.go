// Package maildrop is the page of nouns that the rest of Postern is written
// against: what a maildrop is, how mail comes into one and goes out of one,
// and what every implementation promises.
//
// Two small interfaces carry everything. [Opener] lets a user in and answers
// with a [Drop]; [Deliverer] takes a message for one recipient. A shard, a
// mailbox node, the gRPC client of one and the router all implement both, so a
// front or an intake cannot tell a mailbox in its own process from one on
// another continent. Package maildroptest holds them all to one suite.
//
//	       Login                     Envelope, Body
//	         │                            │
//	Opener.Open                  Deliverer.Accept, Deliver
//	         │                            │
//	router ──┴── rpc.Client ── node ── shard (one ledger, one writer)
//	         │
//	       Drop: Info  List  Read  Remove  Check  Close
//
// # What every implementation promises
//
//   - A Drop is a snapshot. Its messages, their order, their unique-ids and
//     their sizes never change while it is open, whatever is delivered or
//     removed by others meanwhile (RFC 1939 sections 4 and 5). A message that
//     another session removed may answer NotFound to Read once its octets are
//     gone; it stays in the listing.
//   - A UID names one message of one mailbox for ever. It is never used again,
//     not after deletion, failover or compaction (RFC 1939 section 7).
//   - Deliver returns nil only when the message is durable, and from then on
//     every Open lists it until it is removed or its retention ends.
//   - Remove returns nil only when the removal is durable. All of one call's
//     messages go or none does. Removing what is gone already is no error.
//   - Every call may be repeated: Read and List change nothing, Remove is
//     idempotent, and Deliver with the same Envelope.ID within 24 hours stores
//     one message however often it is called.
//   - Every error is, or wraps, an [*Error], whose Kind tells the caller what
//     it may do next.
//   - A call whose context ends returns soon, with an error. Its outcome is
//     then unknown and Kind is Maybe if it could have changed anything.
//
// # Decisions
//
//   - 2026-11-25: List answers with columns, not with an entry for each message: one of 50,000
//     messages passes through three processes, and entries, each with a string in it, were made,
//     copied and looked through by the garbage collector in two of them. Between processes neighbours'
//     unique-ids go without what they share, which is a quarter of the octets. Refused: sizes alone
//     for LIST, since nearly every client asks UIDL too; and to begin the reply while
//     the rest arrives: a reply that has begun can't say that the listing is another than Open's.
//   - 2026-11-25: what a refusal means, the words for the user among it, is one table
//     here, by Reason: the policy decides by it, POP3 makes replies of it, and operators
//     look codes up. An error carries words only where they differ from case to case.
//     Refused: words made where a refusal is made, in five packages, half of them
//     without a code, and none of them to be translated.
//   - 2026-11-25: Helpdesk is asked of the shard's owner, for it alone knows what a login
//     would come to: attempts and lock-outs are in its memory. It answers with findings in
//     words, in the order in which a login asks. Refused: an operator's command that
//     works the verdict out again from records, and is wrong about the rest.
//   - 2026-11-23: a Drop has Info, with the count and the sum of the sizes
//     that Open answered with, next to List. A client that asks STAT and QUIT
//     must not make a node send a listing of 50,000 messages. Refused: List
//     alone, always sent at Open.
//   - 2026-11-23: a Drop has Check. It asks the mailbox's owner whether the
//     user may still read and renews the session's token; a front calls it at
//     a command when it last did so more than a second ago. That is what closes
//     a running session within two seconds of the administrator's decision.
//     Refused: a stream of changes to every front (much more state for the same
//     two seconds), and a check at each command (a round trip for each NOOP).
//   - 2026-11-23: Deliver takes an Envelope.ID, made by the intake, instead of
//     each layer guessing what a repetition is. See [Envelope].
//   - 2026-11-23: an alias answers Open and Accept with Kind Alias and the
//     primary address, and the router goes there. The alias's own shard cannot
//     know the primary's credentials, since both hash to shards of their own.
//   - 2026-11-25: SCRAM takes two calls, Challenge and an Open with the Proof. A front
//     never has what a user could be impersonated with: the mailbox's owner makes the
//     nonce, under the secret that session tokens are made with, and verifies the client's
//     words together with its own. A nonce isn't used up by its Proof: an Open whose answer was
//     lost is repeated, perhaps at another owner. For two minutes whoever has seen a
//     Proof can repeat that login, as one who has seen a session's token can for hours.
//     Refused: the keys for the front, which then could verify anybody, and offer itself
//     as the server to them; a list of used nonces, which the next owner doesn't have.
package maildrop

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"time"
)

// Class is how long a message is kept, fixed at its delivery.
type Class uint8

const (
	// ClassNone is the class of no message: a decision that refuses.
	ClassNone Class = 0
	// ClassLocal is mail of a local (POP-only) domain, kept for 60 days.
	ClassLocal Class = 1
	// ClassContinuity is mail of a continuity mailbox, kept for 5 days.
	ClassContinuity Class = 2
)

// LocalRetention and ContinuityRetention are constants of the service: there
// is no setting for them.
const (
	LocalRetention      = 60 * 24 * time.Hour
	ContinuityRetention = 5 * 24 * time.Hour
)

// Retention is how long a message of the class is kept, counted from its
// arrival. It is zero for ClassNone.
func (c Class) Retention() time.Duration {
	switch c {
	case ClassLocal:
		return LocalRetention
	case ClassContinuity:
		return ContinuityRetention
	}
	return 0
}

// Days is Retention in whole days, as EXPIRE says it (RFC 2449 section 6.7).
func (c Class) Days() int { return int(c.Retention() / (24 * time.Hour)) }

// String is the class's name in logs, metrics and output.
func (c Class) String() string {
	switch c {
	case ClassLocal:
		return "local"
	case ClassContinuity:
		return "continuity"
	}
	return "none"
}

// UID is a unique-id: 1 to 70 octets in the range 0x21 to 0x7E (RFC 1939
// section 7).
type UID string

// Valid reports whether the UID has the form that RFC 1939 section 7 asks for.
func (u UID) Valid() bool { return validWidth(len(u)) && printable(u) }

func validWidth(octets int) bool { return octets >= 1 && octets <= 70 }

// printable reports whether all octets are what a unique-id may have.
func printable[T UID | []byte](octets T) bool {
	for i := range len(octets) {
		if octets[i] < 0x21 || octets[i] > 0x7E {
			return false
		}
	}
	return true
}

// Login is one attempt of a user to open a maildrop.
type Login struct {
	Address  Address    // what the user called himself, in canonical form
	Password string     // in the clear; never logged
	Proof    *Proof     // not nil: the user proves that he knows his password, which stays with him
	Remote   netip.Addr // the client's address; the zero Addr when unknown
	Session  string     // the session's id, the same in every process's log

	// Mechanism is how the user logs in: USER, or the name of a SASL mechanism.
	Mechanism string
	Language  string // that he is answered in: RFC 6856 section 3's tag; empty: English
}

// Challenge is what a login by SCRAM-SHA-256 (RFC 7677) begins with.
type Challenge struct {
	Nonce      string // the server's part, without a comma; it counts for two minutes
	Salt       []byte
	Iterations int
}

// Proof is the client's part of a login by SCRAM-SHA-256, word for word as it came.
// It is good for the challenge's nonce alone.
type Proof struct {
	First string // client-first-message-bare (RFC 5802 section 7)
	Final string // client-final-message-without-proof
	Nonce string // of the Challenge
	Proof []byte // 32 octets
}

// Opener lets users in.
type Opener interface {
	// Challenge begins a login by SCRAM: of the Login it takes all but Password and
	// Proof. It verifies nothing, and answers for an address that doesn't exist, or has
	// no keys for SCRAM, as for any other, the same salt each time.
	Challenge(ctx context.Context, login Login) (Challenge, error)

	// Open verifies the user and takes a snapshot of his maildrop. A wrong
	// password and an unknown address are one error, Denied with ReasonCredentials,
	// after the same time; after too many of them the address is locked out for a while,
	// whether or not it exists: Denied with ReasonLockout and Wait, also with the right
	// password. A user whose password is right but who may not use POP now is Denied with
	// the policy's reason and words. From outside the account's permitted networks
	// everybody is Denied with ReasonNetwork, and no password is looked at.
	// A Proof that is right and too late is Invalid.
	Open(ctx context.Context, login Login) (Drop, error)
}

// Info is what Open learned of a maildrop.
type Info struct {
	Address Address // the primary address, also when the user gave an alias
	Class   Class   // decides EXPIRE (RFC 2449 section 6.7)
	Count   int     // messages in the snapshot
	Octets  uint64  // sum of their sizes
	Region  string  // where the maildrop is at home
	Node    string  // who answered; for the log

	// Signature is what the mailbox's owner proves itself with to a user who logged in
	// with a Proof: the 32 octets of ServerSignature (RFC 5802 section 3).
	Signature string

	// LoginDelay is the least time between two logins of this user (RFC 2449 section
	// 6.5), in whole seconds; 0: none.
	LoginDelay time.Duration
}

// Entry is one message of a listing.
type Entry struct {
	UID  UID
	Size uint64 // octets as RFC 1939 section 11 counts them: CRLF line ends, without dot-stuffing
}

// Drop is one open maildrop: a snapshot that its session reads from and
// removes from. A Drop is for one goroutine at a time.
type Drop interface {
	// Info is what Open answered with. It does no I/O.
	Info() Info

	// List returns the snapshot's messages in order of arrival.
	List(ctx context.Context) (*Listing, error)

	// Read streams a message of the snapshot in wire form, CRLF line ends and
	// dot-stuffed (RFC 1939 section 3), without the final ".CRLF", from the given
	// offset in wire octets to w. The octets are verified before they reach w.
	// It returns how many octets w took. An error of w ends it and is
	// returned wrapped in an Error of Kind Canceled. A message of the listing whose
	// octets are gone is NotFound.
	Read(ctx context.Context, uid UID, offset uint64, w io.Writer) (uint64, error)

	// Remove removes messages of the snapshot: all of them, or none.
	Remove(ctx context.Context, uids []UID) error

	// Check asks whether the session may go on: Denied, with reason and words,
	// when its user's access has ended since. Any other error says nothing about
	// the user and is no ground to end a session. It also renews the token.
	Check(ctx context.Context) error

	// Token is what Resume needs to go on with this session, at this owner or at
	// the shard's next one. Empty where sessions can't be resumed.
	Token() []byte

	// Close ends the use of the Drop. It removes nothing.
	Close() error
}

// Expecter is a Drop that fetches ahead, for the time that it takes to ask. One
// that is far away is one.
type Expecter interface {
	// Expect says which messages will be read after the next one, and in what order,
	// if all goes on as it did. It is a guess: any of them may be read, or none.
	Expect(uids []UID)
}

// Resumer goes on with sessions that an Opener began: after a call of its own,
// or when a shard has changed its owner in mid-session.
type Resumer interface {
	// Resume makes a Drop of what Open's Drop said of itself. It may do no I/O at
	// all, so a token that is forged, of another mailbox or too old shows as
	// Invalid at the first call of the Drop. A resumed Drop's Info holds at least
	// the Address.
	Resume(ctx context.Context, info Info, token []byte) (Drop, error)
}

// Recipient is one address that mail is to be delivered to.
type Recipient struct {
	Address Address
	Session string // the delivery session's id, the same in every process's log
}

// EnvelopeID names a delivery to one recipient. Two calls of Deliver for one
// mailbox with the same ID within 24 hours are one delivery.
type EnvelopeID [16]byte

// Envelope is what a message's delivery says besides the message itself.
type Envelope struct {
	// ID is the same whenever this delivery is repeated. When the message
	// carries a Received field (so a gateway's repetition can be told from a second
	// message) it is derived from sender, recipient and octets, else it is random
	// for each transaction: see [RepeatableID].
	ID      EnvelopeID
	Sender  string  // MAIL FROM, empty for the null sender
	To      Address // RCPT TO in canonical form
	Session string  // the delivery session's id

	// UID is the unique-id that an imported message keeps; empty: one is minted.
	// A UID that the mailbox has or had is a repetition when ID is the same (nil,
	// nothing is stored), whenever that was, and else Invalid.
	UID UID
	// Received is when an imported message arrived where it comes from; zero:
	// now. Retention counts from it; one that has ended is Invalid, with a Text.
	Received time.Time
}

// Body is a message in wire form: CRLF line ends, dot-stuffed, ending with
// CRLF unless empty, without the final ".CRLF". It can be read any number of
// times, so a delivery can be repeated at a new owner.
type Body interface {
	// Open returns a reader at the message's first octet. The caller closes it.
	Open() (io.ReadCloser, error)
	// Wire is the number of octets that the reader yields.
	Wire() uint64
	// Size is the number of octets without dot-stuffing: what LIST says.
	Size() uint64
}

// Deliverer takes mail.
type Deliverer interface {
	// Accept says whether mail to the recipient would be taken now. NotFound: no
	// such address. Denied: the domain has no POP purpose, or the account does
	// not take mail. Its nil is no promise: Deliver decides.
	Accept(ctx context.Context, to Recipient) error

	// Deliver stores the message and returns nil when it is durable. Errors are
	// those of Accept and Full, ReadOnly, Busy, Transient, and Maybe when it is not
	// known whether the message was stored; then it may be repeated with the same ID.
	Deliver(ctx context.Context, envelope Envelope, body Body) error
}

// Access is what the customer's administrator said of one address.
type Access uint8

const (
	// AccessInherit: nothing was said; the account's rules decide.
	AccessInherit Access = 0
	// AccessAllow: said to be allowed. It grants nothing that the account is not
	// entitled to, so it means the same as AccessInherit; it is kept for display.
	AccessAllow Access = 1
	// AccessDeny: refused, unless the account's override says allow.
	AccessDeny Access = 2
)

// String is the access rule's name in commands and output.
func (a Access) String() string {
	switch a {
	case AccessAllow:
		return "allow"
	case AccessDeny:
		return "deny"
	}
	return "inherit"
}

// AddressRecord is what is known of one address: who it belongs to, its
// credentials, its access rule. It lives in the address's own shard.
type AddressRecord struct {
	Address  Address
	Account  string    // the account's name
	Primary  Address   // not empty: this address is an alias of Primary and has no credentials of its own
	Hash     string    // argon2id in PHC string format; empty: no login
	Scram    string    // the same password's keys for SCRAM-SHA-256, as RFC 5803 writes them; empty: no login by SCRAM
	Access   Access    //
	Groups   []string  // groups that continuity events can be limited to
	Changed  time.Time // when the record was last written
	Revision uint64    // grows with each change of the record; a session's token names the credentials' one
}

// Same reports whether two records say the same of an address. When they were written
// is no part of it but the second that is kept of it, nor is the revision.
func (r AddressRecord) Same(o AddressRecord) bool {
	return r.Address == o.Address && r.Account == o.Account && r.Primary == o.Primary && r.Hash == o.Hash && r.Scram == o.Scram &&
		r.Access == o.Access && slices.Equal(r.Groups, o.Groups) && r.Changed.Unix() == o.Changed.Unix()
}

// Registrar keeps address records.
type Registrar interface {
	// PutAddress writes a record whole. An empty Hash keeps the one that is
	// there, and its Scram, so an access rule can be changed without the password at hand.
	PutAddress(ctx context.Context, record AddressRecord) error
	// Address reads a record; NotFound. Hash and Scram are never in the answer: each
	// is "set" or empty.
	Address(ctx context.Context, address Address) (AddressRecord, error)
	// RemoveAddress ends an address: no login, no delivery. Its mail stays until
	// its retention ends and shows again if the address is made again. Removing
	// what isn't there is no error.
	RemoveAddress(ctx context.Context, address Address) error
	// Addresses lists the records of an account, sorted, without hashes. A shard
	// or node answers for what it owns; a router for the account's region.
	Addresses(ctx context.Context, account string) ([]AddressRecord, error)
}

// Service is all of it: what a mailbox node serves, what a gateway relays, what
// a router offers.
type Service interface {
	Opener
	Resumer
	Deliverer
	Registrar
	Helpdesk
}
