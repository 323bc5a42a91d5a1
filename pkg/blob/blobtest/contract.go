// Package blobtest is what every blob.Store is held to, and the hostile twin
// that those who use one are tested with.
//
//	Run      the contract, as tests
//	Memory   a Store without a disk
//	Faulty   a Store that fails as real ones do: before the effect, after it, later
//
// # Decisions
//
//   - 2026-11-23: a late effect of Faulty comes at a later call's begin, not after
//     a time: a seed then says all that happens, without a clock.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/postern-pop/postern/pkg/blob"
)

// Run holds a Store to the contract of package blob. open makes an empty one, for
// this test only.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, blob.Store)
	}{
		{"OneWinner", oneWinner},
		{"Atomic", atomic},
		{"ReadYourWrite", readYourWrite},
		{"Ranges", ranges},
		{"Missing", missing},
		{"Delete", deletes},
		{"WrongSize", wrongSize},
		{"BadKey", badKey},
		{"Cancelled", cancelled},
		{"CancelledMidway", cancelledMidway},
		{"ListOrder", listOrder},
		{"ListStops", listStops},
		{"ListModel", listModel},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t testing.TB, s blob.Store, key, content string) {
	t.Helper()
	if err := s.Create(context.Background(), key, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("Create(%s): %v", key, err)
	}
}

// content reads an object whole.
func content(s blob.Store, key string) (string, error) {
	var all []byte
	p := make([]byte, 64<<10)
	for {
		n, err := s.ReadAt(context.Background(), key, p, int64(len(all)))
		all = append(all, p[:n]...)
		if errors.Is(err, io.EOF) {
			return string(all), nil
		}
		if err != nil {
			return "", err
		}
	}
}

func absent(t testing.TB, s blob.Store, key string) {
	t.Helper()
	if got, err := content(s, key); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("%s: read %d octets, error %v; want ErrNotFound", key, len(got), err)
	}
	if listed := keys(t, s, key, ""); slices.Contains(listed, key) {
		t.Fatalf("%s is listed", key)
	}
}

func keys(t testing.TB, s blob.Store, prefix, after string) (found []string) {
	t.Helper()
	for info, err := range s.List(context.Background(), prefix, after) {
		if err != nil {
			t.Fatalf("List(%q, %q): %v", prefix, after, err)
		}
		found = append(found, info.Key)
	}
	return found
}

// 64 writers race for one key: one wins, all others learn that it exists, and
// from then on everybody reads the winner's octets.
func oneWinner(t *testing.T, s blob.Store) {
	const writers, rounds = 64, 12
	for round := range rounds {
		key := fmt.Sprintf("race/%d", round)
		var start, done sync.WaitGroup
		start.Add(1)
		errs := make([]error, writers)
		seen := make([]string, writers)
		for i := range writers {
			done.Go(func() {
				mine := strings.Repeat(fmt.Sprintf("%02d", i), 500+round)
				start.Wait()
				errs[i] = s.Create(context.Background(), key, strings.NewReader(mine), int64(len(mine)))
				seen[i], _ = content(s, key)
			})
		}
		start.Done()
		done.Wait()
		winner := slices.Index(errs, nil)
		if winner < 0 {
			t.Fatalf("round %d: nobody won: %v", round, errs[0])
		}
		want := strings.Repeat(fmt.Sprintf("%02d", winner), 500+round)
		for i, err := range errs {
			if i != winner && !errors.Is(err, blob.ErrExists) {
				t.Errorf("round %d: writer %d: %v; want ErrExists (%d won)", round, i, err, winner)
			}
			if seen[i] != want {
				t.Errorf("round %d: writer %d read %.20q after its Create, want the winner's %.20q", round, i, seen[i], want)
			}
		}
	}
}

// An object is never seen half written.
func atomic(t *testing.T, s blob.Store) {
	const size = 3 << 20
	whole := bytes.Repeat([]byte("postern!"), size/8)
	written := make(chan error, 1)
	go func() {
		written <- s.Create(context.Background(), "big", iotest.HalfReader(bytes.NewReader(whole)), size)
	}()
	looks := 0
	for done := false; !done; looks++ {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
		for info, err := range s.List(context.Background(), "big", "") {
			if err != nil || info.Size != size {
				t.Fatalf("listed with %d octets, error %v", info.Size, err)
			}
		}
		got, err := content(s, "big")
		if errors.Is(err, blob.ErrNotFound) && !done {
			continue
		}
		if err != nil || got != string(whole) {
			t.Fatalf("look %d: read %d of %d octets, error %v", looks, len(got), size, err)
		}
	}
}

// Everybody sees at once what was created, by reading and by listing.
func readYourWrite(t *testing.T, s blob.Store) {
	const writers, each = 8, 10
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := range each {
				key := fmt.Sprintf("w/%d/%03d", w, i)
				if err := s.Create(context.Background(), key, strings.NewReader(key), int64(len(key))); err != nil {
					t.Errorf("Create(%s): %v", key, err)
					return
				}
				if got, err := content(s, key); err != nil || got != key {
					t.Errorf("%s: read %q, error %v", key, got, err)
				}
				if n := len(keys(t, s, fmt.Sprintf("w/%d/", w), "")); n != i+1 {
					t.Errorf("writer %d: %d objects listed after its Create of number %d", w, n, i+1)
				}
			}
		})
	}
	done.Wait()
	if n := len(keys(t, s, "w/", "")); n != writers*each {
		t.Errorf("%d objects listed, want %d", n, writers*each)
	}
}

func ranges(t *testing.T, s blob.Store) {
	whole := make([]byte, 1<<20+17)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range whole {
		whole[i] = byte(random.Uint32())
	}
	put(t, s, "a/ranges", string(whole))
	size := int64(len(whole))
	for _, r := range [][2]int64{
		{0, 1}, {0, size}, {0, size + 1}, {1, 10}, {size - 1, 1}, {size - 1, 2}, {size, 1}, {size + 5, 3}, {65535, 65538}, {7, size}, {3, 0},
	} {
		p := make([]byte, r[1])
		n, err := s.ReadAt(context.Background(), "a/ranges", p, r[0])
		want := whole[min(r[0], size):min(r[0]+r[1], size)]
		if n != len(want) || !bytes.Equal(p[:n], want) {
			t.Errorf("ReadAt(%d octets at %d): %d octets, want %d", r[1], r[0], n, len(want))
		}
		if short := int64(n) < r[1]; (short && !errors.Is(err, io.EOF)) || (!short && err != nil && !errors.Is(err, io.EOF)) {
			t.Errorf("ReadAt(%d octets at %d) = %d, %v; io.EOF exactly when it is short", r[1], r[0], n, err)
		}
	}
	if _, err := s.ReadAt(context.Background(), "a/ranges", make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("ReadAt at -1: %v", err)
	}
}

func missing(t *testing.T, s blob.Store) {
	put(t, s, "there/is.one", "x")
	for _, key := range []string{"none", "there/none", "there", "there/is.one/below", "no/such/folder"} {
		absent(t, s, key)
		if err := s.Delete(context.Background(), key); err != nil {
			t.Errorf("Delete(%s), which isn't there: %v", key, err)
		}
	}
	if got, err := content(s, "there/is.one"); got != "x" || err != nil {
		t.Errorf("the one object: %q, %v", got, err)
	}
}

func deletes(t *testing.T, s blob.Store) {
	put(t, s, "d/1", "one")
	put(t, s, "d/2", "two")
	for range 2 {
		if err := s.Delete(context.Background(), "d/1"); err != nil {
			t.Fatal(err)
		}
		absent(t, s, "d/1")
	}
	if got := keys(t, s, "d/", ""); !slices.Equal(got, []string{"d/2"}) {
		t.Errorf("left: %q", got)
	}
	put(t, s, "d/1", "again")
	if err := s.Delete(context.Background(), "d/2"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "d/3", "in the folder that was nearly empty")
}

func wrongSize(t *testing.T, s blob.Store) {
	broken := errors.New("broken reader")
	for name, c := range map[string]struct {
		body io.Reader
		size int64
	}{
		"short":    {strings.NewReader("1234"), 5},
		"long":     {strings.NewReader("1234"), 3},
		"none":     {strings.NewReader(""), 1},
		"empty":    {strings.NewReader(""), 0},
		"zero":     {strings.NewReader("1"), 0},
		"negative": {strings.NewReader("1"), -1},
		"broken":   {io.MultiReader(strings.NewReader("12"), iotest.ErrReader(broken)), 5},
		"at-end":   {io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(broken)), 5},
	} {
		err := s.Create(context.Background(), "size/"+name, c.body, c.size)
		if err == nil || errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("%s: %v; want a refusal", name, err)
		}
		absent(t, s, "size/"+name)
	}
	big := bytes.Repeat([]byte{1}, 1<<20)
	if err := s.Create(context.Background(), "size/big", bytes.NewReader(big), 1<<20-1); err == nil {
		t.Error("a body one octet too long was taken")
	}
	absent(t, s, "size/big")
	put(t, s, "size/short", "and now right")
}

func badKey(t *testing.T, s blob.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/./b", "A", "a b", "a\x00b", "ä", "a\\b", "a:b", "~a", "a%2fb",
		strings.Repeat("a/", 512) + "a",
	} {
		if err := s.Create(context.Background(), key, strings.NewReader("x"), 1); err == nil || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("Create(%q): %v; want a refusal", key, err)
		}
		if _, err := s.ReadAt(context.Background(), key, make([]byte, 1), 0); err == nil {
			t.Errorf("ReadAt(%q) is taken", key)
		}
		if err := s.Delete(context.Background(), key); err == nil {
			t.Errorf("Delete(%q) is taken", key)
		}
	}
	if got := keys(t, s, "", ""); len(got) > 0 {
		t.Errorf("after refusals only: %q", got)
	}
}

func cancelled(t *testing.T, s blob.Store) {
	put(t, s, "c/there", "x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Create(ctx, "c/new", strings.NewReader("x"), 1); err == nil || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("Create: %v; want a clean error", err)
	}
	absent(t, s, "c/new")
	if _, err := s.ReadAt(ctx, "c/there", make([]byte, 1), 0); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("ReadAt: %v", err)
	}
	if err := s.Delete(ctx, "c/there"); err == nil {
		t.Error("Delete is taken")
	}
	failed := false
	for _, err := range s.List(ctx, "c/", "") {
		failed = err != nil
	}
	if !failed {
		t.Error("List doesn't say that it was cut short")
	}
}

// A context that ends while the body comes in: whatever is said of it is true.
func cancelledMidway(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const size = 2 << 20
	body := io.MultiReader(bytes.NewReader(make([]byte, size/2)), &onRead{do: cancel}, bytes.NewReader(make([]byte, size/2)))
	err := s.Create(ctx, "c/midway", body, size)
	switch {
	case err == nil:
		if got, err := content(s, "c/midway"); err != nil || len(got) != size {
			t.Fatalf("created, then read %d octets, error %v", len(got), err)
		}
	case !errors.Is(err, blob.ErrMaybe):
		absent(t, s, "c/midway")
	}
}

// onRead does something when it is its turn to be read.
type onRead struct{ do func() }

func (o *onRead) Read([]byte) (int, error) {
	o.do()
	return 0, io.EOF
}
