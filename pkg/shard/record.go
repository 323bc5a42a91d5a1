package shard

import (
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// record is an address's record, small, for there are many. It never changes
// once it stands in a mailbox, so it may be read without the lock.
type record struct {
	account     *string         // shared text
	alias       *alias          // nil: neither an alias nor in any group
	revision    ledger.Position // of the entry that last wrote the record
	credentials ledger.Position // of the entry that last changed who may log in
	changed     uint32          // Unix time in seconds
	access      maildrop.Access
	credential  credential
}

// alias is what few records have.
type alias struct {
	primary maildrop.Address
	groups  []*string // shared texts
}

// primary is the address that this one is another name of, or "".
func (r *record) primary() maildrop.Address {
	if r.alias == nil {
		return ""
	}
	return r.alias.primary
}

// full is the record as others know it. The hash is only told to be set.
func (r *record) full(address maildrop.Address) maildrop.AddressRecord {
	full := maildrop.AddressRecord{
		Address: address, Account: *r.account, Primary: r.primary(), Access: r.access,
		Changed: time.Unix(int64(r.changed), 0).UTC(), Revision: uint64(r.revision),
	}
	if r.alias != nil {
		for _, group := range r.alias.groups {
			full.Groups = append(full.Groups, *group)
		}
	}
	if !r.credential.empty() {
		full.Hash = hashSet
	}
	return full
}

// hashSet stands for a hash in what is told of a record.
const hashSet = "set"

// put takes an address's record in. No hash means the one that is there; an
// alias has none.
func (s *state) put(at ledger.Position, a *ledger.Address) {
	address := maildrop.Address(a.Address)
	box := s.mailbox(address)
	was := box.record
	if a.Removed {
		s.unput(address, box)
		return
	}
	r := &record{account: s.text(a.Account), changed: seconds(a.Time), revision: at, credentials: at, access: maildrop.Access(a.Access)}
	if a.Primary != "" || len(a.Groups) > 0 {
		r.alias = &alias{primary: maildrop.Address(strings.Clone(a.Primary)), groups: s.shared(a.Groups)}
	}
	switch {
	case a.Primary != "": // no credentials of its own
	case a.Hash == "" && was != nil:
		r.credential = was.credential
	default:
		r.credential = packCredential(a.Hash, s.text)
	}
	if was != nil && was.credential.hash() == r.credential.hash() && was.primary() == r.primary() {
		r.credentials = was.credentials
	}
	if was == nil {
		s.addresses++
	}
	box.record = r
}

// unput ends an address. Its messages stay until they expire.
func (s *state) unput(address maildrop.Address, box *mailbox) {
	if box.record != nil {
		s.addresses--
	}
	box.record = nil
	if len(box.messages) == 0 {
		delete(s.mailboxes, address)
	}
}

// record finds an address's record, or nil.
func (s *state) record(address maildrop.Address) *record {
	if box := s.mailboxes[address]; box != nil {
		return box.record
	}
	return nil
}

// records lists an account's, sorted by address.
func (s *state) records(account string) []maildrop.AddressRecord {
	var list []maildrop.AddressRecord
	for address, box := range s.mailboxes {
		if box.record != nil && *box.record.account == account {
			list = append(list, box.record.full(address))
		}
	}
	slices.SortFunc(list, func(a, b maildrop.AddressRecord) int {
		return strings.Compare(string(a.Address), string(b.Address))
	})
	return list
}

// text returns the one copy of a text that is kept. There are as many as
// there are accounts, groups and costs of hashes.
func (s *state) text(t string) *string {
	kept := s.texts[t]
	if kept == nil {
		t = strings.Clone(t)
		kept = &t
		s.texts[t] = kept
	}
	return kept
}

func (s *state) shared(texts []string) []*string {
	shared := make([]*string, len(texts))
	for i, t := range texts {
		shared[i] = s.text(t)
	}
	return shared
}
