package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// region is a shard whose store lies, whose owners are replaced at any time,
// and whose clients do what gateways and fronts do: repeat.
type region struct {
	*testing.T
	seed  uint64
	store *blobtest.Faulty

	// turn is held while a new owner opens, which waits: a mutex would stop the
	// bubble's clock.
	turn   chan struct{}
	owner  *Shard
	former []*Shard

	mu      sync.Mutex
	stored  map[string]maildroptest.Body // acknowledged deliveries, by their content
	removed map[string]bool              // acknowledged removals
	asked   map[string]bool              // removals that were begun
	uids    map[string]maildrop.UID      // that a content was ever seen under
}

// current is the shard's owner; a new one when the last one has given up.
func (r *region) current() *Shard {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	select {
	case <-r.owner.Done():
		r.replace()
	default:
	}
	return r.owner
}

// usurp makes a new owner while the old one thinks that it is one.
func (r *region) usurp() {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.replace()
}

// replace opens the shard anew, as often as the store makes it necessary.
func (r *region) replace() {
	r.former = append(r.former, r.owner)
	for {
		next, err := Open(context.Background(), testConfig(r.store), 0)
		if err == nil {
			r.owner = next
			return
		}
		if errors.Is(err, ledger.ErrCorrupt) || errors.Is(err, ledger.ErrVersion) {
			r.Errorf("seed %d: the ledger is damaged: %v", r.seed, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// insist repeats a call until it succeeds. Each try has little time, so that it is often
// cut off in the middle.
func (r *region) insist(random *rand.Rand, call func(context.Context, *Shard) error) {
	for range 10_000 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(2000)+1)*time.Millisecond)
		err := call(ctx, r.current())
		cancel()
		if err == nil {
			return
		}
		if !maildrop.KindOf(err).Temporary() {
			r.Errorf("seed %d: refused for good: %v", r.seed, err)
			return
		}
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
	}
	r.Errorf("seed %d: it never succeeded", r.seed)
}

var hostileUsers = []maildrop.Address{"anna@local.example", "ben@local.example"}

// gateway delivers messages, small and large ones.
func (r *region) gateway(number int) {
	random := rand.New(rand.NewPCG(r.seed, uint64(number)))
	for i := range 12 {
		e := envelope(hostileUsers[random.IntN(len(hostileUsers))])
		body := maildroptest.Text(fmt.Sprintf("gateway %d message %d to %s", number, i, e.To))
		if i == 5 && number == 0 {
			body = maildroptest.Filled(1<<20+number+1, byte(number))
		}
		r.insist(random, func(ctx context.Context, s *Shard) error { return s.Deliver(ctx, e, body) })
		r.mu.Lock()
		r.stored[string(body.Octets())] = body
		r.mu.Unlock()
	}
}

// user fetches his mail and removes some of it.
func (r *region) user(number int) {
	random := rand.New(rand.NewPCG(r.seed, uint64(100+number)))
	for range 6 {
		var d maildrop.Drop
		r.insist(random, func(ctx context.Context, s *Shard) (err error) {
			d, err = s.Open(ctx, maildrop.Login{Address: hostileUsers[number], Password: password})
			return err
		})
		r.session(random, d.Info(), d.Token())
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
	}
}

// session goes on wherever the shard is.
func (r *region) session(random *rand.Rand, info maildrop.Info, token []byte) {
	var entries []maildrop.Entry
	r.insist(random, func(ctx context.Context, s *Shard) error {
		d, err := s.Resume(ctx, info, token)
		if err == nil {
			entries, err = maildrop.Entries(ctx, d)
		}
		return err
	})
	if len(entries) != info.Count {
		r.Errorf("seed %d: %d messages are listed, Open said %d", r.seed, len(entries), info.Count)
	}
	var gone []maildrop.UID
	for _, e := range entries {
		content := r.fetch(random, info, token, e)
		if random.IntN(4) == 0 {
			gone = append(gone, e.UID)
			r.mu.Lock()
			r.asked[content] = true
			r.mu.Unlock()
			defer func() { r.mu.Lock(); r.removed[content] = true; r.mu.Unlock() }()
		}
	}
	r.insist(random, func(ctx context.Context, s *Shard) error {
		d, err := s.Resume(ctx, info, token)
		if err == nil {
			err = d.Remove(ctx, gone)
		}
		return err
	})
}

func (r *region) fetch(random *rand.Rand, info maildrop.Info, token []byte, e maildrop.Entry) string {
	var got bytes.Buffer
	r.insist(random, func(ctx context.Context, s *Shard) error {
		d, err := s.Resume(ctx, info, token)
		if err == nil { // goes on where the last try broke off
			_, err = d.Read(ctx, e.UID, uint64(got.Len()), &got)
		}
		return err
	})
	content := got.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	if uid, seen := r.uids[content]; seen && uid != e.UID {
		r.Errorf("seed %d: a message had the unique-id %s and has %s", r.seed, uid, e.UID)
	}
	r.uids[content] = e.UID
	return content
}

// audit compares what is there with what was promised.
func (r *region) audit() {
	r.store.SetPlan(nil)
	r.store.Flush()
	r.usurp()
	there := make(map[string]int)
	for _, address := range hostileUsers {
		d := login(r, r.owner, address)
		entries, err := maildrop.Entries(context.Background(), d)
		ok(r, err)
		for _, e := range entries {
			content := r.fetch(rand.New(rand.NewPCG(1, 1)), d.Info(), d.Token(), e)
			there[content]++
			if body, known := r.stored[content]; !known || body.Size() != e.Size {
				r.Errorf("seed %d: a message of %d octets that nobody delivered", r.seed, e.Size)
			}
		}
	}
	for content := range r.stored {
		switch n := there[content]; {
		case n > 1:
			r.Errorf("seed %d: %.40q is there %d times", r.seed, content, n)
		case n == 1 && r.removed[content]:
			r.Errorf("seed %d: %.40q was removed and is back", r.seed, content)
		case n == 0 && !r.asked[content]:
			r.Errorf("seed %d: %.40q was acknowledged and is lost", r.seed, content)
		}
	}
}

func (r *region) close() {
	for _, s := range append(r.former, r.owner) {
		ok(r, s.Close(context.Background()))
	}
}

// Whatever the store does and however owners replace each other: what was
// acknowledged is there once, what was removed stays away, octets and unique-ids
// stay what they were.
func TestHostileWorld(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			r := &region{
				T: t, seed: seed, turn: make(chan struct{}, 1), store: blobtest.NewFaulty(blobtest.NewMemory(), nil),
				stored: make(map[string]maildroptest.Body), removed: make(map[string]bool),
				asked: make(map[string]bool), uids: make(map[string]maildrop.UID),
			}
			var err error
			r.owner, err = Open(t.Context(), testConfig(r.store), 0)
			ok(t, err)
			defer r.close()
			for _, address := range hostileUsers {
				user(t, r.owner, address)
			}
			r.store.SetPlan(jittery(seed))
			var world sync.WaitGroup
			for i := range 4 {
				world.Go(func() { r.gateway(i) })
			}
			for i := range hostileUsers {
				world.Go(func() { r.user(i) })
			}
			world.Go(func() {
				for range 3 {
					time.Sleep(1500 * time.Millisecond)
					r.usurp()
				}
			})
			world.Wait()
			r.audit()
		})
	}
}

// jittery is Seeded for creates, mild for reads (a take-over has to get through
// all of them), and every call takes a while.
func jittery(seed uint64) blobtest.Plan {
	harsh, mild, random := blobtest.Seeded(seed, 0.2), blobtest.Seeded(seed+1, 0.01), rand.New(rand.NewPCG(seed, 77))
	return func(call blobtest.Call) blobtest.Fault {
		plan := mild
		if call.Op == blobtest.OpCreate {
			plan = harsh
		}
		fault := plan(call)
		fault.Delay = time.Duration(random.IntN(50)) * time.Millisecond
		return fault
	}
}
