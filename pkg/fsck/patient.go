package fsck

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/ledger"
)

const (
	tries     = 9 // of a call that the store refuses: most of a minute
	firstWait = 100 * time.Millisecond
)

// patient is a store that is asked again when it refuses to read. If that doesn't
// help it ends the run: opening a ledger would ask for ever.
type patient struct {
	blob.Store
	end context.CancelCauseFunc
}

// ReadAt implements blob.Store.
func (p patient) ReadAt(ctx context.Context, key string, b []byte, offset int64) (n int, err error) {
	err = patiently(ctx, func() error {
		n, err = p.Store.ReadAt(ctx, key, b, offset)
		return err
	})
	if err != nil && !lasting(err) {
		p.end(err)
	}
	return n, err
}

// patiently repeats a call whose error may pass.
func patiently(ctx context.Context, call func() error) error {
	wait := firstWait
	for try := 1; ; try++ {
		err := call()
		if err == nil || try == tries || lasting(err) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
		wait *= 2
	}
}

func lasting(err error) bool {
	for _, known := range []error{io.EOF, blob.ErrNotFound, ledger.ErrCorrupt, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
