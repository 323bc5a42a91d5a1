package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/shard"
)

const (
	sessionsEach = 3
	// repeatFor is how long a gateway repeats a delivery: less than an owner
	// remembers it.
	repeatFor = 20 * time.Hour
	// sessionFor is how long a session may go on without Check.
	sessionFor = 6*time.Hour - time.Minute
	// triesAtMost ends what never succeeds.
	triesAtMost = 1500
)

// insist repeats a call, at whoever is the owner then, until it is answered
// with nil or until. It returns who answered so; nil: nobody did in time, or the
// call was refused for good.
func insist[T any](w *world, who, what string, until time.Time, call func(context.Context, *shard.Shard) (T, error)) (value T, by *owner) {
	for try := range triesAtMost {
		if w.failed() {
			return value, nil
		}
		t := w.dice.roll("try", who, what, try)
		o, err := w.pick(t)
		if err == nil {
			ctx, cancel := patience(t, w.temper)
			value, err = ask(ctx, o, call)
			cancel()
			if err == nil {
				return value, o
			}
			w.note(who, []string{who}, "%s at %s: %v", what, o.name, err)
		}
		tooLate := time.Now().After(until)
		if tooLate || !w.refusal(err, what, []string{who}) {
			if !tooLate {
				w.violated("9, refused for good", []string{who}, "%s, %s: %v", who, what, err)
			}
			return value, nil
		}
		pause := min(50*time.Millisecond<<min(try, 13), 5*time.Minute)
		time.Sleep(t.between(pause, 2*pause))
	}
	w.violated("9, no end", []string{who}, "%s, %s: it never succeeded", who, what)
	return value, nil
}

// patience is how long a client waits for an answer.
func patience(t throw, temper temper) (context.Context, context.CancelFunc) {
	switch t.IntN(4) {
	case 0:
		return context.WithTimeout(context.Background(), time.Millisecond+8*temper.latency)
	case 1:
		return context.WithTimeout(context.Background(), 3*time.Second)
	case 2:
		return context.WithTimeout(context.Background(), time.Minute)
	}
	return context.WithCancel(context.Background())
}

// gateway delivers messages, one after the other.
func (w *world) gateway(i int) {
	for n := range w.temper.mails {
		m := w.compose(fmt.Sprintf("g%d.%d", i, n))
		t := w.dice.roll("gateway", m.name)
		time.Sleep(t.between(0, w.temper.gap))
		w.write(m)
		until := m.tried.Add(repeatFor)
		if t.chance(0.1) {
			until = m.tried.Add(t.between(0, time.Minute)) // it gives up soon
		}
		if w.deliver(m, "deliver", until) && t.chance(0.2) { // it didn't hear the answer
			time.Sleep(t.between(0, min(w.temper.gap, time.Hour)))
			w.deliver(m, "deliver again", time.Now().Add(time.Hour))
		}
	}
}

// compose writes a message. Few are large: each costs a run as much as all others together.
func (w *world) compose(name string) *mail {
	t := w.dice.roll("compose", name)
	user := users[t.IntN(len(users))]
	m := &mail{name: name, to: user.address, class: user.class}
	copy(m.id[:], "id of "+name)
	text := fmt.Sprintf("Subject: %s\r\n\r\n.%s\r\n", name, strings.Repeat("a line of text\r\n", t.IntN(40)))
	if t.chance(0.003) {
		text += strings.Repeat(fmt.Sprintf("%78s\r\n", name), 14000)
	}
	m.body = maildroptest.Text(text)
	if t.chance(0.1) {
		m.uid, m.dated = maildrop.UID("imported/"+name), time.Now().Add(-t.between(time.Second, 48*time.Hour))
	}
	return m
}

func (w *world) deliver(m *mail, what string, until time.Time) bool {
	w.note(m.name, []string{m.name}, "%s to %s", what, m.to)
	envelope := maildrop.Envelope{ID: m.id, To: m.to}
	if !m.dated.IsZero() {
		envelope.UID, envelope.Received = maildrop.UID("imported/"+m.name), m.dated
	}
	_, by := insist(w, m.name, what, until, func(ctx context.Context, s *shard.Shard) (struct{}, error) {
		return struct{}{}, s.Deliver(ctx, envelope, m.body)
	})
	if by == nil {
		w.account.Lock()
		m.last = time.Now()
		w.account.Unlock()
		return false
	}
	w.acknowledged(m, by)
	return true
}

// user has sessions.
func (w *world) user(i int, address maildrop.Address) {
	for n := range sessionsEach {
		name := fmt.Sprintf("s%d.%d", i, n)
		time.Sleep(w.dice.roll("user", name).between(0, 2*w.temper.gap))
		w.session(name, address, false)
	}
}

// opened is what Open answers a client with.
type opened struct {
	info    maildrop.Info
	token   []byte
	entries []maildrop.Entry
	from    time.Time
}

// session is one POP session, wherever the shard is. An auditor's reads all and
// removes nothing.
func (w *world) session(name string, address maildrop.Address, auditor bool) {
	forever := time.Now().Add(10000 * time.Hour)
	open, by := insist(w, name, "open", forever, func(ctx context.Context, s *shard.Shard) (o opened, err error) {
		o.from = time.Now()
		drop, err := s.Open(ctx, maildrop.Login{Address: address, Password: password})
		if err != nil {
			return o, err
		}
		o.info, o.token = drop.Info(), drop.Token()
		o.entries, err = maildrop.Entries(ctx, drop)
		return o, err
	})
	if by == nil {
		return
	}
	s := &session{world: w, name: name, address: address, opened: open, until: open.from.Add(sessionFor), t: w.dice.roll("session", name)}
	seen := sight{name: name, to: address, from: open.from, until: time.Now(), at: open.from, entries: open.entries}
	if replaced := by.replacedAt(); replaced.Before(seen.at) {
		seen.at = replaced
	}
	w.note(name, []string{name}, "is open at %s, as of %s: %d messages", by.name, seen.at.Sub(w.began), len(open.entries))
	if open.info.Count != len(open.entries) {
		w.violated("2, a session is a snapshot", []string{name}, "%s: Open said %d messages, List %d", name, open.info.Count, len(open.entries))
	}
	w.freshness(name, by, open.from)
	s.idle(auditor)
	seen.mails = s.fetch(auditor)
	w.compare(seen)
	s.listAgain()
	s.idle(auditor)
	if !auditor {
		s.quit(seen.mails)
	}
}

// freshness wants an owner that was replaced to answer Open for a second more at
// most, where nothing keeps it from asking the store.
func (w *world) freshness(name string, o *owner, from time.Time) {
	if late := from.Sub(o.replacedAt()); late > time.Second+4*w.temper.latency && w.temper.plain() && o.door.undisturbed() {
		w.violated("2, stale answers", []string{name}, "%s was opened by %s, which had been replaced %s before", name, o.name, late)
	}
}

// idle is a user who does nothing, for hours at times: long enough for others to
// remove what he has listed, and for its octets to go.
func (s *session) idle(auditor bool) {
	if !auditor && s.t.chance(0.2) {
		time.Sleep(s.t.between(0, min(s.world.temper.gap, 150*time.Minute)))
	}
}

// session is a session that is open.
type session struct {
	opened

	world   *world
	name    string
	address maildrop.Address
	until   time.Time // its token counts no longer
	t       throw
}

// resumed calls the session's Drop, at whoever owns the shard now.
func resumed[T any](s *session, what string, call func(context.Context, maildrop.Drop) (T, error)) (value T, by *owner) {
	return insist(s.world, s.name, what, s.until, func(ctx context.Context, at *shard.Shard) (T, error) {
		drop, err := at.Resume(ctx, s.info, s.token)
		if err != nil {
			var nothing T
			return nothing, err
		}
		return call(ctx, drop)
	})
}

// fetch reads messages: all that nobody has read yet, and some others.
func (s *session) fetch(all bool) (mails []*mail) {
	for _, e := range s.entries {
		m := s.world.known(e.UID)
		if all || m == nil || s.t.chance(0.2) {
			m = s.read(e, m)
		}
		mails = append(mails, m)
	}
	return mails
}

// read reads a message, in two parts at times.
func (s *session) read(e maildrop.Entry, known *mail) *mail {
	about := []string{s.name}
	var octets []byte
	gone := false
	for parts := 1 + s.t.IntN(2); parts > 0; parts-- {
		limit := 1 << 30
		if parts > 1 {
			limit = s.t.IntN(int(e.Size) + 1)
		}
		got, by := resumed(s, "read "+string(e.UID), func(ctx context.Context, d maildrop.Drop) ([]byte, error) {
			w := &limited{left: limit}
			_, err := d.Read(ctx, e.UID, uint64(len(octets)), w)
			if maildrop.KindOf(err) == maildrop.NotFound && s.world.mayBeGone(s.world.known(e.UID)) {
				return nil, nil
			}
			if err != nil && w.left == 0 {
				err = nil // it was the reader who left
			}
			return w.octets, err
		})
		gone = gone || by == nil || (len(got) == 0 && limit > 0)
		octets = append(octets, got...)
	}
	if gone {
		return known
	}
	return s.world.identify(e.UID, octets, s.address, about)
}

// limited takes so many octets and then no more.
type limited struct {
	octets []byte
	left   int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.octets = append(l.octets, p[:n]...)
	if l.left -= n; n < len(p) {
		return n, fmt.Errorf("enough")
	}
	return n, nil
}

// listAgain holds the session's listing against what it was at its begin.
func (s *session) listAgain() {
	entries, by := resumed(s, "list", maildrop.Entries)
	if by != nil && !slices.Equal(entries, s.entries) {
		s.world.violated("2, a session is a snapshot", []string{s.name}, "%s: the listing was %v and is, at %s, %v", s.name, s.entries, by.name, entries)
	}
}

// quit removes some messages, and may ask for that twice.
func (s *session) quit(mails []*mail) {
	var gone []*mail
	var uids []maildrop.UID
	for i, m := range mails {
		if m != nil && s.t.chance(0.4) {
			gone, uids = append(gone, m), append(uids, s.entries[i].UID)
		}
	}
	if len(gone) == 0 {
		return
	}
	for i := range 1 + s.t.IntN(2) {
		s.world.ask(gone)
		for _, m := range gone {
			s.world.note(s.name, []string{m.name, s.name}, "removes %s", m.name)
		}
		_, by := resumed(s, fmt.Sprint("remove, ", i), func(ctx context.Context, d maildrop.Drop) (struct{}, error) {
			return struct{}{}, d.Remove(ctx, uids)
		})
		if by == nil {
			return
		}
		s.world.gone(gone, by)
	}
	s.listAgain()
}
