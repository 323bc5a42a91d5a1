package fsck

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/shard"
)

// A sound region: nothing is reported, the sums are the model's, everything is
// read once, and nothing is written.
func TestClean(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		reads := blobtest.NewFaulty(w.store, func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpCreate || c.Op == blobtest.OpDelete {
				t.Errorf("%s %s", c.Op, c.Key)
			}
			return blobtest.Fault{}
		})
		objects, octets := int64(0), int64(0)
		report, err := runOn(t, reads, func(c *Config) {
			c.Parallel = 1
			c.Progress = func(o, n int64) { objects, octets = objects+o, octets+n }
		})
		w.ok(err)
		if d := damages(report); len(d) != 0 || len(report.Shards) != 1 || report.Empty != shards-1 {
			t.Fatalf("damage %v, %d shards, %d empty", d, len(report.Shards), report.Empty)
		}
		s := report.Shards[0]
		if !sameSums(s.Classes, w.model()) {
			t.Errorf("sums %+v, want %+v", s.Classes, w.model())
		}
		if s.Number != number || s.Addresses != 3 || s.Mailboxes != 3 || s.Identity == 0 || len(s.Garbage) != 0 {
			t.Errorf("%+v", s)
		}
		size, err := Size(context.Background(), Config{Region: "eu", Shards: shards, Only: -1, Store: w.store})
		w.ok(err)
		stored := Usage{}
		for _, u := range s.Stored {
			stored.Objects, stored.Octets = stored.Objects+u.Objects, stored.Octets+u.Octets
		}
		if size != stored || s.Checked.Octets != size.Octets || octets != size.Octets || objects != s.Checked.Objects {
			t.Errorf("there are %+v, stored %+v, checked %+v, told %d, %d", size, stored, s.Checked, objects, octets)
		}
		if total := report.Total(); !reflect.DeepEqual(total.Classes, s.Classes) || total.Checked != s.Checked {
			t.Errorf("total %+v", total)
		}
	})
}

// Any flipped bit is found, its object named, and nothing else.
func TestEachFlippedBitIsFound(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		flips := 0
		for info := range w.store.List(context.Background(), "", "") {
			for n, at := range places(int(info.Size)) {
				damaged := w.store.Clone()
				damaged.Alter(info.Key, func(b []byte) []byte { b[at] ^= 1 << (n % 8); return b })
				d := damages(verified(t, damaged))
				if len(d) != 1 || d[0].Key != info.Key || d[0].Octet > at {
					t.Errorf("%s of %d octets, octet %d: found %v", info.Key, info.Size, at, d)
				}
				flips++
			}
		}
		t.Logf("%d flips", flips)
	})
}

// Whose mail is damaged, is said; and whether anybody misses it.
func TestDamageHasAName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		for _, l := range w.letters {
			damaged := w.store.Clone()
			for _, kind := range []ledger.ObjectKind{ledger.ObjectLedger, ledger.ObjectPack, ledger.ObjectBody} {
				for _, key := range w.keys(kind) {
					damaged.Alter(key, func(b []byte) []byte {
						if at := strings.Index(string(b), l.line); at >= 0 {
							b[at+10] ^= 1
						}
						return b
					})
				}
			}
			d := damages(verified(t, damaged))
			if len(d) != 1 || d[0].Mailbox != l.to || !d[0].UID.Valid() || d[0].Dead == l.lives() || d[0].Octet < 0 {
				t.Errorf("%q of %s: found %v", l.line, l.to, d)
			}
		}
	})
}

// A missing object is found, but for those whose loss is what a crash looks like, or
// that could be deleted anyway.
func TestEachMissingObjectIsFound(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		ledgers := w.keys(ledger.ObjectLedger)
		found := make(map[string]int)
		for info := range w.store.List(context.Background(), "", "") {
			kind := strings.Split(info.Key, "/")[2]
			lossy := w.store.Clone()
			w.ok(lossy.Delete(context.Background(), info.Key))
			report := verified(t, lossy)
			d := damages(report)
			switch {
			case info.Key == ledgers[len(ledgers)-1], kind == "body" && len(d) == 0 && w.dead(info.Key):
			case kind == "manifest":
				if len(d) != 0 || report.Shards[0].Garbage[KindPart].Objects == 0 {
					t.Errorf("%s: damage %v, garbage %v", info.Key, d, report.Shards[0].Garbage)
				}
			case len(d) == 0:
				t.Errorf("%s is missing, and that isn't found", info.Key)
			}
			for _, one := range d {
				if one.Key != info.Key || !strings.Contains(one.What, "missing") {
					t.Errorf("%s is missing: found %v", info.Key, one)
				}
				found[kind]++
			}
		}
		if found["ledger"] < 8 || found["pack"] < 10 || found["body"] != 1 || found["checkpoint"] < 2 {
			t.Errorf("found %v", found)
		}
		for _, manifest := range w.keys(KindManifest) {
			w.ok(w.store.Delete(context.Background(), manifest))
		}
		if d := damages(verified(t, w.store)); len(d) != 1 || !strings.HasSuffix(d[0].Key, "shard-0003") {
			t.Errorf("no manifest is left: found %v", d)
		}
	})
}

// dead reports whether an object is only of removed letters.
func (w *world) dead(key string) bool {
	found := ""
	w.store.Alter(key, func(b []byte) []byte { found = string(b[:40]); return b })
	for _, l := range w.letters {
		if strings.HasPrefix(found, l.line) {
			return !l.lives()
		}
	}
	return false
}

// A ledger that nothing can be made of is damage, and what else there is of it is
// verified all the same.
func TestALedgerWithoutABeginning(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deliver(anna, 1000)
		w.deliver(anna, 1000)
		w.deliver(anna, large)
		keys := append(w.keys(ledger.ObjectLedger), w.keys(ledger.ObjectBody)...)
		flip := func(b []byte) []byte { b[len(b)-20] ^= 1; return b }
		both := func(b []byte) []byte { b[20] ^= 1; return flip(b) }
		w.store.Alter(keys[0], both)
		w.store.Alter(keys[len(keys)-3], both)
		w.store.Alter(keys[len(keys)-1], flip)
		d := damages(verified(t, w.store))
		if len(d) != 4 || d[0].Key != keys[len(keys)-1] || d[1].Key != keys[0] || d[2].Key != keys[len(keys)-3] || d[3].Key != "eu/shard-0003" {
			t.Errorf("found %v", d)
		}
	})
}

// What nothing names is counted, by kind.
func TestGarbage(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		name := func(key string) string { return key[:len(key)-4] + "0000" }
		pack, body, part := name(w.keys(ledger.ObjectPack)[0]), name(w.keys(ledger.ObjectBody)[0]), w.keys(KindPart)[0]
		part = part[:len(part)-11] + "0000/000000"
		want := map[ledger.ObjectKind]Usage{ledger.ObjectPack: {1, 5}, ledger.ObjectBody: {1, 6}, KindPart: {1, 7}, KindOther: {3, 3}}
		for key, octets := range map[string]int64{pack: 5, body: 6, part: 7, "eu/shard-0003/pack/stray": 1, "eu/shard-0003/what/ever": 1, "eu/shard-0003/manifest/1": 1} {
			w.ok(w.store.Create(context.Background(), key, strings.NewReader(strings.Repeat("x", int(octets))), octets))
		}
		report := verified(t, w.store)
		if got := report.Shards[0].Garbage; !reflect.DeepEqual(got, want) || len(damages(report)) != 0 {
			t.Errorf("garbage %v, want %v; damage %v", got, want, damages(report))
		}
	})
}

// Interrupted again and again it ends with the same report, and reads what was
// read before no second time.
func TestResumed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		packs := w.keys(ledger.ObjectPack)
		w.store.Alter(packs[0], func(b []byte) []byte { b[100] ^= 4; return b })
		w.ok(w.store.Delete(context.Background(), w.keys(ledger.ObjectLedger)[0]))
		want := verified(t, w.store)
		if len(damages(want)) < 2 {
			t.Fatalf("found %v", damages(want))
		}
		file := filepath.Join(t.TempDir(), "state")
		interrupted := 0
		for ; ; interrupted++ {
			got, found, err := w.interrupted(file, 25+3*interrupted) // so it gets somewhere, however its readers take turns
			if err != nil && interrupted < 50 {
				continue
			}
			w.ok(err)
			if !reflect.DeepEqual(got, want) || len(found) != len(damages(want)) {
				t.Errorf("after %d interrupts\n%+v\nfound %v, want\n%+v", interrupted, got, found, want)
			}
			break
		}
		if interrupted < 3 {
			t.Errorf("%d interrupts", interrupted)
		}
		if _, _, err := w.interrupted(file, 5); err == nil {
			t.Error("a finished run isn't started anew")
		}
	})
}

// interrupted runs until so many reads have been made.
func (w *world) interrupted(file string, reads int) (*Report, []Damage, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store := blobtest.NewFaulty(w.store, func(c blobtest.Call) blobtest.Fault {
		if c.N > reads {
			cancel()
		}
		return blobtest.Fault{}
	})
	var found []Damage
	report, err := Run(ctx, Config{
		Region: "eu", Shards: shards, Only: -1, Store: store, Where: "memory", State: file, batch: 3, Parallel: 2,
		Found: func(d Damage) { found = append(found, d) },
	})
	return report, found, err
}

// A state file of something else is left alone.
func TestStateIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deliver(anna, 100)
		file := filepath.Join(t.TempDir(), "state")
		with := func(c *Config) { c.State = file }
		for name, c := range map[string]func(*Config){
			"region": func(c *Config) { c.Region = "us" }, "store": func(c *Config) { c.Where = "elsewhere" },
			"shards": func(c *Config) { c.Shards = 7 }, "one shard": func(c *Config) { c.Only = 1 },
		} {
			if _, err := runOn(t, w.store, with); err != nil {
				t.Fatal(err)
			}
			if _, err := runOn(t, w.store, with, c); err == nil || !strings.Contains(err.Error(), ErrState.Error()) {
				t.Errorf("another %s: %v", name, err)
			}
		}
		for _, text := range []string{"", "{}", `{"format":"postern fsck state 2"}`, "mail"} {
			w.ok(os.WriteFile(file, []byte(text), 0o600))
			if _, err := runOn(t, w.store, with); err == nil || !strings.Contains(err.Error(), ErrState.Error()) {
				t.Errorf("%q: %v", text, err)
			}
			if kept, err := os.ReadFile(file); err != nil || string(kept) != text {
				t.Errorf("%q became %q", text, kept)
			}
		}
	})
}

// A store that refuses for a while is asked again; for ever, it is an error.
func TestStoreRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.age()
		store := blobtest.NewFaulty(w.store, nil)
		store.SetPlan(func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpRead && c.N%3 == 0 {
				return blobtest.Fault{Before: blobtest.ErrInjected}
			}
			return blobtest.Fault{}
		})
		if d := damages(verified(t, store)); len(d) != 0 {
			t.Errorf("found %v", d)
		}
		store.SetPlan(func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpRead && strings.Contains(c.Key, "/body/") {
				return blobtest.Fault{Before: blobtest.ErrInjected}
			}
			return blobtest.Fault{}
		})
		if _, err := runOn(t, store); err == nil || !strings.Contains(err.Error(), blobtest.ErrInjected.Error()) {
			t.Error(err)
		}
	})
}

// Beside an owner who delivers, removes, repacks and trims for days, with reads
// that take long, nothing is ever reported.
func TestNoFalseAlarm(t *testing.T) {
	inWorld(t, func(w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ctx.Err() == nil; i++ {
				to := []maildrop.Address{anna, ben, carl}[i%3]
				w.deliver(to, 3_000+i%7*2_000)
				if i%40 == 39 {
					w.deliver(to, large)
				}
				if i%5 == 4 {
					w.remove(to, func(l *letter) bool { return (len(l.line)+int(l.wire))%3 == i%3 })
				}
				time.Sleep(4 * time.Minute)
			}
		}()
		time.Sleep(30 * time.Hour)
		for i := range 12 {
			before := len(w.keys(ledger.ObjectPack))
			slow := blobtest.NewFaulty(w.store, func(c blobtest.Call) blobtest.Fault {
				if c.Op == blobtest.OpRead {
					return blobtest.Fault{Delay: time.Duration(1+c.N%50) * time.Duration(1+i%4) * time.Second}
				}
				return blobtest.Fault{}
			})
			began := time.Now()
			report, err := runOn(t, slow, func(c *Config) { c.Parallel = 1 + i%3; c.batch = 1 + i*5 })
			w.ok(err)
			if d := damages(report); len(d) != 0 {
				t.Errorf("run %d: found %v", i, d)
			}
			if s := report.Shards[0]; s.Checked.Objects < 10 || s.Classes["local"].Messages == 0 {
				t.Errorf("run %d: %+v", i, s)
			}
			t.Logf("run %d took %v, packs %d, then %d", i, time.Since(began).Round(time.Minute), before, len(w.keys(ledger.ObjectPack)))
		}
		cancel()
		<-stopped
	})
}

// The same over a directory, in real time.
func TestDirectory(t *testing.T) {
	store, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s, err := shard.Open(t.Context(), shardConfig(store), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutAddress(t.Context(), maildrop.AddressRecord{Address: anna, Account: "customer", Hash: someHash}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, maildroptest.Filled(400_000*(i+1), byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	report := verified(t, store)
	if d := damages(report); len(d) != 0 || report.Total().Classes["local"].Messages != 5 {
		t.Errorf("%+v", report)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
