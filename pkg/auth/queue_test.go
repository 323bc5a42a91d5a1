package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var (
	guesser = netip.MustParseAddr("203.0.113.7")
	other   = netip.MustParseAddr("198.51.100.1")
)

// TestGuesserHoldsNobodyUp: however many checks one source has waiting, another
// source's is the next but one.
func TestGuesserHoldsNobodyUp(t *testing.T) {
	q := newQueue(128)
	for range 250 {
		q.push(&flight{source: sourceOf(guesser)})
	}
	late := &flight{source: sourceOf(other)}
	if dropped := q.push(late); dropped == nil || dropped.source != sourceOf(guesser) {
		t.Errorf("dropped %+v, want the guesser's latest", dropped)
	}
	if first, second := q.pop(), q.pop(); first != late && second != late {
		t.Error("two checks were begun before it")
	}
}

// TestQueueProperties: whatever comes, each check is begun or dropped once, those of
// a source in their order, none waits behind two of another source once it is
// its line's first, and the bound holds.
func TestQueueProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(rapid.IntRange(1, 12).Draw(t, "max"))
		waiting := map[netip.Prefix][]*flight{}
		since := map[netip.Prefix]int{} // pops since the line's first came to its place
		waitingCount := func() (n int) {
			for _, line := range waiting {
				n += len(line)
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				f := &flight{source: sourceOf(netip.AddrFrom4([4]byte{10, 0, 0, rapid.ByteRange(0, 5).Draw(t, "source")}))}
				longest := 0
				for _, line := range waiting {
					longest = max(longest, len(line))
				}
				if len(waiting[f.source]) == 0 {
					since[f.source] = 0
				}
				waiting[f.source] = append(waiting[f.source], f)
				dropped := q.push(f)
				if full := waitingCount() > q.max; full != (dropped != nil) {
					t.Fatalf("full: %v, dropped: %v", full, dropped)
				}
				if dropped == nil {
					return
				}
				line := waiting[dropped.source]
				if line[len(line)-1] != dropped || dropped != f && len(line) != longest {
					t.Fatal("dropped is not the latest of the longest line")
				}
				waiting[dropped.source] = line[:len(line)-1]
			},
			"pop": func(t *rapid.T) {
				f := q.pop()
				if f == nil {
					if waitingCount() > 0 {
						t.Fatal("nothing begun, and some wait")
					}
					return
				}
				if line := waiting[f.source]; len(line) == 0 || line[0] != f {
					t.Fatal("out of order")
				}
				waiting[f.source] = waiting[f.source][1:]
				since[f.source] = 0
				for source, line := range waiting {
					if source == f.source || len(line) == 0 {
						continue
					}
					if since[source]++; since[source] > 6 {
						t.Fatalf("%v waits for %d others", source, since[source])
					}
				}
			},
			"": func(t *rapid.T) {
				if q.count != waitingCount() || q.count > q.max || len(q.lines) != len(q.turns) {
					t.Fatalf("%d of %d wait, %d lines, %d turns", q.count, q.max, len(q.lines), len(q.turns))
				}
			},
		})
	})
}

// TestFullQueueTakesFromTheLongest: while one source fills the queue, somebody
// else's right password is still checked, and soon.
func TestFullQueueTakesFromTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, release := stuck(t, 8)
		defer v.Close()
		hash := cheap.hash("secret").String()
		var waiting sync.WaitGroup
		var busy atomic.Int32
		for i := range 20 {
			waiting.Go(func() {
				err := v.Verify(t.Context(), maildrop.Login{Address: anna, Password: fmt.Sprint(i), Remote: guesser}, hash)
				if maildrop.KindOf(err) == maildrop.Busy {
					busy.Add(1)
				}
			})
		}
		synctest.Wait()
		waiting.Go(func() {
			if err := v.Verify(t.Context(), maildrop.Login{Address: anna, Password: "secret", Remote: other}, hash); err != nil {
				t.Errorf("the right password from elsewhere: %v", err)
			}
		})
		synctest.Wait()
		release()
		waiting.Wait()
		if busy.Load() != 13 {
			t.Errorf("%d of the guesser's 20 checks were dropped, want all but 7", busy.Load())
		}
	})
}

// TestSources: who takes turns.
func TestSources(t *testing.T) {
	var got []string
	for _, text := range []string{"192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:2::1", "fe80::1%eth0"} {
		got = append(got, sourceOf(netip.MustParseAddr(text)).String())
	}
	want := []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.1/32", "2001:db8:1::/48", "2001:db8:1::/48", "2001:db8:2::/48", "fe80::/48"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if sourceOf(netip.Addr{}) == sourceOf(other) {
		t.Error("an unknown address shares a known one's turns")
	}
}
