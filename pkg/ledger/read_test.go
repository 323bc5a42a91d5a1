package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

func read(store blob.Store) (*Reader, *history, error) {
	h := &history{}
	r, err := Read(context.Background(), Config{Store: store, Prefix: prefix}, h.begin)
	return r, h, err
}

// A reader sees what an owner would, writes nothing, and disturbs nobody.
func TestRead(t *testing.T) {
	store := trimmed(t)
	l, _ := open(t, store)
	add(t, l, 10)
	before := fmt.Sprint(keys(t, store, "ledger"))
	r, h, err := read(store)
	if err != nil {
		t.Fatal(err)
	}
	wantNumbers(t, h, "[0 1 2 3 4 5 6 7 8 9 10]")
	if r.Identity() != l.Identity() || r.Epoch() != l.Epoch() || r.Last() != l.Last() || len(r.Damage()) != 0 {
		t.Errorf("epoch %d, last %d, damage %v", r.Epoch(), r.Last(), r.Damage())
	}
	e := h.entries[len(h.entries)-1]
	if _, err := r.ReadBody(context.Background(), e.Position, Place{Offset: e.Offset}, e.Record.(*Delivery).Wire); err != nil {
		t.Error(err)
	}
	n := 0
	for _, err := range r.Stored(context.Background(), ObjectLedger) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if after := fmt.Sprint(keys(t, store, "ledger")); after != before || n != strings.Count(after, "/ledger/") {
		t.Errorf("%s, before %s", after, before)
	}
	add(t, l, 11)
}

// Damage is reported with its place, and the rest is read.
func TestReadGoesOn(t *testing.T) {
	key := files{prefix: prefix}.object
	for name, c := range map[string]struct {
		change func(m *blobtest.Memory)
		key    string
		octet  int
		want   string
	}{
		"a header":        {func(m *blobtest.Memory) { m.Alter(key(3), both(20)) }, key(3), 0, "[0 2 3 4]"},
		"a record":        {func(m *blobtest.Memory) { m.Alter(key(3), both(headerSize+9)) }, key(3), headerSize, "[0 2 3 4]"},
		"one is missing":  {func(m *blobtest.Memory) { remove(t, m, key(3)) }, key(3), -1, "[0 2 3 4]"},
		"cut":             {func(m *blobtest.Memory) { m.Alter(key(3), func(b []byte) []byte { return b[:80] }) }, key(3), -2, "[0 2 3 4]"},
		"a fence":         {func(m *blobtest.Memory) { remove(t, m, key(4)) }, key(4), -1, "[0 1 2 3 4]"},
		"another's place": {func(m *blobtest.Memory) { replace(t, m, key(3), m, key(2)) }, key(3), atSequence, "[0 2 3 4]"},
	} {
		t.Run(name, func(t *testing.T) {
			store := blobtest.NewMemory()
			l, _ := open(t, store)
			add(t, l, 0)
			add(t, l, 1)
			l, _ = open(t, store) // its fence is 4
			add(t, l, 2)
			add(t, l, 3)
			add(t, l, 4)
			c.change(store)
			if err := verify(store.Clone()); !errors.Is(err, ErrCorrupt) {
				t.Errorf("an owner: %v", err)
			}
			r, h, err := read(store)
			if err != nil {
				t.Fatal(err)
			}
			wantNumbers(t, h, c.want)
			d := r.Damage()
			if len(d) == 0 || d[0].Key != c.key || (d[0].Octet != c.octet && c.octet != -2) || !strings.Contains(d[0].String(), c.key) {
				t.Errorf("damage: %v", d)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	store := blobtest.NewMemory()
	if _, _, err := read(store); maildrop.KindOf(err) != maildrop.NotFound {
		t.Errorf("no ledger: %v", err)
	}
	l, _ := open(t, store)
	add(t, l, 1)
	store.Alter(l.files.object(1), both(9))
	if _, _, err := read(store); maildrop.KindOf(err) != maildrop.Corrupt {
		t.Errorf("no beginning: %v", err)
	}
	store = trimmed(t)
	for _, m := range keys(t, store, "manifest") {
		store.Alter(m, func(b []byte) []byte { b[9] ^= 1; return b })
	}
	if _, _, err := read(store); maildrop.KindOf(err) != maildrop.Corrupt {
		t.Errorf("no checkpoint: %v", err)
	}
}

// both damages an octet of an object's head in both of its copies.
func both(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		h, err := decodeHeader(b)
		if err != nil {
			panic(err)
		}
		b[at] ^= 1
		if at < headerSize {
			b[len(b)-headerSize+at] ^= 1
		} else {
			b[h.mirror()+at-headerSize] ^= 1
		}
		return b
	}
}

// A checkpoint that is damaged is reported too, and a hole of a crash isn't.
func TestReadReportsCheckpoints(t *testing.T) {
	store := trimmed(t)
	m := keys(t, store, "manifest")[1]
	store.Alter(m, func(b []byte) []byte { b[40] ^= 1; return b })
	r, h, err := read(store)
	if err != nil || len(r.Damage()) != 1 || r.Damage()[0].Key != m {
		t.Fatalf("%v, %v", r.Damage(), err)
	}
	wantNumbers(t, h, "[0 1 2 3 4 5 6 7 8 9]")
	crashed := blobtest.NewMemory()
	dead := warm(t, crashed)
	leave(t, crashed, dead, dead.Last()+2, message(66))
	if r, h, err = read(crashed); err != nil || len(r.Damage()) != 0 || r.Last() != dead.Last() {
		t.Errorf("%v, %v", r.Damage(), err)
	}
	wantNumbers(t, h, "[1000 1001 1002]")
}

// Each kind of object can be told in words, without what is secret; and what
// is damaged is said.
func TestDescribe(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	ctx := context.Background()
	entries, err := l.Append(ctx, []Draft{message(1), {Record: &Address{Address: "a@example.com", Hash: "$argon2id$seeeecret", Scram: "SCRAM-SHA-256$seeeecret"}},
		{Record: &Removal{Mailbox: "a@example.com", Messages: []Position{At(1, 2)}}}})
	if err != nil {
		t.Fatal(err)
	}
	name, offsets, size, err := l.WritePack(ctx, 1, []PackBody{{entries[0].Position, message(1).Body}})
	if err != nil {
		t.Fatal(err)
	}
	record := &Pack{Object: name, Class: 1, Size: size, Mailboxes: []PackMailbox{{"a@example.com", []PackMessage{{entries[0].Position, offsets[0]}}}}}
	if _, err := l.Append(ctx, []Draft{{Record: record}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.PutBody(ctx, bytes.NewReader(noise(frameSize+5)), frameSize+5); err != nil {
		t.Fatal(err)
	}
	writeCheckpoint(t, l, 1)
	var all bytes.Buffer
	for info := range store.List(ctx, prefix, "") {
		var b bytes.Buffer
		content := contentOf(store, info.Key)
		if err := Describe(&b, info.Key, content); err != nil || b.Len() == 0 {
			t.Errorf("%s: %v", info.Key, err)
		}
		if in, err := Inspect(info.Key, content); err != nil || !in.Sound || !strings.Contains(info.Key, "/"+string(in.Kind)+"/") {
			t.Errorf("%s: %+v, %v", info.Key, in, err)
		} else if text, err := json.Marshal(in); err != nil {
			t.Error(err)
		} else {
			all.Write(text)
		}
		all.Write(b.Bytes())
		for _, at := range []int{1, len(content) / 2, len(content) - 1} {
			broken := bytes.Clone(content)
			broken[at] ^= 1
			inBody := strings.Contains(info.Key, "/pack/") && at >= packSize // its frames' lengths are in the ledger
			if err := Describe(&b, info.Key, broken); !errors.Is(err, ErrCorrupt) && !inBody {
				t.Errorf("%s: octet %d: %v", info.Key, at, err)
			}
		}
		if err := Describe(&b, info.Key, content[:len(content)-1]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s, cut: %v", info.Key, err)
		}
	}
	secret := l.Secret()
	for _, never := range []string{"seeeecret", string(secret[:]), fmt.Sprintf("%x", secret), "Subject"} {
		if strings.Contains(all.String(), never) {
			t.Errorf("it says %q", never)
		}
	}
	for _, want := range []string{"fence of epoch 1", "delivery to user1@example.com", "removal from a@example.com", "address a@example.com",
		"pack " + name, "2/0@40", "manifest: checkpoint of sequence 3", "part 000000: 8 octets", "part 0 of checkpoint", "1 bodies", "2 blocks"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, all.String())
		}
	}
	for _, key := range []string{"x", "ledger", prefix + "/manifest/x", prefix + "/pack/x", prefix + "/checkpoint/x/0", prefix + "/body/x"} {
		if err := Describe(&all, key, nil); err == nil {
			t.Errorf("%q: no error", key)
		}
	}
}
