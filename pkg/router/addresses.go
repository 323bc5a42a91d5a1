package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Addresses lists the records of an account: those of all nodes of its home
// region, sorted, each address once. While a shard has no owner it waits: half
// a list would look like a whole one.
func (r *Router) Addresses(ctx context.Context, account string) ([]maildrop.AddressRecord, error) {
	const op = "router.addresses"
	known, ok := r.config.Directory.Account(account)
	if !ok && !r.local { // a gateway's view may be behind its caller's
		return nil, &maildrop.Error{Op: op, Kind: maildrop.NotFound, Text: "No such account", Err: fmt.Errorf("account %q", account)}
	}
	var records []maildrop.AddressRecord
	err := r.repeat(ctx, &call{
		op: op, errand: record, bounded: true,
		home: func() (place, error) {
			home, err := r.placeIn(ctx, op, known.Region, ok, "", record)
			if home.here() {
				home.shard = allShards
			}
			return home, err
		},
		do: func(ctx context.Context, service maildrop.Service, at string) (err error) {
			if service != nil {
				records, err = service.Addresses(ctx, account)
				return err
			}
			records, err = r.gather(ctx, op, account, at)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// owners is all the owners of this region's shards, in the order of the shards;
// ok is false while one has none.
func (r *Router) owners() (addresses string, ok bool) {
	all := make([]string, r.config.Shards)
	for shard := range all {
		if all[shard], ok = r.config.Owners.Owner(shard); !ok {
			return "", false
		}
	}
	return strings.Join(all, " "), true
}

var errOwnersChanged = errors.New("shards changed their owners while they were asked")

// gather asks each of the owners once. A node answers for the shards that it
// has at that moment, so the answer counts only if none has moved meanwhile.
func (r *Router) gather(ctx context.Context, op, account, owners string) ([]maildrop.AddressRecord, error) {
	nodes := strings.Fields(owners)
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	var mu sync.Mutex
	var records []maildrop.AddressRecord
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fanOut)
	for _, node := range nodes {
		group.Go(func() error {
			some, err := r.config.Dial(node).Addresses(ctx, account)
			mu.Lock()
			defer mu.Unlock()
			records = append(records, some...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if now, ok := r.owners(); !ok || now != owners {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errOwnersChanged}
	}
	return merge(records), nil
}

// merge sorts records by address and keeps the latest of each.
func merge(records []maildrop.AddressRecord) []maildrop.AddressRecord {
	slices.SortFunc(records, func(a, b maildrop.AddressRecord) int {
		if c := strings.Compare(string(a.Address), string(b.Address)); c != 0 {
			return c
		}
		return b.Changed.Compare(a.Changed)
	})
	return slices.CompactFunc(records, func(a, b maildrop.AddressRecord) bool { return a.Address == b.Address })
}
