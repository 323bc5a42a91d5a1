package ledger

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

func noise(n int) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// Any length and any offset, read in any portions.
func TestBodies(t *testing.T) {
	store := onDisk(t)
	l, _ := open(t, store)
	ctx := context.Background()
	for _, length := range []int{1, 5, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, 3*blockSize + 17} {
		body := noise(length)
		name, err := l.PutBody(ctx, iotest.HalfReader(bytes.NewReader(body)), uint64(length))
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range []int{0, 1, length / 2, length - 1, length, blockSize - 1, blockSize, blockSize + 1} {
			if offset > length {
				continue
			}
			for _, how := range []func(io.Reader) io.Reader{plain, iotest.HalfReader, hideWriterTo} {
				r, err := l.OpenBody(ctx, name, uint64(length), uint64(offset))
				if err != nil {
					t.Fatalf("%d octets from %d: %v", length, offset, err)
				}
				var got bytes.Buffer
				if _, err := io.Copy(&got, how(r)); err != nil || !bytes.Equal(got.Bytes(), body[offset:]) {
					t.Errorf("%d octets from %d: %d octets, error %v", length, offset, got.Len(), err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
					t.Errorf("Read after Close: %d, %v", n, err)
				}
			}
		}
	}
}

func plain(r io.Reader) io.Reader        { return r }
func hideWriterTo(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

func TestPutBodyRefuses(t *testing.T) {
	memory := blobtest.NewMemory()
	l, _ := open(t, memory)
	broken := errors.New("broken reader")
	for name, c := range map[string]struct {
		body io.Reader
		wire uint64
		kind maildrop.Kind
	}{
		"empty":       {strings.NewReader(""), 0, maildrop.Invalid},
		"short":       {strings.NewReader("1234"), 5, maildrop.Invalid},
		"long":        {strings.NewReader("1234"), 3, maildrop.Invalid},
		"short block": {bytes.NewReader(noise(blockSize)), blockSize + 1, maildrop.Invalid},
		"long block":  {bytes.NewReader(noise(blockSize + 1)), blockSize, maildrop.Invalid},
		"absurd":      {strings.NewReader("1"), 1 << 63, maildrop.Invalid},
		"broken":      {iotest.ErrReader(broken), 5, maildrop.Transient},
	} {
		if _, err := l.PutBody(context.Background(), c.body, c.wire); maildrop.KindOf(err) != c.kind {
			t.Errorf("%s: %v; want %s", name, err, c.kind)
		}
	}
	for info := range memory.List(context.Background(), prefix+"/body/", "") {
		t.Errorf("%s was left", info.Key)
	}
}

// Whatever the store says of a body, only nil gives its name away.
func TestPutBodyOutcomes(t *testing.T) {
	for want, fault := range map[maildrop.Kind][]blobtest.Fault{
		maildrop.Transient: {{Before: blobtest.ErrInjected}, {Before: blob.ErrMaybe}, {After: blob.ErrMaybe}, {After: blob.ErrExists}, {Late: 2}},
		maildrop.Full:      {{Before: blob.ErrFull}},
	} {
		for _, f := range fault {
			store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
			l, _ := open(t, store)
			store.SetPlan(onOp(blobtest.OpCreate, f))
			name, err := l.PutBody(context.Background(), strings.NewReader("abc"), 3)
			if maildrop.KindOf(err) != want || name != "" {
				t.Errorf("%+v: %q, %v; want %s", f, name, err, want)
			}
			store.SetPlan(nil)
			if _, err := l.PutBody(context.Background(), strings.NewReader("abc"), 3); err != nil {
				t.Errorf("the next try: %v", err)
			}
		}
	}
}

func TestOpenBodyRefuses(t *testing.T) {
	l, _ := open(t, blobtest.NewMemory())
	name, err := l.PutBody(context.Background(), strings.NewReader("abc"), 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		object       string
		wire, offset uint64
		kind         maildrop.Kind
	}{
		{name, 3, 4, maildrop.Invalid},
		{name, 0, 0, maildrop.Invalid},
		{name, 1 << 63, 0, maildrop.Invalid},
		{"../../secret", 3, 0, maildrop.Invalid},
		{strings.ToUpper(name), 3, 0, maildrop.Invalid},
		{"", 3, 0, maildrop.Invalid},
		{newName(1), 3, 0, maildrop.NotFound},
		{name, 2, 0, maildrop.Corrupt},
		{name, 4, 0, maildrop.Corrupt},
		{name, 2 * blockSize, blockSize + 1, maildrop.Corrupt},
	} {
		_, err := l.OpenBody(context.Background(), c.object, c.wire, c.offset)
		if maildrop.KindOf(err) != c.kind {
			t.Errorf("OpenBody(%q, %d, %d): %v; want %s", c.object, c.wire, c.offset, err, c.kind)
		}
	}
}

// Octets of a damaged block are never seen, those before it are.
func TestDamagedBlock(t *testing.T) {
	memory := blobtest.NewMemory()
	l, _ := open(t, memory)
	body := noise(2*blockSize + 100)
	name, err := l.PutBody(context.Background(), bytes.NewReader(body), uint64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	for at, sound := range map[int]int{
		0: 0, blockSize - 1: 0, blockSize: 0, frameSize: blockSize, 2*frameSize - 1: blockSize, 2 * frameSize: 2 * blockSize,
		2*frameSize + 103: 2 * blockSize,
	} {
		checkDamaged(t, l, memory, name, body, sound, func(b []byte) []byte { b[at] ^= 4; return b })
	}
	checkDamaged(t, l, memory, name, body, 0, func(b []byte) []byte { // blocks 0 and 1 swapped
		swapped := append(append([]byte{}, b[frameSize:2*frameSize]...), b[:frameSize]...)
		copy(b, swapped)
		return b
	})
	checkDamaged(t, l, memory, name, body, 2*blockSize, func(b []byte) []byte { return b[:len(b)-1] })
}

func checkDamaged(t *testing.T, l *Ledger, memory *blobtest.Memory, name string, body []byte, sound int, damage func([]byte) []byte) {
	t.Helper()
	key := l.files.body(name)
	var before []byte
	memory.Alter(key, func(b []byte) []byte { before = bytes.Clone(b); return damage(b) })
	defer memory.Alter(key, func([]byte) []byte { return before })
	var got []byte
	r, err := l.OpenBody(context.Background(), name, uint64(len(body)), 0)
	if err == nil {
		got, err = io.ReadAll(r)
	}
	if !errors.Is(err, ErrCorrupt) || !bytes.Equal(got, body[:sound]) || !strings.Contains(err.Error(), key) {
		t.Errorf("%d octets came, want %d; error %v", len(got), sound, err)
	}
}

// A large body is never whole in memory.
func TestBodiesAreStreamed(t *testing.T) {
	l, _ := open(t, onDisk(t))
	const size = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	name, err := l.PutBody(context.Background(), io.LimitReader(zeros{}, size), size)
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.OpenBody(context.Background(), name, size, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n != size || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d octets were allocated for a body of %d", used, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
