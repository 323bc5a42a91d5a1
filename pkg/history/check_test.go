package history

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// story is a history of one mailbox, written by hand. Time passes with each event.
type story struct {
	events   []Event
	sessions int
	between  time.Duration
	passed   time.Duration
}

func sum(octet byte) Sum { return Sum{octet} }

func (s *story) note(e Event) *story {
	e.Mailbox, e.At = "anna", time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC).Add(s.passed)
	s.events = append(s.events, e)
	return s.rests(s.between)
}

func (s *story) rests(d time.Duration) *story { s.passed += d; return s }

func (s *story) sent(number int) *story {
	return s.note(Event{Kind: Sent, Number: number, Sum: sum(byte(number))})
}

func (s *story) acknowledged(number int) *story {
	return s.note(Event{Kind: Acknowledged, Number: number})
}

func (s *story) delivered(numbers ...int) *story {
	for _, number := range numbers {
		s.sent(number).acknowledged(number)
	}
	return s
}

func (s *story) opens() (session int) {
	s.sessions++
	s.note(Event{Kind: Opening, Session: s.sessions})
	return s.sessions
}

func (s *story) lists(session int, uids ...string) *story {
	return s.note(Event{Kind: Listed, Session: session, UIDs: uids})
}

func (s *story) listed(uids ...string) (session int) {
	session = s.opens()
	s.lists(session, uids...)
	return session
}

func (s *story) fetched(session int, uid string, number int, octet byte) *story {
	return s.note(Event{Kind: Fetched, Session: session, UID: uid, Number: number, Sum: sum(octet)})
}

// visit is a session that lists and fetches the messages of these numbers, each as it was sent.
func (s *story) visit(numbers ...int) (session int) {
	uids := make([]string, len(numbers))
	for i, number := range numbers {
		uids[i] = fmt.Sprint("u", number)
	}
	session = s.listed(uids...)
	for i, uid := range uids {
		s.fetched(session, uid, numbers[i], byte(numbers[i]))
	}
	return session
}

func (s *story) seen(numbers ...int) *story    { s.visit(numbers...); return s }
func (s *story) asked(uids ...string) *story   { return s.note(Event{Kind: Asked, UIDs: uids}) }
func (s *story) removed(uids ...string) *story { return s.note(Event{Kind: Removed, UIDs: uids}) }
func (s *story) final(session int) *story      { return s.note(Event{Kind: Final, Session: session}) }
func (s *story) ends(numbers ...int) *story    { return s.final(s.visit(numbers...)) }

// tale is a story and what is wrong in it.
type tale struct {
	name  string
	tell  func(s *story)
	wrong []Finding
}

func (test tale) holds(t *testing.T, between time.Duration) {
	t.Helper()
	s := story{between: between}
	test.tell(&s)
	got := Check(s.events, time.Second)
	if len(got) != len(test.wrong) {
		t.Fatalf("found %q, expected %q", got, test.wrong)
	}
	for i := range got {
		if got[i] != test.wrong[i] {
			t.Errorf("found %q, expected %q", got[i], test.wrong[i])
		}
	}
}

func TestCheckWrongsNobody(t *testing.T) {
	for _, test := range []tale{
		{name: "all is well", tell: func(s *story) { s.delivered(1, 2).ends(1, 2) }},
		{name: "an empty mailbox", tell: func(s *story) { s.ends() }},
		{name: "a removal that was answered", tell: func(s *story) {
			s.delivered(1, 2).seen(1, 2).asked("u2").removed("u2").seen(1).ends(1)
		}},
		{name: "a removal without an answer, made", tell: func(s *story) { s.delivered(1, 2).seen(1, 2).asked("u2").seen(1).ends(1) }},
		{name: "a removal without an answer, not made", tell: func(s *story) { s.delivered(1, 2).seen(1, 2).asked("u2").seen(1, 2).ends(1, 2) }},
		{name: "a removal without an answer, made late", tell: func(s *story) {
			s.delivered(1, 2).seen(1, 2).asked("u2").seen(1, 2).seen(1).ends(1)
		}},
		{name: "a removal that was answered at the second time", tell: func(s *story) {
			s.delivered(1).seen(1).asked("u1").seen(1).asked("u1").removed("u1").ends()
		}},
		{name: "no acknowledgement, and there", tell: func(s *story) { s.delivered(1).sent(2).ends(1, 2) }},
		{name: "no acknowledgement, and not there", tell: func(s *story) { s.delivered(1).sent(2).ends(1) }},
		{name: "there before it is acknowledged", tell: func(s *story) { s.sent(1).seen(1).acknowledged(1).ends(1) }},
		{name: "removed before it is acknowledged", tell: func(s *story) {
			s.sent(1).seen(1).asked("u1").removed("u1").acknowledged(1).ends()
		}},
		{name: "a session from before a removal", tell: func(s *story) {
			s.delivered(1).seen(1)
			old := s.opens()
			s.asked("u1").removed("u1").lists(old, "u1").ends()
		}},
		{name: "a session from before a delivery", tell: func(s *story) {
			old := s.opens()
			s.delivered(1).seen(1).lists(old).ends(1)
		}},
		{name: "a session from before it was seen that a removal was made", tell: func(s *story) {
			s.delivered(1).seen(1).asked("u1")
			old := s.opens()
			s.seen().lists(old, "u1").ends()
		}},
	} {
		t.Run(test.name, func(t *testing.T) { test.holds(t, time.Hour) })
	}
}

func TestCheckBites(t *testing.T) {
	for _, test := range []tale{
		{"never there", func(s *story) { s.delivered(1, 2).ends(1) },
			[]Finding{{Kept, "anna: message 2 was acknowledged at 03:00:00.000Z, and was never there"}}},
		{"lost after it was seen", func(s *story) { s.delivered(1).seen(1).ends() },
			[]Finding{{Kept, "anna: message 1 (u1) was there at 01:00:00.000Z, is not in the listing of a session that was opened at 05:00:00.000Z, and nobody had asked to remove it"}}},
		{"away for a while", func(s *story) { s.delivered(1).seen(1).seen().ends(1) },
			[]Finding{{Kept, "anna: message 1 (u1) was there at 01:00:00.000Z, is not in the listing of a session that was opened at 05:00:00.000Z, and nobody had asked to remove it"}}},
		{"away until it was seen", func(s *story) { s.delivered(1).seen().ends(1) },
			[]Finding{{Kept, "anna: message 1 (u1) was there at 01:00:00.000Z, is not in the listing of a session that was opened at 02:00:00.000Z, and nobody had asked to remove it"}}},
		{"gone before its removal was asked for", func(s *story) { s.delivered(1).seen(1).seen().asked("u1").removed("u1").ends() },
			[]Finding{{Kept, "anna: message 1 (u1) was there at 01:00:00.000Z, is not in the listing of a session that was opened at 05:00:00.000Z, and nobody had asked to remove it"}}},
		{"listed and never fetched", func(s *story) { s.delivered(1).final(s.listed("u1")) },
			[]Finding{{Kept, "anna: message 1 was acknowledged at 01:00:00.000Z, and was never there"}}},
		{"listed and not fetched at the end", func(s *story) { s.delivered(1).seen(1).final(s.listed("u1")) },
			[]Finding{{Kept, "anna: message 1 (u1) was acknowledged at 01:00:00.000Z, and is lost"}}},
		{"doubled", func(s *story) {
			session := s.delivered(1).listed("u1", "v1")
			s.fetched(session, "u1", 1, 1).fetched(session, "v1", 1, 1).final(session)
		}, []Finding{{Once, "anna: message 1 is there twice, as u1 and as v1"}}},
		{"delivered again after its removal", func(s *story) {
			s.sent(1).seen(1).asked("u1").removed("u1").acknowledged(1)
			session := s.listed("v1")
			s.fetched(session, "v1", 1, 1).final(session)
		}, []Finding{{Once, "anna: message 1 is there twice, as u1 and as v1"}}},
		{"other octets", func(s *story) {
			session := s.delivered(1).listed("u1")
			s.fetched(session, "u1", 1, 7).final(session)
		}, []Finding{{Exact, "anna: message 1 (u1) is not what was sent"}}},
		{"other octets at the second time", func(s *story) {
			s.delivered(1).seen(1)
			session := s.listed("u1")
			s.fetched(session, "u1", 1, 7).final(session)
		}, []Finding{{Exact, "anna: message 1 (u1) is not what was sent"}}},
		{"nobody's", func(s *story) {
			session := s.listed("u1")
			s.fetched(session, "u1", 0, 7).final(session)
		}, []Finding{{Exact, "anna: u1 is a message that nobody sent"}}},
		{"back after +OK", func(s *story) { s.delivered(1).seen(1).asked("u1").removed("u1").ends(1) },
			[]Finding{{Gone, "anna: message 1 (u1) is back in a session that was opened at 07:00:00.000Z; its removal was answered +OK at 06:00:00.000Z"}}},
		{"back after it was gone", func(s *story) { s.delivered(1).seen(1).asked("u1").seen().ends(1) },
			[]Finding{{Gone, "anna: message 1 (u1) is back in a session that was opened at 08:00:00.000Z; its removal had been asked for, and at 07:00:00.000Z it was gone"}}},
		{"back after +OK, again and again", func(s *story) { s.delivered(1).seen(1).asked("u1").removed("u1").seen(1).seen(1).ends(1) },
			[]Finding{{Gone, "anna: message 1 (u1) is back in a session that was opened at 07:00:00.000Z; its removal was answered +OK at 06:00:00.000Z"}}},
		{"one name for two", func(s *story) {
			s.delivered(1).seen(1).delivered(2)
			session := s.listed("u1", "u2")
			s.fetched(session, "u1", 2, 2).fetched(session, "u2", 2, 2).fetched(session, "u1", 1, 1).final(session)
		}, []Finding{{Named, "anna: u1 names message 1 and message 2"}}},
		{"the name of one that was removed", func(s *story) {
			s.delivered(1).seen(1).asked("u1").removed("u1").delivered(2)
			session := s.listed("u1")
			s.fetched(session, "u1", 2, 2).final(session)
		}, []Finding{
			{Gone, "anna: message 1 (u1) is back in a session that was opened at 09:00:00.000Z; its removal was answered +OK at 06:00:00.000Z"},
			{Named, "anna: u1 names message 1 and message 2"},
			{Kept, "anna: message 2 was acknowledged at 08:00:00.000Z, and was never there"},
		}},
		{"one name twice in a listing", func(s *story) { s.delivered(1).listed("u1", "u1"); s.ends(1) },
			[]Finding{{Named, "anna: one listing has u1 twice"}}},
		{"a mailbox that couldn't be read", func(s *story) { s.delivered(1) },
			[]Finding{{Kept, "anna could not be read to its end, so nobody knows what is in it"}}},
	} {
		t.Run(test.name, func(t *testing.T) { test.holds(t, time.Hour) })
	}
}

// TestStaleAnswers: what a session says is held against facts that were known for longer
// than an owner that was replaced may answer from its past, and against no later ones.
func TestStaleAnswers(t *testing.T) {
	for _, test := range []tale{
		{name: "not there yet", tell: func(s *story) { s.delivered(1).seen().rests(time.Second).ends(1) }},
		{name: "still there", tell: func(s *story) {
			s.delivered(1).seen(1).asked("u1").removed("u1").seen(1).rests(time.Second).ends()
		}},
		{name: "still there after it was gone", tell: func(s *story) {
			s.delivered(1).rests(time.Second).seen(1).rests(time.Second).asked("u1").seen().seen(1).rests(time.Second).ends()
		}},
		{"back and removed, again and again", func(s *story) {
			s.delivered(1).seen(1)
			for range 30 {
				s.asked("u1").removed("u1").seen(1)
			}
			s.asked("u1").removed("u1").rests(time.Second).ends()
		}, []Finding{{Gone, "anna: message 1 (u1) is back in a session that was opened at 00:00:01.070Z; its removal was answered +OK at 00:00:00.060Z"}}},
		{"not there for too long", func(s *story) { s.delivered(1).rests(time.Second).seen().ends(1) },
			[]Finding{{Kept, "anna: message 1 (u1) was there at 00:00:00.010Z, is not in the listing of a session that was opened at 00:00:01.020Z, and nobody had asked to remove it"}}},
	} {
		t.Run(test.name, func(t *testing.T) { test.holds(t, 10*time.Millisecond) })
	}
}

// TestMailboxesAreTheirOwn: the same unique-ids and numbers in two mailboxes are two messages.
func TestMailboxesAreTheirOwn(t *testing.T) {
	anna, ben := story{between: time.Hour}, story{between: time.Hour}
	anna.delivered(1).seen(1).asked("u1").removed("u1").ends()
	ben.sessions = anna.sessions
	ben.delivered(1).seen(1).ends(1)
	for i := range ben.events {
		ben.events[i].Mailbox = "ben"
	}
	if wrong := Check(append(anna.events, ben.events...), 0); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
}

// TestAWrittenHistoryIsJudgedAlike: times lose their monotonic part in a file.
func TestAWrittenHistoryIsJudgedAlike(t *testing.T) {
	s := story{between: time.Hour}
	var file bytes.Buffer
	s.delivered(1).seen(1).ends()
	if err := Write(&file, s.events); err != nil {
		t.Fatal(err)
	}
	read, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	got, want := Check(read, time.Second), Check(s.events, time.Second)
	if len(got) != 1 || got[0] != want[0] {
		t.Errorf("%q, before %q", got, want)
	}
}
