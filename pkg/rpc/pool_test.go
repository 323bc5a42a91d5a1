package rpc

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// A connection that nobody uses is closed, one with a call isn't, and a client
// that was kept connects anew. Its pool ends all.
func TestPoolClosesWhatIsUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
		c := p.Client("127.0.0.1:1")
		if p.Client("127.0.0.1:1") != c {
			t.Error("two clients of one address")
		}
		connected := func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.conn != nil
		}
		first, err := c.acquire("test", false)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * poolIdle)
		if !connected() {
			t.Error("closed during a call")
		}
		c.release()
		<-time.After(poolIdle - poolSweep)
		synctest.Wait()
		if !connected() {
			t.Error("closed too early")
		}
		<-time.After(3 * poolSweep)
		synctest.Wait()
		if connected() {
			t.Error("not closed")
		}
		again, err := c.acquire("test", false)
		if err != nil || again == first {
			t.Errorf("no new connection, %v", err)
		}
		c.release()
		p.Close()
		p.Close()
		for _, c := range []*Client{c, p.Client("127.0.0.1:1"), p.Client("127.0.0.1:2")} {
			if _, err := c.acquire("test", false); err == nil || maildrop.KindOf(err) != maildrop.Transient {
				t.Errorf("after the pool's end: %v", err)
			}
		}
	})
}

// What was fetched ahead and nobody reads is let go, with its place among the wide.
func TestFetchedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
		defer p.Close()
		d := &drop{client: p.Client("127.0.0.1:1")}
		if _, err := d.client.acquire("test", false); err != nil || !p.widen() {
			t.Fatal("no place", err)
		}
		canceled := make(chan struct{})
		d.ahead = &fetch{client: d.client, wide: true, stream: silent{}, uids: []maildrop.UID{"1"}, cancel: func() { close(canceled) }}
		d.ahead.idle = time.AfterFunc(fetchIdle, d.ahead.close)
		<-time.After(fetchIdle - time.Second)
		if len(p.wide) != 1 {
			t.Error("let go too early")
		}
		<-canceled
		synctest.Wait()
		if len(p.wide) != 0 || d.client.calls != 0 {
			t.Errorf("%d places are taken, %d calls run", len(p.wide), d.client.calls)
		}
		if _, err := d.readAhead(t.Context(), "1", 0, io.Discard); !errors.Is(err, errNotFetched) || d.ahead != nil {
			t.Errorf("afterwards: %v", err)
		}
		d.Close()
	})
}

// silent is a stream that nothing comes of.
type silent struct{ grpc.ClientStream }
