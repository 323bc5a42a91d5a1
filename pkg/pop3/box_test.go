package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// box is a maildrop in memory for one user.
type box struct {
	mu       sync.Mutex
	address  maildrop.Address
	password string
	class    maildrop.Class
	uids     []maildrop.UID
	wire     []string // messages in wire form
	faults   map[Op]error
	cutAt    int // OpRead's fault comes after so many octets
	calls    []Op
	removed  []maildrop.UID
	hold     map[Op]chan struct{} // a call waits for it, or for its context
	ended    []error              // the contexts' errors of calls that were held
	opened   int
	closed   int
}

// boxBuffers keep the benchmarks from counting what a box takes.
var boxBuffers = sync.Pool{New: func() any { return new([70 << 10]byte) }}

// newBox is the maildrop of the scripts, by name.
func newBox(name string) *box {
	b := &box{address: "alice@example.com", password: "secret", class: maildrop.ClassLocal, faults: map[Op]error{}, hold: map[Op]chan struct{}{}}
	switch name {
	case "five": // 17 + 23 + 26 + 12 + 8 = 86 octets
		b.wire = []string{"Subject: 1\r\n\r\na\r\n", "Subject: 2\r\n\r\n..dot\r\n..\r\n", "Subject: 3\r\n\r\nl1\r\nl2\r\nl3\r\n", "Subject: 4\r\n", "\r\nbody\r\n"}
	case "hollow": // one message without an octet
		b.wire = []string{""}
	case "odd": // a password with everything in it
		b.password, b.class = `a  "b" \ 'c' % =`+"\u00e9 ", maildrop.ClassContinuity
	case "spaced":
		b.address = "alice smith@example.com"
	case "umlaut":
		b.address = "zo\u00eb@xn--bcher-kva.example"
	case "long": // a password of the length that fits into a command
		b.password = strings.Repeat("0123456789", 24)
	}
	for i := range b.wire {
		b.uids = append(b.uids, maildrop.UID(fmt.Sprintf("u%04d", i+1)))
	}
	return b
}

// unstuffed is a message's size as RFC 1939 section 11 has it.
func unstuffed(wire string) uint64 {
	n := len(wire) - strings.Count(wire, "\r\n..")
	if strings.HasPrefix(wire, "..") {
		n--
	}
	return uint64(n)
}

// begin counts a call, holds it if asked to, and returns its fault.
func (b *box) begin(ctx context.Context, op Op) error {
	b.mu.Lock()
	b.calls = append(b.calls, op)
	hold, fault := b.hold[op], b.faults[op]
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			b.mu.Lock()
			b.ended = append(b.ended, ctx.Err())
			b.mu.Unlock()
			return &maildrop.Error{Op: "box", Kind: maildrop.Canceled, Err: ctx.Err()}
		}
	}
	return fault
}

func (b *box) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *box) gone() []maildrop.UID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.removed)
}

// keys are those of the box's user, cheap ones: the salt is 16 times "s".
func (b *box) keys() scram.Keys {
	k, err := scram.ParseKeys(boxKeys)
	if err != nil {
		panic(err)
	}
	return k
}

// boxKeys are the keys of "secret", and boxNonce is the nonce of every challenge.
const (
	boxKeys  = "SCRAM-SHA-256$4096:c3Nzc3Nzc3Nzc3Nzc3Nzcw==$dVa0nDBCWSREl7hmZEGoQXqGoo88M7A3cLXq48fdIBo=:k1Pl7HdZcffIww9uxWawuEaQbnOaSOIXPTJLrycPvxA="
	boxNonce = "server"
)

func (b *box) Challenge(ctx context.Context, _ maildrop.Login) (maildrop.Challenge, error) {
	if err := b.begin(ctx, OpChallenge); err != nil {
		return maildrop.Challenge{}, err
	}
	k := b.keys()
	return maildrop.Challenge{Nonce: boxNonce, Salt: k.Salt[:], Iterations: k.Iterations}, nil
}

func (b *box) Open(ctx context.Context, l maildrop.Login) (maildrop.Drop, error) {
	if err := b.begin(ctx, OpOpen); err != nil {
		return nil, err
	}
	wrong := &maildrop.Error{Op: "box.open", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	if l.Proof != nil {
		keys := b.keys()
		transcript, err := scram.Transcript(l.Proof.First, l.Proof.Final, boxNonce, &keys)
		if err != nil || l.Address != b.address || !keys.Verify(transcript, l.Proof.Proof) {
			return nil, wrong
		}
		return b.drop(keys.Sign(transcript)), nil
	}
	if l.Address != b.address || l.Password != b.password {
		return nil, wrong
	}
	return b.drop(""), nil
}

func (b *box) drop(signature string) *boxDrop {
	b.set(func() { b.opened++ })
	return &boxDrop{b, signature}
}

type boxDrop struct {
	*box
	signature string
}

func (d *boxDrop) Info() maildrop.Info {
	info := maildrop.Info{Address: d.address, Class: d.class, Count: len(d.wire), Region: "eu", Node: "n1", Signature: d.signature}
	for _, m := range d.wire {
		info.Octets += unstuffed(m)
	}
	return info
}

func (d *boxDrop) List(ctx context.Context) (*maildrop.Listing, error) {
	if err := d.begin(ctx, OpList); err != nil {
		return nil, err
	}
	l := maildrop.NewListing(len(d.uids), 0)
	for i, uid := range d.uids {
		l.Append(uid, unstuffed(d.wire[i]))
	}
	return l, nil
}

func (d *boxDrop) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (n uint64, err error) {
	fault := d.begin(ctx, OpRead)
	message := d.wire[slices.Index(d.uids, uid)]
	if fault != nil {
		message = message[:min(d.cutAt, len(message))]
	}
	buf := boxBuffers.Get().(*[70 << 10]byte)
	defer boxBuffers.Put(buf)
	for len(message) > 0 && ctx.Err() == nil {
		m, err := w.Write(buf[:copy(buf[:], message)])
		if n += uint64(m); err != nil {
			return n, &maildrop.Error{Op: "box.read", Kind: maildrop.Canceled, Err: err}
		}
		message = message[m:]
	}
	return n, errors.Join(fault, ctx.Err())
}

func (d *boxDrop) Remove(ctx context.Context, uids []maildrop.UID) error {
	if err := d.begin(ctx, OpRemove); err != nil {
		return err
	}
	d.set(func() { d.removed = append(d.removed, uids...) })
	return nil
}

func (d *boxDrop) Check(ctx context.Context) error { return d.begin(ctx, OpCheck) }
func (d *boxDrop) Token() []byte                   { return nil }
func (d *boxDrop) Close() error                    { d.set(func() { d.closed++ }); return nil }

// fault sets what a script line says: "read not_found", "check denied network words", "none".
func (b *box) fault(text string) {
	f := strings.SplitN(text, " ", 4)
	b.set(func() {
		clear(b.faults)
		if f[0] == "none" {
			return
		}
		e := &maildrop.Error{Op: "box", Err: errors.New("disk on fire at 10.0.0.7")}
		for k := maildrop.Internal; int(k) < maildrop.Kinds; k++ {
			if k.String() == f[1] {
				e.Kind = k
			}
		}
		if len(f) > 2 {
			e.Reason = maildrop.Reason(f[2])
		}
		if len(f) > 3 {
			e.Text = f[3]
		}
		b.faults[Op(slices.Index(opNames[:], f[0]))] = e
	})
}
