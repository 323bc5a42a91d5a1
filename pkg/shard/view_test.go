package shard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// viewed wants a View to say of each mailbox what its users see, and all bodies
// to be where it says.
func (w *world) viewed(v *View) {
	w.t.Helper()
	now := time.Now()
	for _, address := range worldAddresses {
		entries, err := maildrop.Entries(context.Background(), w.login(address))
		w.must(err)
		var lives []Message
		for m := range v.Messages(address) {
			if again, ok := v.Find(address, m.Position); !ok || again != m {
				w.t.Errorf("%s: %+v is found as %+v", address, m, again)
			}
			if m.Lives(now) {
				lives = append(lives, m)
			}
		}
		if len(lives) != len(entries) {
			w.t.Fatalf("%s: %d messages live, %d are listed", address, len(lives), len(entries))
		}
		for i, e := range entries {
			if v.UID(lives[i]) != e.UID || lives[i].Size != e.Size {
				w.t.Errorf("%s: %+v is %s, want %+v", address, lives[i], v.UID(lives[i]), e)
			}
			w.viewedBody(v, lives[i])
		}
	}
}

func (w *world) viewedBody(v *View, m Message) {
	w.t.Helper()
	r, err := v.Open(context.Background(), m)
	w.must(err)
	defer r.Close()
	octets, err := io.ReadAll(r)
	w.must(err)
	if !slices.ContainsFunc(w.boxes[m.Mailbox], func(l *letter) bool { return bytes.Equal(l.body.Octets(), octets) }) {
		w.t.Errorf("%+v has other octets", m)
	}
}

// A View is what the owner shows, and neither writes nor fences.
func TestView(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for i := range 9 {
			w.deliver(worldAddresses[i%3], 2_000*(i+1))
		}
		e := envelope(anna)
		e.UID = "imported"
		w.take(anna, e, w.body(500))
		w.deliver(anna, 1<<20+200)
		time.Sleep(30 * time.Hour)
		w.remove(anna, func(l *letter) bool { return l.body.Wire() < 3_000 })
		w.deliver("ben@local.example", 700)
		store := blobtest.NewFaulty(w.store, func(c blobtest.Call) blobtest.Fault {
			if c.Op == blobtest.OpCreate || c.Op == blobtest.OpDelete {
				t.Errorf("%s %s", c.Op, c.Key)
			}
			return blobtest.Fault{}
		})
		v, err := Read(t.Context(), Config{Region: "eu", Number: 7, Store: store})
		ok(t, err)
		w.viewed(v)
		if addresses, mailboxes := v.Counts(); addresses != 3 || mailboxes != 3 || !slices.IsSorted(v.Addresses()) || len(v.Addresses()) != 3 {
			t.Errorf("%d addresses, %d mailboxes, %v", addresses, mailboxes, v.Addresses())
		}
		if r, known := v.Record(anna); !known || r.Hash != "set" || r.Account != "customer" {
			t.Errorf("%+v", r)
		}
		if _, known := v.Record("nobody@local.example"); known {
			t.Error("nobody has a record")
		}
		all, dead, kinds := 0, 0, map[ledger.ObjectKind]int{}
		for m := range v.All() {
			if all++; !m.Removed.IsZero() {
				dead++
			}
			kind, name, _ := m.Kept()
			if kinds[kind]++; kind != ledger.ObjectLedger && !v.Names(kind)[name] {
				t.Errorf("%s %s isn't named", kind, name)
			}
		}
		if all != 12 || dead != 2 || len(kinds) != 3 || v.Identity() != w.shard.ledger.Identity() || v.Epoch() != w.shard.Epoch() || v.Last() != w.shard.ledger.Last() || len(v.Damage()) != 0 {
			t.Errorf("%d messages, %d dead, %v, %d, %d, %v", all, dead, kinds, v.Epoch(), v.Last(), v.Damage())
		}
		w.verify() // the owner goes on
		w.deliver(anna, 100)
		_, err = Read(t.Context(), Config{Region: "eu", Number: 8, Store: store})
		wants(t, err, maildrop.NotFound)
	})
}

// A View that was made before bodies moved says so, and a fresh one knows where.
func TestViewOfAMovedBody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.deliver(anna, 5_000)
		before, err := Read(t.Context(), w.config)
		ok(t, err)
		time.Sleep(30 * time.Hour)
		for m := range before.All() {
			_, err := before.Open(t.Context(), m)
			if !errors.Is(err, ledger.ErrGone) {
				t.Errorf("it is there: %v", err)
			}
			after, err := Read(t.Context(), w.config)
			ok(t, err)
			again, _ := after.Find(m.Mailbox, m.Position)
			w.viewedBody(after, again)
		}
	})
}

// What the store finds damaged is damage, and not asked for again and again.
func TestReadOnly(t *testing.T) {
	memory := blobtest.NewMemory()
	ok(t, memory.Create(t.Context(), "a/b", strings.NewReader("x"), 1))
	sealed := &maildrop.Error{Op: "sealed.read", Kind: maildrop.Corrupt, Err: errTest}
	store := ReadOnly(blobtest.NewFaulty(memory, func(c blobtest.Call) blobtest.Fault { return blobtest.Fault{Before: sealed} }))
	if _, err := store.ReadAt(t.Context(), "a/b", make([]byte, 1), 0); !errors.Is(err, ledger.ErrCorrupt) || !errors.Is(err, errTest) {
		t.Errorf("%v", err)
	}
	store = ReadOnly(memory)
	if err := store.Create(t.Context(), "a/c", strings.NewReader("x"), 1); !errors.Is(err, errReadOnly) {
		t.Error(err)
	}
	if err := store.Delete(t.Context(), "a/b"); !errors.Is(err, errReadOnly) || len(keys(t, memory, "a/")) != 1 {
		t.Error(err)
	}
}

// A part in words has no hash; one that makes no sense is damage.
func TestDescribePart(t *testing.T) {
	inBubble(t, func(b *bench) {
		ok(b, b.shard.PutAddress(b.Context(), maildrop.AddressRecord{Address: "x@local.example", Account: "customer", Primary: anna, Groups: []string{"vip"}}))
		ok(b, b.shard.Deliver(b.Context(), envelope(anna), maildroptest.Text("x")))
		var all bytes.Buffer
		for part := range b.shard.state.parts(b.shard.state.last, &b.shard.mu, usualChunks) {
			ok(b, DescribePart(&all, part))
			if err := DescribePart(&all, part[:len(part)-1]); !errors.Is(err, ledger.ErrCorrupt) {
				b.Error(err)
			}
		}
		for _, want := range []string{"covers all up to", "alias of anna@local.example", `groups ["vip"]`, "hash set; 1 messages from"} {
			if !strings.Contains(all.String(), want) {
				b.Errorf("it doesn't say %q:\n%s", want, all.String())
			}
		}
		if strings.Contains(all.String(), "argon2id") {
			b.Error("a hash is shown")
		}
	})
}
