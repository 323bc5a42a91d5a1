package ledger

import (
	"bytes"
	"context"
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

// checkable is a ledger with an object of each kind, and what an index knows of it.
func checkable(t *testing.T) (store *blobtest.Memory, inPack []Frame, wire uint64) {
	t.Helper()
	store, ctx := blobtest.NewMemory(), context.Background()
	l, _ := open(t, store)
	entries, err := l.Append(ctx, []Draft{message(1), message(2)})
	if err != nil {
		t.Fatal(err)
	}
	bodies := []PackBody{{entries[0].Position, message(1).Body}, {entries[1].Position, message(2).Body}}
	_, offsets, _, err := l.WritePack(ctx, 1, bodies)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bodies {
		inPack = append(inPack, Frame{b.Position, offsets[i], uint64(len(b.Body))})
	}
	wire = frameSize + 5
	if _, err := l.PutBody(ctx, bytes.NewReader(noise(int(wire))), wire); err != nil {
		t.Fatal(err)
	}
	writeCheckpoint(t, l, 1)
	return store, inPack, wire
}

// checkKey verifies the object of a key as its kind.
func checkKey(c *Checker, key string, inPack []Frame, wire uint64) (Checked, error) {
	ctx, name := context.Background(), path.Base(key)
	switch path.Base(path.Dir(key)) {
	case "ledger":
		return c.Ledger(ctx, name, nil)
	case "pack":
		return c.Pack(ctx, name, inPack)
	case "body":
		return c.Body(ctx, name, wire)
	}
	return c.Checkpoint(ctx, name)
}

// Each octet of each object is verified, by one who has opened the ledger and by one
// who can't.
func TestChecker(t *testing.T) {
	store, inPack, wire := checkable(t)
	reader, _, err := read(store)
	if err != nil {
		t.Fatal(err)
	}
	manifest := keys(t, store, "manifest")[0]
	for info := range store.List(context.Background(), prefix, "") {
		key := info.Key
		if strings.Contains(key, "/checkpoint/") {
			key = manifest
		}
		for name, of := range map[string]func(*blobtest.Memory) *Checker{
			"known": func(m *blobtest.Memory) *Checker {
				return &Checker{files: files{m, prefix}, identity: reader.Identity(), known: true}
			},
			"unknown": func(m *blobtest.Memory) *Checker { return NewChecker(m, prefix) },
		} {
			if c, err := checkKey(of(store), key, inPack, wire); err != nil || len(c.Damage) != 0 || c.Octets < info.Size {
				t.Errorf("%s, sound: %+v, %v", key, c, err)
			}
			for at := 0; at < int(info.Size); at += 1 + at/50 {
				damaged := store.Clone()
				damaged.Alter(info.Key, func(b []byte) []byte { b[at] ^= 0x10; return b })
				c, err := checkKey(of(damaged), key, inPack, wire)
				if err != nil || len(c.Damage) == 0 || c.Damage[0].Key != info.Key || c.Damage[0].Octet > at {
					t.Fatalf("%s, identity %s, octet %d: %+v, %v", info.Key, name, at, c.Damage, err)
				}
			}
			for change, f := range map[string]func([]byte) []byte{
				"cut": func(b []byte) []byte { return b[:len(b)-1] }, "longer": func(b []byte) []byte { return append(b, 0) },
			} {
				other := store.Clone()
				other.Alter(info.Key, f)
				if c, err := checkKey(of(other), key, inPack, wire); err != nil || len(c.Damage) == 0 {
					t.Errorf("%s, %s: %+v, %v", info.Key, change, c, err)
				}
			}
		}
	}
	other, otherPack, _ := checkable(t) // another ledger's object under our name
	for _, kind := range []string{"ledger", "pack"} {
		mixed := store.Clone()
		replace(t, mixed, keys(t, mixed, kind)[0], other, keys(t, other, kind)[0])
		c, err := checkKey(&Checker{files: files{mixed, prefix}, identity: reader.Identity(), known: true}, keys(t, mixed, kind)[0], otherPack, 0)
		if err != nil || len(c.Damage) == 0 {
			t.Errorf("another ledger's %s: %v, %v", kind, c, err)
		}
	}
}

// What isn't there is gone; a part that isn't there is damage as long as its manifest is.
func TestCheckerMisses(t *testing.T) {
	store, inPack, wire := checkable(t)
	for _, kind := range []string{"ledger", "pack", "body", "manifest"} {
		key := keys(t, store, kind)[0]
		lossy := store.Clone()
		remove(t, lossy, key)
		if _, err := checkKey(NewChecker(lossy, prefix), key, inPack, wire); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	part, manifest := keys(t, store, "checkpoint")[0], keys(t, store, "manifest")[0]
	lossy := store.Clone()
	remove(t, lossy, part)
	c, err := checkKey(NewChecker(lossy, prefix), manifest, nil, 0)
	if err != nil || len(c.Damage) != 1 || c.Damage[0].Key != part {
		t.Errorf("%+v, %v", c, err)
	}
	racing := blobtest.NewFaulty(lossy, nil)
	racing.SetPlan(func(call blobtest.Call) blobtest.Fault {
		if call.Key == part { // its checkpoint is being deleted: the manifest goes first
			_ = lossy.Delete(context.Background(), manifest)
		}
		return blobtest.Fault{}
	})
	if _, err := checkKey(NewChecker(racing, prefix), manifest, nil, 0); !errors.Is(err, ErrGone) {
		t.Errorf("a checkpoint that is deleted meanwhile: %v", err)
	}
}
