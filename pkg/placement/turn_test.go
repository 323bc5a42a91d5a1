package placement

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// leaving is one node's wait for its turn.
type leaving chan error

func leave(t *testing.T, client *clientv3.Client, name, instance string) leaving {
	t.Helper()
	l := make(leaving, 1)
	go func() { l <- awaitTurn(t.Context(), client, "eu", Node{Name: name, Instance: instance}, turnLease) }()
	return l
}

// may fails the test unless the node may leave.
func (l leaving) may(t *testing.T, who string) {
	t.Helper()
	select {
	case err := <-l:
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
	case <-time.After(patience):
		t.Fatalf("%s never had its turn", who)
	}
}

// TestTurns has three nodes told to leave at once: one leaves, and each of the others once
// the one before it is back.
func TestTurns(t *testing.T) {
	client, _ := etcdtest.Start(t)
	back := func(name, instance string) {
		t.Helper()
		r, err := Register(t.Context(), client, "eu", Node{Name: name, Instance: instance}, 0, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(context.WithoutCancel(t.Context())) })
	}
	leave(t, client, "a", "1").may(t, "a")
	refused := func(why string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*turnPause)
		defer cancel()
		if err := AwaitTurn(ctx, client, "eu", Node{Name: "b", Instance: "1"}); maildrop.KindOf(err) != maildrop.Transient {
			t.Fatalf("b has a turn %s: %v", why, err)
		}
	}
	refused("while a is away")
	back("a", "1")
	refused("while a has not left yet")
	leave(t, client, "a", "1").may(t, "a, which lost its answer")

	back("a", "2")
	waiting := map[string]leaving{"b": leave(t, client, "b", "1"), "c": leave(t, client, "c", "1")}
	first, second := "b", "c"
	select {
	case err := <-waiting["b"]:
		if err != nil {
			t.Fatal(err)
		}
	case err := <-waiting["c"]:
		if err != nil {
			t.Fatal(err)
		}
		first, second = "c", "b"
	case <-time.After(patience):
		t.Fatal("neither has a turn")
	}
	select {
	case err := <-waiting[second]:
		t.Fatalf("%s has a turn as well: %v", second, err)
	case <-time.After(3 * turnPause):
	}
	back(first, "2")
	waiting[second].may(t, second)
}

// TestTurnEnds: who doesn't come back is waited for no longer than its lease.
func TestTurnEnds(t *testing.T) {
	server := etcdtest.New(t)
	client := server.Client()
	if err := awaitTurn(t.Context(), client, "eu", Node{Name: "gone", Instance: "1"}, time.Second); err != nil {
		t.Fatal(err)
	}
	leave(t, client, "b", "1").may(t, "b")
	if err := AwaitTurn(t.Context(), client, "us", Node{Name: "c"}); err != nil { // another region's
		t.Error(err)
	}
	if err := AwaitTurn(t.Context(), client, "no region", Node{Name: "c"}); maildrop.KindOf(err) != maildrop.Invalid {
		t.Error(err)
	}
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := AwaitTurn(ctx, client, "eu", Node{Name: "d"}); maildrop.KindOf(err) != maildrop.Transient {
		t.Errorf("without etcd: %v", err)
	}
}
