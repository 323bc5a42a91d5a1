package throttle

import (
	"bytes"
	"math"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var (
	start  = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	usual  = Limits{PerIP: 16, Per64: 8, Free: 10, MaxDelay: 8 * time.Second}
	nat    = netip.MustParseAddr("203.0.113.7")
	source = SourceOf(nat)
)

func TestSources(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := SourceOf(netip.MustParseAddr(text)).String(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if SourceOf(netip.Addr{}).Known() {
		t.Error("an unknown address is a source")
	}
}

// TestDelays: none for the free ones, then growing, then at its bound; and it goes away.
func TestDelays(t *testing.T) {
	table := NewTable(usual, 1)
	var delays []time.Duration
	for range 18 {
		table.Fail(start, source)
		delays = append(delays, table.Delay(start, source))
	}
	want := append(make([]time.Duration, 10), 250*time.Millisecond, 500*time.Millisecond, time.Second, 2*time.Second,
		4*time.Second, 8*time.Second, 8*time.Second, 8*time.Second)
	if !slices.Equal(delays, want) {
		t.Errorf("got  %v\nwant %v", delays, want)
	}
	if d := table.Delay(start.Add(halfLife), source); d != 0 {
		t.Errorf("%v after a half-life of 18 failures", d)
	}
	if d := table.Delay(start, SourceOf(netip.MustParseAddr("203.0.113.8"))); d != 0 {
		t.Errorf("its neighbour waits %v", d)
	}
	for range 10000 {
		table.Fail(start, source)
	}
	if d := table.Delay(start.Add(3*time.Hour), source); d != 0 {
		t.Errorf("%v three hours after the worst", d)
	}
}

// TestDecay: without further failures a delay never grows.
func TestDecay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, now := NewTable(usual, 1), start
		for range rapid.IntRange(0, 40).Draw(t, "failures") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "pause")) * time.Second)
			table.Fail(now, source)
		}
		before := table.Delay(now, source)
		for range 50 {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "silence")) * time.Second)
			after := table.Delay(now, source)
			if after > before || after < 0 || after > usual.MaxDelay {
				t.Fatalf("%v, then %v", before, after)
			}
			before = after
		}
	})
}

// gossipOf is what a front says of some sources, in several packets.
func gossipOf(t *rapid.T, self uint64) (packets [][]byte) {
	peer, now := NewTable(usual, self), start
	for range rapid.IntRange(1, 12).Draw(t, "events") {
		s := SourceOf(netip.AddrFrom4([4]byte{10, 0, 0, rapid.ByteRange(0, 3).Draw(t, "source")}))
		switch rapid.IntRange(0, 3).Draw(t, "event") {
		case 0:
			peer.Fail(now, s)
		case 1:
			peer.Connect(now, s)
		case 2:
			if peer.open[s] > 0 {
				peer.Disconnect(s)
			}
		case 3:
			packets = append(packets, peer.Say(now)...)
			now = now.Add(time.Second)
		}
	}
	return append(packets, peer.Say(now)...)
}

// TestHearingInAnyOrder: what is known doesn't depend on the order in which packets
// come, nor on how often.
func TestHearingInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var packets [][]byte
		for self := range rapid.Uint64Range(2, 5).Draw(t, "peers") {
			packets = append(packets, gossipOf(t, self+2)...)
		}
		if len(packets) == 0 {
			return
		}
		one, other := NewTable(usual, 1), NewTable(usual, 1)
		for _, p := range packets {
			one.Hear(start, p)
		}
		shuffled := rapid.Permutation(packets).Draw(t, "order")
		shuffled = append(shuffled, rapid.SliceOfN(rapid.SampledFrom(packets), 0, 5).Draw(t, "again")...)
		for _, p := range shuffled {
			other.Hear(start, p)
		}
		if len(one.records) != len(other.records) {
			t.Fatalf("%d sources, %d", len(one.records), len(other.records))
		}
		for s, r := range one.records {
			o := other.records[s]
			if o == nil || math.Abs(r.harm(start)-o.harm(start)) > 1e-9 || r.opened(start) != o.opened(start) {
				t.Fatalf("%v: %+v, %+v", s, r, o)
			}
		}
	})
}

// TestTogether: failures spread over fronts count as if they were one front's, once each
// has heard of the others.
func TestTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fronts, alone := []*Table{NewTable(usual, 1), NewTable(usual, 2), NewTable(usual, 3)}, NewTable(usual, 9)
		now := start
		for range rapid.IntRange(1, 30).Draw(t, "failures") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pause")) * time.Second)
			fronts[rapid.IntRange(0, 2).Draw(t, "front")].Fail(now, source)
			alone.Fail(now, source)
			exchange(now, fronts...)
		}
		want := alone.records[source].harm(now)
		for i, front := range fronts {
			if got := front.records[source].harm(now); math.Abs(got-want) > 0.2 {
				t.Fatalf("front %d: level %v, want %v", i, got, want)
			}
		}
	})
}

func exchange(now time.Time, fronts ...*Table) {
	for _, from := range fronts {
		for _, packet := range from.Say(now) {
			for _, to := range fronts {
				to.Hear(now, packet)
			}
		}
	}
}

// TestConnections: the limit is one for all fronts, freed when connections end, and
// what a front that died had open holds nobody out for long.
func TestConnections(t *testing.T) {
	a, b := NewTable(usual, 1), NewTable(usual, 2)
	for range usual.PerIP / 2 {
		if !a.Connect(start, source) {
			t.Fatal("refused below the limit")
		}
		exchange(start, a, b)
	}
	got := 0
	for b.Connect(start, source) {
		got++
	}
	if got != usual.PerIP/2 {
		t.Errorf("the second front took %d beside the first one's %d, of %d", got, usual.PerIP/2, usual.PerIP)
	}
	if !b.Connect(start, SourceOf(netip.MustParseAddr("203.0.113.8"))) {
		t.Error("its neighbour was refused")
	}
	for range usual.PerIP / 2 {
		a.Disconnect(source)
	}
	exchange(start, a, b)
	if !b.Connect(start, source) {
		t.Error("refused after the others had gone")
	}
	for range 9 {
		b.Disconnect(source)
	}
	for a.Connect(start, source) {
		exchange(start, a, b)
	}
	if b.Connect(start, source) {
		t.Error("more than the limit")
	}
	if !b.Connect(start.Add(openFor), source) {
		t.Error("refused for the connections of a front that says nothing any more")
	}
	for range 2 * usual.PerIP {
		if !a.Connect(start, Source{}) {
			t.Fatal("an unknown source is refused")
		}
	}
	if a.open[Source{}] != 0 {
		t.Error("an unknown source is counted")
	}
}

// TestWide: an IPv6 /64 has a limit of its own, whatever addresses it uses.
func TestWide(t *testing.T) {
	table, got := NewTable(usual, 1), 0
	for i := range 20 {
		network := netip.MustParseAddr("2001:db8::").As16()
		network[15] = byte(i)
		if table.Connect(start, SourceOf(netip.AddrFrom16(network))) {
			got++
		}
	}
	if got != usual.Per64 {
		t.Errorf("%d connections, want %d", got, usual.Per64)
	}
}

// TestBounded: however many sources fail, memory is bounded, packets are, and the worst
// source is remembered.
func TestBounded(t *testing.T) {
	limits := usual
	limits.Sources = 1000
	table, peer := NewTable(limits, 1), NewTable(limits, 2)
	for range 30 {
		table.Fail(start, source)
	}
	for i := range 20000 {
		s := SourceOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		table.Fail(start, s)
		if len(table.records) > limits.Sources || len(table.news) > limits.Sources {
			t.Fatalf("%d sources, news of %d", len(table.records), len(table.news))
		}
	}
	if d := table.Delay(start, source); d != limits.MaxDelay {
		t.Errorf("the worst source is forgotten: %v", d)
	}
	now := start
	for range 20 {
		packets := table.Say(now)
		if len(packets) > maxPackets {
			t.Fatalf("%d packets", len(packets))
		}
		for _, p := range packets {
			if len(p) > MaxPacket {
				t.Fatalf("a packet of %d octets", len(p))
			}
			peer.Hear(now, p)
		}
		now = now.Add(250 * time.Millisecond)
	}
	if len(peer.records) < len(table.records)*9/10 {
		t.Errorf("of %d sources the peer knows %d", len(table.records), len(peer.records))
	}
	table.Say(start.Add(24 * time.Hour))
	if len(table.records) != 0 {
		t.Errorf("a day later %d sources are remembered", len(table.records))
	}
}

// TestMemory: entries hold for half of the lifetime at least and half more than it at most.
func TestMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(100, time.Hour)
		now, added := start, map[uint64]time.Time{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "pause")) * time.Second)
			key := rapid.Uint64Range(0, 9).Draw(t, "key")
			at, known := added[key]
			age := now.Sub(at)
			if got := m.has(now, key); got && (!known || age > 90*time.Minute) || !got && known && age < 30*time.Minute {
				t.Fatalf("%v, %v old", got, age)
			}
			m.add(now, key)
			added[key] = now
		}
	})
	m := newMemory(100, time.Hour)
	for key := range uint64(10000) {
		m.add(start, key)
		if len(m.young)+len(m.old) > 100 {
			t.Fatalf("%d entries", len(m.young)+len(m.old))
		}
	}
	if !m.has(start, 9999) {
		t.Error("the latest is forgotten")
	}
}

// TestGate: a device that repeats one wrong password counts once; who has logged in
// from the source isn't delayed with it.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(usual)
		for range 100 {
			g.Failed(nat, "phone@example.com", "forgotten")
		}
		if d := g.Delay(nat, "anna@example.com"); d != 0 {
			t.Errorf("one device that repeats itself costs its neighbours %v", d)
		}
		g.Succeeded(nat, "anna@example.com")
		for range 100 {
			g.Failed(nat, "anna@example.com", "")
		}
		if d := g.Delay(nat, "ben@example.com"); d != usual.MaxDelay {
			t.Errorf("a guesser waits %v", d)
		}
		if d := g.Delay(nat, "anna@example.com"); d != 0 {
			t.Errorf("who logged in from there before waits %v", d)
		}
		if d := g.Delay(netip.MustParseAddr("203.0.113.8"), "anna@example.com"); d != 0 {
			t.Errorf("from elsewhere: %v", d)
		}
		time.Sleep(3*knownFor + time.Second)
		g.Failed(nat, "phone@example.com", "forgotten")
		for range 40 {
			g.Failed(nat, "ben@example.com", "")
		}
		if d := g.Delay(nat, "anna@example.com"); d != usual.MaxDelay {
			t.Errorf("three days later: %v", d)
		}
	})
}

// TestNoLimits: zeroes lift everything.
func TestNoLimits(t *testing.T) {
	g := NewGate(Limits{})
	for range 1000 {
		if !g.Connect(nat) {
			t.Fatal("refused")
		}
		g.Failed(nat, "a@example.com", "")
	}
	if d := g.Delay(nat, "a@example.com"); d != 0 {
		t.Error(d)
	}
	if packets := g.Say(); len(packets) != 0 {
		t.Errorf("%d packets", len(packets))
	}
}

// FuzzHear: no packet does harm, and one that was said is understood.
func FuzzHear(f *testing.F) {
	said := NewTable(usual, 2)
	said.Fail(start, source)
	said.Fail(start, SourceOf(netip.MustParseAddr("2001:db8::1")))
	for _, p := range said.Say(start) {
		f.Add(p)
		f.Add(p[:len(p)-1])
		f.Add(append(bytes.Clone(p), kindIPv6))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		table := NewTable(usual, 1)
		table.Hear(start, packet)
		for s, r := range table.records {
			if !s.Known() || r.harm(start) < 0 || r.harm(start) > maxLevel || r.opened(start) < 0 {
				t.Fatalf("%v: %+v", s, r)
			}
		}
		table.Say(start)
	})
}

// TestToldInTime: fronts that speak four times a second, as package gossip has them do, know
// within two seconds of a thousand guessing sources, although of three datagrams two get lost.
func TestToldInTime(t *testing.T) {
	const sources, tick, limit = 1000, 250 * time.Millisecond, 2 * time.Second
	synctest.Test(t, func(t *testing.T) {
		a, b := NewGate(usual), NewGate(usual)
		address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
		for i := range sources {
			for guess := range usual.Free + 1 {
				a.Failed(address(i), "anna", string(rune('a'+guess)))
			}
			a.Connect(address(i))
			a.Connect(address(i))
		}
		waiting := func() (n int) {
			for i := range sources {
				if b.Delay(address(i), "ben") > 0 {
					n++
				}
			}
			return n
		}
		began := time.Now()
		for said := 1; waiting() < sources; said++ {
			if time.Since(began) > limit {
				t.Fatalf("after %v %d of %d sources are known", limit, waiting(), sources)
			}
			time.Sleep(tick)
			for _, packet := range a.Say() {
				if said%3 == 0 {
					b.Hear(packet)
				}
			}
		}
		t.Logf("known after %v", time.Since(began))
		for i := range sources {
			opened := 2
			for b.Connect(address(i)) {
				opened++
			}
			if opened != usual.PerIP {
				t.Fatalf("%d connections of one address, want %d", opened, usual.PerIP)
			}
		}
	})
}
