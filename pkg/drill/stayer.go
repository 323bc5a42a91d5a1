package drill

import (
	"context"
	"errors"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// stayer fetches the anchor again and again, in one session as long as that lasts.
type stayer struct {
	*mailbox
	pop     *mailclient.POP
	session int
	n       int // the anchor's
	since   time.Time
}

// round fetches the anchor once. What the user waits for is the message, however many
// sessions that takes.
func (s *stayer) round(ctx context.Context) {
	for began := time.Now(); ; {
		err := s.once(ctx)
		if err == nil {
			s.meter.took(waitSession, began)
			break
		}
		s.drop()
		if s.meter.failed(ctx, err); !rest(ctx, retryAfter) {
			return
		}
	}
	if s.renew > 0 && time.Since(s.since) > s.renew {
		s.quit()
	}
}

func (s *stayer) once(ctx context.Context) error {
	if s.pop == nil {
		if err := s.begin(ctx); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, s.cutter())()
	number, err := s.fetch(s.pop, s.session, s.n, s.anchorID)
	if err == nil && number != anchor {
		err = errors.New("a session has another message at the same number")
	}
	return err
}

func (s *stayer) cutter() func() { pop := s.pop; return func() { pop.Close() } }

// begin opens a session and looks for the anchor.
func (s *stayer) begin(ctx context.Context) (err error) {
	if s.pop, s.session, err = s.login(ctx); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.cutter())()
	s.since = time.Now()
	uids, err := s.pop.UIDs()
	if err != nil {
		return err
	}
	ours := s.listed(s.session, uids)
	if len(ours) == 0 {
		return errors.New("the message that stays isn't listed")
	}
	// It was delivered alone, before all others, and the order of a listing is that of delivery.
	s.n, s.anchorID = ours[0], uids[ours[0]]
	return nil
}

func (s *stayer) drop() {
	if s.pop != nil {
		s.pop.Close()
		s.pop = nil
	}
}

func (s *stayer) quit() {
	if s.pop != nil {
		_ = s.pop.Quit() // it removes nothing
		s.pop = nil
	}
}
