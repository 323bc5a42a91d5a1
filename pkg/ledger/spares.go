package ledger

import "sync"

// maxSpare is the most octets of a buffer that is kept.
const maxSpare = 1 << 20

// spares are buffers for objects that are being written. A fresh one is cleared
// by the runtime and left to the garbage collector each time, which for mail of
// 90 KB is more work than filling it. Those that nobody takes are let go.
type spares struct{ pool sync.Pool }

// take returns a buffer with room for so many octets. What it holds is not
// cleared.
func (s *spares) take(room int) []byte {
	if spare, ok := s.pool.Get().(*[]byte); ok && cap(*spare) >= room {
		return (*spare)[:0]
	}
	return make([]byte, 0, max(room, headerSize))
}

// give takes a buffer that nobody reads any more.
func (s *spares) give(buffer []byte) {
	if cap(buffer) <= maxSpare {
		s.pool.Put(&buffer)
	}
}
