package shard

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

func TestImportsAreChecked(t *testing.T) {
	inBubble(t, func(b *bench) {
		body := maildroptest.Text("x")
		for name, c := range map[string]struct {
			uid      maildrop.UID
			received time.Time
			text     bool
		}{
			"too long":          {uid: maildrop.UID(strings.Repeat("x", 71))},
			"a space":           {uid: "a b"},
			"a control":         {uid: "a\x7f"},
			"our own":           {uid: maildrop.UID(ledger.UID(b.shard.ledger.Identity(), ledger.At(77, 1), 1))},
			"our own of old":    {uid: maildrop.UID(ledger.UID(b.shard.ledger.Identity(), ledger.At(77, 1), 0))},
			"retention is over": {uid: "x", received: time.Now().Add(-maildrop.LocalRetention), text: true},
			"over, without UID": {received: time.Now().Add(-maildrop.LocalRetention), text: true},
		} {
			e := envelope(anna)
			e.UID, e.Received = c.uid, c.received
			err := b.shard.Deliver(b.Context(), e, body)
			if maildrop.KindOf(err) != maildrop.Invalid || (maildrop.TextOf(err) != "") != c.text {
				b.Errorf("%s: %v, text %q", name, err, maildrop.TextOf(err))
			}
		}
		if b.count() != 0 {
			b.Error("something was stored")
		}
		for _, uid := range []maildrop.UID{"!", "~", maildrop.UID(strings.Repeat("x", 70)), maildrop.UID(ledger.UID(b.shard.ledger.Identity()+1, 1<<16, 1))} {
			e := envelope(anna)
			e.UID = uid
			ok(b, b.shard.Deliver(b.Context(), e, body))
			if list := uids(b, login(b, b.shard, anna)); list[len(list)-1] != uid {
				b.Errorf("%q became %q", uid, list[len(list)-1])
			}
		}
	})
}

// Retention counts from the date that an import has; one in the future is now.
func TestImportedDates(t *testing.T) {
	inBubble(t, func(b *bench) {
		for _, age := range []time.Duration{maildrop.LocalRetention - 10*time.Hour, -24 * time.Hour} {
			e := envelope(anna)
			e.Received = time.Now().Add(-age)
			ok(b, b.shard.Deliver(b.Context(), e, maildroptest.Text("x")))
			ok(b, b.shard.Deliver(b.Context(), e, maildroptest.Text("x"))) // a repetition
		}
		time.Sleep(10*time.Hour - time.Second)
		if got := b.count(); got != 2 {
			b.Errorf("%d messages, want 2", got)
		}
		time.Sleep(time.Second)
		if got := b.count(); got != 1 {
			b.Errorf("%d messages when the first one's retention has ended, want 1", got)
		}
		time.Sleep(maildrop.LocalRetention - 10*time.Hour)
		if got := b.count(); got != 0 {
			b.Errorf("%d messages when the second one's retention has ended, counted from its delivery", got)
		}
	})
}

// A UID is never used again: not when its message was removed, forgotten and the
// shard has got new owners who know it from checkpoints alone.
func TestImportedUIDsAreForEver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		e := envelope(anna)
		e.UID = "kept-from-the-old-server"
		w.take(anna, e, w.body(100))
		w.remove(anna, func(*letter) bool { return true })
		for range 20 {
			time.Sleep(5 * 24 * time.Hour)
			ok(t, w.shard.Close(t.Context()))
			w.open()
		}
		w.shard.mu.RLock()
		if w.shard.state.messages != 0 || len(w.shard.state.uids) != 0 {
			t.Error("the message is still in the index")
		}
		w.shard.mu.RUnlock()
		ok(t, w.shard.Deliver(t.Context(), e, w.body(100)))
		again := envelope(anna)
		again.UID = e.UID
		err := w.shard.Deliver(t.Context(), again, w.body(100))
		wants(t, err, maildrop.Invalid)
		if !errors.Is(err, errUsed) {
			t.Error(err)
		}
		w.verify()
		ok(t, w.shard.Deliver(t.Context(), maildrop.Envelope{ID: e.ID, To: "ben@local.example", UID: e.UID}, w.body(100))) // another mailbox
	})
}

// Two different messages of one UID at the same time: one is stored.
func TestImportsRace(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.store.SetPlan(slow)
		var calls sync.WaitGroup
		results := make([]error, 4)
		for i := range results {
			calls.Go(func() {
				e := envelope(anna)
				e.UID, e.ID = "same", maildrop.EnvelopeID{byte(i/2 + 1)}
				results[i] = b.shard.Deliver(context.Background(), e, maildroptest.Text("x"))
			})
			synctest.Wait()
		}
		calls.Wait()
		for i, err := range results {
			if i < 2 && err != nil || i >= 2 && maildrop.KindOf(err) != maildrop.Busy {
				b.Errorf("call %d: %v", i, err)
			}
		}
		if got := b.count(); got != 1 {
			b.Errorf("%d messages", got)
		}
		balanced(b, b.shard)
	})
}
