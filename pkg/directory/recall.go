package directory

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/postern-pop/postern/pkg/snapshot"
)

// SnapshotView is the name of the directory's snapshots.
const SnapshotView = "directory"

// Snapshot is what is known, for a start without etcd; ok is false while nothing is.
// Of a record whose newest value can't be read it has the last good one.
func (v *View) Snapshot() (s snapshot.Snapshot, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.revision == 0 {
		return snapshot.Snapshot{}, false
	}
	s = snapshot.Snapshot{View: SnapshotView, Revision: v.revision, Taken: v.heard}
	s.Entries = appendEntries(s.Entries, v.state.regions)
	s.Entries = appendEntries(s.Entries, v.state.accounts)
	s.Entries = appendEntries(s.Entries, v.state.domains)
	return s, true
}

func appendEntries[T validator](entries []snapshot.Entry, t table[T]) []snapshot.Entry {
	for name, record := range t.byName {
		if value, err := encode(record); err == nil { // always: it was read by the same rules
			entries = append(entries, snapshot.Entry{Key: t.prefix + name, Value: []byte(value)})
		}
	}
	return entries
}

// recall takes a newer snapshot, if there is one, in etcd's place.
func (v *View) recall(ctx context.Context) {
	known, _ := v.position()
	s, err := snapshot.Newest(ctx, v.sources, SnapshotView, known)
	if err == nil {
		err = v.restore(s)
	}
	switch {
	case err == nil:
		v.log.Warn("directory: serving from a snapshot until etcd answers", "revision", s.Revision, "taken", s.Taken, "entries", len(s.Entries))
	case !errors.Is(err, snapshot.ErrNone) || known == 0:
		v.log.Warn("directory: no snapshot to serve from", "error", err)
	}
}

// restore makes the View agree with a snapshot, unless it knows better.
func (v *View) restore(s snapshot.Snapshot) error {
	fresh, garbage := newState(), uint64(0)
	for _, entry := range s.Entries {
		garbage += v.put(fresh, &mvccpb.KeyValue{Key: []byte(entry.Key), Value: entry.Value, ModRevision: entry.Revision})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.synced || s.Revision <= v.revision {
		return snapshot.ErrNone
	}
	if v.state.customers() && !fresh.customers() {
		return fmt.Errorf("revision %d has no accounts and domains: not believed", s.Revision)
	}
	fresh.inherit(v.state)
	v.state = fresh
	v.garbage += garbage
	v.heard, v.revision = s.Taken, s.Revision
	v.known()
	return nil
}
