package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

// A ledger object in fields: which message is where, and whether its checksum is right.
func TestInspect(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	received := time.Date(2026, 11, 25, 1, 2, 3, 4, time.UTC)
	entries, err := l.Append(context.Background(), []Draft{
		{Record: &Delivery{Mailbox: "a@example.com", Class: 1, Received: received, Size: 3, Wire: 5}, Body: []byte("x\r\n\r\n")},
		{Record: &Delivery{Mailbox: "a@example.com", UID: "kept", Class: 2, Received: received, Size: 9, Wire: 9, Object: newName(1)}},
		{Record: &Removal{Mailbox: "a@example.com", Messages: []Position{At(2, 0)}, Time: received}},
		{Record: &Address{Address: "a@example.com", Account: "customer", Hash: "seeeecret", Scram: "seeeecret", Time: received}},
	})
	if err != nil {
		t.Fatal(err)
	}
	key := l.files.object(entries[0].Position.Sequence())
	object := contentOf(store, key)
	in, err := Inspect(key, object)
	if err != nil || !in.Sound || in.Kind != ObjectLedger || in.Version != mirrored || in.Epoch != 1 || in.Sequence != 2 || in.Durable != 1 || in.RecordCount != 4 ||
		in.Ledger != fmt.Sprintf("%08x", l.Identity()) || len(in.Records) != 4 {
		t.Fatalf("%+v, %v", in, err)
	}
	inline, large, removal, address := in.Records[0], in.Records[1], in.Records[2], in.Records[3]
	body := object[inline.Body.Offset:][:inline.Body.Octets]
	if inline.Position != "2/0" || inline.Kind != "delivery" || inline.Mailbox != "a@example.com" || inline.UID != UID(l.Identity(), At(2, 0), 1) || inline.Imported ||
		inline.Class != 1 || inline.Size != 3 || inline.Wire != 5 || !inline.Time.Equal(received) || string(body) != "x\r\n\r\n" ||
		!*inline.Body.Sound || inline.Body.CRC32C != fmt.Sprintf("%08x", bodySum(l.Identity(), At(2, 0), body)) {
		t.Errorf("%+v, %+v", inline, inline.Body)
	}
	if large.UID != "kept" || !large.Imported || large.Body.Object == "" || large.Body.Octets != 9 || large.Body.Sound != nil {
		t.Errorf("%+v, %+v", large, large.Body)
	}
	if removal.Kind != "removal" || len(removal.Messages) != 1 || removal.Messages[0] != "2/0" || address.Account != "customer" || !address.HashSet || !address.KeysSet {
		t.Errorf("%+v, %+v", removal, address)
	}
	text, err := json.Marshal(in)
	if err != nil || bytes.Contains(text, []byte("seeeecret")) {
		t.Errorf("%s (%v)", text, err)
	}

	object[inline.Body.Offset] ^= 1
	in, err = Inspect(key, object)
	if !errors.Is(err, ErrCorrupt) || in.Sound || *in.Records[0].Body.Sound || len(in.Damage) != 1 || *in.Damage[0].Octet != int(inline.Body.Offset) {
		t.Errorf("damaged: %+v, %v", in, err)
	}
}
