package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// Bounds of one pack, and of what moving holds in memory.
const (
	packOctets    = ledger.MaxPack - 1<<20 // of bodies: there is room for frames and header
	packMessages  = 16384
	moveAtOnce    = 65536 // messages that are gathered in one pass
	readersAtOnce = 8
	readTimeout   = time.Minute // of one body
)

// moving is a message whose body is to be copied.
type moving struct {
	message
	mailbox maildrop.Address
	place   ledger.Place
}

// move copies what lives in ledger objects up to the horizon, and in the packs
// that are to be rewritten, into new packs. Each pass gathers some, and ends when there
// is nothing left that can be moved.
func (s *Shard) move(ctx context.Context, w work, horizon uint64) error {
	for {
		gathered := s.gather(w, horizon)
		if len(gathered) == 0 {
			return nil
		}
		for _, some := range intoPacks(gathered) {
			if err := s.repack(ctx, some); err != nil {
				return err
			}
		}
	}
}

func (s *Shard) gather(w work, horizon uint64) (list []moving) {
	now := time.Now().Unix()
	s.eachMessage(func(n name, m *message) bool {
		wanted := m.pack == 0 && w.retire && m.position.Sequence() <= horizon || w.rewrite[m.pack]
		if !wanted || !m.inline() || s.state.died(m, now) != 0 {
			return true
		}
		if _, stuck := s.space.stuck[m.position]; !stuck {
			place, _ := s.state.place(m)
			list = append(list, moving{message: *m, mailbox: s.state.address(n), place: place})
		}
		return len(list) < moveAtOnce
	})
	return list
}

// intoPacks cuts messages into packs: one class each, in order of arrival.
func intoPacks(list []moving) (packs [][]moving) {
	slices.SortFunc(list, func(a, b moving) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.position, b.position))
	})
	from, octets := 0, 0
	for i, m := range list {
		full := octets+int(m.wire) > packOctets || i-from >= packMessages
		if i > from && (full || m.class != list[from].class) {
			packs = append(packs, list[from:i])
			from, octets = i, 0
		}
		octets += int(m.wire)
	}
	return append(packs, list[from:])
}

// repack copies the bodies into one pack and says so in the ledger. Damaged
// ones stay where they are.
func (s *Shard) repack(ctx context.Context, list []moving) error {
	bodies, err := s.readAll(ctx, list)
	if err != nil {
		return err
	}
	var whole []moving
	var packed []ledger.PackBody
	octets := int64(0)
	for i, m := range list {
		if bodies[i] != nil {
			whole, packed = append(whole, m), append(packed, ledger.PackBody{Position: m.position, Body: bodies[i]})
			octets += int64(m.wire)
		}
	}
	if len(whole) == 0 {
		return nil
	}
	class := list[0].class
	object, offsets, size, err := s.ledger.WritePack(ctx, uint8(class), packed)
	if err != nil {
		return err
	}
	s.space.flies(object)
	defer s.space.flew(object)
	record := &ledger.Pack{Object: object, Class: uint8(class), Size: size, Time: time.Now(), Mailboxes: byMailbox(whole, offsets)}
	if err := s.write(ctx, record, int64(ledger.Draft{Record: record}.Size())); err != nil {
		return err
	}
	s.config.Metrics.packed(octets)
	s.log.Debug("messages moved into a pack", "pack", object, "class", class, "messages", len(whole), "octets", octets)
	return nil
}

func byMailbox(list []moving, offsets []uint32) (boxes []ledger.PackMailbox) {
	at := make(map[maildrop.Address]int)
	for i, m := range list {
		n, known := at[m.mailbox]
		if !known {
			n = len(boxes)
			at[m.mailbox] = n
			boxes = append(boxes, ledger.PackMailbox{Mailbox: string(m.mailbox)})
		}
		boxes[n].Messages = append(boxes[n].Messages, ledger.PackMessage{Position: m.position, Offset: offsets[i]})
	}
	return boxes
}

// readAll reads the bodies, several at once. A damaged one is nil; an error is
// the store's, or that there is a newer owner.
func (s *Shard) readAll(ctx context.Context, list []moving) ([][]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bodies, failures := make([][]byte, len(list)), make([]error, len(list))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(readersAtOnce, len(list)) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				bodies[i], failures[i] = s.readOne(ctx, list[i])
				if failures[i] != nil && !errors.Is(failures[i], ledger.ErrCorrupt) {
					cancel(failures[i])
				}
			}
		})
	}
	readers.Wait()
	for i, err := range failures {
		if errors.Is(err, ledger.ErrCorrupt) {
			s.space.stuck[list[i].position] = struct{}{}
			s.noteDamage(found{message: list[i].message, place: list[i].place}, 0, err)
		}
	}
	return bodies, context.Cause(ctx)
}

// readOne reads one body. What isn't there is lost, for what this goroutine
// deletes is dead; unless it is a newer owner's to delete.
func (s *Shard) readOne(ctx context.Context, m moving) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	body, err := s.ledger.ReadBody(ctx, m.position, m.place, uint64(m.wire))
	if !errors.Is(err, ledger.ErrGone) {
		return body, err
	}
	if fenced := s.ask(ctx); errors.Is(fenced, ledger.ErrFenced) {
		return nil, fenced
	}
	return nil, fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
}
