// Package directory keeps what is known of regions, accounts and domains: small
// records in the global etcd, written by [Store], followed by a [View] in the
// memory of every process.
//
//	/postern/v1/global/regions/<name>    Region          JSON
//	/postern/v1/global/accounts/<name>   policy.Account  JSON
//	/postern/v1/global/domains/<name>    policy.Domain   JSON
//
//	        ┌──────── error, compaction, silence (15 s) ────────┐
//	        ▼                                                   │
//	Open ─ load (a range at one revision, then the difference) ─ follow (watch)
//	        │ fails: what is known stays; a newer snapshot, this process's own or
//	        │        another's, takes its place; try again
//
// A View never forgets by mistake. An entry goes only when etcd says that it is
// gone: by a watched deletion, or by a complete load that doesn't have it.
// Trouble with etcd, however long, removes nothing; [View.Age] says how old the
// knowledge is.
//
// # Decisions
//
//   - 2026-11-23: a value that cannot be read (no JSON, another name than its
//     key's, values out of range, too long) changes nothing: the entry's last good
//     value stays, the key is logged and counted. Refused: dropping the entry,
//     which would turn a slip of an operator into bounced mail.
//   - 2026-11-23: fields that this version doesn't know are ignored when
//     reading, so that old processes live with a newer writer's records. [Store]
//     refuses to change such a record, for it would write it back without them.
//   - 2026-11-23: a load that comes after etcd's revision went backwards and has
//     no account and no domain is not believed while the View has some: that is an
//     etcd that lost its data. Refused: following it, which would end all mail.
//     With content it is followed: that is a restored backup.
//   - 2026-11-23: after any trouble the View loads everything anew and applies
//     the difference. Refused: to resume watching at the last revision, one more
//     path for a few megabytes saved on rare days.
//   - 2026-11-25: a View that etcd doesn't answer takes a snapshot as it takes a
//     load, whole: what is not in it, etcd had deleted when it was taken. One that is
//     older than what is known is refused.
//   - 2026-11-23: a region's number of shards never changes once published: mail
//     is stored by it. [Store.PublishRegion] refuses.
//   - 2026-11-23: accounts are not deleted, only disabled. Deleting one would have
//     to end its addresses and mail in another system first.
package directory

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"unicode"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// Where the records are. A new version of their form gets a new prefix.
const (
	prefix        = "/postern/v1/global/"
	regionPrefix  = prefix + "regions/"
	accountPrefix = prefix + "accounts/"
	domainPrefix  = prefix + "domains/"
)

// Limits on what is read and written.
const (
	MaxValue  = 256 << 10 // octets of one record's JSON
	MaxShards = 4096      // shards of a region
	MaxTitle  = 100       // octets of a region's title
	pageSize  = 500       // records asked for in one range
)

// What a region does with the sessions of its users in other regions.
const (
	CrossRegionRelay  = "relay"  // its gateway serves them
	CrossRegionRefuse = "refuse" // they are told the right hostname
)

// Region is one region as the others know it.
type Region struct {
	Name        string `json:"name"`         // "eu"
	Title       string `json:"title"`        // "Europe"
	Hostname    string `json:"hostname"`     // where its users connect to
	Shards      int    `json:"shards"`       // never changes
	Gateway     string `json:"gateway"`      // host:port, mTLS
	CrossRegion string `json:"cross_region"` // CrossRegionRelay or CrossRegionRefuse
}

// Validate reports everything that is wrong with the region, or nil.
func (r Region) Validate() error {
	errs := []error{policy.CheckName("region", r.Name)}
	if len(r.Title) > MaxTitle || hasControl(r.Title) {
		errs = append(errs, fmt.Errorf("title: expected one line of at most %d octets", MaxTitle))
	}
	if _, err := maildrop.ParseDomain(r.Hostname); err != nil {
		errs = append(errs, fmt.Errorf("hostname %q: %w", r.Hostname, err))
	}
	if r.Shards < 1 || r.Shards > MaxShards {
		errs = append(errs, fmt.Errorf("shards %d: expected 1 to %d", r.Shards, MaxShards))
	}
	if err := checkHostPort(r.Gateway); err != nil {
		errs = append(errs, fmt.Errorf("gateway %q: %w", r.Gateway, err))
	}
	if r.CrossRegion != CrossRegionRelay && r.CrossRegion != CrossRegionRefuse {
		errs = append(errs, fmt.Errorf("cross_region %q: expected %s or %s", r.CrossRegion, CrossRegionRelay, CrossRegionRefuse))
	}
	return errors.Join(errs...)
}

func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return errors.New("expected host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("expected a port from 1 to 65535")
	}
	return nil
}

func hasControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}
