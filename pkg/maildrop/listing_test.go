package maildrop_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestListing: the columns give back what went in, for any unique-ids and sizes.
func TestListing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := rapid.StringMatching(`[!-~]{1,70}`)
		if rapid.Bool().Draw(t, "fixed") {
			uid = rapid.StringMatching(`[!-~]{18}`)
		}
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) maildrop.Entry {
			size := rapid.OneOf(rapid.Uint64Range(0, 1<<20), rapid.Uint64Range(math.MaxUint32-1, math.MaxUint32+1))
			return maildrop.Entry{UID: maildrop.UID(uid.Draw(t, "uid")), Size: size.Draw(t, "size")}
		}), 0, 200).Draw(t, "entries")
		l := maildrop.ListingOf(entries...)
		if got := l.Entries(); !slices.Equal(got, entries) || l.Len() != len(entries) || !l.Valid() {
			t.Fatalf("%v (valid: %v), want %v", got, l.Valid(), entries)
		}
		var sum uint64
		same := true
		for _, e := range entries {
			sum, same = sum+e.Size, same && len(e.UID) == len(entries[0].UID)
		}
		if l.Sum() != sum || len(entries) > 0 && same != (l.Width() == len(entries[0].UID)) {
			t.Fatalf("sum %d, width %d of %v", l.Sum(), l.Width(), entries)
		}
		from := rapid.IntRange(0, len(entries)).Draw(t, "from")
		to := rapid.IntRange(from, len(entries)).Draw(t, "to")
		var want string
		for _, e := range entries[from:to] {
			want += string(e.UID)
		}
		if got := string(l.Octets(from, to)); got != want {
			t.Fatalf("from %d to %d: %q, want %q", from, to, got, want)
		}
	})
}

func TestListingOfNothing(t *testing.T) {
	var l *maildrop.Listing
	if l.Len() != 0 || l.Sum() != 0 || l.Width() != 0 || !l.Valid() || len(l.Entries()) != 0 {
		t.Errorf("%+v isn't empty", l)
	}
}

// RFC 1939 section 7.
func TestListingIsValid(t *testing.T) {
	long := maildrop.UID(strings.Repeat("x", 71))
	for _, uids := range [][]maildrop.UID{{""}, {"a", ""}, {"", "a"}, {"a", "bc", ""}, {"a b"}, {"ab", "c\x7f"}, {"a", "b\n"}, {long}, {"a", long}} {
		l := &maildrop.Listing{}
		for _, uid := range uids {
			l.Append(uid, 1)
		}
		if l.Valid() {
			t.Errorf("%q passes", uids)
		}
	}
}
