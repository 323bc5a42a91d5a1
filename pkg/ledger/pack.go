package ledger

import (
	"context"
	"errors"
)

// PackBody is a body on its way into a pack.
type PackBody struct {
	Position Position // of the message that it belongs to
	Body     []byte   // wire form
}

// WritePack makes a pack object of the bodies, all of one retention class, and
// returns its name, the offset of each body in it, and the object's size, when it is
// durable. A pack that no record names is garbage. The object has at most MaxPack octets,
// PackSize of which are known before. After an error nothing counts as written.
func (l *Ledger) WritePack(ctx context.Context, class uint8, bodies []PackBody) (object string, offsets []uint32, size uint64, err error) {
	return "", nil, 0, errors.ErrUnsupported
}
