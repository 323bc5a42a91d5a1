package shard

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// A store without room is told of once a second, however many messages it refuses in
// however many shards, and none of them is forgotten in the count.
func TestRefusalsAreLoggedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lines bytes.Buffer
		store := blobtest.NewFaulty(blobtest.NewMemory(), nil)
		config := testConfig(store)
		config.Log = slog.New(slog.NewJSONHandler(&locked{&mu, &lines}, nil))
		config.Refusals = &Refusals{}
		first := open(t, config)
		config.Number++
		second := open(t, config)
		user(t, first, anna)
		user(t, second, anna)
		store.SetPlan(refusing(blob.ErrFull))
		const seconds, perSecond = 3, 50
		for range seconds * perSecond {
			for _, s := range []*Shard{first, second} {
				wants(t, s.Deliver(t.Context(), envelope(anna), maildroptest.Text("x")), maildrop.Full)
			}
			sleep(t.Context(), time.Second/perSecond)
		}
		mu.Lock()
		defer mu.Unlock()
		refused, logged := 0, 0
		for line := range strings.Lines(lines.String()) {
			var said struct {
				Message  string `json:"msg"`
				Error    string `json:"error"`
				Unlogged int    `json:"unlogged"`
			}
			if err := json.Unmarshal([]byte(line), &said); err != nil {
				t.Fatal(err)
			}
			if said.Message == "append to the ledger failed" && strings.Contains(said.Error, "store full") {
				logged++
				refused += 1 + said.Unlogged
			}
		}
		// What the last second left out, the next line would say.
		if want := 2*seconds*perSecond - (2*perSecond - 1); logged != seconds || refused != want {
			t.Errorf("%d lines tell of %d refusals, want %d and %d", logged, refused, seconds, want)
		}
	})
}

type locked struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l *locked) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(line)
}

// sleep waits in a bubble.
func sleep(ctx context.Context, pause time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	<-ctx.Done()
}

// A ledger that has lost its end waits for a person, who is told the command to go on
// with; and that command is the right one.
func TestLostEndNamesTheCommand(t *testing.T) {
	store := blobtest.NewMemory()
	config := testConfig(store)
	begun := open(t, config)
	user(t, begun, anna)
	config.Fenced = begun.Epoch() + 5
	_, err := Open(t.Context(), config, 0)
	wants(t, err, maildrop.Corrupt)
	const command = "postern ledger forget --region FILE --shard 7 --epoch 6 3:"
	if !strings.Contains(err.Error(), command) {
		t.Fatalf("%v; want %s", err, command)
	}
	if _, err := ledger.Forget(t.Context(), ledger.Config{Store: store, Prefix: config.Prefix()}, ledger.Forgotten{Sequence: 3, Epoch: 6, By: "somebody"}); err != nil {
		t.Fatal(err)
	}
	next := open(t, config)
	if next.Epoch() <= config.Fenced {
		t.Errorf("epoch %d", next.Epoch())
	}
	config.Store = blobtest.NewMemory()
	if _, err := Open(t.Context(), config, 0); err == nil || strings.Contains(err.Error(), "ledger forget") {
		t.Errorf("an empty store: %v; want no command, for there is nothing to go on with", err)
	}
}
