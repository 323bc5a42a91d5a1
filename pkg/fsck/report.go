package fsck

import (
	"fmt"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// Damage is something that is lost for certain.
type Damage struct {
	Shard int    `json:"shard"`
	Key   string `json:"key"`   // of the object
	Octet int    `json:"octet"` // where in it; -1: all of it, or not known
	What  string `json:"what"`

	// Whose mail it is; empty: nobody's, or not known.
	Mailbox maildrop.Address `json:"mailbox,omitempty"`
	UID     maildrop.UID     `json:"unique_id,omitempty"`
	// Dead: the message was removed or has expired, or its body is elsewhere by now:
	// nobody misses these octets.
	Dead bool `json:"dead,omitempty"`
}

// String is for people.
func (d Damage) String() string {
	where := d.Key
	if d.Octet >= 0 {
		where += fmt.Sprintf(": octet %d", d.Octet)
	}
	switch {
	case d.Mailbox == "":
		return where + ": " + d.What
	case d.Dead:
		return fmt.Sprintf("%s: %s (%s of %s; nobody misses it)", where, d.What, d.UID, d.Mailbox)
	}
	return fmt.Sprintf("%s: %s (%s of %s)", where, d.What, d.UID, d.Mailbox)
}

// Usage is how much there is of something.
type Usage struct {
	Objects int64 `json:"objects"`
	Octets  int64 `json:"octets"`
}

func (u *Usage) add(octets int64) {
	u.Objects++
	u.Octets += octets
}

// Sum is the messages of one retention class, their bodies in octets of wire form.
type Sum struct {
	Messages     int64 `json:"messages"` // that their users can fetch
	Octets       int64 `json:"octets"`
	DeadMessages int64 `json:"dead_messages"` // removed or expired, and not forgotten yet
	DeadOctets   int64 `json:"dead_octets"`
}

// Kinds of objects besides those of ledger.ObjectKind.
const (
	KindManifest ledger.ObjectKind = "manifest"
	KindPart     ledger.ObjectKind = "checkpoint"
	KindKey      ledger.ObjectKind = "key"   // of a store that encrypts: not ours to verify
	KindOther    ledger.ObjectKind = "other" // no object of ours
)

// Shard is what was found in one shard.
type Shard struct {
	Number    int    `json:"shard"`
	Identity  uint32 `json:"identity"`
	Epoch     uint64 `json:"epoch"`
	Last      uint64 `json:"last"` // sequence
	Addresses int    `json:"addresses"`
	Mailboxes int    `json:"mailboxes"` // with mail in them

	Classes map[string]Sum              `json:"classes"`
	Stored  map[ledger.ObjectKind]Usage `json:"stored"`
	Garbage map[ledger.ObjectKind]Usage `json:"garbage"` // objects that nothing names; some may be on their way
	Checked Usage                       `json:"checked"` // objects and octets that were read
	Damage  []Damage                    `json:"damage"`
	// Forgotten are ledger objects that were lost, and that it was decided to go on without.
	Forgotten []string `json:"forgotten,omitempty"`
	More      int      `json:"more_damage,omitempty"` // beyond maxDamage: counted, not kept
}

// maxDamage bounds what is kept of one shard's damage.
const maxDamage = 100_000

// Report is what was found in a region.
type Report struct {
	Region string  `json:"region"`
	Shards []Shard `json:"shards"` // that were ever owned, by number
	Empty  int     `json:"empty"`  // the others
}

// Total adds the shards up. Its Number, Identity, Epoch and Last say nothing, and it
// lists no damage: see Damaged.
func (r *Report) Total() Shard {
	t := newShard(-1)
	for _, s := range r.Shards {
		t.Addresses += s.Addresses
		t.Mailboxes += s.Mailboxes
		t.Checked.Objects += s.Checked.Objects
		t.Checked.Octets += s.Checked.Octets
		for class, sum := range s.Classes {
			have := t.Classes[class]
			have.Messages += sum.Messages
			have.Octets += sum.Octets
			have.DeadMessages += sum.DeadMessages
			have.DeadOctets += sum.DeadOctets
			t.Classes[class] = have
		}
		addUsage(t.Stored, s.Stored)
		addUsage(t.Garbage, s.Garbage)
	}
	return t
}

func addUsage(to, from map[ledger.ObjectKind]Usage) {
	for kind, u := range from {
		have := to[kind]
		have.Objects += u.Objects
		have.Octets += u.Octets
		to[kind] = have
	}
}

// Damaged is how many damages there are, and of these how many are of messages
// that somebody misses or of what all of a shard stands on.
func (r *Report) Damaged() (all, grave int) {
	for _, s := range r.Shards {
		all += len(s.Damage) + s.More
		grave += s.More
		for _, d := range s.Damage {
			if !d.Dead {
				grave++
			}
		}
	}
	return all, grave
}

func newShard(number int) Shard {
	return Shard{
		Number: number, Classes: make(map[string]Sum), Damage: []Damage{},
		Stored: make(map[ledger.ObjectKind]Usage), Garbage: make(map[ledger.ObjectKind]Usage),
	}
}
