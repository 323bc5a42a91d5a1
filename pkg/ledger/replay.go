package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

const (
	inFlight  = 64       // objects read at once during a take-over
	loaders   = 16       // parts of a checkpoint read at once
	firstRead = 64 << 10 // octets of an object's first read: mostly all its headers
)

// errMissing: there is no object of this sequence.
var errMissing = errors.New("missing")

// load makes the State of a checkpoint. Errors that wrap ErrCorrupt say that
// this checkpoint is no good.
func (o *opener) load(ctx context.Context, c checkpoint) error {
	m, err := o.readManifest(ctx, c)
	if err != nil {
		return err
	}
	o.state = o.begin()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int, len(m.parts))
	for number := range m.parts {
		numbers <- number
	}
	close(numbers)
	var readers sync.WaitGroup
	for range min(loaders, len(m.parts)) {
		readers.Go(func() {
			if err := o.loadParts(ctx, m, numbers); err != nil {
				cancel(err)
			}
		})
	}
	readers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	o.next, o.covered = m.sequence+1, m.sequence
	o.epoch, o.identity, o.secret = m.epoch, m.identity, m.secret
	fence := &Fence{Epoch: m.epoch, Ledger: m.identity, Secret: m.secret}
	return o.state.Apply(Entry{Epoch: m.epoch, Record: fence})
}

// readManifest reads and verifies a checkpoint's manifest.
func (f files) readManifest(ctx context.Context, c checkpoint) (*manifest, error) {
	key := f.manifest(c)
	b := make([]byte, manifestSize+maxParts*partSumSize+1)
	n, err := f.store.ReadAt(ctx, key, b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", key, lost(err))
	}
	m, err := decodeManifest(c, b[:n])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return m, nil
}

// lost makes damage of what isn't there and should be.
func lost(err error) error {
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	return err
}

// loadParts takes the parts with the numbers in, through one buffer.
func (o *opener) loadParts(ctx context.Context, m *manifest, numbers <-chan int) error {
	var buffer []byte
	for number := range numbers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if size := partSize + int(m.parts[number].length) + 1; cap(buffer) < size {
			buffer = make([]byte, size)
		}
		payload, err := o.readPart(ctx, m, number, buffer)
		if err == nil {
			err = o.state.Load(payload)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.part(m.name, number), err)
		}
	}
	return nil
}

// readPart reads and verifies a part. The buffer has room for it and an octet.
func (f files) readPart(ctx context.Context, m *manifest, number int, buffer []byte) ([]byte, error) {
	sum := m.parts[number]
	b := buffer[:partSize+int(sum.length)+1] // one more: it must end where it should
	n, err := f.store.ReadAt(ctx, f.part(m.name, number), b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, lost(err)
	}
	payload, err := decodePart(m.checkpoint, m.identity, number, b[:n])
	if err != nil {
		return nil, err
	}
	return payload, sum.check(b[:n])
}

// fetched is one object's headers.
type fetched struct {
	key      string
	sequence uint64
	header   header
	entries  []Entry
	damage   error // of octets that weren't needed, the object having them twice or for later
	err      error
}

func newBuffers() *sync.Pool { return &sync.Pool{New: func() any { return new([firstRead]byte) }} }

// replayTail replays all objects behind the checkpoint that a list shows, many
// read at once and applied in order.
func (o *opener) replayTail(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	queue := make(chan chan fetched, inFlight)
	defer func() {
		cancel()
		for range queue { // the lister ends
		}
		readers.Wait()
	}()
	buffers, next := newBuffers(), o.next
	readers.Go(func() {
		defer close(queue)
		o.sequences(ctx, next, func(sequence uint64, size int64, err error) bool {
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
		got := <-slot
		take := o.take
		if _, forgotten := o.forgotten[got.sequence]; forgotten {
			take = o.takeForgotten
		}
		if err := take(ctx, got); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// sequences yields all sequences from next to the last that a list shows, with the
// objects' sizes. One that the list doesn't show is yielded with size -1: a list may
// miss what was written while it ran, so it is for the read to find it missing.
func (o *opener) sequences(ctx context.Context, next uint64, yield func(uint64, int64, error) bool) {
	for info, err := range o.store.List(ctx, o.ledgerPrefix(), o.object(next-1)) {
		if err != nil {
			yield(0, 0, fmt.Errorf("list %s: %w", o.ledgerPrefix(), err))
			return
		}
		sequence, ok := sequenceOf(strings.TrimPrefix(info.Key, o.ledgerPrefix()))
		if !ok {
			o.log.Warn("a stray object among the ledger's is ignored", "key", info.Key)
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

// takeStrictly takes in what a list showed. Behind a hole nothing is applied: the fence
// will go into the hole. But a hole that anybody knew to be durable is damage.
func (o *opener) takeStrictly(ctx context.Context, got fetched) error {
	switch {
	case o.hole == nil && errors.Is(got.err, errMissing):
		o.hole = got.err
		return nil
	case o.hole == nil:
		return lostAt(got.sequence, got.key, o.apply(got))
	case errors.Is(got.err, errMissing):
		return nil
	case got.err != nil:
		return lostAt(got.sequence, got.key, got.err)
	case got.header.durable < o.next && o.next > 1 && got.header.identity == o.identity:
		o.log.Warn("a dead owner's last append has a hole before it", "key", got.key, "hole", o.object(o.next))
		return nil
	}
	if err := o.stillMissing(ctx); err != nil {
		return err
	}
	return lostAt(o.next, o.object(o.next), fmt.Errorf("%w: %s says so", o.hole, got.key))
}

// stillMissing is errAgain when what was missing is there now: its writer is at
// work.
func (o *opener) stillMissing(ctx context.Context) error {
	if _, err := o.readHeader(ctx, o.object(o.next)); err == nil {
		return fmt.Errorf("%w: %s is there now", errAgain, o.object(o.next))
	}
	return nil
}

// fetch reads and verifies an object's headers, with one read when they are
// short. size is -1 when it isn't known.
func (f files) fetch(ctx context.Context, sequence uint64, size int64, buffers *sync.Pool) fetched {
	buffer := buffers.Get().(*[firstRead]byte)
	defer buffers.Put(buffer)
	got := fetched{key: f.object(sequence), sequence: sequence}
	f.headers(ctx, &got, size, buffer[:])
	if got.err == nil && got.header.sequence != sequence {
		got.err = damage(atSequence, fmt.Sprintf("the object says it is sequence %d", got.header.sequence))
	}
	if errors.Is(got.err, blob.ErrNotFound) {
		got.err = fmt.Errorf("%w, and it was durable: %w", errMissing, ErrCorrupt)
	}
	if got.err != nil {
		got.err = fmt.Errorf("%s: %w", got.key, got.err)
	}
	return got
}

// readHeader reads an object's header alone.
func (f files) readHeader(ctx context.Context, key string) (header, error) {
	var b [headerSize]byte
	n, err := f.store.ReadAt(ctx, key, b[:], 0)
	if err == nil || errors.Is(err, io.EOF) {
		var h header
		if h, err = decodeHeader(b[:n]); err == nil {
			return h, nil
		}
	}
	if !errors.Is(err, ErrCorrupt) {
		return header{}, err
	}
	return f.mirrorHeader(ctx, key, -1, err)
}

// headers reads header and records, each from the object's end where its
// beginning is damaged.
func (f files) headers(ctx context.Context, got *fetched, size int64, buffer []byte) {
	if size >= 0 {
		buffer = buffer[:min(int64(len(buffer)), size)]
	}
	n, err := f.store.ReadAt(ctx, got.key, buffer, 0)
	if got.keep(err) {
		return
	}
	buffer = buffer[:n] // verified octets, also before damage
	got.header, err = decodeHeader(buffer)
	if errors.Is(err, ErrCorrupt) {
		got.damage = cmp.Or(got.damage, err)
		got.header, err = f.mirrorHeader(ctx, got.key, size, got.damage)
	}
	if got.err = err; err != nil {
		return
	}
	if got.keep(f.whole(ctx, got.key, got.header, size)) {
		return
	}
	f.records(ctx, got, buffer[min(headerSize, len(buffer)):])
}

// keep notes damage that may cost nothing, and reports whether the error is
// another one.
func (got *fetched) keep(err error) bool {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return false
	case errors.Is(err, ErrCorrupt):
		got.damage = cmp.Or(got.damage, err)
		return false
	}
	got.err = err
	return true
}

// records reads the records, of which the first octets are there already.
func (f files) records(ctx context.Context, got *fetched, section []byte) {
	h := got.header
	if len(section) < h.headers {
		all := make([]byte, h.headers)
		already := copy(all, section)
		n, err := f.store.ReadAt(ctx, got.key, all[already:], int64(headerSize+already))
		if got.keep(err) {
			return
		}
		section = all[:already+n]
	}
	got.entries, got.err = decodeRecords(h, section)
	if !errors.Is(got.err, ErrCorrupt) || h.version == version {
		return
	}
	got.damage = cmp.Or(got.damage, got.err)
	section = make([]byte, h.headers)
	if err := f.read(ctx, got.key, section, int64(h.mirror())); err == nil {
		got.entries, got.err = decodeRecords(h, section)
	} else if got.err = err; errors.Is(err, ErrCorrupt) {
		got.err = fmt.Errorf("%w; and the copy at the end: %w", got.damage, err)
	}
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
	return o.replay(got)
}

// replay applies an object that was admitted.
func (o *opener) replay(got fetched) error {
	o.next++
	if got.damage != nil {
		o.found(got.key, got.damage)
	}
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
	case fence == nil && got.header.epoch > o.epoch && o.gap:
		o.log.Warn("the fence of an epoch was in what is forgotten", "key", got.key, "epoch", got.header.epoch)
		o.epoch, o.gap = got.header.epoch, false
		return nil
	case fence == nil && got.header.epoch > o.epoch:
		return damage(atEpoch, fmt.Sprintf("epoch %d was begun by no fence", got.header.epoch))
	case fence == nil || got.header.epoch < o.epoch:
		return nil
	case o.next > 1 && fence.Epoch == o.epoch:
		return damage(atEpoch, fmt.Sprintf("a second fence of epoch %d", o.epoch))
	case o.next > 1 && fence.Secret != o.secret:
		return damage(headerSize, "the fence carries another ledger's secret")
	}
	o.epoch, o.identity, o.secret, o.gap = fence.Epoch, fence.Ledger, fence.Secret, false
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
