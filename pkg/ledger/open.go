package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

const (
	inFlight  = 64       // objects read at once during a take-over
	firstRead = 64 << 10 // octets of an object's first read: mostly all its headers
)

// State is what a ledger is worked out into. Its errors end the opening and are
// returned wrapped.
type State interface {
	// Load takes one part of a checkpoint in, as WriteCheckpoint was given it. Parts
	// come in any order and several at once, from goroutines of their own; a part
	// is State's to read until Load returns.
	Load(part []byte) error
	// Apply takes one entry in. Entries come in their order, one at a time, after
	// all parts. The first one is always a fence: the ledger's first, or, after a
	// checkpoint, the one that was in force there; it has Position 0, Time and Owner
	// aren't known, and its Secret and Ledger are those of the ledger. An entry
	// is State's to keep.
	Apply(entry Entry) error
}

// Open takes the ledger over: it loads the newest checkpoint, replays what came
// after it, in order, and fences all earlier owners. A ledger that isn't there is
// begun. begin makes an empty State, once for each attempt: the last one begun counts when
// Open returns nil. It sees every record that counts, fences and the one of this
// opening included.
//
// Errors: ErrCorrupt (Kind Corrupt) names object and octet; ErrVersion; Full;
// Maybe when it isn't known whether the fence was written (open again);
// Transient or Canceled when ctx ended while the store refused.
func Open(ctx context.Context, config Config, begin func() State) (*Ledger, error) {
	log := config.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o := &opener{
		files:  files{store: config.Store, prefix: config.Prefix},
		config: config,
		log:    log.With("ledger", config.Prefix),
		state:  begin(),
		next:   1,
	}
	began := time.Now()
	err := o.replayListed(ctx)
	if err == nil {
		err = o.fence(ctx)
	}
	if err != nil {
		return nil, &maildrop.Error{Op: "ledger.open", Kind: o.kind(err), Err: err}
	}
	o.log.Info("ledger taken over", "epoch", o.epoch, "sequence", o.next-1, "objects", o.stats.Objects,
		"records", o.stats.Records, "skipped", o.stats.Skipped, "octets", o.stats.Octets, "seconds", time.Since(began).Seconds())
	return &Ledger{
		files: o.files, log: o.log, identity: o.identity, secret: o.secret, epoch: o.epoch,
		next: o.next, durable: o.next - 1, stats: o.stats,
	}, nil
}

// opener is a take-over on its way. Its fields are of one goroutine.
type opener struct {
	files
	config Config
	log    *slog.Logger
	state  State

	next     uint64 // sequence of the next object
	epoch    uint64 // of the last fence
	identity uint32
	secret   [32]byte
	stats    Stats
}

func (o *opener) kind(err error) maildrop.Kind {
	switch {
	case errors.Is(err, errUnknown):
		return maildrop.Maybe
	case errors.Is(err, ErrCorrupt):
		return maildrop.Corrupt
	}
	var known *maildrop.Error
	if errors.As(err, &known) { // of replay
		return known.Kind
	}
	return kindOf(err)
}

// fetched is one object's headers.
type fetched struct {
	key     string
	header  header
	entries []Entry
	err     error
}

// replayListed replays all objects that a list shows, many read at once and
// applied in order.
func (o *opener) replayListed(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	queue := make(chan chan fetched, inFlight)
	defer func() {
		cancel()
		for range queue { // the lister ends
		}
		readers.Wait()
	}()
	buffers := &sync.Pool{New: func() any { return new([firstRead]byte) }}
	readers.Go(func() {
		defer close(queue)
		o.sequences(ctx, o.log, func(sequence uint64, size int64, err error) bool {
			slot := make(chan fetched, 1)
			select {
			case queue <- slot:
			case <-ctx.Done():
				return false
			}
			if err != nil {
				slot <- fetched{err: err}
				return false
			}
			readers.Go(func() { slot <- o.fetch(ctx, sequence, size, buffers) })
			return true
		})
	})
	for slot := range queue {
		if err := o.apply(<-slot); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// sequences yields all sequences from 1 to the last that a list shows, with the
// objects' sizes. One that the list doesn't show is yielded with size -1: a list may
// miss what was written while it ran, so it is for the read to find it missing.
func (f files) sequences(ctx context.Context, log *slog.Logger, yield func(uint64, int64, error) bool) {
	next := uint64(1)
	for info, err := range f.store.List(ctx, f.ledgerPrefix(), "") {
		if err != nil {
			yield(0, 0, fmt.Errorf("list %s: %w", f.ledgerPrefix(), err))
			return
		}
		sequence, ok := sequenceOf(strings.TrimPrefix(info.Key, f.ledgerPrefix()))
		if !ok {
			log.Warn("a stray object among the ledger's is ignored", "key", info.Key)
			continue
		}
		for ; next < sequence; next++ {
			if !yield(next, -1, nil) {
				return
			}
		}
		if !yield(sequence, info.Size, nil) {
			return
		}
		next = sequence + 1
	}
}

// fetch reads and verifies an object's headers, with one read when they are
// short. size is -1 when it isn't known.
func (f files) fetch(ctx context.Context, sequence uint64, size int64, buffers *sync.Pool) fetched {
	buffer := buffers.Get().(*[firstRead]byte)
	defer buffers.Put(buffer)
	got := fetched{key: f.object(sequence)}
	got.header, got.entries, got.err = f.headers(ctx, got.key, size, buffer[:])
	if got.err == nil && got.header.sequence != sequence {
		got.err = damage(atSequence, fmt.Sprintf("the object says it is sequence %d", got.header.sequence))
	}
	if errors.Is(got.err, blob.ErrNotFound) {
		got.err = fmt.Errorf("missing, and later ones are there: %w", ErrCorrupt)
	}
	if got.err != nil {
		got.err = fmt.Errorf("%s: %w", got.key, got.err)
	}
	return got
}

func (f files) headers(ctx context.Context, key string, size int64, buffer []byte) (h header, entries []Entry, err error) {
	if size >= 0 {
		buffer = buffer[:min(int64(len(buffer)), size)]
	}
	n, err := f.store.ReadAt(ctx, key, buffer, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, nil, err
	}
	buffer = buffer[:n]
	if h, err = decodeHeader(buffer); err != nil {
		return h, nil, err
	}
	if err := f.whole(ctx, key, h, size); err != nil {
		return h, nil, err
	}
	section := buffer[headerSize:]
	if len(section) < h.headers {
		section = make([]byte, h.headers)
		already := copy(section, buffer[headerSize:])
		if _, err := f.store.ReadAt(ctx, key, section[already:], int64(headerSize+already)); err != nil && !errors.Is(err, io.EOF) {
			return h, nil, err
		}
	}
	entries, err = decodeRecords(h, section)
	return h, entries, err
}

// whole checks that the object is as long as its header says: bodies are not
// read now, and must not be found cut off later.
func (f files) whole(ctx context.Context, key string, h header, size int64) error {
	if size < 0 {
		var last [2]byte
		n, err := f.store.ReadAt(ctx, key, last[:], int64(h.size()-1))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		size = int64(h.size() - 1 + n)
	}
	if size != int64(h.size()) {
		return damage(int(min(size, int64(h.size()))), fmt.Sprintf("the object has %d octets, its header says %d", size, h.size()))
	}
	return nil
}

// apply takes the next object of the ledger in.
func (o *opener) apply(got fetched) error {
	if got.err != nil {
		return got.err
	}
	if err := o.admit(got); err != nil {
		return fmt.Errorf("%s: %w", got.key, err)
	}
	o.next++
	o.stats.Objects++
	o.stats.Octets += uint64(got.header.size())
	if got.header.epoch < o.epoch {
		// Its writer had been fenced: it acknowledged nothing of this.
		o.stats.Skipped++
		o.log.Warn("an object of a fenced owner is ignored", "key", got.key, "epoch", got.header.epoch, "fence", o.epoch)
		return nil
	}
	for _, entry := range got.entries {
		if err := o.state.Apply(entry); err != nil {
			return fmt.Errorf("replay of %s: %w", entry.Position, err)
		}
	}
	o.stats.Records += uint64(len(got.entries))
	return nil
}

// admit holds the object against the ledger's history, and takes a fence in.
func (o *opener) admit(got fetched) error {
	fence, err := got.fence()
	switch {
	case err != nil:
		return err
	case got.header.sequence != o.next:
		return damage(atSequence, fmt.Sprintf("sequence %d comes where %d should", got.header.sequence, o.next))
	case o.next == 1 && fence == nil:
		return damage(headerSize, "the ledger doesn't begin with a fence")
	case o.next > 1 && got.header.identity != o.identity:
		return damage(atIdentity, "the object is of another ledger")
	case fence == nil && got.header.epoch > o.epoch:
		return damage(atEpoch, fmt.Sprintf("epoch %d was begun by no fence", got.header.epoch))
	case fence == nil || got.header.epoch < o.epoch:
		return nil
	case o.next > 1 && fence.Epoch == o.epoch:
		return damage(atEpoch, fmt.Sprintf("a second fence of epoch %d", o.epoch))
	case o.next > 1 && fence.Secret != o.secret:
		return damage(headerSize, "the fence carries another ledger's secret")
	}
	o.epoch, o.identity, o.secret = fence.Epoch, fence.Ledger, fence.Secret
	return nil
}

// fence is the object's, or nil. A fence stands alone and agrees with its object.
func (got fetched) fence() (*Fence, error) {
	var found *Fence
	for _, entry := range got.entries {
		if f, ok := entry.Record.(*Fence); ok {
			found = f
		}
	}
	if found == nil {
		return nil, nil
	}
	if len(got.entries) != 1 || found.Epoch != got.header.epoch || found.Ledger != got.header.identity || found.Epoch == 0 {
		return nil, damage(headerSize, "a fence that disagrees with its object")
	}
	return found, nil
}

// fence writes ours at the first free sequence, and takes in what others write
// there before us.
func (o *opener) fence(ctx context.Context) error {
	buffers := &sync.Pool{New: func() any { return new([firstRead]byte) }}
	for {
		object, entry, err := o.draftFence()
		if err != nil {
			return err
		}
		err = o.commit(ctx, o.next, object, o.log)
		switch {
		case err == nil:
			h, err := decodeHeader(object)
			if err != nil {
				return err
			}
			return o.apply(fetched{key: o.object(o.next), header: h, entries: []Entry{entry}})
		case !errors.Is(err, errTaken):
			return err
		}
		if err := o.apply(o.fetch(ctx, o.next, -1, buffers)); err != nil {
			return err
		}
	}
}

// draftFence makes the fence that would follow what was replayed so far.
func (o *opener) draftFence() ([]byte, Entry, error) {
	if o.next > MaxSequence || o.epoch == math.MaxUint64 {
		return nil, Entry{}, fmt.Errorf("the ledger is at its end: %w", ErrLimit)
	}
	fence := &Fence{
		Epoch: max(o.config.Epoch, o.epoch+1), Owner: o.config.Owner, Ledger: o.identity, Secret: o.secret,
		Time: time.Now(),
	}
	if o.next == 1 { // crypto/rand never fails: it ends the process instead
		var identity [4]byte
		rand.Read(identity[:])
		fence.Ledger = binary.LittleEndian.Uint32(identity[:])
		rand.Read(fence.Secret[:])
	}
	h := header{identity: fence.Ledger, epoch: fence.Epoch, sequence: o.next, durable: o.next - 1}
	rand.Read(h.nonce[:])
	object, entries, err := encodeObject(h, []Draft{{Record: fence}})
	if err != nil {
		return nil, Entry{}, err
	}
	return object, entries[0], nil
}
