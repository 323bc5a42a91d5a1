package router

import (
	"context"
	"io"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// drop is an open maildrop wherever its shard is: what Open said of it, and the
// session's token. Behind it is a Drop of the owner it was last called at;
// another one is made of the token when the owner changes or a call fails.
type drop struct {
	router  *Router
	info    maildrop.Info
	token   []byte
	listing *maildrop.Listing // nil: not asked for yet

	current maildrop.Drop // nil: none
	at      string        // the owner that current is at
	run     run           // of messages that were read, from another region
}

// Info is what Open answered with.
func (d *drop) Info() maildrop.Info { return d.info }

// Token is the session's token, the latest there is.
func (d *drop) Token() []byte { return d.token }

// Close ends the use of the drop. It removes nothing.
func (d *drop) Close() error {
	if d.current == nil {
		return nil
	}
	err := d.current.Close()
	d.current = nil
	return err
}

// behind is the drop at the owner.
func (d *drop) behind(ctx context.Context, service maildrop.Service, at string) (maildrop.Drop, error) {
	if d.current != nil && d.at == at {
		return d.current, nil
	}
	d.Close()
	fresh, err := service.Resume(ctx, d.info, d.token)
	if err != nil {
		return nil, err
	}
	d.current, d.at = fresh, at
	return fresh, nil
}

// with makes a call of the drop's session out of a call of the drop behind it.
func (d *drop) with(use func(context.Context, maildrop.Drop) error) func(context.Context, maildrop.Service, string) error {
	return func(ctx context.Context, service maildrop.Service, at string) error {
		behind, err := d.behind(ctx, service, at)
		if err != nil {
			return err
		}
		if err = use(ctx, behind); err != nil {
			d.Close() // the next attempt begins with the token alone
			return err
		}
		return nil
	}
}

// List returns the snapshot's listing. It asks once.
func (d *drop) List(ctx context.Context) (*maildrop.Listing, error) {
	if d.listing != nil {
		return d.listing, nil
	}
	var listing *maildrop.Listing
	err := d.router.repeat(ctx, &call{
		op: "router.list", address: d.info.Address, errand: session, bounded: true,
		do: d.with(func(ctx context.Context, behind maildrop.Drop) (err error) {
			listing, err = behind.List(ctx)
			return err
		}),
	})
	if err != nil {
		return nil, err
	}
	d.listing = listing
	return listing, nil
}

// Read streams a message to w. After a break it goes on behind the last octet
// that w took, at whoever owns the shard then.
func (d *drop) Read(ctx context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	const op = "router.read"
	s := &sink{w: w}
	expected := d.expect(uid, offset)
	err := d.router.repeat(ctx, &call{
		op: op, address: d.info.Address, errand: session, moved: s.taken,
		do: d.with(func(ctx context.Context, behind maildrop.Drop) error {
			if e, ok := behind.(maildrop.Expecter); ok && len(expected) > 0 {
				e.Expect(expected)
			}
			_, err := behind.Read(ctx, uid, offset+s.n, s)
			if s.err != nil {
				return final{&maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: s.err}}
			}
			return err
		}),
	})
	if err != nil {
		d.run = run{} // a TOP that has enough, too: whole messages would be fetched in vain
	}
	return s.n, err
}

// expect guesses what will be read after the message, if that is far away.
func (d *drop) expect(uid maildrop.UID, offset uint64) []maildrop.UID {
	if d.listing == nil || offset > 0 || !d.router.far(d.info.Address) {
		return nil
	}
	return d.run.expect(d.listing, uid)
}

// Remove removes messages of the snapshot.
func (d *drop) Remove(ctx context.Context, uids []maildrop.UID) error {
	return d.router.repeat(ctx, &call{
		op: "router.remove", address: d.info.Address, errand: session, bounded: true, changes: true,
		do: d.with(func(ctx context.Context, behind maildrop.Drop) error { return behind.Remove(ctx, uids) }),
	})
}

// Check asks once whether the session may go on, for a second at most, and takes
// the renewed token.
func (d *drop) Check(ctx context.Context) error {
	return d.router.once(ctx, &call{
		op: "router.check", address: d.info.Address, errand: session,
		do: d.with(func(ctx context.Context, behind maildrop.Drop) error {
			err := behind.Check(ctx)
			if token := behind.Token(); err == nil && len(token) > 0 {
				d.token = token
			}
			return err
		}),
	}, checkLimit)
}

// sink is a writer that knows what it took, whatever its caller says.
type sink struct {
	w   io.Writer
	n   uint64
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.n += uint64(max(0, n))
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.err = err
	return n, err
}

func (s *sink) taken() uint64 { return s.n }
