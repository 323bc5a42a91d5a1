package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// A body object is blocks of blockSize octets, the last one shorter, each
// followed by its CRC-32C.
const (
	blockSize = 256 << 10
	frameSize = blockSize + crcSize
)

// MaxBody is the most octets of one body that PutBody takes.
const MaxBody = 1 << 40

// readBody reads a body of at most MaxInline octets, from a pack or from the
// position's own object, and verifies it.
func (f files) readBody(ctx context.Context, identity uint32, position Position, place Place, wire uint64) ([]byte, error) {
	const op = "ledger.read_body"
	if wire == 0 {
		return nil, nil
	}
	if wire > MaxInline || (place.Pack != "" && !validName(place.Pack)) {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("no such place of a body: object %q, %d octets", place.Pack, wire)}
	}
	key := f.object(position.Sequence())
	if place.Pack != "" {
		key = f.pack(place.Pack)
	}
	frame := make([]byte, wire+crcSize)
	err := f.read(ctx, key, frame, int64(place.Offset))
	body := frame[:wire:wire]
	if err == nil && bodySum(identity, position, body) != binary.LittleEndian.Uint32(frame[wire:]) {
		err = fmt.Errorf("checksum of the body is wrong: %w", ErrCorrupt)
	}
	if err != nil {
		err = fmt.Errorf("%s: octet %d: body of %s: %w", key, place.Offset, position, err)
		return nil, &maildrop.Error{Op: op, Kind: kindOf(err), Err: err}
	}
	return body, nil
}

// read fills p. An object that ends before is damaged, one that isn't there gone.
func (f files) read(ctx context.Context, key string, p []byte, offset int64) error {
	n, err := f.store.ReadAt(ctx, key, p, offset)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case n < len(p):
		return fmt.Errorf("the object ends at octet %d: %w", offset+int64(n), ErrCorrupt)
	}
	return nil
}

func (f files) putBody(ctx context.Context, epoch uint64, body io.Reader, wire uint64) (string, error) {
	const op = "ledger.put_body"
	if wire == 0 || wire > MaxBody {
		return "", &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: fmt.Errorf("body of %d octets: %w", wire, ErrLimit)}
	}
	object := newName(epoch)
	framed := newFramer(object, body, wire)
	err := f.store.Create(ctx, f.body(object), framed, framedSize(wire))
	if framed.fail != nil {
		err = framed.fail // the cause of the store's error
	}
	if err == nil {
		return object, nil
	}
	// Also where it is not known whether the object was written (ErrMaybe, or
	// ErrExists after a try that the store repeated): nobody has its name.
	kind := kindOf(err)
	if errors.Is(err, errWrongLength) {
		kind = maildrop.Invalid
	}
	return "", &maildrop.Error{Op: op, Kind: kind, Err: fmt.Errorf("%s: %w", f.body(object), err)}
}

// framedSize is the body object's size.
func framedSize(wire uint64) int64 {
	return int64(wire + (wire+blockSize-1)/blockSize*crcSize)
}

// blockSum is a block's checksum. It covers the object's name and the block's
// number, so a block in a wrong place fails it.
func blockSum(object string, number uint64, block []byte) uint32 {
	crc := checksum(0, []byte(object))
	crc = checksum(crc, binary.LittleEndian.AppendUint64(nil, number))
	return checksum(crc, block)
}

var errWrongLength = errors.New("the body is not as long as announced")

// framer reads a body and yields the body object, a block in memory at a time.
type framer struct {
	object string
	src    io.Reader
	left   uint64 // octets of the body not yet read
	number uint64 // of the next block
	buffer []byte
	ready  []byte // rest of the buffer, to be yielded
	fail   error
}

func newFramer(object string, src io.Reader, wire uint64) *framer {
	return &framer{object: object, src: src, left: wire, buffer: make([]byte, min(wire, blockSize)+crcSize)}
}

func (f *framer) Read(p []byte) (int, error) {
	if len(f.ready) == 0 && f.fail == nil {
		err := f.fill()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		f.fail = err
	}
	if f.fail != nil {
		return 0, f.fail
	}
	n := copy(p, f.ready)
	f.ready = f.ready[n:]
	return n, nil
}

// fill reads the next block, or finds that the body has ended where it should.
func (f *framer) fill() error {
	if f.left == 0 {
		var more [1]byte
		n, err := io.ReadFull(f.src, more[:])
		if n > 0 {
			return fmt.Errorf("%w: it goes on", errWrongLength)
		}
		return err
	}
	block := f.buffer[:min(f.left, blockSize)]
	if n, err := io.ReadFull(f.src, block); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %d octets are missing", errWrongLength, f.left-uint64(n))
		}
		return err
	}
	f.left -= uint64(len(block))
	f.ready = binary.LittleEndian.AppendUint32(block, blockSum(f.object, f.number, block))
	f.number++
	return nil
}

func (f files) openBody(ctx context.Context, object string, wire, offset uint64) (io.ReadCloser, error) {
	const op = "ledger.open_body"
	if !validName(object) || wire == 0 || wire > MaxBody || offset > wire {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid,
			Err: fmt.Errorf("no such place in a body: object %q, octet %d of %d", object, offset, wire)}
	}
	r := &bodyReader{ctx: ctx, files: f, object: object, wire: wire, next: offset / blockSize}
	if offset == wire {
		r.next = math.MaxUint64 / blockSize
		return r, nil
	}
	// The first block now, so that a body that is gone shows before an answer is begun.
	if err := r.fill(); err != nil {
		return nil, err
	}
	r.ready = r.ready[offset%blockSize:]
	return r, nil
}

// bodyReader yields verified octets of a body object.
type bodyReader struct {
	ctx    context.Context //nolint:containedctx // the reader lives as long as the call that opened it
	files  files
	object string
	wire   uint64
	next   uint64 // number of the next block
	frame  []byte
	ready  []byte // verified, not yet taken
	fail   error
}

func (r *bodyReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.ready) == 0 && r.fail == nil {
		r.fail = r.fill()
	}
	if r.fail != nil {
		return 0, r.fail
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// WriteTo hands whole blocks over.
func (r *bodyReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		for len(r.ready) > 0 {
			n, err := w.Write(r.ready)
			written += int64(n)
			r.ready = r.ready[n:]
			if err != nil {
				return written, err
			}
		}
		if r.fail == nil {
			r.fail = r.fill()
		}
		if errors.Is(r.fail, io.EOF) {
			return written, nil
		}
		if r.fail != nil {
			return written, r.fail
		}
	}
}

// Close ends the reading. There is nothing to wait for.
func (r *bodyReader) Close() error {
	r.fail, r.ready, r.frame = errors.New("body is closed"), nil, nil
	return nil
}

// fill reads and verifies the next block.
func (r *bodyReader) fill() error {
	if r.next >= (r.wire+blockSize-1)/blockSize {
		return io.EOF
	}
	length := min(r.wire-r.next*blockSize, blockSize)
	if r.frame == nil {
		r.frame = make([]byte, min(r.wire, blockSize)+crcSize)
	}
	frame := r.frame[:length+crcSize]
	offset := int64(r.next * frameSize)
	key := r.files.body(r.object)
	err := r.files.read(r.ctx, key, frame, offset)
	if err == nil && blockSum(r.object, r.next, frame[:length]) != binary.LittleEndian.Uint32(frame[length:]) {
		err = fmt.Errorf("checksum of the block is wrong: %w", ErrCorrupt)
	}
	if err != nil {
		err = fmt.Errorf("%s: octet %d: %w", key, offset, err)
		return &maildrop.Error{Op: "ledger.open_body", Kind: kindOf(err), Err: err}
	}
	r.ready = frame[:length]
	r.next++
	return nil
}

var _ io.WriterTo = (*bodyReader)(nil)
