// Package verify finds out whether a store keeps the promises of package blob
// that the ledger's fence stands on. Not every "S3-compatible" store does, and none
// says so itself.
//
//	Run    all promises, long enough to catch what happens now and then
//	Quick  the same in short, for a node at its start
//
//	promise              what is done                                              through
//	one winner           many create one key at once, many times                   all endpoints at once
//	read your write      read, create, read                                        each by each
//	list after write     create, list                                              each by each
//	whole lists          create 1,001, more than a page has, and list; not in short each
//	missing is missing   read what isn't there, again and again                    each
//	lost answer          hang up in mid-create, a rival comes, repeat              two
//	never changes        create again with other octets                            each by each
//	exact ranges         read at the ends                                          each
//	delete               delete, look, delete again, create anew, look             each by each
//
// A promise is kept, broken, or untested: an error that any store may give (not
// reachable, full, no permission) says nothing of the promise, once it has been tried again.
//
// All objects are under postern-verify/<random>. and removed in the end, also
// when the context ends before. What an unfinished create still brings to the store
// after that stays, as it would with any client that hung up.
//
// # Decisions
//
//   - 2026-11-23: keys have no folder of their own behind the random part. A
//     store in a directory keeps empty folders, one for each start of each node.
//   - 2026-11-23: ErrExists to a writer whose octets are there counts as having
//     won: clients of S3 repeat by themselves when an answer is lost. That is how the
//     ledger reads it too.
//   - 2026-11-23: keys whose create had an unknown outcome aren't used to test
//     deletion: the create may yet come, and the object would be back by right.
//   - 2026-11-23: a promise is left at its first break. One is enough to refuse
//     a store, and a store that lies should not be written to for longer than needed.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
)

// Limits of what a run may take.
const (
	quickTime  = 30 * time.Second // for Quick
	removeTime = time.Minute      // for removing, also after the context ended
)

// ErrBroken says that a store doesn't keep a promise.
var ErrBroken = errors.New("the store breaks a promise that mail depends on")

// Options say how thorough a run is.
type Options struct {
	Writers int // that race for one key; 64 if 0
	Rounds  int // of the race; 1,000 if 0. The others take a tenth, within 5 and 100

	// Progress is called after each of total steps, by one goroutine at a time.
	Progress func(promise string, done, total int)
}

// Short is the form that takes a node no time at its start: under 2 s on a local store.
func Short() Options { return Options{Writers: 16, Rounds: 20} }

// State is how a promise came out.
type State string

// The states.
const (
	Kept     State = "ok"
	Broken   State = "broken"
	Untested State = "untested"
)

// Result is how one promise came out.
type Result struct {
	Promise string // its name
	Says    string // the promise
	State   State
	Tries   int           // how often it was tried
	Took    time.Duration // for all of them
	Seen    string        // what was seen when it was broken, or why it is untested
	Means   string        // what it means for mail if it is broken
}

// Report is how all promises came out.
type Report struct {
	Endpoints int
	Prefix    string // of all keys that were made
	Results   []Result
	Left      int // objects that couldn't be removed
}

// Err is nil if all promises are kept. It wraps ErrBroken if one is broken, and
// says of the first what it means; otherwise it says what is untested.
func (r Report) Err() error {
	var untested error
	for _, result := range r.Results {
		switch {
		case result.State == Broken:
			return fmt.Errorf("%w, %q: %s; %s", ErrBroken, result.Promise, result.Seen, result.Means)
		case result.State == Untested && untested == nil:
			untested = fmt.Errorf("couldn't test whether the store keeps its promises: %s: %s", result.Promise, result.Seen)
		}
	}
	return untested
}

// promise is one of those that are tested.
type promise struct {
	name, says, means string
	steps             func(t *trial) int
	run               func(ctx context.Context, t *trial) error
}

var promises = [...]promise{
	{
		"one winner", "of any number that create one key, one succeeds and all others learn that it exists",
		"two nodes could both accept mail for the same mailboxes, and mail that was acknowledged would be lost",
		(*trial).rounds, oneWinner,
	},
	{
		"read your write", "who reads after a create sees the object",
		"a node that takes over could miss mail that was acknowledged",
		(*trial).few, readYourWrite,
	},
	{
		"list after write", "who lists after a create sees the object",
		"a node that takes over could miss mail that was acknowledged",
		(*trial).few, listAfterWrite,
	},
	{
		"whole lists", "a list has all objects, in order, also where it takes several pages",
		"a node that takes over could miss mail that was acknowledged, and delete what is in use",
		(*trial).pages, wholeLists,
	},
	{
		"missing is missing", "a key without an object is answered with \"not found\", and never with anything else",
		"a node that takes over couldn't tell the end of a ledger from a fault",
		(*trial).few, missingIsMissing,
	},
	{
		"lost answer", "who repeats a create whose answer was lost finds out who won, and it stays so",
		"mail could be acknowledged and not be there, or two nodes could both accept mail",
		(*trial).few, lostAnswer,
	},
	{
		"never changes", "an object keeps its octets, whoever else creates it",
		"mail that was acknowledged could be overwritten",
		(*trial).few, neverChanges,
	},
	{
		"exact ranges", "a read of a part has exactly the octets of that part",
		"users could be sent wrong octets",
		(*trial).few, exactRanges,
	},
	{
		"delete", "what was deleted is gone, may be deleted again, and its key can be used anew",
		"mail that was deleted could come back, or its space never be free again",
		(*trial).few, deletes,
	},
}

// Run tests all promises of a store. There is a Store for each of its
// endpoints, and at least one.
func Run(ctx context.Context, stores []blob.Store, o Options) Report {
	t := newTrial(stores, o)
	report := Report{Endpoints: len(stores), Prefix: t.prefix}
	for i := range promises {
		if promises[i].steps(t) == 0 {
			continue
		}
		report.Results = append(report.Results, t.test(ctx, &promises[i]))
	}
	report.Left = t.clean(ctx)
	return report
}

// Quick tests all promises of a store in short. Its error wraps ErrBroken if
// one is broken; another error says that it couldn't be tested, and may pass.
func Quick(ctx context.Context, store blob.Store) error {
	ctx, cancel := context.WithTimeout(ctx, quickTime)
	defer cancel()
	return Run(ctx, []blob.Store{store}, Short()).Err()
}
