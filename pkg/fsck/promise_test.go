package fsck

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/shard"
)

// small is a region's store with a few messages of each place, in the ledger's tail and
// before it, at rest as they are or encrypted.
type small struct {
	*testing.T
	memory *blobtest.Memory
	keys   *sealed.Wrapper // nil: nothing is encrypted
	mail   map[maildrop.UID][]byte
}

// opened is a take-over of it, and what that said.
type opened struct {
	shard   *shard.Shard
	log     bytes.Buffer
	metrics *prometheus.Registry
}

func (s *small) store(memory *blobtest.Memory, found func(string, int64, string), log *slog.Logger) (blob.Store, error) {
	if s.keys == nil {
		return memory, nil
	}
	config := shard.Config{Region: "eu", Number: number}
	return sealed.Open(context.Background(), memory, config.Prefix(), s.keys, sealed.Options{Found: found, Log: log})
}

func (s *small) open(memory *blobtest.Memory) (*opened, error) {
	o := &opened{metrics: prometheus.NewRegistry()}
	log := slog.New(slog.NewTextHandler(&o.log, nil))
	counts := shard.NewMetrics(o.metrics)
	store, err := s.store(memory, func(key string, _ int64, _ string) { counts.Mended(key) }, log)
	if err != nil {
		return nil, err
	}
	config := shardConfig(store)
	config.Log, config.Metrics = log, counts
	o.shard, err = shard.Open(context.Background(), config, 0)
	return o, err
}

func (o *opened) close(t *testing.T) {
	t.Helper()
	if err := o.shard.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// damages is how often damage was counted.
func (o *opened) damages(t *testing.T) (n float64) {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "postern_node_damage_total" {
			for _, m := range family.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func newSmall(t *testing.T, encrypted bool) *small {
	s := &small{T: t, memory: blobtest.NewMemory(), mail: map[maildrop.UID][]byte{}}
	if encrypted {
		path := filepath.Join(t.TempDir(), "keys.json")
		_, err := sealed.CreateKeyFile(path)
		if err == nil {
			s.keys, err = sealed.KeyFile(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	o, err := s.open(s.memory)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []maildrop.Address{anna, ben} {
		if err := o.shard.PutAddress(t.Context(), maildrop.AddressRecord{Address: address, Account: "customer", Hash: someHash}); err != nil {
			t.Fatal(err)
		}
	}
	var bodies [][]byte
	deliver := func(octets int) {
		body := maildroptest.Text(strings.Repeat(fmt.Sprintf("message %04d\r\n", len(bodies)), 1+octets/14))
		if err := o.shard.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, body); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body.Octets())
	}
	deliver(60)
	deliver(90)
	o.close(t)
	if o, err = s.open(s.memory); err != nil {
		t.Fatal(err)
	}
	deliver(30)
	deliver(1)
	drop := s.login(o)
	entries, err := maildrop.Entries(t.Context(), drop)
	if err != nil || len(entries) != len(bodies) {
		t.Fatal(err, len(entries))
	}
	if err := drop.Remove(t.Context(), []maildrop.UID{entries[1].UID}); err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if i != 1 {
			s.mail[e.UID] = bodies[i]
		}
	}
	o.close(t)
	return s
}

func (s *small) login(o *opened) maildrop.Drop {
	s.Helper()
	drop, err := o.shard.Open(context.Background(), maildrop.Login{Address: anna, Password: "x"})
	if err != nil {
		s.Fatal(err)
	}
	return drop
}

// served opens the store and fetches all; it returns what could be had and which
// failed as damaged.
func (s *small) served(memory *blobtest.Memory, what string) (o *opened, damaged []maildrop.UID) {
	o, err := s.open(memory)
	if err != nil {
		s.Fatalf("%s: the shard doesn't open: %v", what, err)
	}
	drop := s.login(o)
	entries, err := maildrop.Entries(context.Background(), drop)
	if err != nil || len(entries) != len(s.mail) {
		s.Fatalf("%s: %d messages, want %d: %v", what, len(entries), len(s.mail), err)
	}
	for _, e := range entries {
		var got bytes.Buffer
		_, err := drop.Read(context.Background(), e.UID, 0, &got)
		switch want, known := s.mail[e.UID]; {
		case !known:
			s.Fatalf("%s: a message that isn't there: %s", what, e.UID)
		case err == nil && !bytes.Equal(got.Bytes(), want), !bytes.HasPrefix(want, got.Bytes()):
			s.Fatalf("%s: damaged octets were served", what)
		case err != nil && maildrop.KindOf(err) != maildrop.Corrupt:
			s.Fatalf("%s: %v; want kind corrupt", what, err)
		case err != nil:
			damaged = append(damaged, e.UID)
		}
	}
	return o, damaged
}

// The promise about damage: a flipped bit anywhere in any object keeps no shard from
// opening and undoes nothing, what it hits is never served, all else is; it is counted and
// logged when it is met, with object and octet, and a verification finds it.
func TestOneFlippedBitAnywhere(t *testing.T) {
	for name, encrypted := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t, encrypted)
			flips, costs := 0, 0
			for info := range s.memory.List(t.Context(), "", "") {
				for octet := range info.Size {
					what := fmt.Sprintf("%s: octet %d of %d", info.Key, octet, info.Size)
					memory := s.memory.Clone()
					memory.Alter(info.Key, func(b []byte) []byte { b[octet] ^= 1 << (octet % 8); return b })
					o, damaged := s.served(memory, what)
					o.close(t)
					count, logged := o.damages(t), strings.Contains(o.log.String(), info.Key) && strings.Contains(o.log.String(), "octet")
					if (count > 0) != logged || len(damaged) > 0 && count == 0 {
						t.Fatalf("%s: cost %d, counted %v, logged %v:\n%s", what, len(damaged), count, logged, o.log.String())
					}
					if len(damaged) > 1 {
						t.Fatalf("%s: cost %v", what, damaged)
					}
					if flips%7 == 0 {
						s.found(memory, info.Key, what)
					}
					flips, costs = flips+1, costs+len(damaged)
				}
			}
			if flips < 1000 || costs < 100 {
				t.Errorf("%d flips, %d cost a message", flips, costs)
			}
		})
	}
}

// found verifies the store: the object's damage, and nothing else.
func (s *small) found(memory *blobtest.Memory, key, what string) {
	s.Helper()
	config := Config{Region: "eu", Shards: shards, Only: -1, Store: memory, Where: "memory"}
	if s.keys != nil {
		config.Unseal = func(_ context.Context, store blob.Store, prefix string, found func(string, int64, string)) (blob.Store, error) {
			return sealed.Open(context.Background(), store, prefix, s.keys, sealed.Options{Found: found})
		}
	}
	report, err := Run(context.Background(), config)
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	if d := damages(report); len(d) == 0 || slices.ContainsFunc(d, func(one Damage) bool { return one.Key != key }) {
		s.Fatalf("%s: found %v", what, d)
	}
}

// An object that is lost is forgotten, and the verification says so.
func TestForgottenObject(t *testing.T) {
	s := newSmall(t, true)
	var keys []string
	for info := range s.memory.List(t.Context(), "eu/shard-0003/ledger/", "") {
		keys = append(keys, info.Key)
	}
	s.memory.Alter(keys[len(keys)-2], func(b []byte) []byte { b[70] ^= 1; b[len(b)-1] ^= 1; return b })
	if _, err := s.open(s.memory); maildrop.KindOf(err) != maildrop.Corrupt {
		t.Fatalf("it opens: %v", err)
	}
	store, err := s.store(s.memory, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Forget(t.Context(), ledger.Config{Store: store, Prefix: "eu/shard-0003"}, ledger.Forgotten{Sequence: uint64(len(keys) - 1), By: "somebody"}); err != nil {
		t.Fatal(err)
	}
	o, err := s.open(s.memory)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close(t)
	report, err := Run(t.Context(), Config{Region: "eu", Shards: shards, Only: -1, Store: s.memory, Where: "memory",
		Unseal: func(_ context.Context, _ blob.Store, _ string, found func(string, int64, string)) (blob.Store, error) {
			return s.store(s.memory, found, nil)
		}})
	if err != nil {
		t.Fatal(err)
	}
	all, grave := report.Damaged()
	if all != 1 || grave != 0 || len(report.Shards[0].Forgotten) != 1 || !strings.Contains(damages(report)[0].What, "forgotten") {
		t.Errorf("%d, %d: %v, forgotten %v", all, grave, damages(report), report.Shards[0].Forgotten)
	}
}
