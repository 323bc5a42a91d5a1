package blobtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob"
)

func listOrder(t *testing.T, s blob.Store) {
	sorted := []string{"a-b/x", "a.b", "a/b-/x", "a/b.c", "a/b/c", "a/b/d", "a/b0", "a0", "a_/x", "aa", "b/00000000000000000001", "b/00000000000000000002"}
	if !slices.IsSorted(sorted) {
		t.Fatal("the test's own list isn't in octet order")
	}
	shuffled := slices.Clone(sorted)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, key := range shuffled {
		put(t, s, key, strings.Repeat("x", len(key)))
	}
	for info, err := range s.List(context.Background(), "", "") {
		if err != nil || info.Size != int64(len(info.Key)) {
			t.Errorf("%s: size %d, error %v", info.Key, info.Size, err)
		}
	}
	afters := append(slices.Clone(sorted), "", "0", "a", "a/", "a/b", "a/b/", "a/b/cc", "a/c", "zz", "a0/", "/", "..")
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "a0", "b/0000", "c", "a/b/c/", "..", "/", "A", "a//"} {
		for _, after := range afters {
			if got, want := keys(t, s, prefix, after), model(sorted, prefix, after); !slices.Equal(got, want) {
				t.Errorf("List(%q, %q) = %q, want %q", prefix, after, got, want)
			}
		}
	}
}

func model(sorted []string, prefix, after string) (want []string) {
	for _, key := range sorted {
		if strings.HasPrefix(key, prefix) && key > after {
			want = append(want, key)
		}
	}
	return want
}

// A list that its caller leaves ends, and leaves nothing behind.
func listStops(t *testing.T, s blob.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("l/%d/x", i), "x")
	}
	count := 0
	for range s.List(context.Background(), "l/", "") {
		if count++; count == 2 {
			break
		}
	}
	if n := len(keys(t, s, "l/", "l/1/x")); count != 2 || n != 3 {
		t.Errorf("%d before leaving, %d after going on", count, n)
	}
}

// Any keys, any prefix, any start: the list is what the sorted keys say.
func listModel(t *testing.T, s blob.Store) {
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		base := fmt.Sprintf("m%05d/", round)
		folder := rapid.SampledFrom([]string{"", "a/", "a-/", "a./", "aa/", "a/a/", "b-/c/"})
		leaf := rapid.SampledFrom([]string{"x", "x0", "x-y", "x.y", "0", "-x", "._"})
		key := rapid.Custom(func(t *rapid.T) string { return base + folder.Draw(t, "folder") + leaf.Draw(t, "leaf") })
		all := rapid.SliceOfNDistinct(key, 0, 8, rapid.ID).Draw(t, "keys")
		for _, key := range all {
			if err := s.Create(context.Background(), key, strings.NewReader(key), int64(len(key))); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(all)
		for range 8 {
			prefix := rapid.OneOf(key, folder).Draw(t, "prefix")
			if !strings.HasPrefix(prefix, base) {
				prefix = base + prefix
			}
			prefix = prefix[:rapid.IntRange(len(base), len(prefix)).Draw(t, "cut")]
			after := rapid.OneOf(key, rapid.Just("")).Draw(t, "after")
			var got []string
			for info, err := range s.List(context.Background(), prefix, after) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, info.Key)
			}
			if want := model(all, prefix, after); !slices.Equal(got, want) {
				t.Fatalf("List(%q, %q) = %q, want %q", prefix, after, got, want)
			}
		}
	})
}
