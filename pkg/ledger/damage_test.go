package ledger

import (
	"bytes"
	"context"
	"errors"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// sample is a ledger with records of all kinds, four objects: fence, mail and
// more, mail, fence.
func sample(t *testing.T) *blobtest.Memory {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	_, err := l.Append(context.Background(), []Draft{
		message(1), message(2), {Record: &Address{Address: "a@example.com", Groups: []string{"x"}}},
		{Record: &Removal{Mailbox: "a@example.com", Messages: []Position{At(1, 1)}}}, message(3),
	})
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, 4)
	open(t, store)
	return store
}

// verify opens a ledger and reads all its bodies.
func verify(store blob.Store) error {
	h := &history{}
	l, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, h.begin)
	if err != nil {
		return err
	}
	for _, e := range h.entries {
		if d, ok := e.Record.(*Delivery); ok {
			if _, err := l.ReadBody(context.Background(), e.Position, Place{Offset: e.Offset}, d.Wire); err != nil {
				return err
			}
		}
	}
	return nil
}

// opened is what a ledger is worked out into, and what of its mail can be read.
type opened struct {
	*history
	ledger *Ledger
	bodies map[Position][]byte
	failed []error
}

func openDamaged(store blob.Store) (*opened, error) {
	o := &opened{history: &history{}, bodies: map[Position][]byte{}}
	var err error
	if o.ledger, err = Open(context.Background(), Config{Store: store, Prefix: prefix}, o.begin); err != nil {
		return nil, err
	}
	for _, e := range o.entries {
		if d, ok := e.Record.(*Delivery); ok {
			body, err := o.ledger.ReadBody(context.Background(), e.Position, Place{Offset: e.Offset}, d.Wire)
			if err != nil {
				o.failed = append(o.failed, err)
				continue
			}
			o.bodies[e.Position] = body
		}
	}
	return o, nil
}

// faithful holds what a damaged ledger says against what the sound one does: all records
// are there, and each body is the right one or an error that names the object.
func (o *opened) faithful(t *testing.T, sound *opened, key string) {
	t.Helper()
	n := len(sound.entries) - 1 // without the fence of its own opening
	if len(o.entries) <= n || !reflect.DeepEqual(o.entries[:n], sound.entries[:n]) {
		t.Fatalf("%s: %d records, want %d, or others", key, len(o.entries), n)
	}
	for at, body := range o.bodies {
		if !bytes.Equal(body, sound.bodies[at]) {
			t.Fatalf("%s: body of %s isn't what was delivered", key, at)
		}
	}
	for _, err := range o.failed {
		if !errors.Is(err, ErrCorrupt) || maildrop.KindOf(err) != maildrop.Corrupt || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "octet ") {
			t.Fatalf("%s: %v; want ErrCorrupt that names object and octet", key, err)
		}
	}
}

// Each single bit of each object: the ledger opens, with all its records and all
// mail but the one that is hit; it is noticed, and said where.
func TestEachFlippedBitCostsOneBodyAtMost(t *testing.T) {
	store := sample(t)
	sound, err := openDamaged(store.Clone())
	if err != nil || len(sound.failed) > 0 || len(sound.bodies) < 4 {
		t.Fatal(err, sound)
	}
	bits, costs := 0, map[int]int{}
	for info := range store.List(context.Background(), prefix, "") {
		for bit := range info.Size * 8 {
			damaged := store.Clone()
			damaged.Alter(info.Key, func(b []byte) []byte {
				b[bit/8] ^= 1 << (bit % 8)
				return b
			})
			checked, err := NewChecker(damaged, prefix).Ledger(context.Background(), path.Base(info.Key), nil)
			if err != nil || len(checked.Damage) != 1 || checked.Damage[0].Key != info.Key || checked.Damage[0].Octet > int(bit/8) {
				t.Fatalf("%s: bit %d: checked: %v, %v", info.Key, bit, checked.Damage, err)
			}
			o, err := openDamaged(damaged)
			if err != nil {
				t.Fatalf("%s: bit %d: %v", info.Key, bit, err)
			}
			o.faithful(t, sound, info.Key)
			said := o.ledger.Damage()
			if len(said)+len(o.failed) > 1 || len(said) > 0 && (said[0].Key != info.Key || said[0].Octet < 0) {
				t.Fatalf("%s: bit %d: damage %v, %v", info.Key, bit, said, o.failed)
			}
			costs[len(o.failed)]++
			bits++
		}
	}
	if bits < 3000 || costs[1] < 500 || costs[0] < 3000 {
		t.Errorf("%d bits tried, costs %v", bits, costs)
	}
}

// A cut object costs the bodies that are cut off, and one that lost headers as well
// says which it is; octets at the end that don't belong there cost nothing.
func TestCutAndGrownObjects(t *testing.T) {
	store := sample(t)
	sound, err := openDamaged(store.Clone())
	if err != nil {
		t.Fatal(err)
	}
	for info := range store.List(context.Background(), prefix, "") {
		for length := int64(1); length <= info.Size+1; length++ {
			if length == info.Size {
				continue
			}
			damaged, head := store.Clone(), 0
			damaged.Alter(info.Key, func(b []byte) []byte {
				h, err := decodeHeader(b)
				if err != nil {
					t.Fatal(err)
				}
				head = headerSize + h.headers
				return append(b, 0)[:length]
			})
			for _, store := range []blob.Store{damaged, blindList{damaged.Clone()}} {
				o, err := openDamaged(store)
				var lost *LostError
				switch {
				case length < int64(head):
					if _, listed := store.(blindList); !errors.Is(err, ErrCorrupt) || !listed && !errors.As(err, &lost) {
						t.Fatalf("%s: %d of %d octets: %v; want a LostError", info.Key, length, info.Size, err)
					}
				case err != nil:
					t.Fatalf("%s: %d of %d octets: %v", info.Key, length, info.Size, err)
				default:
					o.faithful(t, sound, info.Key)
					if len(o.ledger.Damage()) != 1 {
						t.Fatalf("%s: %d of %d octets: damage %v", info.Key, length, info.Size, o.ledger.Damage())
					}
				}
			}
		}
	}
}

// asVersion1 makes a sound object of what the first releases wrote.
func asVersion1(t *testing.T, b []byte) []byte {
	t.Helper()
	h, err := decodeHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	h.version = version
	h.put(b)
	return b[:h.size()]
}

// Objects of version 1 are read, and their messages keep the UIDs that they had.
func TestVersion1(t *testing.T) {
	store := sample(t)
	sound, err := openDamaged(store.Clone())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(t, store, "ledger") {
		store.Alter(key, func(b []byte) []byte { return asVersion1(t, b) })
	}
	o, err := openDamaged(store)
	if err != nil || len(o.failed) > 0 || len(o.ledger.Damage()) > 0 || len(o.bodies) != len(sound.bodies) {
		t.Fatal(err, o)
	}
	for _, e := range o.entries[:len(o.entries)-1] {
		if e.Mint != 0 {
			t.Errorf("%s: mint %d", e.Position, e.Mint)
		}
	}
	entries, err := o.ledger.Append(context.Background(), []Draft{message(9)})
	if err != nil || entries[0].Mint != uint32(o.ledger.Epoch()) {
		t.Errorf("%v, %v", entries, err)
	}
	store.Alter(keys(t, store, "ledger")[1], func(b []byte) []byte { b[20] ^= 1; return b })
	var lost *LostError
	if _, err := openDamaged(store); !errors.As(err, &lost) || lost.Sequence != 2 || lost.Key != keys(t, store, "ledger")[1] {
		t.Errorf("%v; want a LostError of sequence 2", err)
	}
}

// Whole objects, each one sound, in wrong places.
func TestMisplacedObjects(t *testing.T) {
	key := files{prefix: prefix}.object
	other := sample(t)
	for name, change := range map[string]func(m *blobtest.Memory){
		"one is missing":        func(m *blobtest.Memory) { remove(t, m, key(2)) },
		"the first is missing":  func(m *blobtest.Memory) { remove(t, m, key(1)) },
		"another sequence":      func(m *blobtest.Memory) { replace(t, m, key(3), m, key(2)) },
		"another ledger":        func(m *blobtest.Memory) { replace(t, m, key(2), other, key(2)) },
		"another ledger's end":  func(m *blobtest.Memory) { replace(t, m, key(4), other, key(4)) },
		"another ledger's head": func(m *blobtest.Memory) { replace(t, m, key(1), other, key(1)) },
		"a second fence of one epoch": func(m *blobtest.Memory) {
			forge(t, m, 4, 1, func(l *Ledger) Record { return &Fence{Epoch: 1, Ledger: l.identity, Secret: l.secret} })
		},
		"a fence with another secret": func(m *blobtest.Memory) {
			forge(t, m, 4, 2, func(l *Ledger) Record { return &Fence{Epoch: 2, Ledger: l.identity} })
		},
		"a fence that lies about its epoch": func(m *blobtest.Memory) {
			forge(t, m, 4, 2, func(l *Ledger) Record { return &Fence{Epoch: 3, Ledger: l.identity, Secret: l.secret} })
		},
		"an epoch without a fence": func(m *blobtest.Memory) {
			forge(t, m, 3, 2, func(*Ledger) Record { return &Removal{} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := sample(t)
			change(store)
			if err := verify(store); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v; want ErrCorrupt", err)
			}
		})
	}
}

func remove(t *testing.T, m *blobtest.Memory, key string) {
	t.Helper()
	if err := m.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, m *blobtest.Memory, key string, from *blobtest.Memory, fromKey string) {
	t.Helper()
	var content []byte
	if !from.Alter(fromKey, func(b []byte) []byte { content = b; return b }) ||
		!m.Alter(key, func([]byte) []byte { return slices.Clone(content) }) {
		t.Fatalf("no object at %s or %s", key, fromKey)
	}
}

// forge puts a sound object of the given epoch in a sequence's place.
func forge(t *testing.T, m *blobtest.Memory, sequence, epoch uint64, record func(*Ledger) Record) {
	t.Helper()
	l, _ := open(t, m.Clone())
	h := l.header(&flight{sequence: sequence, durable: sequence - 1})
	h.epoch = epoch
	object, _, err := encodeObject(h, []Draft{{Record: record(l)}})
	if err != nil || !m.Alter(l.files.object(sequence), func([]byte) []byte { return object }) {
		t.Fatal(err)
	}
}

func TestReadBodyOfWhatIsGone(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	e := add(t, l, 1)[0]
	d := e.Record.(*Delivery)
	ctx, place := context.Background(), Place{Offset: e.Offset}
	if _, err := l.ReadBody(ctx, e.Position+1, place, d.Wire); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another position: %v", err)
	}
	if _, err := l.ReadBody(ctx, e.Position, Place{Offset: e.Offset + 1}, d.Wire); !errors.Is(err, ErrCorrupt) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := l.ReadBody(ctx, e.Position, Place{}, 1<<60); maildrop.KindOf(err) != maildrop.Invalid {
		t.Errorf("an absurd length: %v", err)
	}
	if _, err := l.ReadBody(ctx, e.Position, Place{Pack: "../../secret"}, d.Wire); maildrop.KindOf(err) != maildrop.Invalid {
		t.Errorf("an absurd name: %v", err)
	}
	remove(t, store, l.files.object(2))
	_, err := l.ReadBody(ctx, e.Position, place, d.Wire)
	if !errors.Is(err, ErrGone) || maildrop.KindOf(err) != maildrop.NotFound {
		t.Errorf("gone: %v", err)
	}
}

// Records of one object can't be swapped, nor taken from another object.
func TestRecordsAreChained(t *testing.T) {
	h := header{identity: 1, epoch: 1, sequence: 5}
	two := []Draft{{Record: &Removal{Mailbox: "a"}}, {Record: &Removal{Mailbox: "b"}}}
	object, _, err := encodeObject(h, two)
	if err != nil {
		t.Fatal(err)
	}
	half := (len(object) - headerSize) / 2
	swapped := slices.Concat(object[:headerSize], object[headerSize+half:], object[headerSize:headerSize+half])
	if _, _, err := decodeObject(swapped); !errors.Is(err, ErrCorrupt) {
		t.Errorf("swapped: %v", err)
	}
	h.nonce[3] = 1
	other, _, err := encodeObject(h, two)
	if err != nil {
		t.Fatal(err)
	}
	mixed := slices.Concat(object[:headerSize], other[headerSize:])
	if _, _, err := decodeObject(mixed); !errors.Is(err, ErrCorrupt) || bytes.Equal(mixed, object) {
		t.Errorf("mixed: %v", err)
	}
}

// A body's checksum is CRC-32C of what the format says.
func TestBodySum(t *testing.T) {
	plain := []byte{4, 3, 2, 1, 9, 0, 7, 0, 0, 0, 0, 0, 'm', 'a', 'i', 'l'}
	if got, want := bodySum(0x01020304, At(7, 9), []byte("mail")), checksum(0, plain); got != want {
		t.Errorf("%08x, want %08x", got, want)
	}
}

// A store that was opened without its keys isn't damaged.
func TestEncryptedWithoutAKey(t *testing.T) {
	store := blobtest.NewMemory()
	open(t, store)
	for _, key := range keys(t, store, "ledger") {
		store.Alter(key, func(content []byte) []byte { return append([]byte(sealedMagic), content[len(sealedMagic):]...) })
	}
	_, err := Open(t.Context(), Config{Store: store, Prefix: prefix, Owner: "a"}, func() State { return &history{} })
	if !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "storage.encryption") {
		t.Errorf("%v; want ErrVersion that names storage.encryption", err)
	}
}

// A ledger that another one, or none, has taken the place of is left as it is.
func TestForeignLedger(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	for name, c := range map[string]struct {
		store  *blobtest.Memory
		ledger uint32
		fenced uint64
		want   error
	}{
		"its own":       {store.Clone(), l.Identity(), l.Epoch(), nil},
		"any":           {store.Clone(), 0, 0, nil},
		"another one":   {store.Clone(), l.Identity() + 1, 0, ErrForeign},
		"none":          {blobtest.NewMemory(), l.Identity(), 0, ErrForeign},
		"an older copy": {store.Clone(), l.Identity(), l.Epoch() + 1, ErrForeign},
	} {
		before := len(keys(t, c.store, "ledger"))
		_, err := Open(t.Context(), Config{Store: c.store, Prefix: prefix, Owner: "a", Ledger: c.ledger, Fenced: c.fenced}, func() State { return &history{} })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if after := len(keys(t, c.store, "ledger")); c.want != nil && after != before {
			t.Errorf("%s: %d objects became %d", name, before, after)
		}
	}
}
