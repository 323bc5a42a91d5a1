package shard

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

const (
	packPart = "/pack/"
	bodyPart = "/body/"
)

// A body that is damaged, wherever it is, is Corrupt and stays where it is.
// Everything else is served, what lives beside it moves on, and the damage is
// logged once.
func TestDamageEndsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		octets int
		age    time.Duration // when it is damaged
		part   string
	}{
		"in a ledger object": {3_000, 0, ledgerPart},
		"in a pack":          {3_000, 30 * time.Hour, packPart},
		"in a body object":   {1<<20 + 77, 0, bodyPart},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory, registry, log := blobtest.NewMemory(), prometheus.NewRegistry(), &bytes.Buffer{}
				w := newWorld(t, memory, memory)
				defer w.close()
				w.config.Metrics, w.config.Log = NewMetrics(registry), slog.New(slog.NewTextHandler(log, nil))
				w.open()
				var all sync.WaitGroup
				for i := range 10 {
					body, to := w.body(c.octets+i), anna
					all.Go(func() { ok(t, w.shard.Deliver(t.Context(), envelope(to), body)) })
				}
				all.Wait()
				time.Sleep(c.age)
				victim := damageOne(t, w, c.part)
				w.served(t, victim)
				time.Sleep(48 * time.Hour)
				w.served(t, victim)
				if left := keys(t, memory, ledgerPart); c.part == ledgerPart && len(left) != 1 || c.part != ledgerPart && len(left) != 0 {
					t.Errorf("ledger objects that are left: %v", left)
				}
				if n := metric(t, registry, "postern_node_damage_total"); n < 2 {
					t.Errorf("damage is counted %v times", n)
				}
				if n := strings.Count(log.String(), "is damaged"); n != 1 || !strings.Contains(log.String(), c.part) {
					t.Errorf("damage is logged %d times:\n%s", n, log)
				}
				d := login(t, w.shard, anna)
				ok(t, d.Remove(t.Context(), []maildrop.UID{victim}))
				time.Sleep(24 * time.Hour)
				if left := keys(t, memory, ledgerPart); len(left) != 0 {
					t.Errorf("the damaged message is removed, and %v is left", left)
				}
				w.served(t, "")
			})
		})
	}
}

// damageOne changes an octet in the middle of some body, and returns the UID of
// the message.
func damageOne(t *testing.T, w *world, part string) maildrop.UID {
	t.Helper()
	const line = "message 00000005"
	done := 0
	for _, key := range keys(t, w.store, part) {
		w.store.Alter(key, func(content []byte) []byte {
			if at := bytes.Index(content, []byte(line)); at >= 0 {
				content[at+10] ^= 1
				done++
			}
			return content
		})
	}
	if done != 1 {
		t.Fatalf("%d bodies were damaged", done)
	}
	d := login(t, w.shard, anna)
	for _, uid := range uids(t, d) {
		if _, err := d.Read(t.Context(), uid, 0, &bytes.Buffer{}); err != nil {
			return uid
		}
	}
	t.Fatal("nobody misses anything")
	return ""
}

// served wants all of anna's messages to be served but the victim.
func (w *world) served(t *testing.T, victim maildrop.UID) {
	t.Helper()
	d := login(t, w.shard, anna)
	list := uids(t, d)
	if want := 10; victim != "" && len(list) != want {
		t.Errorf("%d messages, want %d", len(list), want)
	}
	for _, uid := range list {
		_, err := d.Read(t.Context(), uid, 0, &bytes.Buffer{})
		if uid == victim {
			wants(t, err, maildrop.Corrupt)
		} else {
			ok(t, err)
		}
	}
}

// Sessions read what they hold while everything moves under them, from an
// owner that they have met before and from a new one.
func TestReadsAreUndisturbed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for range 40 {
			w.deliver(anna, 10_000)
		}
		w.verify()
		type session struct {
			info  maildrop.Info
			token []byte
		}
		var sessions []session
		read := func(s session) {
			d, err := w.shard.Resume(t.Context(), s.info, s.token)
			ok(t, err)
			list := uids(t, d)
			if len(list) != s.info.Count {
				t.Fatalf("the session lists %d messages, and had %d", len(list), s.info.Count)
			}
			for _, uid := range list {
				for _, l := range w.boxes[anna] {
					if l.uid == uid && l.removed.IsZero() {
						w.read(d, l)
					}
				}
			}
		}
		for i := range 60 {
			d := w.login(anna)
			sessions = append(sessions, session{d.Info(), d.Token()})
			time.Sleep(65 * time.Minute)
			sessions = sessions[max(0, len(sessions)-5):] // a token lives 6 hours
			for _, s := range sessions {
				read(s)
			}
			switch i % 5 {
			case 1:
				w.deliver(anna, 10_000)
				w.verify()
			case 2:
				n := 0
				w.remove(anna, func(*letter) bool { n++; return n%7 == 0 })
			case 3:
				w.open()
			}
		}
		if len(keys(t, w.store, packPart)) == 0 {
			t.Error("nothing was ever moved")
		}
	})
}

// A read that finds the body gone from where it was a moment ago finds it where
// it is now.
func TestReadFindsWhatHasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		faulty := blobtest.NewFaulty(memory, nil)
		w := newWorld(t, faulty, memory)
		defer w.close()
		l := w.deliver(anna, 10_000)
		w.verify()
		d := w.login(anna)
		slept := false
		faulty.SetPlan(func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpRead && strings.Contains(c.Key, ledgerPart) && !slept {
				slept = true
				return blobtest.Fault{Delay: 15 * time.Hour}
			}
			return blobtest.Fault{}
		})
		w.read(d, l)
		if !slept || len(keys(t, memory, ledgerPart)) > 0 {
			t.Error("nothing has moved")
		}
	})
}

// A session is told that another one removed its message, once the octets are
// gone; not that something is broken.
func TestReadOfWhatIsGone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for range 5 {
			w.deliver(anna, 10_000)
		}
		w.deliver(anna, 2<<20)
		w.verify()
		time.Sleep(12 * time.Hour)
		d := w.login(anna)
		w.remove(anna, func(*letter) bool { return true })
		time.Sleep(4 * time.Hour)
		for _, l := range w.boxes[anna] {
			_, err := d.Read(t.Context(), l.uid, 0, &bytes.Buffer{})
			wants(t, err, maildrop.NotFound)
			if maildrop.TextOf(err) != textRemoved {
				t.Errorf("the user is told %q", maildrop.TextOf(err))
			}
		}
	})
}

// What an append or an upload that failed has left is deleted, and nothing of a
// newer owner.
func TestOrphansAreDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.deliver(anna, 2<<20)
		body, err := w.shard.ledger.PutBody(t.Context(), bytes.NewReader(make([]byte, 2<<20)), 2<<20)
		ok(t, err)
		pack, _, _, err := w.shard.ledger.WritePack(t.Context(), 1, []ledger.PackBody{{Position: ledger.At(1, 0), Body: []byte("x\r\n")}})
		ok(t, err)
		flying, err := w.shard.ledger.PutBody(t.Context(), bytes.NewReader(make([]byte, 2<<20)), 2<<20)
		ok(t, err)
		w.shard.space.flies(flying)
		newer := "eu/shard-0007/body/" + strings.Repeat("f", 16) + body[16:]
		ok(t, w.store.Create(t.Context(), newer, strings.NewReader("x"), 1))
		time.Sleep(orphanAge)
		if len(keys(t, w.store, body)) != 1 {
			t.Error("an orphan is deleted at once: it might be named soon")
		}
		time.Sleep(3 * time.Hour)
		if left := append(keys(t, w.store, body), keys(t, w.store, pack)...); len(left) != 0 {
			t.Errorf("orphans are left: %v", left)
		}
		for _, object := range []string{flying, newer} {
			if len(keys(t, w.store, object)) != 1 {
				t.Errorf("%s is deleted", object)
			}
		}
		w.shard.space.flew(flying)
		w.verify()
	})
}

// One shard of a node repacks at a time.
func TestOneRepackAtATime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.config.Repack = make(chan struct{}, 1)
		w.open()
		w.config.Repack <- struct{}{}
		w.deliver(anna, 1000)
		time.Sleep(48 * time.Hour)
		if len(keys(t, w.store, packPart)) != 0 {
			t.Error("another one repacks, and this one did, too")
		}
		<-w.config.Repack
		time.Sleep(time.Hour)
		if len(keys(t, w.store, packPart)) == 0 {
			t.Error("it never repacked")
		}
		w.config.Repack <- struct{}{}
		ok(t, w.shard.Close(context.Background())) // and waits for nobody
	})
}

// A store that fails now and then is tried again, and nothing is lost.
func TestSpaceInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := blobtest.NewMemory()
		faulty := blobtest.NewFaulty(memory, nil)
		w := newWorld(t, faulty, memory)
		defer w.close()
		for range 20 {
			for i := range 8 {
				w.deliver(anna, 3000+i)
			}
			n := 0
			w.remove(anna, func(*letter) bool { n++; return n%3 == 0 })
			seed := blobtest.Seeded(uint64(w.serial), 0.3)
			faulty.SetPlan(func(c blobtest.Call) blobtest.Fault {
				if strings.Contains(c.Key, ledgerPart) && c.Op == blobtest.OpCreate {
					return blobtest.Fault{} // ledger appends have tests of their own
				}
				return seed(c)
			})
			time.Sleep(9 * time.Hour)
			faulty.SetPlan(nil)
			faulty.Flush()
			if n%4 == 0 {
				w.open()
			}
			w.verify()
		}
		for _, l := range w.boxes[anna] {
			if !l.removed.IsZero() && time.Since(l.removed) > 24*time.Hour && len(holds(t, memory, l.line())) > 0 {
				t.Errorf("a message that was removed %v ago is there", time.Since(l.removed))
			}
		}
	})
}

// What came under the horizon since the survey is not trimmed by it.
func TestTrimKnowsOnlyItsSurvey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.config.Repack = make(chan struct{}, 1)
		w.config.Repack <- struct{}{}
		w.open()
		v := w.shard.survey(w.shard.ledger.Horizon())
		w.deliver(anna, 1000)
		time.Sleep(12 * time.Hour)
		if w.shard.ledger.Horizon() <= v.horizon {
			t.Fatal("the horizon didn't move")
		}
		ok(t, w.shard.trim(t.Context(), v.horizon, v))
		w.verify()
	})
}
