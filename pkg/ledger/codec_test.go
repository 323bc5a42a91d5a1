package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Generators of anything that the format can hold.

func genText(t *rapid.T) string { return rapid.StringN(0, 40, 200).Draw(t, "text") }

func genTime(t *rapid.T) time.Time {
	if rapid.IntRange(0, 9).Draw(t, "zero time") == 0 {
		return time.Time{}
	}
	return time.Unix(rapid.Int64Range(-9e9, 9e9).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos")).UTC()
}

func genPosition(t *rapid.T) Position {
	return At(rapid.Uint64Range(0, MaxSequence).Draw(t, "sequence"), rapid.Uint16().Draw(t, "index"))
}

func genDelivery(t *rapid.T) Draft {
	d := &Delivery{
		Mailbox: genText(t), UID: genText(t), Class: rapid.Uint8().Draw(t, "class"), Received: genTime(t),
		Size: rapid.Uint64().Draw(t, "size"),
	}
	copy(d.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	if rapid.Bool().Draw(t, "inline") {
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
		d.Wire = uint64(len(body))
		return Draft{Record: d, Body: body}
	}
	d.Object, d.Wire = "o"+genText(t), rapid.Uint64().Draw(t, "wire")
	return Draft{Record: d}
}

func genRemoval(t *rapid.T) Draft {
	r := &Removal{Mailbox: genText(t), Time: genTime(t)}
	for range rapid.IntRange(0, 20).Draw(t, "messages") {
		r.Messages = append(r.Messages, genPosition(t))
	}
	return Draft{Record: r}
}

func genWithdrawal(t *rapid.T) Draft {
	r := genRemoval(t).Record.(*Removal)
	return Draft{Record: &Withdrawal{Mailbox: r.Mailbox, Messages: r.Messages, Time: r.Time}}
}

func genMove(t *rapid.T) Draft {
	return Draft{Record: &Move{Account: genText(t), ID: rapid.Uint64().Draw(t, "id"), Stage: rapid.Uint8().Draw(t, "stage"), Time: genTime(t)}}
}

func genAddress(t *rapid.T) Draft {
	a := &Address{
		Address: genText(t), Removed: rapid.Bool().Draw(t, "removed"), Account: genText(t), Primary: genText(t),
		Hash: genText(t), Scram: genText(t), Access: rapid.Uint8().Draw(t, "access"), Time: genTime(t),
	}
	for range rapid.IntRange(0, 5).Draw(t, "groups") {
		a.Groups = append(a.Groups, genText(t))
	}
	return Draft{Record: a}
}

func genPack(t *rapid.T) Draft {
	p := &Pack{Object: genText(t), Class: rapid.Uint8().Draw(t, "class"), Size: rapid.Uint64().Draw(t, "size"), Time: genTime(t)}
	for range rapid.IntRange(0, 4).Draw(t, "mailboxes") {
		m := PackMailbox{Mailbox: genText(t)}
		for range rapid.IntRange(0, 5).Draw(t, "messages") {
			m.Messages = append(m.Messages, PackMessage{Position: genPosition(t), Offset: rapid.Uint32().Draw(t, "offset")})
		}
		p.Mailboxes = append(p.Mailboxes, m)
	}
	return Draft{Record: p}
}

func genFence(t *rapid.T) Draft {
	f := &Fence{Epoch: rapid.Uint64().Draw(t, "epoch"), Ledger: rapid.Uint32().Draw(t, "ledger"), Owner: genText(t), Time: genTime(t)}
	copy(f.Secret[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
	return Draft{Record: f}
}

func genDraft(t *rapid.T) Draft {
	kinds := []func(*rapid.T) Draft{genDelivery, genRemoval, genAddress, genFence, genPack, genWithdrawal, genMove}
	return kinds[rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")](t)
}

func genHeader(t *rapid.T) header {
	h := header{
		identity: rapid.Uint32().Draw(t, "identity"), epoch: rapid.Uint64().Draw(t, "epoch"),
		sequence: rapid.Uint64Range(1, MaxSequence).Draw(t, "sequence"),
	}
	copy(h.nonce[:], rapid.SliceOfN(rapid.Byte(), nonceSize, nonceSize).Draw(t, "nonce"))
	return h
}

// decodeObject reads a whole object, as Open does in parts.
func decodeObject(b []byte) (header, []Entry, error) {
	h, err := decodeHeader(b)
	if err != nil {
		return h, nil, err
	}
	if len(b) != h.size() {
		return h, nil, damage(len(b), "length")
	}
	entries, err := decodeRecords(h, b[headerSize:])
	return h, entries, err
}

// What goes in comes out, bodies are where their entries say, and Size keeps its word.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drafts := rapid.SliceOfN(rapid.Custom(genDraft), 1, 12).Draw(t, "drafts")
		object, wrote, err := encodeObject(genHeader(t), drafts)
		if err != nil {
			t.Fatal(err)
		}
		_, entries, err := decodeObject(object)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(entries, wrote) {
			t.Fatalf("decoded %+v, wrote %+v", entries, wrote)
		}
		room := 0
		for i, e := range entries {
			room += drafts[i].Size()
			if d, ok := e.Record.(*Delivery); ok && d.Object == "" {
				body := object[e.Offset:][:d.Wire]
				if d.Wire > 0 && !bytes.Equal(body, drafts[i].Body) {
					t.Fatalf("record %d: body %q, want %q", i, body, drafts[i].Body)
				}
			}
			if !reflect.DeepEqual(e.Record, drafts[i].Record) {
				t.Fatalf("record %d: %+v, want %+v", i, e.Record, drafts[i].Record)
			}
		}
		if len(object) > headerSize+room {
			t.Fatalf("%d octets; Size promised at most %d", len(object), headerSize+room)
		}
	})
}

// Size keeps its word at the extremes too.
func TestSizeIsABound(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	zig := make([]Position, 1000)
	for i := range zig {
		zig[i] = At(MaxSequence*uint64(i%2), 0xffff)
	}
	groups := slices.Repeat([]string{long}, 100)
	packed := make([]PackMessage, 1000)
	for i := range packed {
		packed[i] = PackMessage{Position: zig[i], Offset: 1<<32 - 1}
	}
	for _, r := range []Record{
		&Fence{Epoch: 1 << 63, Ledger: 1 << 31, Owner: long},
		&Delivery{Mailbox: long, UID: long, Object: long, Size: 1<<64 - 1, Wire: 1<<64 - 1},
		&Removal{Mailbox: long, Messages: zig},
		&Withdrawal{Mailbox: long, Messages: zig},
		&Move{Account: long, ID: 1<<64 - 1},
		&Address{Address: long, Account: long, Primary: long, Hash: long, Scram: long, Groups: groups},
		&Pack{Object: long, Size: 1<<64 - 1, Mailboxes: []PackMailbox{{Mailbox: long, Messages: packed}, {Mailbox: long, Messages: packed}}},
	} {
		object, _, err := encodeObject(header{sequence: 1}, []Draft{{Record: r}})
		if err != nil || len(object)-headerSize > (Draft{Record: r}).Size() {
			t.Errorf("%s: %d octets, Size %d, error %v", r.Kind(), len(object)-headerSize, Draft{Record: r}.Size(), err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	for name, drafts := range map[string][]Draft{
		"text":     {{Record: &Delivery{Mailbox: long}}},
		"group":    {{Record: &Address{Groups: []string{long}}}},
		"groups":   {{Record: &Address{Groups: make([]string, MaxGroups+1)}}},
		"messages": {{Record: &Removal{Messages: make([]Position, MaxMessages+1)}}},
		"withdraw": {{Record: &Withdrawal{Messages: make([]Position, MaxMessages+1)}}},
		"packed":   {{Record: &Pack{Mailboxes: []PackMailbox{{Messages: make([]PackMessage, MaxPacked)}, {Messages: make([]PackMessage, 1)}}}}},
		"time":     {{Record: &Removal{Time: time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)}}},
		"records":  slices.Repeat([]Draft{{Record: &Removal{}}}, MaxRecords+1),
		"object":   slices.Repeat([]Draft{{Record: &Delivery{Wire: MaxInline}, Body: make([]byte, MaxInline)}}, 32),
	} {
		if _, _, err := encodeObject(header{sequence: 1}, drafts); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v; want ErrLimit", name, err)
		}
	}
	most := slices.Repeat([]Draft{{Record: &Removal{}}}, MaxRecords)
	object, _, err := encodeObject(header{sequence: 1}, most)
	if err != nil {
		t.Fatal(err)
	}
	if _, entries, err := decodeObject(object); err != nil || len(entries) != MaxRecords {
		t.Errorf("%d records came back: %v", len(entries), err)
	}
}

// Damage is never taken for a newer format, nor a newer format for damage.
func TestVersion(t *testing.T) {
	object, _, err := encodeObject(header{sequence: 1}, []Draft{{Record: &Removal{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{atVersion, atFlags} {
		newer := slices.Clone(object)
		newer[at] ^= 2
		if _, _, err := decodeObject(newer); !errors.Is(err, ErrCorrupt) {
			t.Errorf("octet %d, wrong checksum: %v; want ErrCorrupt", at, err)
		}
		sum := checksum(0, newer[:atCRC])
		newer[atCRC], newer[atCRC+1], newer[atCRC+2], newer[atCRC+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		if _, _, err := decodeObject(newer); !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) {
			t.Errorf("octet %d, right checksum: %v; want ErrVersion", at, err)
		}
	}
	if _, err := decodeRecord(99, nil); !errors.Is(err, ErrVersion) {
		t.Errorf("unknown kind: %v; want ErrVersion", err)
	}
}

// FuzzRecord: whatever is accepted encodes to the same octets again.
func FuzzRecord(f *testing.F) {
	for _, r := range []Record{
		&Fence{Epoch: 3, Owner: "node-1", Time: time.Unix(1, 2)},
		&Delivery{Mailbox: "a@example.com", Wire: 5, Size: 4, Received: time.Unix(3, 4), Object: "o"},
		&Removal{Mailbox: "a@example.com", Messages: []Position{At(1, 2), At(1, 1)}},
		&Address{Address: "a@example.com", Groups: []string{"x", ""}},
		&Pack{Object: "o", Size: 9, Mailboxes: []PackMailbox{{Mailbox: "a", Messages: []PackMessage{{Position: At(1, 2), Offset: 40}}}, {Mailbox: "b"}}},
	} {
		payload, err := r.appendTo(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(r.Kind()), payload)
	}
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte) {
		record, err := decodeRecord(Kind(kind), payload)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("unsorted error: %v", err)
			}
			return
		}
		again, err := record.appendTo(nil)
		if err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("%+v: %x, then %x, error %v", record, payload, again, err)
		}
	})
}

// FuzzObject: whatever is accepted encodes to the same octets again. The
// checksums are set right first, else nothing would get past them.
func FuzzObject(f *testing.F) {
	drafts := []Draft{
		{Record: &Delivery{Mailbox: "a@example.com", Wire: 3, Size: 3}, Body: []byte("a\r\n")},
		{Record: &Removal{Mailbox: "a@example.com", Messages: []Position{At(1, 2)}}},
	}
	object, _, err := encodeObject(header{identity: 7, epoch: 2, sequence: 9}, drafts)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object)
	f.Fuzz(func(t *testing.T, object []byte) {
		h, entries, err := decodeObject(mend(object))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("unsorted error: %v", err)
			}
			return
		}
		var b []byte
		crc := h.seed()
		for _, e := range entries {
			payload, err := e.Record.appendTo(nil)
			if err != nil {
				t.Fatal(err)
			}
			begin := len(b)
			b = appendRecord(b, e.Record.Kind(), payload)
			sealRecord(b, begin, &crc)
		}
		if !bytes.Equal(b, object[headerSize:headerSize+h.headers]) {
			t.Fatal("encoded again it differs")
		}
	})
}

// mend sets all checksums that can be found right, in place.
func mend(b []byte) []byte {
	if len(b) < headerSize {
		return b
	}
	put := func(at int, sum uint32) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	}
	put(atCRC, checksum(0, b[:atCRC]))
	crc := checksum(0, b[atIdentity:atCount])
	for at := headerSize; at < len(b); {
		r := reader{b: b[at:]}
		length := r.uvarint()
		if r.fail != "" || length > uint64(len(r.b)) || len(r.b)-int(length) < 1+crcSize {
			break
		}
		end := len(b) - len(r.b) + 1 + int(length)
		crc = checksum(crc, b[at:end])
		put(end, crc)
		at = end + crcSize
	}
	return b
}

// UIDs of two epochs differ, also of one position; within a ledger their order is
// that of the positions, from the old form to the new one too.
func TestUID(t *testing.T) {
	for epoch, want := range map[uint32]string{0: "rqmrtro00000008008", 1: "rqmrtro00000008008000001", MaxEpoch: "rqmrtro0000000800bvvvvvv"} {
		if got := UID(0xdeadbeef, At(1, 2), epoch); got != want {
			t.Errorf("UID of epoch %d = %q, want %q", epoch, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		identity := rapid.Uint32().Draw(t, "identity")
		a, b := genPosition(t), genPosition(t)
		epochA, epochB := rapid.Uint32().Draw(t, "epoch"), rapid.Uint32().Draw(t, "epoch")
		uidA, uidB := UID(identity, a, epochA), UID(identity, b, epochB)
		if length := map[bool]int{true: 18, false: 24}[epochA == 0]; len(uidA) != length || strings.Trim(uidA, "0123456789abcdefghijklmnopqrstuv") != "" {
			t.Fatalf("UID = %q", uidA)
		}
		if a != b && strings.Compare(uidA, uidB) != compare(a, b) {
			t.Fatalf("%v and %v are %s and %s", a, b, uidA, uidB)
		}
		if other := UID(identity, a, epochB); (other == uidA) != (epochA == epochB) {
			t.Fatalf("%v is %s in epoch %d and %s in epoch %d", a, uidA, epochA, other, epochB)
		}
	})
}

func compare(a, b Position) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// One value has one encoding: a longer form of a number is damage.
func TestShortestNumbersOnly(t *testing.T) {
	for in, want := range map[string]string{
		"\x00": "", "\x7f": "", "\x80\x01": "", "\x80\x00": "bad number", "\xff\x00": "bad number", "\x80": "bad number",
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02": "bad number", "": "bad number",
	} {
		r := reader{b: []byte(in)}
		if r.uvarint(); r.fail != want {
			t.Errorf("%x: %q, want %q", in, r.fail, want)
		}
	}
}

// A count is believed only as far as octets follow: it sizes what is allocated.
func TestCountsAreBounded(t *testing.T) {
	for _, c := range []struct {
		count  uint64
		follow int
		ok     bool
	}{{0, 0, true}, {5, 5, true}, {6, 5, false}, {10, 20, true}, {11, 20, false}, {1 << 40, 20, false}} {
		r := reader{b: append(binary.AppendUvarint(nil, c.count), make([]byte, c.follow)...)}
		if n := r.count(10); (r.fail == "") != c.ok || n > c.follow {
			t.Errorf("%+v: %d, %q", c, n, r.fail)
		}
	}
}

// Secrets stay out of logs, whatever writes them.
func TestSecretsAreNotLogged(t *testing.T) {
	fence := &Fence{Epoch: 1, Owner: "node-1"}
	copy(fence.Secret[:], "seeeecret")
	for _, record := range []Record{fence, &Address{Address: "a@example.com", Hash: "$argon2id$seeeecret", Scram: "SCRAM-SHA-256$seeeecret"}} {
		var b bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
			slog.New(handler).Info("x", "record", record)
		}
		fmt.Fprintf(&b, "%v %+v %s", record, record, record)
		if s := b.String(); strings.Contains(s, "seeeecret") || strings.Contains(strings.ReplaceAll(s, ",", " "), "115 101 101") || strings.Contains(s, "c2VlZWVj") {
			t.Errorf("%s", s)
		}
	}
}
