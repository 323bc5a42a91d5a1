package maildrop

import (
	"context"
	"fmt"
)

// Move names a move of an account from one region to another. An account's later moves
// have greater IDs, so what is left over from an earlier one is known by it.
type Move struct {
	Account string
	ID      uint64 // from 1
}

// String is for logs.
func (m Move) String() string { return fmt.Sprintf("move %d of account %s", m.ID, m.Account) }

// Stage is how far a move has come in one shard, durably. Each region has three of them:
//
//	it moves to    (none) ─▶ arriving ─▶ arrived, or discarded when the move is given up
//	it moves from  (none) ─▶ leaving ──▶ purged, or stayed likewise
//
// Before it leaves, the account is served from where it is. While it arrives, the shard takes
// what the other region pushes, and nothing else. Numbers are part of the ledger's format.
type Stage uint8

// The stages. The last ones of a move may be reached from any earlier one or none, so that
// what is under way elsewhere can't begin it anew.
const (
	StageNone      Stage = 0
	StageArriving  Stage = 1
	StageArrived   Stage = 2 // its users are served here
	StageDiscarded Stage = 3 // what had arrived is withdrawn
	StageLeaving   Stage = 4 // sealed: what was acknowledged is all there will be
	StageStayed    Stage = 5 // its users are served here, as before
	StagePurged    Stage = 6 // all of it is withdrawn
)

var stageNames = map[Stage]string{ //nolint:gochecknoglobals // a constant
	StageNone: "none", StageArriving: "arriving", StageArrived: "arrived", StageDiscarded: "discarded",
	StageLeaving: "leaving", StageStayed: "stayed", StagePurged: "purged",
}

// String is the stage's name in logs and output.
func (s Stage) String() string {
	if name, ok := stageNames[s]; ok {
		return name
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// Known reports whether there is such a stage.
func (s Stage) Known() bool { return s <= StagePurged }

// Survey is what a shard has of an account.
type Survey struct {
	Stage     Stage  // of the move that was asked about
	Addresses uint64 // that have a record
	Mailboxes uint64 // that have mail
	Messages  uint64 // that live
	Octets    uint64 // of these, in wire form
}

// Pushed is what one pass of a push has done.
type Pushed struct {
	Mailboxes uint64 // that were looked at
	Records   uint64 // of addresses, sent because they were others or not there
	Messages  uint64 // sent
	Octets    uint64 // of these, in wire form
	Withdrawn uint64 // had been sent, and are removed here since
	Damaged   uint64 // can't be read, and weren't sent
}

// Add adds another's numbers.
func (p *Pushed) Add(o Pushed) {
	p.Mailboxes += o.Mailboxes
	p.Records += o.Records
	p.Messages += o.Messages
	p.Octets += o.Octets
	p.Withdrawn += o.Withdrawn
	p.Damaged += o.Damaged
}

// Changes are the differences that the pass found, and made up for.
func (p Pushed) Changes() uint64 { return p.Records + p.Messages + p.Withdrawn }

// Mover does one shard's part of a move. Who calls is a front that an operator drives;
// what it may bring about is what the account's record in the directory says, as the shard's
// owner knows it: where that is behind, or another move is under way, it is Transient.
// Every call may be repeated.
type Mover interface {
	// Survey counts what the shard has of the account.
	Survey(ctx context.Context, shard int, move Move) (Survey, error)
	// Push brings the region that the account moves to up to what the shard has: one
	// pass over its mailboxes. progress, if not nil, hears of it now and then. final: only if
	// the shard is Leaving; what is there then is compared with what is here.
	Push(ctx context.Context, shard int, move Move, final bool, progress func(Pushed)) (Pushed, error)
	// Stage brings the shard to a stage. It returns nil when that is durable, for
	// Discarded and Purged when nothing of the account is left.
	Stage(ctx context.Context, shard int, move Move, stage Stage) error
}

// Receiver takes mailboxes from the region that an account moves away from. Each call
// is Transient unless the address's shard is Arriving in that move.
type Receiver interface {
	// Inventory lists the messages that the mailbox has.
	Inventory(ctx context.Context, move Move, address Address) (*Listing, error)
	// Receive stores a message, under the UID, with the time and the class that it
	// had. One whose UID the mailbox has, or whose retention is over, is stored already.
	Receive(ctx context.Context, move Move, message Arrival, body Body) error
	// ReceiveAddress writes an address's record whole, its Hash and Scram as they are. A
	// record without an Account says that the address has none.
	ReceiveAddress(ctx context.Context, move Move, record AddressRecord) error
	// Withdraw takes back messages that were received. What isn't there is no error.
	Withdraw(ctx context.Context, move Move, address Address, uids []UID) error
}

// Arrival is a message on its way to another region.
type Arrival struct {
	Envelope // with UID and Received
	Class    Class
}
