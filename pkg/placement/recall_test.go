package placement

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/snapshot"
)

// TestRoutesWithoutEtcd starts a watcher while etcd is away, until it is back.
func TestRoutesWithoutEtcd(t *testing.T) {
	etcd := etcdtest.New(t)
	w := watch(t, etcd.Client(), 4)
	a := register(t, etcd.Client(), "a")
	await(t, w, "a's registration", func(v View) bool { return v.Lives("a", a.Node().Instance) })
	for _, shard := range []int{1, 3} {
		take(t, a, w.View().Claims[shard])
	}
	before := await(t, w, "the claims", func(v View) bool { return v.Claims[1].Owner == "a" && v.Claims[3].Owner == "a" })
	file := snapshot.Dir(t.TempDir())
	kept, ok := w.Snapshot()
	if !ok {
		t.Fatal("a loaded view has no snapshot")
	}
	if err := file.Save(kept); err != nil {
		t.Fatal(err)
	}
	etcd.Stop()

	nobody := func(context.Context, string, int64) (snapshot.Snapshot, error) {
		return snapshot.Snapshot{}, snapshot.ErrNone
	}
	late, err := Watch(t.Context(), etcd.Client(), "eu", 4, quiet, nobody, file.Load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(late.Close)
	if got := late.View(); !reflect.DeepEqual(got, before) {
		t.Fatalf("from the snapshot: %+v\nbefore: %+v", got, before)
	}
	if address, ok := late.Owner(3); !ok || address != "a:1" {
		t.Fatalf("owner %q, %t", address, ok)
	}

	etcd.Restart()
	takeOnceItAnswers(t, a, w.View().Claims[2])
	await(t, late, "etcd's word", func(v View) bool { return v.Claims[2].Owner == "a" })
}

// takeOnceItAnswers takes a claim that nobody else wants from an etcd that a client may still
// believe to be away.
func takeOnceItAnswers(t *testing.T, r *Registration, seen Claim) {
	t.Helper()
	unsure := false
	for deadline := time.Now().Add(patience); ; {
		_, err := r.TakeClaim(t.Context(), seen)
		kind := maildrop.KindOf(err)
		switch {
		case err == nil, unsure && kind == maildrop.NotOwner: // an attempt before was heard
			return
		case kind != maildrop.Maybe && kind != maildrop.Transient, time.Now().After(deadline):
			t.Fatal(err)
		}
		unsure = true
	}
}
