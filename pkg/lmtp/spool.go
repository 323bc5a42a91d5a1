package lmtp

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	blockSize     = 64 << 10
	messageBlocks = 16   // 1 MiB: a message in memory
	serverBlocks  = 1024 // 64 MiB: all of them, but each message may have one block
)

var (
	errSpoolClosed = errors.New("spool: message released")
	errTooLarge    = errors.New("message too large")
)

type block [blockSize]byte

// spooler is what all spools of a server share: where files go, and a bound on
// memory.
type spooler struct {
	create func() (*os.File, error) // a file that has no name any more
	pool   sync.Pool                // of *block
	used   atomic.Int64             // blocks in use
}

func newSpooler(dir string) *spooler {
	return &spooler{create: func() (*os.File, error) { return nameless(dir) }}
}

// nameless makes a file in dir and takes its name away.
func nameless(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "postern-spool-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// block takes a block from the pool, or nil if there are too many in use.
func (f *spooler) block(needed bool) *block {
	if f.used.Add(1) > serverBlocks && !needed {
		f.used.Add(-1)
		return nil
	}
	if b, ok := f.pool.Get().(*block); ok {
		return b
	}
	return new(block)
}

func (f *spooler) release(blocks []*block) {
	for _, b := range blocks {
		f.used.Add(-1)
		f.pool.Put(b)
	}
}

// spool keeps one message's content while it is delivered, so that it can be
// read for each recipient and each try: in memory up to 1 MiB, beyond that in a
// file without a name, which is gone with its last reader whatever happens. It
// is written by one goroutine, then sealed, then read by many.
//
//	blocks  [64 KiB] [64 KiB] … [tail]          a short message
//	file    ─────────────────────── + [tail]    a long one; tail goes to the file when full, and when sealed
type spool struct {
	from   *spooler
	blocks []*block // the last one holds tail octets, the others are full
	tail   int
	file   *os.File
	wire   uint64 // octets written
	filed  int64  // octets in the file
	err    error  // why the content isn't whole: errTooLarge, or the disk's

	mu      sync.Mutex
	readers int
	closed  bool
}

// Write takes octets. It never fails: a spool that can't go on remembers why
// and throws away the rest, since the client's message must be read to its end.
func (s *spool) Write(p []byte) (int, error) {
	n := len(p)
	s.wire += uint64(n)
	for len(p) > 0 && s.err == nil {
		if len(s.blocks) == 0 || s.tail == blockSize {
			s.err = s.room()
			continue
		}
		m := copy(s.blocks[len(s.blocks)-1][s.tail:], p)
		s.tail += m
		p = p[m:]
	}
	return n, nil
}

// room makes the last block one with room: a new one, or that of a message
// which goes to the file.
func (s *spool) room() error {
	if s.file == nil && len(s.blocks) < messageBlocks {
		if b := s.from.block(len(s.blocks) == 0); b != nil {
			s.blocks, s.tail = append(s.blocks, b), 0
			return nil
		}
	}
	return s.spill()
}

// spill writes all blocks to the file and keeps one, empty.
func (s *spool) spill() error {
	if s.file == nil {
		file, err := s.from.create()
		if err != nil {
			return err
		}
		s.file = file
	}
	for i, b := range s.blocks {
		n := blockSize
		if i == len(s.blocks)-1 {
			n = s.tail
		}
		m, err := s.file.Write(b[:n])
		s.filed += int64(m)
		if err != nil {
			return err
		}
	}
	s.from.release(s.blocks[1:])
	s.blocks, s.tail = s.blocks[:1], 0
	return nil
}

// seal ends the writing.
func (s *spool) seal() {
	if s.file != nil && s.err == nil {
		s.err = s.spill()
	}
	if s.file != nil {
		s.from.release(s.blocks)
		s.blocks = nil
	}
}

// fail gives up the content, and its memory with it.
func (s *spool) fail(err error) {
	if s.err == nil {
		s.err = err
		s.from.release(s.blocks)
		s.blocks, s.tail = nil, 0
	}
}

// full reports whether the disk's lack of room is why the content isn't whole.
func (s *spool) full() bool {
	return errors.Is(s.err, syscall.ENOSPC) || errors.Is(s.err, syscall.EDQUOT)
}

// open returns a reader of the sealed content.
func (s *spool) open() (*spoolReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errSpoolClosed
	}
	s.readers++
	return &spoolReader{spool: s}, nil
}

// Close ends the spool's use. Its blocks are used again only when its readers
// are closed too: what one message left must not be read as another.
func (s *spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.free()
	}
	return nil
}

// free gives everything back when nobody uses it. s.mu is held.
func (s *spool) free() {
	if !s.closed || s.readers > 0 {
		return
	}
	s.from.release(s.blocks)
	s.blocks = nil
	if s.file != nil {
		s.file.Close()
	}
}

// spoolReader reads a spool from its begin. It is for one goroutine at a time.
type spoolReader struct {
	spool *spool
	at    int64
	done  bool
}

// Read implements io.Reader.
func (r *spoolReader) Read(p []byte) (int, error) {
	s := r.spool
	switch {
	case r.done:
		return 0, errSpoolClosed
	case r.at == int64(s.wire):
		return 0, io.EOF
	case s.file != nil:
		n, err := s.file.ReadAt(p[:min(int64(len(p)), s.filed-r.at)], r.at)
		r.at += int64(n)
		return n, err
	}
	b := s.blocks[r.at/blockSize]
	n := copy(p, b[r.at%blockSize:min(blockSize, r.at%blockSize+int64(s.wire)-r.at)])
	r.at += int64(n)
	return n, nil
}

// Close implements io.Closer.
func (r *spoolReader) Close() error {
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	if !r.done {
		r.done = true
		r.spool.readers--
		r.spool.free()
	}
	return nil
}
