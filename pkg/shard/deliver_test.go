package shard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// A message that was removed long ago is forgotten; a repetition of it within
// a day is still none.
func TestRepetitionAfterRemoval(t *testing.T) {
	inBubble(t, func(b *bench) {
		e, body := envelope(anna), maildroptest.Text("x")
		ok(b, b.shard.Deliver(b.Context(), e, body))
		d := login(b, b.shard, anna)
		ok(b, d.Remove(b.Context(), uids(b, d)))
		time.Sleep(24*time.Hour - time.Second)
		ok(b, b.shard.Deliver(b.Context(), e, body))
		b.shard = open(b, testConfig(b.store))
		ok(b, b.shard.Deliver(b.Context(), e, body))
		if got := b.count(); got != 0 {
			b.Errorf("%d messages, want none", got)
		}
		time.Sleep(time.Second)
		ok(b, b.shard.Deliver(b.Context(), e, body))
		if got := b.count(); got != 1 {
			b.Errorf("%d messages a day later, want another one", got)
		}
	})
}

// hooked is a body that does something when it is opened.
type hooked struct {
	maildroptest.Body
	hook func()
}

func (h hooked) Open() (io.ReadCloser, error) {
	h.hook()
	return h.Body.Open()
}

// A repetition of what is stored does not even read the body; one that is
// overtaken while its body is read is no second message either.
func TestRepetitionAtEachStage(t *testing.T) {
	for name, body := range map[string]maildroptest.Body{
		"inline": maildroptest.Text("x"), "object": maildroptest.Filled(2<<20, 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, testConfig(blobtest.NewMemory()))
			user(t, s, anna)
			e := envelope(anna)
			ok(t, s.Deliver(t.Context(), e, hooked{body, func() { ok(t, s.Deliver(t.Context(), e, body)) }}))
			ok(t, s.Deliver(t.Context(), e, hooked{body, func() { t.Error("the body is read") }}))
			if got := login(t, s, anna).Info().Count; got != 1 {
				t.Errorf("%d messages, want 1", got)
			}
			balanced(t, s)
		})
	}
}

// lying is a body that isn't what it says.
type lying struct {
	maildroptest.Body
	wire, size uint64
	err        error
}

func (l lying) Wire() uint64 { return l.wire }

func (l lying) Size() uint64 { return l.size }

func (l lying) Open() (io.ReadCloser, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l.Body.Open()
}

// torn is a body whose source fails where its end should be.
type torn struct{ maildroptest.Body }

func (b torn) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(b.Octets()), iotest.ErrReader(errTest))), nil
}

func TestBodiesThatLie(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	user(t, s, anna)
	small, large := maildroptest.Filled(100, 1), maildroptest.Filled(2<<20, 1)
	for name, c := range map[string]struct {
		body lying
		kind maildrop.Kind
	}{
		"shorter":           {lying{small, small.Wire() + 1, 100, nil}, maildrop.Invalid},
		"longer":            {lying{small, small.Wire() - 1, 90, nil}, maildrop.Invalid},
		"more than in wire": {lying{small, small.Wire(), small.Wire() + 1, nil}, maildrop.Invalid},
		"over 4 GiB":        {lying{small, 1 << 32, 1 << 32, nil}, maildrop.Invalid},
		"unreadable":        {lying{small, small.Wire(), 100, errTest}, maildrop.Transient},
		"unreadable, large": {lying{large, large.Wire(), 100, errTest}, maildrop.Transient},
		"its own kind":      {lying{small, small.Wire(), 100, context.Canceled}, maildrop.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Deliver(t.Context(), envelope(anna), c.body)
			wants(t, err, c.kind)
			if c.body.err != nil && !errors.Is(err, c.body.err) {
				t.Errorf("the cause is lost in %v", err)
			}
		})
	}
	wants(t, s.Deliver(t.Context(), envelope(anna), torn{small}), maildrop.Transient)
	for name, body := range map[string]lying{
		"shorter": {large, large.Wire() + 1, 100, nil}, "longer": {large, large.Wire() - 1, 100, nil},
	} {
		if err := s.Deliver(t.Context(), envelope(anna), body); err == nil {
			t.Errorf("a large body that is %s was taken", name)
		}
	}
	wants(t, s.Deliver(t.Context(), maildrop.Envelope{To: anna}, small), maildrop.Invalid) // no ID
	if got := login(t, s, anna).Info().Count; got != 0 {
		t.Errorf("%d messages were stored", got)
	}
	balanced(t, s)
}

// held is a body that shows its octets.
type held struct {
	maildrop.Body
	octets []byte
}

func (h held) Whole() []byte { return h.octets }

// A body that is in memory is kept as it is; one that shows nothing, or not
// what it says, is read.
func TestBodyInMemoryIsNotCopied(t *testing.T) {
	body := maildroptest.Text("x")
	octets := []byte("x\r\n")
	if got, err := readBody(held{body, octets}); err != nil || &got[0] != &octets[0] {
		t.Errorf("%q (%v) is a copy", got, err)
	}
	for _, shown := range [][]byte{nil, octets[:1]} {
		if got, err := readBody(held{body, shown}); err != nil || !bytes.Equal(got, octets) {
			t.Errorf("%q shown: %q, %v", shown, got, err)
		}
	}
}
