package router

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
)

// errand is what a call is for: what a region may refuse goes by it.
type errand uint8

const (
	session  errand = iota // of a user
	delivery               // of mail
	record                 // of administration: never refused for its region
)

// place is where an address is at home.
type place struct {
	region  string // its home region
	shard   int    // its number there, if that is here; allShards: each of them
	gateway string // of another region; empty: here
}

// allShards is the number of no shard in particular.
const allShards = -1

func (p place) here() bool { return p.gateway == "" }

// place finds the home of a call's address. Its errors are answers, not worth
// repeating at once.
func (r *Router) place(ctx context.Context, op string, address maildrop.Address, what errand) (place, error) {
	_, account, known := r.config.Directory.Domain(address.Domain())
	r.meter.looked(known)
	return r.placeIn(ctx, op, account.Region, known, address, what)
}

// placeIn is place for a home region that is known, or isn't.
func (r *Router) placeIn(ctx context.Context, op, region string, known bool, address maildrop.Address, what errand) (place, error) {
	here := place{region: r.config.Region, shard: address.Shard(r.config.Shards)}
	switch {
	case r.local && (!known || region != r.config.Region):
		return place{}, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: fmt.Errorf("not at home in %s: %q", r.config.Region, address.Domain())}
	case r.local:
		return here, r.admit(ctx, op, what)
	case !known || region == r.config.Region:
		return here, nil
	}
	home, ok := r.config.Directory.Region(region)
	if !ok || home.Gateway == "" {
		return place{}, &maildrop.Error{
			Op: op, Kind: maildrop.Transient, Text: away(region), Err: fmt.Errorf("home region %q is not in the directory", region),
		}
	}
	if what != record && home.CrossRegion == directory.CrossRegionRefuse {
		return place{}, refused(op, home, what)
	}
	return place{region: region, gateway: home.Gateway}, nil
}

// far reports whether an address is at home in another region.
func (r *Router) far(address maildrop.Address) bool {
	_, account, known := r.config.Directory.Domain(address.Domain())
	return known && account.Region != r.config.Region
}

// admit refuses callers of other regions at the gateway of a region that takes
// no relayed sessions.
func (r *Router) admit(ctx context.Context, op string, what errand) error {
	if what == record {
		return nil
	}
	home, ok := r.config.Directory.Region(r.config.Region)
	if !ok {
		return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: fmt.Errorf("this region, %q, is not in the directory", r.config.Region)}
	}
	if home.CrossRegion != directory.CrossRegionRefuse {
		return nil
	}
	if caller, ok := rpc.PeerIdentity(ctx); ok && caller.Region == r.config.Region {
		return nil
	}
	return refused(op, home, what)
}

// refused tells a user where to go.
func refused(op string, home directory.Region, what errand) error {
	text := fmt.Sprintf("%s, port %s", home.Hostname, plainPOP3Port) // where it is served: see the reason's words
	if what == delivery {
		text = fmt.Sprintf("Mail for this address is taken in region %s (%s) only", home.Name, home.Hostname)
	}
	return &maildrop.Error{Op: op, Kind: maildrop.Denied, Reason: maildrop.ReasonRegion, Text: text}
}

func away(region string) string {
	return fmt.Sprintf("Region %s, where this mailbox is at home, is not available at the moment", region)
}

// address is where to call: the shard's owner or the region's gateway. ok is
// false while a shard has no owner. For all shards it is all their owners.
func (r *Router) address(p place) (address string, ok bool) {
	switch {
	case !p.here():
		return p.gateway, true
	case p.shard == allShards:
		return r.owners()
	}
	return r.config.Owners.Owner(p.shard)
}

// dial is the service at an address; nil for a place that has many.
func (r *Router) dial(p place, address string) maildrop.Service {
	if p.shard == allShards {
		return nil
	}
	return r.config.Dial(address)
}

// follow does a thing at an address, and if that is an alias at its primary
// address. An alias of an alias is a mistake of administration.
func (r *Router) follow(address maildrop.Address, do func(maildrop.Address) error) error {
	err := do(address)
	var e *maildrop.Error
	if !errors.As(err, &e) || e.Kind != maildrop.Alias {
		return err
	}
	if r.local && !r.atHome(e.Primary) {
		return err // the caller goes there
	}
	err = do(e.Primary)
	if err != nil && maildrop.KindOf(err) == maildrop.Alias {
		return &maildrop.Error{Op: "router.follow", Kind: maildrop.Internal, Err: fmt.Errorf("%s is an alias of the alias %s", address, e.Primary)}
	}
	return err
}

func (r *Router) atHome(address maildrop.Address) bool {
	_, account, known := r.config.Directory.Domain(address.Domain())
	return known && account.Region == r.config.Region
}

// watchedBody notices that a body can't be opened.
type watchedBody struct {
	maildrop.Body
	failed bool
}

// Open opens the body.
func (b *watchedBody) Open() (io.ReadCloser, error) {
	rc, err := b.Body.Open()
	b.failed = err != nil
	return rc, err
}
