package placement

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/postern-pop/postern/pkg/snapshot"
)

// SnapshotView is the name of the snapshots of a region's owners.
func SnapshotView(region string) string { return "owners/" + region }

// Snapshot is what is known, for a start without etcd; ok is false while nothing is.
func (w *Watcher) Snapshot() (s snapshot.Snapshot, ok bool) {
	w.mu.Lock()
	view, synced := w.view, w.synced
	w.mu.Unlock()
	if view.Revision == 0 {
		return snapshot.Snapshot{}, false
	}
	s = snapshot.Snapshot{View: SnapshotView(w.region), Revision: view.Revision, Taken: synced}
	for name, node := range view.Nodes {
		s.Entries = append(s.Entries, snapshot.Entry{Key: "nodes/" + name, Value: []byte(encode(node)), Revision: node.Revision})
	}
	for _, claim := range view.Claims {
		if claim.Revision != 0 {
			key := strings.TrimPrefix(w.space.shard(claim.Shard), string(w.space))
			s.Entries = append(s.Entries, snapshot.Entry{Key: key, Value: []byte(encode(claim)), Revision: claim.Revision})
		}
	}
	for name, order := range view.Drains {
		s.Entries = append(s.Entries, snapshot.Entry{Key: "drains/" + name, Value: []byte(encode(order))})
	}
	for shard, order := range view.Moves {
		key := strings.TrimPrefix(w.space.move(shard), string(w.space))
		s.Entries = append(s.Entries, snapshot.Entry{Key: key, Value: []byte(encode(order))})
	}
	return s, true
}

// recall takes a newer snapshot, if there is one, in etcd's place, and reports
// whether it did. It is for the goroutine that loads.
func (w *Watcher) recall(ctx context.Context) bool {
	known := w.View().Revision
	s, err := snapshot.Newest(ctx, w.sources, SnapshotView(w.region), known)
	if err != nil {
		if !errors.Is(err, snapshot.ErrNone) {
			w.log.Warn("placement: no snapshot to route by", "error", err)
		}
		return false
	}
	view := emptyView(w.shards)
	for _, entry := range s.Entries {
		if err := view.put(entry.Key, &mvccpb.KeyValue{Value: entry.Value, ModRevision: entry.Revision}); err != nil {
			w.log.Warn("placement: unreadable entry in a snapshot", "error", err)
		}
	}
	view.Revision = s.Revision
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view, w.synced = view, s.Taken
	w.broadcast()
	w.log.Warn("placement: routing by a snapshot until etcd answers", "revision", s.Revision, "taken", s.Taken)
	return true
}
