package router

import (
	"context"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Explain asks the owner of the address's shard what a login would come to. An alias
// is followed: the Explanation has the primary address.
func (r *Router) Explain(ctx context.Context, q maildrop.Question) (e maildrop.Explanation, err error) {
	err = r.follow(q.Address, func(address maildrop.Address) error {
		q.Address = address
		return r.repeat(ctx, &call{
			op: "router.explain", address: address, errand: record, bounded: true,
			do: func(ctx context.Context, service maildrop.Service, _ string) (err error) {
				e, err = service.Explain(ctx, q)
				return err
			},
		})
	})
	return e, err
}

// Tell has the owner of the address's shard, or of the one that it is an alias of, remember
// what was refused here. It is tried once.
func (r *Router) Tell(ctx context.Context, address maildrop.Address, refused []maildrop.Attempt) error {
	return r.follow(address, func(address maildrop.Address) error {
		return r.once(ctx, &call{
			op: "router.tell", address: address, errand: record,
			do: func(ctx context.Context, service maildrop.Service, _ string) error {
				return service.Tell(ctx, address, refused)
			},
		}, tellLimit)
	})
}

// Unlock ends the lock-out of an address, or of the one that it is an alias of.
func (r *Router) Unlock(ctx context.Context, address maildrop.Address) (was bool, err error) {
	err = r.follow(address, func(address maildrop.Address) error {
		return r.repeat(ctx, &call{
			op: "router.unlock", address: address, errand: record, bounded: true, changes: true,
			do: func(ctx context.Context, service maildrop.Service, _ string) error {
				ended, err := service.Unlock(ctx, address)
				was = was || ended // an answer that was lost
				return err
			},
		})
	})
	return was, err
}
