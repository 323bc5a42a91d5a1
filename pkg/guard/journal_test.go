package guard

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func attempt(minute int, remote string, reason maildrop.Reason) maildrop.Attempt {
	return maildrop.Attempt{Time: noon.Add(time.Duration(minute) * time.Minute), Remote: netip.MustParseAddr(remote), Mechanism: "USER", Reason: reason, Session: fmt.Sprint(minute)}
}

func TestJournal(t *testing.T) {
	j := NewJournal()
	for minute := range 60 {
		j.Note(anna, true, attempt(minute, "192.0.2.1", ""))
		j.Note(anna, true, attempt(minute, "192.0.2.2", maildrop.ReasonCredentials))
	}
	got := j.Of(anna)
	if len(got) != 2 || got[0].Reason != maildrop.ReasonCredentials || got[0].Times != 60 || !got[0].First.Equal(noon) ||
		!got[0].Time.Equal(noon.Add(59*time.Minute)) || got[0].Session != "59" || got[1].Times != 60 {
		t.Errorf("%+v", got)
	}
	for i := range 20 {
		j.Note(anna, true, attempt(60+i, fmt.Sprint("198.51.100.", i), ""))
	}
	if got = j.Of(anna); len(got) != maxRows || got[0].Remote != netip.MustParseAddr("198.51.100.19") || got[9].Remote != netip.MustParseAddr("198.51.100.10") {
		t.Errorf("%+v", got)
	}
}

// TestJournalOfOneSession: what the router tried until it succeeded is one attempt.
func TestJournalOfOneSession(t *testing.T) {
	j := NewJournal()
	a := attempt(0, "192.0.2.1", maildrop.ReasonUnavailable)
	j.Note(anna, true, a)
	a.Reason = ""
	j.Note(anna, true, a)
	if got := j.Of(anna); len(got) != 1 || got[0].Reason != "" || got[0].Times != 1 {
		t.Errorf("%+v", got)
	}
	// Two passwords of one session are two attempts.
	a.Reason = maildrop.ReasonCredentials
	j.Note(anna, true, a)
	j.Note(anna, true, a)
	if got := j.Of(anna); len(got) != 2 || got[0].Times != 2 {
		t.Errorf("%+v", got)
	}
}

// TestJournalForgets: polls don't displace what was refused, nor do names that nobody
// has; and each has an end.
func TestJournalForgets(t *testing.T) {
	j := NewJournal()
	j.Note("refused@local.example", true, attempt(0, "192.0.2.1", maildrop.ReasonNoEvent))
	for i := range 2 * maxRowsCalm {
		j.Note(maildrop.Address(fmt.Sprint(i, "@local.example")), true, attempt(i, "192.0.2.1", ""))
		j.Note(maildrop.Address(fmt.Sprint(i, "@nobody.example")), false, attempt(i, "192.0.2.1", maildrop.ReasonCredentials))
	}
	if j.Of("refused@local.example") == nil {
		t.Error("polls displaced it")
	}
	last := 2*maxRowsCalm - 1
	for i, want := range map[int]bool{0: false, last - maxRowsCalm: false, last - maxRowsCalm + 1: true, last: true} {
		if got := j.Of(maildrop.Address(fmt.Sprint(i, "@local.example"))) != nil; got != want {
			t.Errorf("%d: remembered %t", i, got)
		}
	}
	if n := len(j.byAddress); n != 1+maxRowsCalm+maxRowsUnknown {
		t.Errorf("%d addresses", n)
	}
	if j.calm.rows != maxRowsCalm || j.unknowns.rows != maxRowsUnknown || j.refused.rows != 1 || j.calm.order.Len() != maxRowsCalm {
		t.Errorf("%d, %d, %d rows", j.calm.rows, j.unknowns.rows, j.refused.rows)
	}
	for i := range 2 * maxRowsRefused {
		j.Note(maildrop.Address(fmt.Sprint(i, "@local.example")), true, attempt(i, "192.0.2.2", maildrop.ReasonCredentials))
	}
	if j.Of("refused@local.example") != nil || j.refused.rows > maxRowsRefused {
		t.Errorf("%d rows", j.refused.rows)
	}
}
