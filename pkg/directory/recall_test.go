package directory

import (
	"context"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// of is a source that has another view's snapshot.
func of(v *View) snapshot.Source {
	return func(_ context.Context, _ string, newerThan int64) (snapshot.Snapshot, error) {
		if s, ok := v.Snapshot(); ok && s.Revision > newerThan {
			return s, nil
		}
		return snapshot.Snapshot{}, snapshot.ErrNone
	}
}

// TestViewWithoutEtcd starts views while etcd is away, from a file and from
// somebody who knows more, until etcd is back and is believed.
func TestViewWithoutEtcd(t *testing.T) {
	etcd := etcdtest.New(t)
	s := fill(t, etcd.Client())
	neighbour := openView(t, etcd.Client())
	file := snapshot.Dir(t.TempDir())
	kept, ok := neighbour.Snapshot()
	if !ok {
		t.Fatal("a loaded view has no snapshot")
	}
	must(t, file.Save(kept))
	must(t, s.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error { a.Disabled = true; return nil }))
	await(t, neighbour, "the change", func() bool { a, _ := neighbour.Account("acme"); return a.Disabled })
	etcd.Stop()

	start := func(sources ...snapshot.Source) *View {
		v, err := open(t.Context(), etcd.Client(), silent, quickPace(), sources...)
		must(t, err)
		t.Cleanup(v.Close)
		return v
	}
	alone := start(file.Load)
	if a, _ := alone.Account("acme"); !knowsAcme(alone) || a.Disabled {
		t.Fatalf("from the file: %+v", a)
	}
	if age := alone.Age(); age > time.Minute {
		t.Fatalf("age %v of a snapshot just taken", age)
	}
	told := start(file.Load, of(neighbour))
	if a, _ := told.Account("acme"); !a.Disabled {
		t.Fatal("the older snapshot was taken")
	}
	if again, ok := told.Snapshot(); !ok || again.Revision <= kept.Revision {
		t.Fatalf("what it passes on: %+v", again)
	}
	if old := told.restore(kept); old == nil {
		t.Fatal("an older snapshot replaces what is known")
	}

	etcd.Restart()
	must(t, s.RemoveDomain(t.Context(), "acme.example"))
	for _, v := range []*View{alone, told} {
		await(t, v, "etcd's word", func() bool { _, _, ok := v.Domain("acme.example"); return !ok })
	}
	if alone.restore(kept) == nil {
		t.Fatal("a snapshot replaces what etcd says")
	}
}

// TestNothingKnown: without etcd and snapshots there is no view, and no view of
// nothing.
func TestNothingKnown(t *testing.T) {
	etcd := etcdtest.New(t)
	etcd.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	v, err := open(ctx, etcd.Client(), silent, quickPace(), snapshot.Dir(t.TempDir()).Load)
	if err == nil {
		v.Close()
		t.Fatal("a view of nothing")
	}
}
