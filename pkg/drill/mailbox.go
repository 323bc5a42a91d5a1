package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/mailclient"
)

var errDisagree = errors.New("STAT and UIDL disagree about the number of messages")

// mailbox is a user's, as the load sees it.
type mailbox struct {
	*load
	user     User
	foreign  map[string]bool // unique-ids from before
	number   int             // of the latest message; the deliverer's
	anchorID string
	seen     map[string]int // the visitor's: what it has fetched
}

// settleIn reads what is there already, and delivers the anchor.
func (l *load) settleIn(ctx context.Context, user User) (*mailbox, error) {
	m := &mailbox{load: l, user: user, foreign: map[string]bool{}, seen: map[string]int{}}
	pop, _, err := m.login(ctx)
	if err != nil {
		return nil, err
	}
	defer pop.Close()
	uids, err := pop.UIDs()
	if err != nil {
		return nil, err
	}
	for _, uid := range uids {
		m.foreign[uid] = true
	}
	if err := pop.Quit(); err != nil {
		return nil, err
	}
	m.number = anchor
	return m, m.post(ctx)
}

// post delivers the message m.number once.
func (m *mailbox) post(ctx context.Context) error {
	text := m.letters.Letter(sender, m.user.Address, m.number)
	m.note(history.Event{Kind: history.Sent, Number: m.number, Sum: sha256.Sum256(text)})
	if err := deliver(ctx, m.turn(m.doors.LMTP), m.doors.LMTPTLS, m.user.Address, text); err != nil {
		return err
	}
	m.note(history.Event{Kind: history.Acknowledged, Number: m.number})
	return nil
}

// login opens a session, at one try.
func (m *mailbox) login(ctx context.Context) (*mailclient.POP, int, error) {
	session := m.history.Open(m.user.Address)
	pop, err := mailclient.DialPOP(ctx, m.turn(m.doors.POP3S), m.doors.POP3TLS)
	if err != nil {
		return nil, 0, err
	}
	defer context.AfterFunc(ctx, func() { pop.Close() })()
	if err := pop.Login(m.user.Address, m.user.Password); err != nil {
		return nil, 0, errors.Join(err, pop.Close())
	}
	return pop, session, nil
}

// enter opens a session, again until that succeeds or ctx ends.
func (m *mailbox) enter(ctx context.Context) (*mailclient.POP, int, bool) {
	for began := time.Now(); ; {
		pop, session, err := m.login(ctx)
		if err == nil {
			m.meter.took(waitLogin, began)
			return pop, session, true
		}
		if m.meter.failed(ctx, err); !rest(ctx, retryAfter) {
			return nil, 0, false
		}
	}
}

// workers are a mailbox's three.
func (m *mailbox) workers() []*worker {
	stay := &stayer{mailbox: m}
	return []*worker{
		{round: m.deliverNext, every: deliverEvery},
		{round: m.visit, every: visitEvery},
		{round: stay.round, every: retrEvery, end: stay.quit},
	}
}

// deliverNext delivers the next message, again until it is acknowledged or refused for good.
func (m *mailbox) deliverNext(ctx context.Context) {
	m.number++
	for began := time.Now(); ; {
		err := m.post(ctx)
		if err == nil {
			m.meter.took(waitDelivery, began)
			return
		}
		m.meter.failed(ctx, err)
		if !temporary(err) && !broken(err) || !rest(ctx, retryAfter) {
			return
		}
	}
}

// visit is a short session, as a program that polls has it. An error ends it: there is
// another one soon.
func (m *mailbox) visit(ctx context.Context) {
	pop, session, ok := m.enter(ctx)
	if !ok {
		return
	}
	defer pop.Close()
	defer context.AfterFunc(ctx, func() { pop.Close() })()
	if err := m.poll(pop, session); err != nil {
		m.meter.failed(ctx, err)
	}
}

// poll fetches what is new, and removes messages of odd numbers.
func (m *mailbox) poll(pop *mailclient.POP, session int) error {
	var count int
	if err := m.command(func() (err error) { count, _, err = pop.Stat(); return err }); err != nil {
		return err
	}
	var uids map[int]string
	if err := m.command(func() (err error) { uids, err = pop.UIDs(); return err }); err != nil {
		return err
	}
	if len(uids) != count {
		return errDisagree
	}
	ours := m.listed(session, uids)
	if err := m.fetchNew(pop, session, uids, ours); err != nil {
		return err
	}
	return m.remove(pop, session, uids, ours)
}

func (m *mailbox) command(ask func() error) error {
	began := time.Now()
	err := ask()
	if err == nil {
		m.meter.took(waitCommand, began)
	}
	return err
}

// listed notes a listing, and returns the numbers of the drill's messages in it.
func (m *mailbox) listed(session int, uids map[int]string) (ours []int) {
	var there []string
	for n := 1; n <= len(uids); n++ {
		if !m.foreign[uids[n]] {
			ours, there = append(ours, n), append(there, uids[n])
		}
	}
	m.note(history.Event{Kind: history.Listed, Session: session, UIDs: there})
	return ours
}

func (m *mailbox) fetchNew(pop *mailclient.POP, session int, uids map[int]string, ours []int) error {
	fetched := 0
	for _, n := range ours {
		if _, known := m.seen[uids[n]]; known || fetched == fetchAtMost {
			continue
		}
		number := 0
		err := m.command(func() (err error) { number, err = m.fetch(pop, session, n, uids[n]); return err })
		if err != nil {
			return err
		}
		m.seen[uids[n]] = number
		fetched++
	}
	return nil
}

// fetch fetches a message and notes what it is.
func (m *mailbox) fetch(pop *mailclient.POP, session, n int, uid string) (number int, err error) {
	var text bytes.Buffer
	if _, err := pop.Retr(n, &text); err != nil {
		return 0, err
	}
	number, sum := m.letters.Identify(m.user.Address, text.Bytes())
	m.note(history.Event{Kind: history.Fetched, Session: session, UID: uid, Number: number, Sum: sum})
	return number, nil
}

// remove removes those that have been fetched and have odd numbers, without the anchor; also
// those whose removal was asked before and not answered.
func (m *mailbox) remove(pop *mailclient.POP, session int, uids map[int]string, ours []int) error {
	var doomed []string
	for _, n := range ours {
		if number := m.seen[uids[n]]; number%2 == 0 || number == anchor {
			continue
		}
		if err := m.command(func() error { return pop.Dele(n) }); err != nil {
			return err
		}
		doomed = append(doomed, uids[n])
	}
	return m.command(func() error { return m.quit(pop, session, doomed) })
}

// quit ends a session in which messages were marked.
func (m *mailbox) quit(pop *mailclient.POP, session int, doomed []string) error {
	m.note(history.Event{Kind: history.Asked, Session: session, UIDs: doomed})
	if _, err := pop.Command("QUIT"); err != nil {
		return err
	}
	m.note(history.Event{Kind: history.Removed, Session: session, UIDs: doomed})
	return nil
}

// patiently makes a session, again from its beginning while what ends it may pass.
func patiently(ctx context.Context, patience time.Duration, session func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := session(ctx)
		if err == nil || !temporary(err) && !broken(err) || !rest(ctx, retryAfter) {
			return err
		}
	}
}

// inspect is a mailbox's last session: it fetches everything.
func (m *mailbox) inspect(ctx context.Context) error {
	pop, session, err := m.login(ctx)
	if err != nil {
		return err
	}
	defer pop.Close()
	defer context.AfterFunc(ctx, func() { pop.Close() })()
	uids, err := pop.UIDs()
	if err != nil {
		return err
	}
	for _, n := range m.listed(session, uids) {
		if _, err := m.fetch(pop, session, n, uids[n]); err != nil {
			return err
		}
	}
	m.note(history.Event{Kind: history.Final, Session: session})
	return pop.Quit()
}

// clean is a session that removes the drill's messages.
func (m *mailbox) clean(ctx context.Context) error {
	pop, session, err := m.login(ctx)
	if err != nil {
		return err
	}
	defer pop.Close()
	defer context.AfterFunc(ctx, func() { pop.Close() })()
	uids, err := pop.UIDs()
	if err != nil {
		return err
	}
	for _, n := range m.listed(session, uids) {
		if err := pop.Dele(n); err != nil {
			return err
		}
	}
	return pop.Quit()
}

func (m *mailbox) note(e history.Event) {
	e.Mailbox = m.user.Address
	m.history.Note(e)
}
