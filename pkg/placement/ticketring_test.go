package placement

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a time within a period.
func at(p period, into time.Duration) time.Time { return p.begin().Add(into) }

func shared(ring ticketRing, periods ...period) map[period]TicketKey {
	for _, p := range periods {
		ring.shared[p] = newTicketKey()
	}
	return ring.shared
}

// TestTicketRotation: the present period's key encrypts, the next and the previous one
// decrypt, so that fronts whose clocks differ by less than a period resume each
// other's sessions.
func TestTicketRotation(t *testing.T) {
	ring := newTicketRing()
	key := shared(ring, 99, 100, 101)
	want := [][]TicketKey{{key[100], key[101], key[99]}}
	for _, into := range []time.Duration{0, time.Second, ticketPeriod - time.Second} {
		if got := ring.inUse(at(100, into)); !slices.Equal(got, want[0]) {
			t.Errorf("%v into the period: not current, next, previous", into)
		}
	}
	before := ring.inUse(at(100, ticketPeriod-time.Second))
	shared(ring, 102)
	after := ring.inUse(at(101, 0))
	if after[0] != ring.shared[101] || len(after) != 3 {
		t.Errorf("%d keys after the rotation", len(after))
	}
	if !slices.Contains(before, after[0]) || !slices.Contains(after, before[0]) {
		t.Error("fronts on both sides of a rotation don't resume each other's sessions")
	}
	if _, kept := ring.shared[99]; kept {
		t.Error("a key is kept for a third period")
	}
}

// TestTicketsWithoutEtcd: keys at hand go on, for a day; then, and at a start, one of
// our own, another one each period.
func TestTicketsWithoutEtcd(t *testing.T) {
	ring := newTicketRing()
	last := shared(ring, 100)[100]
	for p := period(100); p <= 100+staleTickets; p++ {
		if got := ring.inUse(at(p, time.Hour)); got[0] != last {
			t.Errorf("%d periods without news: another key encrypts", p-100)
		}
		if isShared, since := ring.current(at(p, time.Hour)); !isShared || !since.Equal(at(100, 0)) {
			t.Errorf("%v since %v", isShared, since)
		}
	}
	var own []TicketKey
	for p := period(105); p < 108; p++ {
		got := ring.inUse(at(p, 0))
		if slices.Contains(got, last) || slices.Contains(own[:max(0, len(own)-1)], got[0]) {
			t.Error("an old key is kept")
		}
		if len(own) > 0 && !slices.Contains(got, own[len(own)-1]) {
			t.Error("the key of the period before isn't kept")
		}
		if again := ring.inUse(at(p, time.Hour)); again[0] != got[0] {
			t.Error("another key within a period")
		}
		if isShared, since := ring.current(at(p, time.Hour)); isShared || !since.Equal(at(p, 0)) {
			t.Errorf("%v since %v", isShared, since)
		}
		own = append(own, got[0])
	}
	shared(ring, 107, 108)
	if got := ring.inUse(at(107, time.Hour)); got[0] != ring.shared[107] || !slices.Contains(got, own[2]) {
		t.Error("with etcd back: not the shared key first, and our own behind it")
	}
}

// TestTicketKeysHide: no way of printing shows a key.
func TestTicketKeysHide(t *testing.T) {
	key := TicketKey(bytes.Repeat([]byte("k"), 32))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key)
	all := fmt.Sprintf("%v %s %+v %#v", key, key, []TicketKey{key}, key) + log.String()
	if strings.Contains(all, "kkk") || strings.Contains(all, "107") || strings.Contains(all, "0x6b") {
		t.Error(all)
	}
}

// TestTicketSeal: nothing but the same secret at the same place opens an entry.
func TestTicketSeal(t *testing.T) {
	one, name, err := newSealer([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	other, otherName, err := newSealer([]byte("0123456789abcdeF"))
	if err != nil || name == otherName {
		t.Fatal(name, otherName, err)
	}
	key := newTicketKey()
	sealed := one.seal("here", key)
	if got, err := one.open("here", sealed); err != nil || got != key {
		t.Error(err)
	}
	if bytes.Contains(sealed, key[:8]) {
		t.Error("in the clear")
	}
	if _, err := one.open("there", sealed); err == nil {
		t.Error("at another place")
	}
	if _, err := other.open("here", sealed); err == nil {
		t.Error("with another secret")
	}
	if _, err := one.open("here", one.Seal(nil, nil, key[:31], []byte("here"))); err == nil {
		t.Error("a short key")
	}
	if _, _, err := newSealer([]byte("short")); err == nil {
		t.Error("a short secret")
	}
}
