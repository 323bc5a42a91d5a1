package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/shard"
)

// errSeal is what opens a shard's encryption failing is.
var errSeal = errors.New("mail at rest can't be decrypted or encrypted")

// seal opens the encryption of a shard's part of the store. It comes before the
// claim: without the key no epoch is begun.
func (n *Node) seal(ctx context.Context, number int) (blob.Store, error) {
	if n.config.Seal == nil {
		return n.config.Store, nil
	}
	prefix := shard.Config{Region: n.config.Region, Number: number}.Prefix()
	store, err := n.config.Seal(ctx, n.config.Store, prefix, func(key string, _ int64, _ string) { n.metrics.shards.Mended(key) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSeal, err)
	}
	return store, nil
}

// Reasons for which a shard waits, as the metric's label says them.
const (
	waitsForObject = "lost_object"
	waitsForStore  = "other_store"
	waitsForKey    = "key"
)

// personal reports whether only a person can end a failure, and what it is.
func personal(err error) (reason string, ok bool) {
	switch {
	case errors.Is(err, shard.ErrLostObject):
		return waitsForObject, true
	case errors.Is(err, errSeal):
		return waitsForKey, true
	case errors.Is(err, shard.ErrOtherStore):
		return waitsForStore, true
	}
	return "", false
}

// Waiting says, a line each, which shards nobody can open until a person has
// acted, as far as this node has tried, and what is to be done.
func (n *Node) Waiting() []string {
	reasons := n.troubles.reasons()
	lines := make([]string, 0, len(reasons))
	for _, number := range slices.Sorted(maps.Keys(reasons)) {
		lines = append(lines, fmt.Sprintf("shard %d waits: %v", number, reasons[number]))
	}
	return lines
}
