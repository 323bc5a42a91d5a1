package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/mailclient"
)

// Pace of a user's three workers.
const (
	chaosDeliverEvery = 100 * time.Millisecond
	chaosVisitEvery   = 200 * time.Millisecond
	chaosReadEvery    = 50 * time.Millisecond
	chaosAnchor       = 1 // the letter that stays, and that long sessions fetch
	chaosSender       = "chaos@example.net"
)

// chaosLoad is what users and gateways do all the while, and what they were told.
type chaosLoad struct {
	pop3s, lmtp []string // of all regions: each connection takes the next one
	tls         *tls.Config
	letters     history.Letters
	history     history.History
	turns       atomic.Uint64
	delivered   atomic.Int64
	visits      atomic.Int64
	reads       atomic.Int64

	mu     sync.Mutex
	errors map[string]int  // by their words
	wrong  map[string]bool // those that nobody may be given (README, What is promised, 9)
}

// chaosBox is one user's mailbox, as the load sees it.
type chaosBox struct {
	*chaosLoad
	user    demoUser
	foreign map[string]bool // unique-ids from before
	number  int             // of the latest letter; the deliverer's
	seen    map[string]int  // unique-id → number; the visitor's
}

func newChaosLoad(with *tls.Config, regions []*demoRegion) *chaosLoad {
	l := &chaosLoad{tls: with, letters: history.NewLetters(), errors: map[string]int{}, wrong: map[string]bool{}}
	for _, r := range regions {
		l.pop3s, l.lmtp = append(l.pop3s, string(r.pop3s)), append(l.lmtp, string(r.lmtp))
	}
	return l
}

func (l *chaosLoad) turn(of []string) string { return of[l.turns.Add(1)%uint64(len(of))] }

// settleIn knows the mailbox's mail from before, and delivers the letter that stays.
func (l *chaosLoad) settleIn(t *testing.T, user demoUser) *chaosBox {
	t.Helper()
	b := &chaosBox{chaosLoad: l, user: user, foreign: map[string]bool{}, seen: map[string]int{}, number: chaosAnchor}
	pop, _, err := b.login(t.Context())
	noError(t, err)
	defer pop.Close()
	uids, err := pop.UIDs()
	noError(t, err)
	for _, uid := range uids {
		b.foreign[uid] = true
	}
	noError(t, b.post(t.Context()))
	return b
}

// work has a round again and again until ctx ends; what is under way then is finished.
func work(ctx context.Context, group *sync.WaitGroup, every time.Duration, round func()) {
	group.Go(func() {
		for sleep(ctx, every) {
			round()
		}
	})
}

// failed counts an error. One that is neither temporary nor a connection's end is wrong.
func (l *chaosLoad) failed(err error) {
	text := chaosWording(err)
	var refused *mailclient.ReplyError
	temporary := errors.As(err, &refused) && (strings.HasPrefix(refused.Reply, "-ERR [SYS/TEMP]") || strings.HasPrefix(refused.Reply, "4"))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[text]++
	if !temporary && !connectionEnded(err) {
		l.wrong[text] = true
	}
}

// connectionEnded says that a connection ended or wasn't made. Silence is something else.
func connectionEnded(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) && !network.Timeout()
}

var chaosOwn = regexp.MustCompile(`, reference [^ )]+|127\.0\.0\.1:[0-9]+(->127\.0\.0\.1:[0-9]+)?`)

func chaosWording(err error) string { return chaosOwn.ReplaceAllString(err.Error(), "") }

// post delivers the letter b.number once.
func (b *chaosBox) post(ctx context.Context) error {
	text := b.letters.Letter(chaosSender, b.user.Address, b.number)
	b.history.Note(history.Event{Kind: history.Sent, Mailbox: b.user.Address, Number: b.number, Sum: sha256.Sum256(text)})
	lmtp, err := mailclient.DialLMTP(ctx, b.turn(b.lmtp), nil)
	if err != nil {
		return err
	}
	defer lmtp.Close()
	verdicts, err := lmtp.Deliver(chaosSender, []string{b.user.Address}, text)
	if err = errors.Join(err, verdicts[0]); err != nil {
		return err
	}
	b.history.Note(history.Event{Kind: history.Acknowledged, Mailbox: b.user.Address, Number: b.number})
	b.delivered.Add(1)
	return nil
}

// deliver posts the next letter; one that was refused is tried again first, as gateways do, a few
// times.
func (b *chaosBox) deliver(ctx context.Context) {
	b.number++
	for range 5 {
		err := b.post(context.WithoutCancel(ctx))
		if err == nil {
			return
		}
		if b.failed(err); !sleep(ctx, chaosDeliverEvery) {
			return
		}
	}
}

func (b *chaosBox) login(ctx context.Context) (*mailclient.POP, int, error) {
	session := b.history.Open(b.user.Address)
	pop, err := mailclient.DialPOP(ctx, b.turn(b.pop3s), b.tls)
	if err != nil {
		return nil, 0, err
	}
	if err := pop.Login(b.user.Address, b.user.Password); err != nil {
		return nil, 0, errors.Join(err, pop.Close())
	}
	return pop, session, nil
}

// list lists a session's letters by their message numbers, in order.
func (b *chaosBox) list(pop *mailclient.POP, session int) (uids map[int]string, ours []int, err error) {
	if uids, err = pop.UIDs(); err != nil {
		return nil, nil, err
	}
	var there []string
	for _, n := range slices.Sorted(maps.Keys(uids)) {
		if !b.foreign[uids[n]] {
			ours, there = append(ours, n), append(there, uids[n])
		}
	}
	b.history.Note(history.Event{Kind: history.Listed, Mailbox: b.user.Address, Session: session, UIDs: there})
	return uids, ours, nil
}

func (b *chaosBox) fetch(pop *mailclient.POP, session, n int, uid string) (number int, err error) {
	var text bytes.Buffer
	if _, err := pop.Retr(n, &text); err != nil {
		return 0, err
	}
	number, sum := b.letters.Identify(b.user.Address, text.Bytes())
	b.history.Note(history.Event{Kind: history.Fetched, Mailbox: b.user.Address, Session: session, UID: uid, Number: number, Sum: sum})
	return number, nil
}

// visit is a short session: it fetches what is new, and removes two letters of three.
func (b *chaosBox) visit() {
	pop, session, err := b.login(context.Background())
	if err != nil {
		b.failed(err)
		return
	}
	defer pop.Close()
	if err := b.poll(pop, session); err != nil {
		b.failed(err)
		return
	}
	b.visits.Add(1)
}

func (b *chaosBox) poll(pop *mailclient.POP, session int) error {
	uids, ours, err := b.list(pop, session)
	if err != nil {
		return err
	}
	var doomed []string
	for _, n := range ours {
		number, known := b.seen[uids[n]]
		if !known {
			if number, err = b.fetch(pop, session, n, uids[n]); err != nil {
				return err
			}
			b.seen[uids[n]] = number
		}
		if number%3 == 0 || number == chaosAnchor {
			continue
		}
		if err := pop.Dele(n); err != nil {
			return err
		}
		doomed = append(doomed, uids[n])
	}
	b.history.Note(history.Event{Kind: history.Asked, Mailbox: b.user.Address, Session: session, UIDs: doomed})
	if _, err := pop.Command("QUIT"); err != nil {
		return err
	}
	b.history.Note(history.Event{Kind: history.Removed, Mailbox: b.user.Address, Session: session, UIDs: doomed})
	return nil
}

// stay is a long session that fetches the same letter again and again. Errors end it.
func (b *chaosBox) stay(ctx context.Context) {
	pop, session, err := b.login(ctx)
	if err != nil {
		b.failed(err)
		return
	}
	defer pop.Close()
	uids, ours, err := b.list(pop, session)
	if err == nil && len(ours) == 0 {
		err = fmt.Errorf("%s: the letter that stays isn't listed", b.user.Address)
	}
	for err == nil && sleep(ctx, chaosReadEvery) {
		var number int
		if number, err = b.fetch(pop, session, ours[0], uids[ours[0]]); err == nil && number != chaosAnchor {
			err = fmt.Errorf("%s: RETR %d is letter %d now, and was the first one", b.user.Address, ours[0], number)
		}
		b.reads.Add(1)
	}
	if err != nil {
		b.failed(err)
	}
}

// inspect is a mailbox's last session: it fetches everything, again until that succeeds.
func (b *chaosBox) inspect(ctx context.Context) error {
	for {
		err := b.fetchAll(ctx)
		if err == nil || !sleep(ctx, chaosVisitEvery) {
			return err
		}
	}
}

func (b *chaosBox) fetchAll(ctx context.Context) error {
	pop, session, err := b.login(ctx)
	if err != nil {
		return err
	}
	defer pop.Close()
	uids, ours, err := b.list(pop, session)
	if err != nil {
		return err
	}
	for _, n := range ours {
		if _, err := b.fetch(pop, session, n, uids[n]); err != nil {
			return err
		}
	}
	b.history.Note(history.Event{Kind: history.Final, Mailbox: b.user.Address, Session: session})
	return nil
}
