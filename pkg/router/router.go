// Package router finds the owner of an address and calls it: a maildrop.Service
// over all the mailbox nodes of all regions. Fronts and intakes ask it as if
// every mailbox were in their own process.
//
//	address ─▶ domain ─▶ account ─▶ home region
//	                                   │ here             │ elsewhere
//	                     shard = hash mod shards     that region's gateway
//	                                   │                  │ (a Router's Local)
//	                        its owner, a mailbox node ◀───┘
//
// Nothing of that asks a server: the directory and the owners are views in
// memory. A domain that nobody knows is looked for here, in the shard that its
// address hashes to: a user that doesn't exist costs what one does that does.
//
// # What is repeated
//
// One place repeats calls, [Router] and no layer below. Every call of a Service
// may be repeated by contract, so what counts is whether it may help:
//
//	answer                     at home                 in another region
//	NotOwner Transient Maybe   up to Hold, at the      up to 5 s
//	  Canceled (not by us)       owner of the moment
//	Busy                       Open: up to 5 s. Others: handed on at once
//	anything else              is the answer
//
// Between attempts it waits 25 ms, doubling up to 500 ms, less up to half by
// chance, and goes on at once when the shard has a new owner. When time is up
// the last error is Transient; it is Maybe if an attempt of a call that changes
// something may have taken effect. A Read goes on behind the last octet that
// was written, and its time starts anew with each octet. An attempt whose owner
// has been replaced meanwhile is given up: a node that hangs doesn't hold a
// call that its heir could answer.
//
// # Decisions
//
//   - 2026-11-23: Busy is the callee's word that it can't take more, so it is
//     handed on, except to a login. Many clients throw a saved password away
//     after any -ERR, and after a failover the heir's cache of verified logins is
//     empty: for seconds more logins arrive than it can verify. A refused try
//     costs it microseconds.
//   - 2026-11-23: a call to another region is repeated for 5 s only. A region that
//     can't be reached is not back in 15 s, and its gateway waits for its own
//     owners itself.
//   - 2026-11-23: what a gateway serves ([Router.Local]) answers NotOwner for an
//     address that isn't at home there, also for domains it doesn't know: its
//     view may be a second behind the caller's, and NotFound would bounce mail.
//   - 2026-11-23: a region that takes no relayed sessions refuses twice. A front
//     elsewhere says so without asking; the region's own gateway looks at the
//     caller's certificate, because a stale or compromised front doesn't.
//   - 2026-11-23: an alias whose primary is at home elsewhere is answered with
//     Alias by a gateway: the caller can go there and a gateway never relays on.
//   - 2026-11-23: Check has one second and one try. A session goes on when it
//     fails for want of an answer, and the next command asks again.
//   - 2026-11-25: from another region, messages that are read in the listing's order, up or
//     down, are asked for many at a time, eight more with each one that was read so. 500 messages of
//     10 KB, one by one, at a round trip of 150 ms take 0.7 s instead of 75 s, and one
//     message of as many octets 0.3 s (BenchmarkFarDownload). A reader that stops in
//     the middle, as TOP does, is told nothing ahead. Refused: to fetch ahead at the first message; most
//     polls fetch one or none.
package router

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// How long things are waited for.
const (
	DefaultHold   = 15 * time.Second       // a user's call waits so long for a new owner
	awayPatience  = 5 * time.Second        // a call to another region is repeated for
	busyPatience  = 5 * time.Second        // a login that was answered Busy is repeated for
	checkLimit    = time.Second            // a Check takes at most
	tellLimit     = 5 * time.Second        // likewise a Tell, which nobody waits for
	pauseFirst    = 25 * time.Millisecond  // between attempts
	pauseMost     = 500 * time.Millisecond //
	heirSpread    = 25 * time.Millisecond  // calls reach a new owner spread over
	watchAfter    = 500 * time.Millisecond // an attempt that takes longer watches for a new owner
	fanOut        = 8                      // nodes asked at once for an account's addresses
	plainPOP3Port = "995"                  // where users of a region that refuses are sent
)

// Owners says which node owns a shard of this region. placement.Watcher is one.
type Owners interface {
	// Owner is the address of the shard's owner, host:port; ok is false while it
	// has none.
	Owner(shard int) (address string, ok bool)
	// Changed is closed at the next change of any owner.
	Changed() <-chan struct{}
}

// Directory says where things are at home. directory.View is one.
type Directory interface {
	policy.Rules
	Account(name string) (policy.Account, bool)
	Region(name string) (directory.Region, bool)
}

// Config is what a Router is made of.
type Config struct {
	Region    string // this process's
	Shards    int    // of this region
	Directory Directory
	Owners    Owners
	Dial      func(address string) maildrop.Service // of a node or a gateway; must not block
	Hold      time.Duration                         // 0: DefaultHold
	Log       *slog.Logger                          // nil: silence
	// Registerer is for postern_front_backend_attempts_total and
	// postern_route_lookups_total; nil: no metrics.
	Registerer prometheus.Registerer
}

// Router is a maildrop.Service over all nodes. It holds nothing to close.
type Router struct {
	config Config
	meter  *meter
	local  bool // serves what is at home here only
}

var _ maildrop.Service = (*Router)(nil)

// New makes a router.
func New(config Config) *Router {
	if config.Hold <= 0 {
		config.Hold = DefaultHold
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Router{config: config, meter: newMeter(config.Registerer, config.Log)}
}

// Local is what this region's gateway serves: the same, of this region only. It
// never relays to another region: what isn't at home here is NotOwner. If this
// region takes no relayed sessions it serves nothing but address records to
// processes of other regions; who calls is known by [rpc.PeerIdentity], and a
// caller without an identity counts as one from elsewhere.
func (r *Router) Local() maildrop.Service {
	local := *r
	local.local = true
	return &local
}

// Challenge begins a login by SCRAM at the home of the user's maildrop.
func (r *Router) Challenge(ctx context.Context, login maildrop.Login) (challenge maildrop.Challenge, err error) {
	err = r.follow(login.Address, func(address maildrop.Address) error {
		login.Address = address
		return r.repeat(ctx, &call{
			op: "router.challenge", address: address, errand: session, bounded: true, patient: true,
			do: func(ctx context.Context, service maildrop.Service, _ string) (err error) {
				challenge, err = service.Challenge(ctx, login)
				return err
			},
		})
	})
	return challenge, err
}

// Open lets a user in at the home of his maildrop.
func (r *Router) Open(ctx context.Context, login maildrop.Login) (maildrop.Drop, error) {
	var opened *drop
	err := r.follow(login.Address, func(address maildrop.Address) error {
		login.Address = address
		return r.repeat(ctx, &call{
			op: "router.open", address: address, errand: session, bounded: true, patient: true,
			do: func(ctx context.Context, service maildrop.Service, at string) error {
				d, err := service.Open(ctx, login)
				if err == nil {
					opened = &drop{router: r, info: d.Info(), token: d.Token(), current: d, at: at}
				}
				return err
			},
		})
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Resume makes a Drop of a session's token. It does no I/O.
func (r *Router) Resume(_ context.Context, info maildrop.Info, token []byte) (maildrop.Drop, error) {
	return &drop{router: r, info: info, token: token}, nil
}

// Accept asks the recipient's home whether it would take mail.
func (r *Router) Accept(ctx context.Context, to maildrop.Recipient) error {
	return r.follow(to.Address, func(address maildrop.Address) error {
		to.Address = address
		return r.repeat(ctx, &call{
			op: "router.accept", address: address, errand: delivery, bounded: true,
			do: func(ctx context.Context, service maildrop.Service, _ string) error { return service.Accept(ctx, to) },
		})
	})
}

// Deliver stores a message at the recipient's home. The body is read anew for
// each attempt. One that can be read only once, as a gateway's callers send it,
// is tried once: the caller has it and can repeat.
func (r *Router) Deliver(ctx context.Context, envelope maildrop.Envelope, body maildrop.Body) error {
	watched := &watchedBody{Body: body}
	return r.follow(envelope.To, func(address maildrop.Address) error {
		envelope.To = address
		var last error
		return r.repeat(ctx, &call{
			op: "router.deliver", address: address, errand: delivery, changes: true,
			do: func(ctx context.Context, service maildrop.Service, _ string) error {
				err := service.Deliver(ctx, envelope, watched)
				if last != nil && watched.failed {
					return final{last}
				}
				last = err
				return err
			},
		})
	})
}

// PutAddress writes a record at the address's home.
func (r *Router) PutAddress(ctx context.Context, rec maildrop.AddressRecord) error {
	return r.repeat(ctx, &call{
		op: "router.put-address", address: rec.Address, errand: record, bounded: true, changes: true,
		do: func(ctx context.Context, service maildrop.Service, _ string) error {
			return service.PutAddress(ctx, rec)
		},
	})
}

// Address reads a record at the address's home.
func (r *Router) Address(ctx context.Context, address maildrop.Address) (rec maildrop.AddressRecord, err error) {
	err = r.repeat(ctx, &call{
		op: "router.address", address: address, errand: record, bounded: true,
		do: func(ctx context.Context, service maildrop.Service, _ string) (err error) {
			rec, err = service.Address(ctx, address)
			return err
		},
	})
	return rec, err
}

// RemoveAddress ends an address at its home.
func (r *Router) RemoveAddress(ctx context.Context, address maildrop.Address) error {
	return r.repeat(ctx, &call{
		op: "router.remove-address", address: address, errand: record, bounded: true, changes: true,
		do: func(ctx context.Context, service maildrop.Service, _ string) error {
			return service.RemoveAddress(ctx, address)
		},
	})
}
