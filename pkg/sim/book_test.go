package sim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// book is what clients were promised, and what they saw: the checker's memory.
type book struct {
	account  sync.Mutex // guards what follows
	mails    []*mail
	contents map[string]*mail
	uids     map[maildrop.UID]*mail
	findings []finding
}

// mail is one message's life as its gateway and its user know it.
type mail struct {
	name  string
	to    maildrop.Address
	class maildrop.Class
	id    maildrop.EnvelopeID
	body  maildroptest.Body
	dated time.Time // of an imported message: when it came; retention counts from then

	uid     maildrop.UID // that it was seen under, or was imported with
	tried   time.Time    // first delivery's begin
	last    time.Time    // last delivery's end
	acked   time.Time    // zero: never
	by      string       // who acknowledged it
	asked   time.Time    // first removal's begin; zero: never
	removed time.Time    // removal acknowledged; zero: never
}

type finding struct {
	invariant string
	what      string
	about     []string
}

// slack is how much two instants may differ that were rounded to seconds.
const slack = 2 * time.Second

func (b *book) open() {
	b.contents, b.uids = make(map[string]*mail), make(map[maildrop.UID]*mail)
}

// violated writes down that an invariant doesn't hold.
func (w *world) violated(invariant string, about []string, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.note("CHECKER", nil, "VIOLATED: invariant %s: %s", invariant, what)
	w.account.Lock()
	defer w.account.Unlock()
	w.findings = append(w.findings, finding{invariant, what, about})
}

// failed reports whether anything was violated. Then there is no use in going on.
func (b *book) failed() bool {
	b.account.Lock()
	defer b.account.Unlock()
	return len(b.findings) > 0
}

// found is violated for one whose account is locked.
func (w *world) found(invariant string, about []string, format string, args ...any) {
	w.account.Unlock()
	defer w.account.Lock()
	w.violated(invariant, about, format, args...)
}

// verdict is what was violated: the first finding whole, with its history.
func (w *world) verdict() (lines []string) {
	w.account.Lock()
	defer w.account.Unlock()
	for i, f := range w.findings {
		line := fmt.Sprintf("invariant %s: %s", f.invariant, f.what)
		if i == 0 {
			line += "\n" + w.tell(f.about)
		}
		lines = append(lines, line)
	}
	return lines
}

// write begins a mail's page.
func (b *book) write(m *mail) {
	b.account.Lock()
	defer b.account.Unlock()
	m.tried, m.last = time.Now(), time.Now()
	b.mails = append(b.mails, m)
	b.contents[string(m.body.Octets())] = m
}

// acknowledged is a delivery that an owner answered with nil.
func (w *world) acknowledged(m *mail, o *owner) {
	w.note(m.name, []string{m.name}, "is acknowledged by %s", o.name)
	replaced := o.replacedAt()
	w.account.Lock()
	defer w.account.Unlock()
	m.last = time.Now()
	if m.acked.IsZero() {
		m.acked, m.by = time.Now(), o.name
	}
	if m.tried.After(replaced) {
		w.found("5, one writer", []string{m.name}, "%s acknowledged %s, which was first sent after a newer owner had begun", o.name, m.name)
	}
}

// ask notes that mails are to be removed.
func (b *book) ask(mails []*mail) {
	b.account.Lock()
	defer b.account.Unlock()
	for _, m := range mails {
		if m.asked.IsZero() {
			m.asked = time.Now()
		}
	}
}

// gone is a removal that an owner answered with nil.
func (w *world) gone(mails []*mail, o *owner) {
	replaced := o.replacedAt()
	w.account.Lock()
	defer w.account.Unlock()
	for _, m := range mails {
		w.note(m.name, []string{m.name}, "is removed, says %s", o.name)
		if m.removed.IsZero() {
			m.removed = time.Now()
		}
		if m.asked.After(replaced) {
			w.found("5, one writer", []string{m.name}, "%s removed %s, which was asked for after a newer owner had begun", o.name, m.name)
		}
	}
}

// identify finds the mail of octets that were read under a unique-id.
func (w *world) identify(uid maildrop.UID, octets []byte, to maildrop.Address, about []string) *mail {
	w.account.Lock()
	defer w.account.Unlock()
	m := w.contents[string(octets)]
	if m == nil || m.to != to {
		w.found("4, octets", about, "%s reads %s as %d octets that nobody has sent there: %.60q", to, uid, len(octets), octets)
		return nil
	}
	if known := w.uids[uid]; known != nil && known != m {
		w.found("3, unique-ids", []string{m.name, known.name}, "%s names %s and named %s", uid, m.name, known.name)
	}
	if m.uid != "" && m.uid != uid {
		w.found("3, unique-ids (or 1, once)", []string{m.name}, "%s was %s and is %s", m.name, m.uid, uid)
	}
	m.uid = uid
	w.uids[uid] = m
	return m
}

func (b *book) known(uid maildrop.UID) *mail {
	b.account.Lock()
	defer b.account.Unlock()
	return b.uids[uid]
}

// mayBeGone reports whether a message's octets may be gone: somebody asked for
// that, or it has expired.
func (b *book) mayBeGone(m *mail) bool {
	b.account.Lock()
	defer b.account.Unlock()
	return m != nil && (!m.asked.IsZero() || !time.Now().Before(m.expires(m.tried)))
}

// expires is when the message does, had it come at the instant.
func (m *mail) expires(came time.Time) time.Time {
	if !m.dated.IsZero() {
		came = m.dated
	}
	return came.Add(m.class.Retention())
}

// sight is what a session saw when it was opened.
type sight struct {
	name    string
	to      maildrop.Address
	from    time.Time // the call of Open
	until   time.Time // its answer
	at      time.Time // what was acknowledged before is seen: from, or when the answering owner was replaced
	entries []maildrop.Entry
	mails   []*mail // of the entries; nil where nobody could tell
}

// compare holds a session's listing against what was promised when it was opened.
func (w *world) compare(s sight) {
	w.account.Lock()
	defer w.account.Unlock()
	seen := make(map[*mail]int)
	for i, m := range s.mails {
		if m == nil {
			continue
		}
		seen[m]++
		if got := s.entries[i].Size; got != m.body.Size() {
			w.found("4, octets", []string{m.name, s.name}, "%s lists %s with %d octets, it has %d", s.name, m.name, got, m.body.Size())
		}
	}
	for _, m := range w.mails {
		if m.to == s.to {
			w.compareOne(s, m, seen[m], slices.Contains(s.mails, nil))
		}
	}
}

func (w *world) compareOne(s sight, m *mail, count int, blurred bool) {
	about := []string{m.name, s.name}
	switch {
	case count > 1:
		w.found("1, once", about, "%s shows %s %d times", s.name, m.name, count)
	case count == 1 && before(m.removed, s.at):
		w.found("2, removed", about, "%s shows %s, whose removal was acknowledged before", s.name, m.name)
	case count == 1 && s.from.After(m.expires(m.last).Add(slack)):
		w.found("2, retention", about, "%s shows %s, which has expired", s.name, m.name)
	case count == 1, blurred, !before(m.acked, s.at), before(m.asked, s.until), s.until.After(m.expires(m.tried).Add(-slack)):
	default:
		w.found("1, acknowledged", about, "%s doesn't show %s, which %s had acknowledged", s.name, m.name, m.by)
	}
}

// before reports whether something happened, and before the instant.
func before(t, instant time.Time) bool { return !t.IsZero() && t.Before(instant) }
