package maildrop

import (
	"context"
	"net/netip"
	"strconv"
	"time"
)

// Attempt is a try to log in, or what a front refused in a session, as the owner of the
// address's shard remembers it. Those that are alike (the client's address, the mechanism
// and the outcome are the same) are one Attempt, told by the latest of them.
type Attempt struct {
	Time      time.Time // of the latest
	First     time.Time // of the first
	Times     int
	Remote    netip.Addr    // zero: unknown
	Mechanism string        // USER, or SASL's name
	Language  string        // that the latest was answered in
	Session   string        // of the latest, as in every log
	Reason    Reason        // why not; ReasonNone: the user was let in
	Wait      time.Duration // the Error's, for Reason
	Text      string        // likewise
	Class     Class         // with Count and Octets: what he was let in to
	Count     int
	Octets    uint64
}

// Finding is one thing that a login depends on.
type Finding struct {
	Subject string // a fixed word: "networks", "override", …
	Value   string // what it is
	Words   string // what that means for this login; one line
	Reason  Reason // refuses the login; ReasonNone: doesn't
}

// Explanation is all that decides an address's login at the moment.
type Explanation struct {
	Address  Address // the primary one
	Known    bool    // there is such an address, and its domain's account made it
	Node     string  // the owner of its shard
	Shard    int
	Epoch    uint64
	Since    time.Time     // the owner's memory begins here: counts, and Attempts
	Findings []Finding     // in the order in which a login asks
	Class    Class         // the verdict for the right password: what he is let in to,
	Reason   Reason        // or why not
	Wait     time.Duration // the Error's, for Reason
	Attempts []Attempt     // the latest first
}

// Question is what is to be explained.
type Question struct {
	Address Address
	Remote  netip.Addr // where the user would log in from; zero: from a permitted network
}

// Helpdesk is for those who help users to log in.
type Helpdesk interface {
	// Explain says what a login would come to with the right password, and why. It
	// changes nothing. An address that doesn't exist is explained as well. Alias, when
	// the address is one.
	Explain(ctx context.Context, q Question) (Explanation, error)
	// Unlock ends an address's lock-out, and says whether there was one. Wrong passwords
	// are counted anew. Alias, when the address is one.
	Unlock(ctx context.Context, address Address) (was bool, err error)
	// Tell has the owner remember what a front refused that the owner wasn't asked about,
	// at most MaxTold Attempts. What it remembers of the same session already counts once.
	// Alias, when the address is one.
	Tell(ctx context.Context, address Address, refused []Attempt) error
}

// MaxTold is how many Attempts one Tell may have: as many as are remembered of an address.
const MaxTold = 10

// Counted is a number with its English noun: "1 minute", "15 minutes".
func Counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
