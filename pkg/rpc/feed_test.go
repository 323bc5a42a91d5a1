package rpc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// signed is a message that says whose it is.
func signed(session string, octets []byte) maildrop.Envelope {
	sum := sha256.Sum256(octets)
	return maildrop.Envelope{ID: maildrop.EnvelopeID(sum[:16]), To: anna, Session: session}
}

// Many calls at once, of all sizes, are each answered for themselves.
func TestFeedKeepsCallsApart(t *testing.T) {
	refused := func(session string) error {
		return &maildrop.Error{Kind: maildrop.Full, Text: session}
	}
	c := connector(true)(t, &script{
		accept: func(_ context.Context, to maildrop.Recipient) error { return refused(to.Session) },
		deliver: func(_ context.Context, e maildrop.Envelope, b maildrop.Body) error {
			r, err := b.Open()
			if err != nil {
				return err
			}
			defer r.Close()
			octets, err := io.ReadAll(r)
			if err != nil || signed(e.Session, octets) != e {
				return errors.New("other octets")
			}
			if len(octets)%2 == 1 {
				return refused(e.Session)
			}
			return nil
		},
	})
	var group errgroup.Group
	for i := range 32 {
		group.Go(func() error {
			for k := range 20 {
				session, octets := fmt.Sprint(i, "-", k), random(rand.N(300<<10))
				if err := c.Accept(t.Context(), maildrop.Recipient{Address: anna, Session: session}); maildrop.TextOf(err) != session {
					return fmt.Errorf("accept of %s: %w", session, err)
				}
				err := c.Deliver(t.Context(), signed(session, octets), body(octets))
				if odd := len(octets)%2 == 1; odd && maildrop.TextOf(err) != session || !odd && err != nil {
					return fmt.Errorf("%d octets of %s: %w", len(octets), session, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// A caller that leaves ends its call at the server, and no other one.
func TestFeedCallerLeaves(t *testing.T) {
	entered, ended, leave := make(chan string), make(chan string), make(chan struct{})
	c := connector(true)(t, &script{deliver: func(ctx context.Context, e maildrop.Envelope, _ maildrop.Body) error {
		entered <- e.Session
		select {
		case <-ctx.Done():
			ended <- e.Session
			return ctx.Err()
		case <-leave:
			return nil
		}
	}})
	deliver := func(ctx context.Context, session string) chan error {
		done := make(chan error, 1)
		go func() { done <- c.Deliver(ctx, maildrop.Envelope{To: anna, Session: session}, body("x\r\n")) }()
		<-entered
		return done
	}
	stays := deliver(t.Context(), "stays")
	ctx, cancel := context.WithCancel(t.Context())
	leaves := deliver(ctx, "leaves")
	cancel()
	if err := <-leaves; maildrop.KindOf(err) != maildrop.Maybe {
		t.Error("who left:", err)
	}
	if session := <-ended; session != "leaves" {
		t.Error("ended at the server:", session)
	}
	leave <- struct{}{}
	if err := <-stays; err != nil {
		t.Error("who stayed:", err)
	}
}

// A server that is stopped ends what it has begun, and takes nothing new.
func TestFeedOfAServerThatStops(t *testing.T) {
	a := newAuthority(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	server, address := serve(t, rpc.ServerConfig{
		TLS: a.server(node), Allow: rpc.NodeAllow("eu"),
		Service: always(func(context.Context) error { entered <- struct{}{}; <-leave; return nil }),
	})
	pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(intake), Feeds: true})
	t.Cleanup(pool.Close)
	deliver := func() error {
		return pool.Client(address).Deliver(t.Context(), maildrop.Envelope{To: anna}, body("x\r\n"))
	}
	first := make(chan error, 1)
	go func() { first <- deliver() }()
	<-entered
	stopped := make(chan struct{})
	go func() { server.Stop(context.Background()); close(stopped) }()
	close(leave)
	if err := <-first; err != nil {
		t.Error("under way when the server was stopped:", err)
	}
	<-stopped
	if err := deliver(); maildrop.KindOf(err) != maildrop.Transient {
		t.Error("afterwards:", err)
	}
}

// A server of an earlier version, which knows no feed, gets its deliveries all the same.
func TestServerWithoutFeed(t *testing.T) {
	a := newAuthority(t)
	var mu sync.Mutex
	got := map[maildrop.EnvelopeID]int{}
	address := rpc.ServeWithoutFeed(t, a.server(node), &script{
		accept: func(context.Context, maildrop.Recipient) error { return nil },
		deliver: func(_ context.Context, e maildrop.Envelope, b maildrop.Body) error {
			mu.Lock()
			defer mu.Unlock()
			got[e.ID]++
			return nil
		},
	})
	pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(intake), Feeds: true})
	t.Cleanup(pool.Close)
	var group errgroup.Group
	for range 50 {
		group.Go(func() error {
			octets := random(1000)
			return errors.Join(
				pool.Client(address).Accept(t.Context(), maildrop.Recipient{Address: anna}),
				pool.Client(address).Deliver(t.Context(), signed("s", octets), body(octets)))
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for id, times := range got {
		if times != 1 {
			t.Errorf("%x was delivered %d times", id, times)
		}
	}
	if len(got) != 50 {
		t.Errorf("%d of 50 were delivered", len(got))
	}
}

// A feed that is retired under load loses nothing, and another goes on.
func TestFeedIsRetired(t *testing.T) {
	c := connector(true)(t, always(func(context.Context) error { return nil }))
	stop := make(chan struct{})
	var group errgroup.Group
	for range 16 {
		group.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := c.Deliver(t.Context(), maildrop.Envelope{To: anna}, body(bytes.Repeat([]byte("x"), 5000))); err != nil {
					return err
				}
			}
		})
	}
	feeds := rpc.RetireFeeds(c, 50)
	close(stop)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if feeds < 10 {
		t.Errorf("%d feeds were retired", feeds)
	}
}

// Who may not deliver may not feed.
func TestFeedIsForIntakesAndFronts(t *testing.T) {
	method := posternv1.Maildrop_Feed_FullMethodName
	for _, c := range []struct {
		allow func(rpc.Identity, string) error
		who   rpc.Identity
		may   bool
	}{
		{rpc.NodeAllow("eu"), intake, true},
		{rpc.NodeAllow("eu"), rpc.Identity{Region: "us", Role: rpc.RoleIntake, Name: "i"}, false},
		{rpc.NodeAllow("eu"), node, false},
		{rpc.GatewayAllow("us"), intake, true},
		{rpc.GatewayAllow("us"), front, false},
	} {
		if err := c.allow(c.who, method); (err == nil) != c.may {
			t.Errorf("%s: %v", c.who, err)
		}
	}
}
