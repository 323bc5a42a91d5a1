package router_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// What is repeated, and for how long. Time is fake: fifteen seconds are exact.
func TestHold(t *testing.T) {
	const hold, away = 15 * time.Second, 5 * time.Second
	for _, c := range []struct {
		kind       maildrop.Kind
		here, away time.Duration // repeated for; of Busy for open only
		want       maildrop.Kind // of calls that change nothing
		change     maildrop.Kind // of calls that do
	}{
		{maildrop.NotOwner, hold, away, maildrop.Transient, maildrop.Transient},
		{maildrop.Transient, hold, away, maildrop.Transient, maildrop.Transient},
		{maildrop.Canceled, hold, away, maildrop.Transient, maildrop.Transient},
		{maildrop.Maybe, hold, away, maildrop.Transient, maildrop.Maybe},
		{maildrop.Busy, 5 * time.Second, 5 * time.Second, maildrop.Busy, maildrop.Busy},
		{maildrop.NotFound, 0, 0, maildrop.NotFound, maildrop.NotFound},
		{maildrop.Denied, 0, 0, maildrop.Denied, maildrop.Denied},
		{maildrop.Full, 0, 0, maildrop.Full, maildrop.Full},
		{maildrop.Corrupt, 0, 0, maildrop.Corrupt, maildrop.Corrupt},
		{maildrop.Invalid, 0, 0, maildrop.Invalid, maildrop.Invalid},
		{maildrop.Internal, 0, 0, maildrop.Internal, maildrop.Internal},
	} {
		for address, limit := range map[maildrop.Address]time.Duration{anna: c.here, bill: c.away} {
			for name := range each(t.Context(), newWorld(t, "m1"), address) {
				t.Run(c.kind.String()+"/"+string(address)+"/"+name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, "m1", "gateway.us")
						for _, s := range w.services {
							s.end = func(context.Context, int) error { return fault(c.kind) }
						}
						want, limit := c.want, limit
						if changing[name] {
							want = c.change
						}
						if c.kind == maildrop.Busy && name != "open" {
							limit = 0
						}
						start := time.Now()
						err := each(t.Context(), w, address)[name]()
						kindIs(t, name, err, want)
						took(t, name, start, limit, 0)
						if address == bill && limit == away && c.kind != maildrop.Busy && maildrop.TextOf(err) == "" {
							t.Errorf("no words for the user: %v", err)
						}
					})
				})
			}
		}
	}
}

// A call goes on when the shard has a new owner, without waiting out its pause,
// and costs the old one no more attempts than the pauses allow.
func TestCallsWaitForTheHeir(t *testing.T) {
	for name := range each(t.Context(), newWorld(t, "m1"), anna) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1", "m2")
				w.services["m1"].end = func(context.Context, int) error { return fault(maildrop.NotOwner) }
				start := time.Now()
				go func() {
					pass(2 * time.Second)
					w.owners.give(-1, "") // released
					pass(time.Second)
					w.owners.give(-1, "m2")
				}()
				if err := each(t.Context(), w, anna)[name](); err != nil {
					t.Error(err)
				}
				took(t, name, start, 3*time.Second, 25*time.Millisecond)
				if n := w.services["m1"].count(); n < 4 || n > 14 {
					t.Errorf("%d attempts in two seconds", n)
				}
			})
		})
	}
}

// Nobody waits for what fronts tell: it is tried once.
func TestTellIsTriedOnce(t *testing.T) {
	for address, at := range map[maildrop.Address]string{anna: "m1", bill: "gateway.us"} {
		w := newWorld(t, "m1", "gateway.us")
		if err := w.Tell(t.Context(), address, nil); err != nil {
			t.Error(err)
		}
		w.services[at].end = func(context.Context, int) error { return fault(maildrop.NotOwner) }
		kindIs(t, "tell", w.Tell(t.Context(), address, nil), maildrop.Transient)
		if n := w.services[at].count(); n != 2 {
			t.Errorf("%s: %d attempts of two calls", at, n)
		}
	}
}

// Other shards' changes don't make a waiting call ask more often.
func TestChangesOfOthersWakeNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		w.services["m1"].end = func(context.Context, int) error { return fault(maildrop.NotOwner) }
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for i := range 1000 {
				pass(2 * time.Millisecond)
				w.owners.give((anna.Shard(shards)+1+i%3)%shards, "m1")
			}
			cancel()
		}()
		kindIs(t, "accept", w.Accept(ctx, maildrop.Recipient{Address: anna}), maildrop.Canceled)
		if n := w.services["m1"].count(); n > 14 {
			t.Errorf("%d attempts in two seconds", n)
		}
	})
}

// A node that hangs doesn't hold a call that its heir could answer.
func TestHungOwnerIsGivenUp(t *testing.T) {
	for name := range each(t.Context(), newWorld(t, "m1"), anna) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1", "m2")
				w.services["m1"].end = func(ctx context.Context, _ int) error {
					<-ctx.Done()
					if changing[name] {
						return fault(maildrop.Maybe)
					}
					return fault(maildrop.Canceled)
				}
				start := time.Now()
				go func() {
					pass(time.Second)
					w.owners.give(-1, "") // nobody: there is nothing better to do than to wait
					pass(time.Second)
					w.owners.give(-1, "m2")
				}()
				if err := each(t.Context(), w, anna)[name](); err != nil {
					t.Error(err)
				}
				took(t, name, start, 2*time.Second, 50*time.Millisecond)
			})
		})
	}
}

// With no heir, a call that is small is cut when the hold is over.
func TestHungOwnerWithoutHeir(t *testing.T) {
	for _, c := range []struct {
		name string
		want maildrop.Kind
	}{{"open", maildrop.Transient}, {"remove", maildrop.Maybe}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "m1")
			w.services["m1"].end = func(ctx context.Context, _ int) error {
				<-ctx.Done()
				return fault(c.want) // as rpc says it
			}
			start := time.Now()
			kindIs(t, c.name, each(t.Context(), w, anna)[c.name](), c.want)
			took(t, c.name, start, 15*time.Second, 0)
		})
	}
}

// An outcome that isn't known is resolved by repeating, or stays Maybe.
func TestMaybeIsNeverForgotten(t *testing.T) {
	for _, c := range []struct {
		then error
		want maildrop.Kind
	}{
		{fault(maildrop.NotFound), maildrop.NotFound}, {fault(maildrop.Denied), maildrop.Denied}, // the owner knows
		{fault(maildrop.Busy), maildrop.Maybe}, {fault(maildrop.Full), maildrop.Maybe},
		{fault(maildrop.Internal), maildrop.Maybe}, {fault(maildrop.Transient), maildrop.Maybe},
		{fault(maildrop.NotOwner), maildrop.Maybe}, {errors.New("bare"), maildrop.Maybe},
	} {
		for name := range changing {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1")
				w.services["m1"].end = func(_ context.Context, call int) error {
					if call == 1 {
						return fault(maildrop.Maybe)
					}
					return c.then
				}
				kindIs(t, name+" then "+c.then.Error(), each(t.Context(), w, anna)[name](), c.want)
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		w.services["m1"].end = after(fault(maildrop.Maybe))
		if err := w.Deliver(t.Context(), maildrop.Envelope{To: anna}, body("x\r\n")); err != nil {
			t.Error(err)
		}
		if got, want := w.services["m1"].calls, []string{"deliver anna@eu.example 3", "deliver anna@eu.example 3"}; !slices.Equal(got, want) {
			t.Errorf("calls %q: the body must be read anew", got)
		}
	})
}

// A caller that goes away is let go at once.
func TestCallerGone(t *testing.T) {
	for name := range each(t.Context(), newWorld(t, "m1"), anna) {
		for _, kind := range []maildrop.Kind{maildrop.Transient, maildrop.Maybe} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1")
				w.services["m1"].end = func(context.Context, int) error { return fault(kind) }
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				start := time.Now()
				want := maildrop.Canceled
				if kind == maildrop.Maybe && changing[name] {
					want = maildrop.Maybe
				}
				kindIs(t, name, each(ctx, w, anna)[name](), want)
				took(t, name, start, 3*time.Second, 0)
			})
		}
	}
}

// A body that is read off the network once can't be repeated here: its sender
// gets the first error, and can.
func TestBodyThatOpensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		w.services["m1"].end = func(context.Context, int) error { return fault(maildrop.NotOwner) }
		start := time.Now()
		kindIs(t, "deliver", w.Deliver(t.Context(), maildrop.Envelope{To: anna}, &onceBody{body: "x\r\n"}), maildrop.NotOwner)
		took(t, "deliver", start, 0, time.Second)
	})
}

type onceBody struct {
	body
	opened bool
}

func (b *onceBody) Open() (io.ReadCloser, error) {
	if b.opened {
		return nil, errors.New("opened twice")
	}
	b.opened = true
	return b.body.Open()
}

func TestCheckIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		drop, _ := w.Resume(t.Context(), maildrop.Info{Address: anna}, []byte("one"))
		w.services["m1"].end = func(ctx context.Context, _ int) error { <-ctx.Done(); return fault(maildrop.Canceled) }
		start := time.Now()
		kindIs(t, "hung", drop.Check(t.Context()), maildrop.Transient)
		took(t, "hung", start, time.Second, 0)
		for _, kind := range []maildrop.Kind{maildrop.NotOwner, maildrop.Denied} {
			w.services["m1"].end = func(context.Context, int) error { return fault(kind) }
			before, start := w.services["m1"].count(), time.Now()
			want := kind
			if kind == maildrop.NotOwner {
				want = maildrop.Transient
			}
			kindIs(t, "check", drop.Check(t.Context()), want)
			took(t, "check", start, 0, 0)
			if n := w.services["m1"].count() - before; n != 1 {
				t.Errorf("%d tries", n)
			}
		}
	})
}

// The token that Check renewed is the one that later calls show, at any owner.
func TestTokenIsKept(t *testing.T) {
	w := newWorld(t, "m1", "m2")
	w.services["m1"].token = func() []byte { return []byte("renewed") }
	drop, err := w.Open(t.Context(), maildrop.Login{Address: anna})
	if err != nil {
		t.Fatal(err)
	}
	if err := drop.Check(t.Context()); err != nil || string(drop.Token()) != "renewed" {
		t.Fatalf("%v, token %q", err, drop.Token())
	}
	w.owners.give(-1, "m2")
	for range 2 { // asked once
		if _, err := drop.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.services["m2"].calls; !slices.Equal(got, []string{"list renewed"}) {
		t.Errorf("calls %q", got)
	}
}

// A read that breaks anywhere, any number of times, at any owner, writes each
// octet once.
func TestReadResumes(t *testing.T) {
	octets := make([]byte, 10_000)
	for i := range octets {
		octets[i] = byte(rand.Uint32())
	}
	rapid.Check(t, func(rt *rapid.T) {
		pieces := rapid.SliceOfN(rapid.IntRange(0, 3000), 0, 12).Draw(rt, "pieces")
		kinds := rapid.SampledFrom([]maildrop.Kind{maildrop.Transient, maildrop.NotOwner, maildrop.Maybe, maildrop.Canceled})
		offset := rapid.IntRange(0, len(octets)).Draw(rt, "offset")
		lie := rapid.IntRange(0, 3).Draw(rt, "lie")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "m1", "m2")
			breaks := 0
			read := func(_ context.Context, from uint64, sink io.Writer) (uint64, error) {
				rest := octets[from:]
				if breaks == len(pieces) {
					n, err := sink.Write(rest)
					return uint64(n), err
				}
				n, _ := sink.Write(rest[:min(pieces[breaks], len(rest))])
				kind := kinds.Draw(rt, "kind")
				w.owners.give(-1, []string{"m1", "m2"}[breaks%2])
				breaks++
				return uint64(n + lie), fault(kind) // what it says it wrote isn't believed
			}
			w.services["m1"].read, w.services["m2"].read = read, read
			drop, _ := w.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
			var got bytes.Buffer
			n, err := drop.Read(t.Context(), "u", uint64(offset), &got)
			if err != nil || n != uint64(got.Len()) || !bytes.Equal(got.Bytes(), octets[offset:]) {
				t.Errorf("%d octets (%d written) of %d, %v", n, got.Len(), len(octets)-offset, err)
			}
		})
	})
}

// Octets that move start the hold anew: a message that takes an hour may break
// all the time, one that stands still may not.
func TestReadHoldsFromTheLastOctet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		w.services["m1"].read = func(_ context.Context, from uint64, sink io.Writer) (uint64, error) {
			if from == 100 {
				return 0, fault(maildrop.Transient)
			}
			pass(10 * time.Second)
			n, _ := sink.Write([]byte("x"))
			return uint64(n), fault(maildrop.Transient)
		}
		drop, _ := w.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
		start := time.Now()
		n, err := drop.Read(t.Context(), "u", 0, io.Discard)
		kindIs(t, "read", err, maildrop.Transient)
		if n != 100 {
			t.Errorf("%d octets", n)
		}
		took(t, "read", start, 100*10*time.Second+15*time.Second, 5*time.Second)
	})
}

// The writer's error ends a read at once: the client is gone.
func TestReadIntoAFailingWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1")
		calls := 0
		w.services["m1"].read = func(_ context.Context, from uint64, sink io.Writer) (uint64, error) {
			calls++
			_, err := sink.Write([]byte("octets"))
			if err == nil {
				t.Error("the writer failed, the read didn't hear of it")
			}
			return 0, fault(maildrop.Transient) // whatever it says
		}
		drop, _ := w.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
		n, err := drop.Read(t.Context(), "u", 0, shortWriter{})
		kindIs(t, "read", err, maildrop.Canceled)
		if !errors.Is(err, io.ErrClosedPipe) || n != 2 || calls != 1 {
			t.Errorf("%d octets in %d calls: %v", n, calls, err)
		}
	})
}

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 2, io.ErrClosedPipe }

// pass lets fake time pass; it is for bubbles of synctest only.
func pass(d time.Duration) { <-time.After(d) }
