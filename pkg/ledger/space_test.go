package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

func nothing(uint64) bool { return false }

// When what is covered may go: an hour after a checkpoint that this process
// knows, and no further than the older of two.
func TestHorizon(t *testing.T) {
	store, c := blobtest.NewMemory(), &clock{}
	l, _ := openAt(t, store, c)
	want := func(horizon uint64) {
		t.Helper()
		if got := l.Horizon(); got != horizon {
			t.Errorf("at %s: horizon %d, want %d", c.now, got, horizon)
		}
	}
	add(t, l, 0)
	writeCheckpoint(t, l, 0) // covers 2
	c.now += 2 * time.Hour
	want(0) // only one
	add(t, l, 1)
	writeCheckpoint(t, l, 0, 1) // covers 3
	want(2)
	add(t, l, 2)
	writeCheckpoint(t, l, 0, 1, 2) // covers 4
	want(2)                        // 3 isn't known for an hour
	c.now += 59 * time.Minute
	want(2)
	c.now += time.Minute
	want(3) // 4 is, but is the newest
	writeCheckpoint(t, l, 0, 1, 2)
	want(4) // a second copy of the same
	next, _ := openAt(t, store, c)
	if got := next.Horizon(); got != 0 {
		t.Errorf("a new owner knows them since now: horizon %d", got)
	}
	c.now += time.Hour
	if got := next.Horizon(); got != 4 {
		t.Errorf("an hour later: horizon %d", got)
	}
}

// With a checkpoint every few minutes the horizon follows, although Trim keeps
// two only; and what is remembered of them is bounded.
func TestHorizonFollowsManyCheckpoints(t *testing.T) {
	store, c := blobtest.NewMemory(), &clock{}
	l, _ := openAt(t, store, c)
	for n := range uint64(100) {
		add(t, l, n)
		writeCheckpoint(t, l)
		c.now += 5 * time.Minute
		if _, err := l.Trim(context.Background(), nothing); err != nil {
			t.Fatal(err)
		}
		if m, left := keys(t, store, "manifest"), keys(t, store, "ledger"); len(m) > 2 || len(left) > 14 || len(l.checkpoints) > 14 {
			t.Fatalf("after %d: %d manifests, %d objects, %d remembered", n, len(m), len(left), len(l.checkpoints))
		}
	}
}

// Trim deletes in order, keeps what it is told to, and all that a fallback
// needs: at each moment the newest checkpoint may turn out to be damaged.
func TestTrim(t *testing.T) {
	store, c := blobtest.NewMemory(), &clock{}
	l, _ := openAt(t, store, c)
	var all []uint64
	for n := range uint64(40) {
		add(t, l, n)
		all = append(all, n)
		if n%5 == 4 {
			writeCheckpoint(t, l, all...)
		}
		c.now += 20 * time.Minute
		last := uint64(0)
		_, err := l.Trim(context.Background(), func(sequence uint64) bool {
			if sequence <= last {
				t.Errorf("asked for %d after %d", sequence, last)
			}
			last = sequence
			return sequence == 7
		})
		if err != nil {
			t.Fatal(err)
		}
		checkFallback(t, store, all)
	}
	if left := keys(t, store, "ledger"); len(left) > 16 || left[0] != l.files.object(7) {
		t.Errorf("left: %v", left)
	}
	if m := keys(t, store, "manifest"); len(m) != 2 {
		t.Errorf("%d manifests", len(m))
	}
	if folders := len(keys(t, store, "checkpoint")); folders != (35+2)/3+(40+2)/3 {
		t.Errorf("%d parts are left", folders)
	}
}

// checkFallback opens copies of a store, one of them with a damaged checkpoint.
func checkFallback(t *testing.T, store *blobtest.Memory, all []uint64) {
	t.Helper()
	m := keys(t, store, "manifest")
	for _, damaged := range []bool{false, true} {
		other := store.Clone()
		if damaged && len(m) > 0 {
			other.Alter(m[len(m)-1], func(b []byte) []byte { b[30] ^= 1; return b })
		}
		_, h := open(t, other)
		if got := h.numbers(); !slices.Equal(got, all) {
			t.Fatalf("newest damaged: %v: replayed %v, want %v", damaged, got, all)
		}
	}
}

// Parts without a manifest go: ours at once, those of an older epoch when no
// checkpoint of its could be the newest any more. A manifest goes before its parts.
func TestTrimOfParts(t *testing.T) {
	memory, c := blobtest.NewMemory(), &clock{}
	store := blobtest.NewFaulty(memory, nil)
	old, _ := openAt(t, store, c)
	add(t, old, 0)
	half := func(l *Ledger) {
		t.Helper()
		err := l.WriteCheckpoint(context.Background(), l.Last(), func(yield func([]byte, error) bool) {
			_ = yield([]byte("12345678"), nil) && yield(nil, errors.New("no more"))
		})
		if err == nil {
			t.Fatal("no error")
		}
	}
	half(old)
	l, _ := openAt(t, store, c)
	half(l)
	add(t, l, 1)
	trim := func(parts int) {
		t.Helper()
		if _, err := l.Trim(context.Background(), nothing); err != nil {
			t.Fatal(err)
		}
		if found := keys(t, memory, "checkpoint"); len(found) != parts {
			t.Errorf("%d parts are left, want %d", len(found), parts)
		}
	}
	trim(2) // nothing is done before there are two
	writeCheckpoint(t, l, 0, 1)
	writeCheckpoint(t, l, 0, 1)
	trim(2) // the two checkpoints' own
	var order []string
	store.SetPlan(func(call blobtest.Call) blobtest.Fault {
		if call.Op == blobtest.OpDelete {
			order = append(order, strings.Split(call.Key, "/")[2])
		}
		return blobtest.Fault{}
	})
	writeCheckpoint(t, l, 0, 1)
	trim(2)
	if got := fmt.Sprint(order); got != "[manifest checkpoint]" {
		t.Errorf("deleted %s", got)
	}
}

// Parts of an older epoch stay while a checkpoint of it could still be among
// the two newest: its owner may have stalled before the manifest.
func TestTrimLeavesUnfinishedOfOlder(t *testing.T) {
	store, c := blobtest.NewMemory(), &clock{}
	old, _ := openAt(t, store, c)
	writeCheckpoint(t, old)
	writeCheckpoint(t, old)
	if err := store.Create(context.Background(), old.files.part(newName(1), 0), strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	l, _ := openAt(t, store, c)
	for _, parts := range []int{1, 1, 0} {
		if _, err := l.Trim(context.Background(), nothing); err != nil {
			t.Fatal(err)
		}
		if found := keys(t, store, "checkpoint"); len(found) != parts {
			t.Errorf("%d parts are left, want %d", len(found), parts)
		}
		writeCheckpoint(t, l)
	}
}

// A fenced owner deletes nothing that a newer one needs, and learns of it.
func TestSpaceOfNewerOwner(t *testing.T) {
	store, c := blobtest.NewMemory(), &clock{}
	old, _ := openAt(t, store, c)
	add(t, old, 0)
	writeCheckpoint(t, old, 0)
	writeCheckpoint(t, old, 0)
	newer, _ := openAt(t, store, c)
	ctx := context.Background()
	pack, _, _, err := newer.WritePack(ctx, 1, []PackBody{{At(2, 0), []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Delete(ctx, ObjectPack, pack); maildrop.KindOf(err) != maildrop.NotOwner {
		t.Errorf("Delete: %v", err)
	}
	add(t, newer, 1)
	writeCheckpoint(t, newer, 0, 1)
	c.now += 2 * time.Hour
	if _, err := old.Trim(ctx, nothing); !errors.Is(err, ErrFenced) {
		t.Errorf("Trim: %v", err)
	}
	if err := old.Delete(ctx, ObjectPack, newName(1)); !errors.Is(err, ErrFenced) {
		t.Errorf("Delete: %v", err)
	}
	if _, _, _, err := old.WritePack(ctx, 1, []PackBody{{At(2, 0), []byte("x")}}); !errors.Is(err, ErrFenced) {
		t.Errorf("WritePack: %v", err)
	}
	_, h := openAt(t, store, c)
	wantNumbers(t, h, "[0 1]")
}

func TestStoredAndDelete(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	ctx := context.Background()
	add(t, l, 1)
	pack, _, size, err := l.WritePack(ctx, 1, []PackBody{{At(2, 0), []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := l.PutBody(ctx, strings.NewReader("abc"), 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, stray := range []string{"ledger/x", "pack/x", "body/00-1", "pack/" + strings.ToUpper(pack[:16]) + "." + pack[17:]} {
		if err := store.Create(ctx, prefix+"/"+strings.ToLower(stray), strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	list := func(kind ObjectKind) (found []Stored) {
		for object, err := range l.Stored(ctx, kind) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, object)
		}
		return found
	}
	if got := list(ObjectLedger); len(got) != 2 || got[1].Sequence != 2 || got[1].Name != "00000000000000000002" || got[1].Size < headerSize {
		t.Errorf("ledger: %+v", got)
	}
	if got := list(ObjectPack); len(got) != 1 || got[0] != (Stored{Name: pack, Epoch: 1, Size: int64(size)}) {
		t.Errorf("packs: %+v", got)
	}
	if got := list(ObjectBody); len(got) != 1 || got[0] != (Stored{Name: body, Epoch: 1, Size: 3 + crcSize}) {
		t.Errorf("bodies: %+v", got)
	}
	for kind, name := range map[ObjectKind]string{ObjectPack: "../x", ObjectBody: "", ObjectLedger: "00000000000000000002", "manifest": pack} {
		if err := l.Delete(ctx, kind, name); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("Delete %s %q: %v", kind, name, err)
		}
	}
	for range 2 {
		if err := errors.Join(l.Delete(ctx, ObjectPack, pack), l.Delete(ctx, ObjectBody, body)); err != nil {
			t.Error(err)
		}
	}
	if len(list(ObjectPack))+len(list(ObjectBody)) != 0 {
		t.Error("they are there")
	}
}

// Errors of the store come out as they are, and the next call goes on.
func TestSpaceOnHostileStore(t *testing.T) {
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	l, _ := open(t, store)
	for _, op := range []blobtest.Op{blobtest.OpList, blobtest.OpDelete} {
		store.SetPlan(onOp(op, blobtest.Fault{Before: blobtest.ErrInjected}))
		errs := []error{nil, l.Delete(context.Background(), ObjectPack, newName(1))}
		for _, err := range l.Stored(context.Background(), ObjectPack) {
			errs[0] = err
		}
		for i, failing := range []blobtest.Op{blobtest.OpList, blobtest.OpDelete} {
			if (maildrop.KindOf(errs[i]) == maildrop.Transient) != (op == failing) {
				t.Errorf("%s fails: %v", op, errs[i])
			}
		}
	}
}

// A message's body comes the same from its object and from a pack, and each
// bit that was changed on the way is noticed.
func TestPacks(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	ctx := context.Background()
	var bodies []PackBody
	record := &Pack{Class: 7, Time: time.Unix(5, 0).UTC(), Mailboxes: []PackMailbox{{Mailbox: "a@example.com"}}}
	for _, e := range add(t, l, 3, 1, 20) {
		bodies = append(bodies, PackBody{e.Position, message(number(e.Record.(*Delivery))).Body})
	}
	name, offsets, size, err := l.WritePack(ctx, 7, bodies)
	if err != nil {
		t.Fatal(err)
	}
	octets := uint64(0)
	for i, b := range bodies {
		octets += uint64(len(b.Body))
		record.Mailboxes[0].Messages = append(record.Mailboxes[0].Messages, PackMessage{b.Position, offsets[i]})
	}
	if record.Object, record.Size = name, size; size != PackSize(3, octets) {
		t.Errorf("%d octets, PackSize says %d", size, PackSize(3, octets))
	}
	if _, err := l.Append(ctx, []Draft{{Record: record}}); err != nil {
		t.Fatal(err)
	}
	l, h := open(t, store)
	got := h.entries[len(h.entries)-2].Record.(*Pack)
	for i, m := range got.Mailboxes[0].Messages {
		body, err := l.ReadBody(ctx, m.Position, Place{got.Object, m.Offset}, uint64(len(bodies[i].Body)))
		if err != nil || !bytes.Equal(body, bodies[i].Body) {
			t.Errorf("body %d: %q, %v", i, body, err)
		}
		if _, err := l.ReadBody(ctx, m.Position+1, Place{got.Object, m.Offset}, uint64(len(bodies[i].Body))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("as another's: %v", err)
		}
	}
	checkEachBitOfPack(t, store, l, got, bodies)
	if _, err := l.ReadBody(ctx, At(2, 0), Place{Pack: newName(1), Offset: packSize}, 3); !errors.Is(err, ErrGone) {
		t.Errorf("a pack that is gone: %v", err)
	}
}

func checkEachBitOfPack(t *testing.T, store *blobtest.Memory, l *Ledger, p *Pack, bodies []PackBody) {
	key := l.files.pack(p.Object)
	for bit := range p.Size * 8 {
		store.Alter(key, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b })
		failed := 0
		for i, m := range p.Mailboxes[0].Messages {
			if _, err := l.ReadBody(context.Background(), m.Position, Place{p.Object, m.Offset}, uint64(len(bodies[i].Body))); errors.Is(err, ErrCorrupt) {
				failed++
			}
		}
		if content := contentOf(store, key); bit/8 < packSize {
			if _, err := decodePack(p.Object, content); err == nil {
				t.Fatalf("bit %d isn't noticed", bit)
			}
		} else if failed != 1 {
			t.Fatalf("bit %d: %d bodies are damaged", bit, failed)
		}
		store.Alter(key, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b })
	}
}

func contentOf(store *blobtest.Memory, key string) (content []byte) {
	store.Alter(key, func(b []byte) []byte { content = b; return b })
	return content
}

func TestWritePackRefuses(t *testing.T) {
	store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
	l, _ := open(t, store)
	mega := PackBody{At(2, 0), make([]byte, MaxInline)}
	for name, bodies := range map[string][]PackBody{
		"none": nil, "an empty one": {{Position: At(2, 0)}}, "a long one": {{At(2, 0), make([]byte, MaxInline+1)}},
		"long together": slices.Repeat([]PackBody{mega}, 16), "many": slices.Repeat([]PackBody{{At(2, 0), []byte("x")}}, MaxPacked+1),
	} {
		if _, _, _, err := l.WritePack(context.Background(), 0, bodies); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	store.SetPlan(onOp(blobtest.OpCreate, blobtest.Fault{Before: blob.ErrFull}))
	if name, _, _, err := l.WritePack(context.Background(), 0, []PackBody{mega}); maildrop.KindOf(err) != maildrop.Full || name != "" {
		t.Errorf("full: %v", err)
	}
}
