package shard

import (
	"bytes"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// Damage in the store is never served, and says where it is.
func TestDamagedBodies(t *testing.T) {
	for name, c := range map[string]struct {
		body maildroptest.Body
		part string
	}{
		"inline": {maildroptest.Filled(10_000, 1), ledgerPart},
		"object": {maildroptest.Filled(2<<20, 1), "/body/"},
	} {
		t.Run(name, func(t *testing.T) {
			store := blobtest.NewMemory()
			config := testConfig(store)
			config.CacheBytes = -1
			s := open(t, config)
			user(t, s, anna)
			ok(t, s.Deliver(t.Context(), envelope(anna), c.body))
			d := login(t, s, anna)
			uid := uids(t, d)[0]
			for _, key := range keys(t, store, c.part) {
				store.Alter(key, func(content []byte) []byte {
					content[len(content)/2] ^= 1
					return content
				})
			}
			var got bytes.Buffer
			n, err := d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.Corrupt)
			if uint64(got.Len()) != n || !bytes.HasPrefix(c.body.Octets(), got.Bytes()) {
				t.Error("damaged octets were served")
			}
			if !strings.Contains(err.Error(), c.part) {
				t.Errorf("no object is named in %v", err)
			}
			got.Reset()
			n, err = d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.Corrupt)
			if n > 0 || got.Len() > 0 {
				t.Errorf("%d octets were served of a message that is known to be damaged", got.Len())
			}
			for _, key := range keys(t, store, c.part) {
				ok(t, store.Delete(t.Context(), key))
			}
			_, err = d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.Corrupt) // nobody removed it
			ok(t, d.Remove(t.Context(), []maildrop.UID{uid}))
			_, err = d.Read(t.Context(), uid, 0, &got)
			wants(t, err, maildrop.NotFound)
			if maildrop.TextOf(err) != textRemoved {
				t.Errorf("the session is told %q", maildrop.TextOf(err))
			}
		})
	}
}

func keys(t testing.TB, store *blobtest.Memory, part string) (found []string) {
	t.Helper()
	for info, err := range store.List(t.Context(), "", "") {
		ok(t, err)
		if strings.Contains(info.Key, part) {
			found = append(found, info.Key)
		}
	}
	return found
}

// Fresh mail is served from memory, until it is removed or newer mail needs
// the room.
func TestCache(t *testing.T) {
	registry := prometheus.NewRegistry()
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	config := testConfig(store)
	config.CacheBytes, config.Metrics = 3<<20, NewMetrics(registry)
	s := open(t, config)
	user(t, s, anna)
	var bodies []maildroptest.Body
	for i := range 5 {
		bodies = append(bodies, maildroptest.Filled(900<<10, byte(i)))
		ok(t, s.Deliver(t.Context(), envelope(anna), bodies[i]))
	}
	d := login(t, s, anna)
	list := uids(t, d)
	reads := func(i int) int {
		before := store.Calls()
		var got bytes.Buffer
		_, err := d.Read(t.Context(), list[i], 0, &got)
		ok(t, err)
		if !bytes.Equal(got.Bytes(), bodies[i].Octets()) {
			t.Errorf("message %d is not what was delivered", i)
		}
		return store.Calls() - before
	}
	for i, want := range []int{1, 1, 0, 0, 0} {
		if got := reads(i); got != want {
			t.Errorf("message %d: %d reads of the store, want %d", i, got, want)
		}
	}
	ok(t, d.Remove(t.Context(), list[4:]))
	if got := reads(4); got != 1 {
		t.Errorf("a removed message is still in the cache")
	}
	held := metric(t, registry, "postern_node_cache_bytes")
	if held <= 2*900<<10 || held > 3<<20 || metric(t, registry, "postern_node_cache_evictions_total") != 2 {
		t.Errorf("%v octets are held", held)
	}
	ok(t, s.Close(t.Context()))
	for _, name := range []string{"postern_node_cache_bytes", "postern_node_index_messages", "postern_node_index_mailboxes", "postern_node_commit_queue_bytes"} {
		if left := metric(t, registry, name); left != 0 {
			t.Errorf("after Close %s is %v", name, left)
		}
	}
}

// metric is the sum of a counter's or gauge's values.
func metric(t testing.TB, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	ok(t, err)
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
			return sum
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}
