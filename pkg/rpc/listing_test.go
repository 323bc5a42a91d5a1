package rpc

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// TestListingOnTheWire: a listing that was cut into parts is the same when it has
// arrived.
func TestListingOnTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := rapid.SampledFrom([]string{`[!-~]{1,70}`, `[!-~]{24}`, `[ab]{1,30}`, `same[ab]{0,12}same`, `the(same){2,9}`}).Draw(t, "form")
		sent, came := &maildrop.Listing{}, &maildrop.Listing{}
		for range rapid.IntRange(0, 40).Draw(t, "messages") {
			sent.Append(maildrop.UID(rapid.StringMatching(uid).Draw(t, "uid")), rapid.Uint64().Draw(t, "size"))
		}
		for from := 0; from < sent.Len(); {
			to := rapid.IntRange(from+1, sent.Len()).Draw(t, "to")
			octets, err := proto.Marshal(listingToWire(sent, from, to))
			var part posternv1.Listing
			if err == nil {
				err = proto.Unmarshal(octets, &part)
			}
			if err == nil {
				err = appendListing(came, &part)
			}
			if err != nil {
				t.Fatal(err)
			}
			from = to
		}
		if !slices.Equal(came.Entries(), sent.Entries()) {
			t.Fatalf("%v arrived, %v was sent", came.Entries(), sent.Entries())
		}
	})
}

func TestMalformedListings(t *testing.T) {
	column := func(of ...byte) []byte { return of }
	for name, in := range map[string]*posternv1.Listing{
		"too few octets":            {Sizes: []uint64{1, 1}, Heads: column(0, 0), Tails: column(0, 0), Rests: column(1, 2), Octets: []byte("ab")},
		"too many octets":           {Sizes: []uint64{1, 1}, Heads: column(0, 0), Tails: column(0, 0), Rests: column(1, 1), Octets: []byte("abc")},
		"octets of nobody's":        {Octets: []byte("a")},
		"sizes alone":               {Sizes: []uint64{1}},
		"no heads":                  {Sizes: []uint64{1}, Tails: column(0), Rests: column(1), Octets: []byte("a")},
		"no tails":                  {Sizes: []uint64{1}, Heads: column(0), Rests: column(1), Octets: []byte("a")},
		"no rests":                  {Sizes: []uint64{1}, Heads: column(0), Tails: column(0), Octets: []byte("a")},
		"shares with nobody":        {Sizes: []uint64{1}, Heads: column(1), Tails: column(0), Rests: column(1), Octets: []byte("a")},
		"shares more than there is": {Sizes: []uint64{1, 1}, Heads: column(0, 2), Tails: column(0, 2), Rests: column(3, 1), Octets: []byte("abcd")},
		"too long":                  {Sizes: []uint64{1}, Heads: column(0), Tails: column(0), Rests: column(71), Octets: make([]byte, 71)},
	} {
		if err := appendListing(&maildrop.Listing{}, in); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Whatever arrives, it is refused or makes a listing that goes on as it came.
func FuzzListing(f *testing.F) {
	good, _ := proto.Marshal(listingToWire(maildrop.ListingOf(maildrop.Entry{UID: "ab1cd", Size: 1}, maildrop.Entry{UID: "ab22cd", Size: 1 << 40}), 0, 2))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var in, out posternv1.Listing
		l, again := &maildrop.Listing{}, &maildrop.Listing{}
		if proto.Unmarshal(b, &in) != nil || appendListing(l, &in) != nil {
			return
		}
		octets, err := proto.Marshal(listingToWire(l, 0, l.Len()))
		if err == nil {
			err = proto.Unmarshal(octets, &out)
		}
		if err == nil {
			err = appendListing(again, &out)
		}
		if err != nil || !slices.Equal(again.Entries(), l.Entries()) {
			t.Fatalf("%v became %v, %v", l.Entries(), again.Entries(), err)
		}
	})
}
