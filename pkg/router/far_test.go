package router_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// far is a maildrop in eu with a session in us.
type far struct {
	*cluster
	service  maildrop.Service // us's
	nodes    [2]string
	reads    atomic.Int64 // calls of Read that the gateway was sent
	messages []maildroptest.Body
	entries  []maildrop.Entry
	drop     maildrop.Drop
}

// newFar delivers so many messages of so many octets, and opens a session. Octets to
// and from the gateway take delay.
func newFar(t testing.TB, count, size int, delay time.Duration) *far {
	t.Helper()
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
	rules.PutDomain(policy.Domain{Name: "eu.example", Account: "customer", Kind: policy.DomainLocal})
	f := &far{cluster: newCluster(t, rules)}
	_, f.nodes[0] = f.node("eu", "m1")
	_, f.nodes[1] = f.node("eu", "m2")
	for number := range shards {
		f.give(number, f.nodes[0])
	}
	allow := rpc.GatewayAllow("eu")
	_, address := f.serve(f.files("eu", rpc.RoleFront, "gateway"), f.process("eu", rpc.RoleFront).Local(), func(id rpc.Identity, method string) error {
		if method == posternv1.Maildrop_Read_FullMethodName {
			f.reads.Add(1)
		}
		return allow(id, method)
	})
	eu := f.regions["eu"]
	eu.Gateway = distant(t, address, delay)
	f.regions["eu"] = eu

	home := f.region("eu")
	f.ok(home.PutAddress(t.Context(), maildrop.AddressRecord{Address: anna, Account: "customer", Hash: maildroptest.Hash}))
	for i := range count {
		f.messages = append(f.messages, maildroptest.Filled(size, byte(i)))
		f.ok(home.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, f.messages[i]))
	}
	f.service = f.region("us")
	f.open()
	return f
}

func (f *far) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *far) open() {
	f.t.Helper()
	drop, err := f.service.Open(f.t.Context(), maildrop.Login{Address: anna, Password: maildroptest.Password})
	f.ok(err)
	f.t.Cleanup(func() { drop.Close() })
	f.drop = drop
	f.entries, err = maildrop.Entries(f.t.Context(), drop)
	f.ok(err)
}

// read reads a message, and holds that its octets are those that were delivered.
func (f *far) read(number int) {
	f.t.Helper()
	var b bytes.Buffer
	n, err := f.drop.Read(f.t.Context(), f.entries[number-1].UID, 0, &b)
	if err != nil || int(n) != b.Len() || !bytes.Equal(b.Bytes(), f.messages[number-1].Octets()) {
		f.t.Fatalf("message %d: %d octets of %d, %v", number, n, f.messages[number-1].Wire(), err)
	}
}

// distant is where a server seems to be that is so far away: all octets, either way,
// arrive so much later, however many they are.
func distant(t testing.TB, server string, delay time.Duration) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			across, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			all.Go(func() { late(across, near, delay) })
			all.Go(func() { late(near, across, delay) })
		}
	})
	return l.Addr().String()
}

// late copies octets that are under way for so long.
func late(to, from net.Conn, delay time.Duration) {
	type piece struct {
		at     time.Time
		octets []byte
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{time.Now().Add(delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.octets); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range pieces { // its reader ends
	}
}

// Messages that are read in order, up or down, are asked for many at a time, and are
// what was delivered, each of them.
func TestMessagesFromAfarComeTogether(t *testing.T) {
	const count = 150
	f := newFar(t, count, 3000, 0)
	down := upTo(count)
	slices.Reverse(down)
	for name, order := range map[string][]int{"up": upTo(count), "down": down} {
		f.open()
		f.reads.Store(0)
		for _, number := range order {
			f.read(number)
		}
		// One alone, nine together, then eighty, then the rest.
		if n := f.reads.Load(); n > 4 {
			t.Errorf("%s: %d messages were asked for %d times", name, count, n)
		}
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	return all
}

// What isn't read in order is asked for when it is read, and costs no octet more.
func TestMessagesFromAfarInAnyOrder(t *testing.T) {
	f := newFar(t, 40, 3000, 0)
	for _, order := range [][]int{{7}, {1, 3, 5, 9}, {40, 1, 40, 2}, {5, 6, 8, 8, 7, 6, 1, 2, 3, 40, 39, 39}} {
		f.open()
		f.reads.Store(0)
		for _, number := range order {
			f.read(number)
		}
		if n := f.reads.Load(); int(n) > len(order) {
			t.Errorf("%v: asked for %d times", order, n)
		}
	}
}

// A reader that has enough of each message, as TOP has, doesn't make those behind it travel.
func TestTopsOfMessagesFromAfar(t *testing.T) {
	const count = 10
	f := newFar(t, count, 100<<10, 0)
	f.reads.Store(0)
	enough := errors.New("enough")
	for number := range count {
		_, err := f.drop.Read(t.Context(), f.entries[number].UID, 0, writer(func(p []byte) (int, error) { return 0, enough }))
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	if n := f.reads.Load(); n != count {
		t.Errorf("asked for %d times", n)
	}
	f.read(1)
	f.read(2)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A message that can't be read has its own answer; those on both sides of it are read.
func TestOneFromAfarCannotBeRead(t *testing.T) {
	f := newFar(t, 30, 3000, 0)
	f.entries[9].UID = "never-was"
	listing, err := f.drop.List(t.Context())
	f.ok(err)
	*listing = *maildrop.ListingOf(f.entries...) // the router's own: it asks for it
	for _, number := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9} {
		f.read(number)
	}
	if _, err := f.drop.Read(t.Context(), "never-was", 0, io.Discard); maildrop.KindOf(err) != maildrop.Invalid {
		t.Errorf("a message that isn't there: %v", err)
	}
	for number := 11; number <= 30; number++ {
		f.read(number)
	}
}

// The shard's owner changes, again and again, while messages are on their way.
func TestOwnersChangeWhileMessagesTravel(t *testing.T) {
	f := newFar(t, 120, 20<<10, 0)
	for number := 1; number <= 120; number++ {
		if number%10 == 0 {
			f.give(anna.Shard(shards), f.nodes[number/10%2])
		}
		f.read(number)
	}
}

// A session that ends, and one that is idle, give back what is on its way.
func TestCallerLeavesMessagesFromAfar(t *testing.T) {
	f := newFar(t, 40, 200<<10, 0)
	f.read(1)
	f.read(2)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := f.drop.Read(ctx, f.entries[2].UID, 0, writer(func(p []byte) (int, error) {
		cancel()
		return 0, ctx.Err()
	}))
	if maildrop.KindOf(err) != maildrop.Canceled {
		t.Error(err)
	}
	f.read(3)
	f.read(4)
	f.read(5)
	f.ok(f.drop.Close()) // goleak sees what stays
}

// BenchmarkFarDownload is 500 messages of 10 KB, one after the other, from a region
// 75 ms away; x-one is how much longer than one message of as many octets.
func BenchmarkFarDownload(b *testing.B) {
	const count, size, delay = 500, 10_000, 75 * time.Millisecond
	f := newFar(b, count, size, delay)
	large := newFar(b, 1, count*size, delay)
	for b.Loop() {
		begun := time.Now()
		large.read(1)
		one := time.Since(begun)
		f.open()
		begun = time.Now()
		for number := range count {
			f.read(number + 1)
		}
		many := time.Since(begun)
		b.ReportMetric(one.Seconds(), "one-s")
		b.ReportMetric(many.Seconds(), "many-s")
		b.ReportMetric(many.Seconds()/one.Seconds(), "x-one")
	}
}
