package directory

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// View answers from memory what is known of regions, accounts and domains. It
// is a policy.Rules, a prometheus.Collector, and safe for concurrent use. The
// records that it hands out share slices: read them, don't change them.
type View struct {
	client  *clientv3.Client
	log     *slog.Logger
	pace    pace
	sources []snapshot.Source

	mu       sync.RWMutex
	state    *state
	changed  chan struct{} // closed and replaced at each change
	heard    time.Time     // when etcd was last known to agree
	revision int64         // etcd's, of the newest thing heard
	synced   bool          // following, not just remembering
	restarts map[string]uint64
	garbage  uint64 // unreadable values seen
	delay    atomic.Pointer[delay]

	loaded chan struct{} // closed when something whole is known
	stop   context.CancelFunc
	done   chan struct{}
}

// delay is the longest delay between logins, as of a change.
type delay struct {
	as      <-chan struct{}
	longest time.Duration
}

// pace is how often and how long; tests have less patience.
type pace struct {
	progress time.Duration // between questions for a sign of life
	stall    time.Duration // silence after which a watch is given up
	request  time.Duration // for one answer of etcd
	retryMin time.Duration // wait before a load is tried again, doubled each time
	retryMax time.Duration
	patience time.Duration // at a start, for etcd, before others are asked
}

func usualPace() pace {
	return pace{progress: 5 * time.Second, stall: 15 * time.Second, request: 10 * time.Second,
		retryMin: 100 * time.Millisecond, retryMax: 3 * time.Second, patience: 2 * time.Second}
}

// Open loads the directory and then follows it until Close. While etcd doesn't
// answer the sources are asked, newest first. It returns when something whole is
// known, or with an error of Kind Transient when ctx ends before. The client stays
// the caller's, and must outlive the View.
func Open(ctx context.Context, client *clientv3.Client, log *slog.Logger, sources ...snapshot.Source) (*View, error) {
	return open(ctx, client, log, usualPace(), sources...)
}

func open(ctx context.Context, client *clientv3.Client, log *slog.Logger, p pace, sources ...snapshot.Source) (*View, error) {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	v := &View{
		client: client, log: log, pace: p, sources: sources,
		state: newState(), changed: make(chan struct{}), heard: time.Now(),
		restarts: make(map[string]uint64),
		loaded:   make(chan struct{}), stop: stop, done: make(chan struct{}),
	}
	go v.follow(following)
	ticker := time.NewTicker(p.patience)
	defer ticker.Stop()
	for {
		select {
		case <-v.loaded:
			return v, nil
		case <-ticker.C:
			v.recall(ctx)
		case <-ctx.Done():
			v.Close()
			return nil, &maildrop.Error{Op: "directory.open", Kind: maildrop.Transient,
				Text: "etcd does not answer, and nobody else knows the accounts", Err: context.Cause(ctx)}
		}
	}
}

// Close ends following and waits for it. The View goes on answering what it
// knew. Closing twice is fine.
func (v *View) Close() {
	v.stop()
	<-v.done
}

// Domain returns the domain of the canonical name and its account. ok is false
// for a domain that isn't ours.
func (v *View) Domain(name string) (domain policy.Domain, account policy.Account, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	domain, ok = v.state.domains.byName[name]
	if !ok {
		return policy.Domain{}, policy.Account{}, false
	}
	if account, ok = v.state.accounts.byName[domain.Account]; !ok {
		return policy.Domain{}, policy.Account{}, false
	}
	return domain, account, true
}

// Account returns the account of the name.
func (v *View) Account(name string) (policy.Account, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	account, ok := v.state.accounts.byName[name]
	return account, ok
}

// Accounts returns all accounts in order of their names. It copies: not for a
// request's path.
func (v *View) Accounts() []policy.Account {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.accounts.sorted()
}

// LoginDelay is the longest that any account's users have to wait between two
// logins. It costs a look at all accounts after each change, and nothing else.
func (v *View) LoginDelay() time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if known := v.delay.Load(); known != nil && known.as == v.changed {
		return known.longest
	}
	found := &delay{as: v.changed}
	for _, account := range v.state.accounts.byName {
		found.longest = max(found.longest, account.LoginDelay())
	}
	v.delay.Store(found)
	return found.longest
}

// Domains returns the account's domains in order of their names.
func (v *View) Domains(account string) []policy.Domain {
	v.mu.RLock()
	defer v.mu.RUnlock()
	domains := make([]policy.Domain, 0, len(v.state.owned[account]))
	for _, name := range slices.Sorted(maps.Keys(v.state.owned[account])) {
		domains = append(domains, v.state.domains.byName[name])
	}
	return domains
}

// Region returns the region of the name.
func (v *View) Region(name string) (Region, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	region, ok := v.state.regions.byName[name]
	return region, ok
}

// Regions returns all regions in order of their names.
func (v *View) Regions() []Region {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.regions.sorted()
}

// Age is the time since etcd was last known to agree with the View: since an
// event or a sign of life. It stays under 10 s while all is well.
func (v *View) Age() time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return time.Since(v.heard)
}

// Corrupt is the number of keys whose newest value could not be read.
func (v *View) Corrupt() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.state.corrupt)
}

// Changed returns a channel that is closed at the next change. Ask for it
// before reading what you decide on, and again after it was closed.
func (v *View) Changed() <-chan struct{} {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.changed
}
