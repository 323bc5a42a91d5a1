package s3

import "sync/atomic"

// Ops of a Store, as metrics name them.
const (
	opCreate = "create" // with all that belongs to it: parts, and looking what is there
	opRead   = "read"
	opList   = "list"
	opDelete = "delete"
)

// retries counts requests that were made again, at the same endpoint or another.
type retries struct{ create, read, list, remove atomic.Uint64 }

func (r *retries) of(op string) *atomic.Uint64 {
	switch op {
	case opRead:
		return &r.read
	case opList:
		return &r.list
	case opDelete:
		return &r.remove
	}
	return &r.create
}

// Retries is how many requests of the op (create, read, list or delete) were made again
// since Open.
func (s *Store) Retries(op string) uint64 { return s.retries.of(op).Load() }
