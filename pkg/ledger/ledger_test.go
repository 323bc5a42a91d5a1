package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/maildrop"
)

const prefix = "eu/shard-0007"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// history is a State: what a replay saw. Its checkpoint is message numbers, 8
// octets each.
type history struct {
	mu      sync.Mutex
	loaded  []uint64 // numbers from a checkpoint
	entries []Entry
	fail    func(Entry) error
}

// begin makes h empty: it is the State of each attempt.
func (h *history) begin() State {
	h.loaded, h.entries = nil, nil
	return h
}

// Load implements State.
func (h *history) Load(part []byte) error {
	if len(part)%8 != 0 {
		return ErrCorrupt
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for at := 0; at < len(part); at += 8 {
		h.loaded = append(h.loaded, binary.LittleEndian.Uint64(part[at:]))
	}
	return nil
}

// Apply implements State.
func (h *history) Apply(e Entry) error {
	if h.fail != nil {
		if err := h.fail(e); err != nil {
			return err
		}
	}
	h.entries = append(h.entries, e)
	return nil
}

// numbers are the deliveries' ones, in order: see message.
func (h *history) numbers() (found []uint64) {
	found = append(found, h.loaded...)
	slices.Sort(found)
	for _, e := range h.entries {
		if d, ok := e.Record.(*Delivery); ok {
			found = append(found, number(d))
		}
	}
	return found
}

func number(d *Delivery) uint64 { return binary.LittleEndian.Uint64(d.ID[:]) }

// message is a delivery that can be told by its number.
func message(number uint64) Draft {
	body := []byte(fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", number, strings.Repeat("x", int(number%100))))
	d := &Delivery{Mailbox: fmt.Sprintf("user%d@example.com", number%7), Class: 1, Wire: uint64(len(body)), Size: uint64(len(body))}
	binary.LittleEndian.PutUint64(d.ID[:], number)
	return Draft{Record: d, Body: body}
}

func open(t testing.TB, store blob.Store) (*Ledger, *history) {
	t.Helper()
	h := &history{}
	l, err := Open(context.Background(), Config{Store: store, Prefix: prefix, Owner: "node-1"}, h.begin)
	if err != nil {
		t.Fatal(err)
	}
	return l, h
}

func add(t testing.TB, l *Ledger, numbers ...uint64) []Entry {
	t.Helper()
	var drafts []Draft
	for _, n := range numbers {
		drafts = append(drafts, message(n))
	}
	entries, err := l.Append(context.Background(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func onDisk(t testing.TB) *dir.Store {
	t.Helper()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// checkBody reads an entry's inline body and holds it against message.
func checkBody(t testing.TB, l *Ledger, e Entry) {
	t.Helper()
	d := e.Record.(*Delivery)
	body, err := l.ReadBody(context.Background(), e.Position, Place{Offset: e.Offset}, d.Wire)
	if want := message(number(d)).Body; err != nil || string(body) != string(want) {
		t.Fatalf("body of %s: %q, error %v; want %q", e.Position, body, err, want)
	}
}

// What was appended is there, in order, with its bodies, at each opening.
func TestAppendAndReplay(t *testing.T) {
	store := onDisk(t)
	var want []Entry
	var identity uint32
	var secret [32]byte
	for opening := range uint64(4) {
		l, h := open(t, store)
		if opening == 0 {
			identity, secret = l.Identity(), l.Secret()
		}
		if l.Identity() != identity || l.Secret() != secret || secret == [32]byte{} || l.Epoch() != opening+1 {
			t.Errorf("opening %d: identity %x, epoch %d", opening, l.Identity(), l.Epoch())
		}
		last := h.entries[len(h.entries)-1]
		fence, ok := last.Record.(*Fence)
		if !ok || fence.Epoch != l.Epoch() || fence.Owner != "node-1" || fence.Secret != secret || fence.Time.IsZero() {
			t.Errorf("the last record isn't our fence: %+v", last)
		}
		want = append(want, last)
		if fmt.Sprintf("%+v", positions(h.entries)) != fmt.Sprintf("%+v", positions(want)) {
			t.Fatalf("opening %d: replayed %v, want %v", opening, positions(h.entries), positions(want))
		}
		for _, e := range h.entries {
			if _, ok := e.Record.(*Delivery); ok {
				checkBody(t, l, e)
			}
		}
		for batch := range uint64(3) {
			n := opening*100 + batch*10
			want = append(want, add(t, l, n, n+1, n+2)...)
		}
		if s := l.Stats(); s.Objects != (opening+1)*4 || s.Records != (opening+1)*10 || s.Octets == 0 || s.Skipped != 0 {
			t.Errorf("stats: %+v", s)
		}
	}
}

func positions(entries []Entry) (p []Position) {
	for _, e := range entries {
		p = append(p, e.Position)
	}
	return p
}

func TestEpochIsAtLeast(t *testing.T) {
	store := blobtest.NewMemory()
	for _, c := range [][2]uint64{{0, 1}, {7, 7}, {7, 8}, {3, 9}, {20, 20}} {
		l, err := Open(context.Background(), Config{Store: store, Prefix: prefix, Epoch: c[0]}, (&history{}).begin)
		if err != nil || l.Epoch() != c[1] {
			t.Errorf("asked for %d: epoch %d, error %v; want %d", c[0], l.Epoch(), err, c[1])
		}
	}
}

func TestFenced(t *testing.T) {
	for name, store := range map[string]blob.Store{"memory": blobtest.NewMemory(), "dir": onDisk(t)} {
		t.Run(name, func(t *testing.T) {
			old, _ := open(t, store)
			add(t, old, 1)
			first, h := open(t, store)
			if got := fmt.Sprint(h.numbers()); got != "[1]" {
				t.Errorf("replayed %s", got)
			}
			for range 3 {
				_, err := old.Append(context.Background(), []Draft{message(2)})
				if !errors.Is(err, ErrFenced) || maildrop.KindOf(err) != maildrop.NotOwner {
					t.Fatalf("the old owner's append: %v; want ErrFenced", err)
				}
			}
			if _, err := old.PutBody(context.Background(), strings.NewReader("x"), 1); !errors.Is(err, ErrFenced) {
				t.Errorf("the old owner's PutBody: %v", err)
			}
			add(t, first, 3)
			if _, err := old.Append(context.Background(), nil); !errors.Is(err, ErrFenced) {
				t.Errorf("the old owner's empty append: %v", err)
			}
			_, h = open(t, store)
			if got := fmt.Sprint(h.numbers()); got != "[1 3]" {
				t.Errorf("replayed %s", got)
			}
		})
	}
}

// A zombie that never learned of the take-over, and whose next sequences are
// long taken, is fenced too; also one that wakes up behind several owners.
func TestZombie(t *testing.T) {
	store := blobtest.NewMemory()
	var zombies []*Ledger
	for n := range uint64(5) {
		l, _ := open(t, store)
		add(t, l, n)
		zombies = append(zombies, l)
	}
	for i, zombie := range zombies[:4] {
		if _, err := zombie.Append(context.Background(), []Draft{message(99)}); !errors.Is(err, ErrFenced) {
			t.Errorf("owner %d: %v", i, err)
		}
	}
	add(t, zombies[4], 5)
}

// Many openings and appends at once, on disk: whatever was acknowledged is
// there in the end, once, and every ledger but the last is fenced.
func TestConcurrentTakeOvers(t *testing.T) {
	store := onDisk(t)
	const owners = 8
	var mu sync.Mutex
	acknowledged := map[uint64]bool{}
	epochs := map[uint64]bool{}
	var done sync.WaitGroup
	for owner := range uint64(owners) {
		done.Go(func() {
			l, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, (&history{}).begin)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range uint64(10) {
				n := owner*1000 + i
				_, err := l.Append(context.Background(), []Draft{message(n)})
				if err != nil && !errors.Is(err, ErrFenced) {
					t.Error(err)
				}
				mu.Lock()
				acknowledged[n] = err == nil
				epochs[l.Epoch()] = true
				mu.Unlock()
			}
		})
	}
	done.Wait()
	_, h := open(t, store)
	seen := map[uint64]int{}
	for _, n := range h.numbers() {
		seen[n]++
	}
	for n, ok := range acknowledged {
		if want := map[bool]int{true: 1, false: 0}[ok]; seen[n] != want {
			t.Errorf("message %d (acknowledged: %v) is there %d times", n, ok, seen[n])
		}
	}
	if len(epochs) != owners {
		t.Errorf("%d epochs of %d owners", len(epochs), owners)
	}
}

func TestAppendRefuses(t *testing.T) {
	l, _ := open(t, blobtest.NewMemory())
	delivery := func(d Delivery) *Delivery { return &d }
	for name, d := range map[string]Draft{
		"nothing":         {},
		"fence":           {Record: &Fence{}},
		"wire":            {Record: delivery(Delivery{Wire: 3}), Body: []byte("ab")},
		"no body":         {Record: delivery(Delivery{Wire: 3})},
		"body twice":      {Record: delivery(Delivery{Wire: 2, Object: "x"}), Body: []byte("ab")},
		"body of removal": {Record: &Removal{}, Body: []byte("ab")},
		"too long":        {Record: delivery(Delivery{Wire: MaxInline + 1}), Body: make([]byte, MaxInline+1)},
		"text":            {Record: delivery(Delivery{Mailbox: strings.Repeat("x", MaxText+1)})},
	} {
		if _, err := l.Append(context.Background(), []Draft{message(1), d}); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v; want Invalid", name, err)
		}
	}
	if entries, err := l.Append(context.Background(), nil); err != nil || entries != nil {
		t.Errorf("no drafts: %v, %v", entries, err)
	}
	entries := add(t, l, 2)
	if entries[0].Position != At(2, 0) {
		t.Errorf("after refusals: position %s", entries[0].Position)
	}
	// An empty message is one.
	entries, err := l.Append(context.Background(), []Draft{{Record: &Delivery{Mailbox: "a@example.com"}}})
	if err != nil {
		t.Fatal(err)
	}
	d := entries[0].Record.(*Delivery)
	if body, err := l.ReadBody(context.Background(), entries[0].Position, Place{Offset: entries[0].Offset}, d.Wire); err != nil || len(body) != 0 {
		t.Errorf("empty body: %q, %v", body, err)
	}
}

// The caller's records are never written to: what failed can be appended again.
func TestAppendLeavesDraftsAlone(t *testing.T) {
	l, _ := open(t, blobtest.NewMemory())
	draft := message(1)
	for range 2 {
		entries, err := l.Append(context.Background(), []Draft{draft})
		if err != nil {
			t.Fatal(err)
		}
		checkBody(t, l, entries[0])
		if got := draft.Record.(*Delivery); got.UID != "" {
			t.Errorf("the draft's record was changed: %+v", got)
		}
	}
}

// Callers that append at once wait for each other.
func TestAppendsOfManyCallers(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	var done sync.WaitGroup
	for caller := range uint64(8) {
		done.Go(func() {
			for i := range uint64(50) {
				if _, err := l.Append(context.Background(), []Draft{message(caller*50 + i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	if _, h := open(t, store); len(h.numbers()) != 400 {
		t.Errorf("%d messages replayed", len(h.numbers()))
	}
}

// An error of replay ends the opening, and keeps its kind; nothing is fenced.
func TestReplayFails(t *testing.T) {
	store := blobtest.NewMemory()
	old, _ := open(t, store)
	for n := range uint64(200) {
		add(t, old, n)
	}
	no := &maildrop.Error{Op: "test", Kind: maildrop.Invalid}
	_, err := Open(context.Background(), Config{Store: store, Prefix: prefix}, (&history{fail: func(e Entry) error {
		if e.Position.Sequence() == 10 {
			return no
		}
		return nil
	}}).begin)
	if !errors.Is(err, no) || maildrop.KindOf(err) != maildrop.Invalid {
		t.Errorf("Open: %v", err)
	}
	add(t, old, 1000)
}

func TestOpenCancelled(t *testing.T) {
	store := blobtest.NewMemory()
	old, _ := open(t, store)
	for n := range uint64(100) {
		add(t, old, n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Open(ctx, Config{Store: store, Prefix: prefix}, (&history{fail: func(e Entry) error {
		if e.Position.Sequence() == 10 {
			cancel()
		}
		return nil
	}}).begin)
	if !errors.Is(err, context.Canceled) || maildrop.KindOf(err) != maildrop.Canceled {
		t.Errorf("Open: %v", err)
	}
	add(t, old, 1000)
}

// Headers longer than the first read, and objects that a list misses.
func TestLongHeaders(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	var drafts []Draft
	for n := range uint64(3000) {
		drafts = append(drafts, message(n))
	}
	entries, err := l.Append(context.Background(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	checkBody(t, l, entries[2999])
	for _, store := range []blob.Store{store, blindList{store}} {
		l, h := open(t, store)
		if got := h.numbers(); len(got) != 3000 || got[2999] != 2999 {
			t.Fatalf("%d messages replayed", len(got))
		}
		checkBody(t, l, h.entries[1501])
	}
}

// blindList shows nothing: all is found by the fence's way.
type blindList struct{ blob.Store }

func (blindList) List(context.Context, string, string) iter.Seq2[blob.Info, error] {
	return func(func(blob.Info, error) bool) {}
}

// A list may miss what is written while it runs, and show what came after it.
func TestListMissesOne(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	for n := range uint64(5) {
		add(t, l, n)
	}
	for hidden := uint64(1); hidden <= 6; hidden++ {
		_, h := open(t, hiding{store, l.files.object(hidden)})
		if got := fmt.Sprint(h.numbers()); got != "[0 1 2 3 4]" {
			t.Errorf("with %d hidden: replayed %s", hidden, got)
		}
	}
}

// hiding doesn't list one object.
type hiding struct {
	blob.Store
	key string
}

func (s hiding) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix, after) {
			if info.Key != s.key && !yield(info, err) {
				return
			}
		}
	}
}

func TestStrayObjectIsIgnored(t *testing.T) {
	store := blobtest.NewMemory()
	l, _ := open(t, store)
	add(t, l, 1)
	for _, key := range []string{"0", "00000000000000000000", "99999999999999999999", "notes.txt", "00000000000000000002.bak"} {
		if err := store.Create(context.Background(), prefix+"/ledger/"+key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	_, h := open(t, store)
	if got := fmt.Sprint(h.numbers()); got != "[1]" {
		t.Errorf("replayed %s", got)
	}
}
