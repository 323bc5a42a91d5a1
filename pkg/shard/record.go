package shard

import (
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// record is an address's record, small, for there are many. It never changes
// once it stands in a mailbox, it is only replaced: a copy may be read without the
// lock.
type record struct {
	common      *common         // nil: no such address, or not any more
	more        *more           // nil: nothing of that
	revision    ledger.Position // of the entry that last wrote the record
	credentials ledger.Position // of the entry that last changed who may log in
	secret      secret          // salt and tag of a packed hash: see credential
	changed     uint32          // Unix time in seconds
	access      maildrop.Access
}

// common is what many records have in common; there is one copy of it.
type common struct {
	account string
	hash    string // what the account's password hashes begin with: see credential
}

// more is what not every record has. Its 96 octets are a size that the allocator has.
type more struct {
	alias *alias     // nil: neither an alias nor in any group
	keys  scram.Keys // of the credential's password; zero: none
}

// alias is what few records have.
type alias struct {
	primary maildrop.Address
	groups  []string
}

// furnish sets what not every record has.
func (r *record) furnish(primary string, groups []string, keys scram.Keys) {
	if primary == "" && len(groups) == 0 && keys == (scram.Keys{}) {
		return
	}
	r.more = &more{keys: keys}
	if primary != "" || len(groups) > 0 {
		r.more.alias = &alias{primary: maildrop.Address(primary), groups: groups}
	}
}

func (r *record) exists() bool { return r.common != nil }

func (r *record) account() string { return r.common.account }

func (r *record) credential() credential {
	return credential{text: r.common.hash, secret: r.secret}
}

// keys are those for SCRAM; ok is false if there are none.
func (r *record) keys() (keys scram.Keys, ok bool) {
	if r.more != nil {
		keys = r.more.keys
	}
	return keys, keys.Iterations > 0
}

// primary is the address that this one is another name of, or "".
func (r *record) primary() maildrop.Address {
	if r.more == nil || r.more.alias == nil {
		return ""
	}
	return r.more.alias.primary
}

func (r *record) groups() []string {
	if r.more == nil || r.more.alias == nil {
		return nil
	}
	return r.more.alias.groups
}

// full is the record as others know it. Hash and keys are only told to be set.
func (r *record) full(address maildrop.Address) maildrop.AddressRecord {
	full := maildrop.AddressRecord{
		Address: address, Account: r.account(), Primary: r.primary(), Access: r.access,
		Changed: time.Unix(int64(r.changed), 0).UTC(), Revision: uint64(r.revision),
	}
	full.Groups = slices.Clone(r.groups())
	if !r.credential().empty() {
		full.Hash = hashSet
	}
	if _, ok := r.keys(); ok {
		full.Scram = hashSet
	}
	return full
}

// whole is the record with its hash and its keys: for the region that it moves to.
func (r *record) whole(address maildrop.Address) maildrop.AddressRecord {
	whole := r.full(address)
	whole.Hash, whole.Scram = r.credential().hash(), ""
	if keys, ok := r.keys(); ok {
		whole.Scram = keys.Text()
	}
	return whole
}

// hashSet stands for a hash, and for keys, in what is told of a record.
const hashSet = "set"

// put takes an address's record in, unless it is older than the one there. No
// hash means the one that is there; an alias has none.
//
// Over a checkpoint that is ahead this converges: if the address is there, what
// its record has seen is skipped; if it isn't, the removal that the checkpoint has seen
// comes again, before anything newer.
func (s *state) put(at ledger.Position, a *ledger.Address) {
	address := maildrop.Address(a.Address)
	box := s.mailbox(address)
	was := box.record
	if was.exists() && was.revision >= at {
		return
	}
	if a.Removed {
		s.unput(address, box)
		return
	}
	box.record = s.newRecord(at, a, was)
	if !was.exists() {
		s.addresses++
	}
}

func (s *state) newRecord(at ledger.Position, a *ledger.Address, was record) record {
	r := record{changed: seconds(a.Time), revision: at, credentials: at, access: maildrop.Access(a.Access)}
	var c credential
	var keys scram.Keys
	old, _ := was.keys()
	switch {
	case a.Primary != "": // no credentials of its own
	case a.Hash == "" && was.exists():
		c, keys = was.credential(), old
	default:
		c = packCredential(a.Hash)
		keys, _ = scram.ParseKeys(a.Scram) // what can't be read is no login by SCRAM
	}
	r.common, r.secret = s.common(a.Account, c.text), c.secret
	r.furnish(strings.Clone(a.Primary), cloned(a.Groups), keys)
	if was.exists() && was.credential() == c && old == keys && was.primary() == r.primary() {
		r.credentials = was.credentials
	}
	return r
}

// unput ends an address. Its messages stay until they expire.
func (s *state) unput(address maildrop.Address, box *mailbox) {
	if box.record.exists() {
		s.addresses--
	}
	box.record = record{}
	s.tidy(s.name(address), box)
}

// record finds an address's record.
func (s *state) record(address maildrop.Address) (r record, ok bool) {
	if box := s.box(address); box != nil {
		r = box.record
	}
	return r, r.exists()
}

// records lists an account's, sorted by address.
func (s *state) records(account string) []maildrop.AddressRecord {
	var list []maildrop.AddressRecord
	for n, box := range s.mailboxes {
		if box.record.exists() && box.record.account() == account {
			list = append(list, box.record.full(s.address(n)))
		}
	}
	slices.SortFunc(list, func(a, b maildrop.AddressRecord) int {
		return strings.Compare(string(a.Address), string(b.Address))
	})
	return list
}

// common returns the one copy that is kept. There are as many as there are
// accounts and costs of hashes; hashes that can't be packed are their own.
func (s *state) common(account, hash string) *common {
	one := s.commons[common{account, hash}]
	if one == nil {
		one = &common{strings.Clone(account), strings.Clone(hash)}
		s.commons[*one] = one
	}
	return one
}

func cloned(texts []string) []string {
	list := make([]string, len(texts))
	for i, t := range texts {
		list[i] = strings.Clone(t)
	}
	return list
}
