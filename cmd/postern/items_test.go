package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// receive delivers messages one after another.
func (s *standaloneZA) receive(messages ...string) {
	s.t.Helper()
	for _, m := range messages {
		noError(s.t, deliver(s.t.Context(), s.lmtp, "s@sender.example", []string{"zoe@shop.example"}, []byte(m)))
	}
}

// uids are a session's unique-ids in order.
func uidsOf(t testing.TB, pop *mailclient.POP) (all []string) {
	t.Helper()
	byNumber, err := pop.UIDs()
	noError(t, err)
	for n := 1; n <= len(byNumber); n++ {
		all = append(all, byNumber[n])
	}
	return all
}

func (s *standaloneZA) connect() *mailclient.POP {
	s.t.Helper()
	pop, err := mailclient.DialPOP(s.t.Context(), s.pop, s.tls())
	noError(s.t, err)
	s.t.Cleanup(func() { pop.Close() })
	return pop
}

// fresh opens another session and shows its unique-ids.
func (s *standaloneZA) fresh() (pop *mailclient.POP, uids []string) {
	s.t.Helper()
	pop = s.connect()
	noError(s.t, pop.Login("zoe@shop.example", s.password))
	return pop, uidsOf(s.t, pop)
}

// TestUniqueIDs is TXN-09, TXN-15 and TXN-17 to TXN-19 (RFC 1939 sections 5 and 7): in the
// order of arrival; one id for one message, however a session ended; none is used again,
// though the very same octets come again.
func TestUniqueIDs(t *testing.T) {
	at := startStandalone(t)
	letters := []string{"Subject: 0\r\n\r\n", "Subject: 1\r\n\r\n", "Subject: 2\r\n\r\n", "Subject: 3\r\n\r\n", "Subject: 4\r\n\r\n"}
	at.receive(letters...)
	pop, first := at.fresh()
	for n := range letters {
		var m strings.Builder
		_, err := pop.Retr(n+1, &m)
		noError(t, err)
		if !strings.HasSuffix(m.String(), letters[n]) {
			t.Errorf("message %d is %q", n+1, m.String())
		}
	}
	noError(t, pop.Quit())
	cut, second := at.fresh()
	noError(t, cut.Close())
	pop, third := at.fresh()
	if len(first) != 5 || !slices.Equal(first, second) || !slices.Equal(first, third) {
		t.Fatalf("%v, then %v, then %v", first, second, third)
	}
	for _, n := range []int{2, 4} {
		noError(t, pop.Dele(n))
	}
	noError(t, pop.Quit())
	at.receive(letters[1], letters[3])
	seen := map[string]bool{}
	for _, uid := range first {
		seen[uid] = true
		if len(uid) < 1 || len(uid) > 70 || strings.ContainsFunc(uid, func(r rune) bool { return r < 0x21 || r > 0x7E }) {
			t.Errorf("unique-id %q", uid)
		}
	}
	pop, kept := at.fresh()
	if want := []string{first[0], first[2], first[4]}; len(kept) != 5 || !slices.Equal(kept[:3], want) || seen[kept[3]] || seen[kept[4]] || kept[3] == kept[4] {
		t.Fatalf("%v after %v", kept, first)
	}
	for n := range kept {
		seen[kept[n]] = true
		noError(t, pop.Dele(n+1))
	}
	noError(t, pop.Quit())
	at.receive(letters...)
	if _, again := at.fresh(); len(again) != 5 || slices.ContainsFunc(again, func(uid string) bool { return seen[uid] }) {
		t.Errorf("used again: %v", again)
	}
}

// TestSnapshots is TXN-20, UPD-06 to UPD-10 and RFC 1939 sections 4 and 6: any number of
// sessions, each with its own numbers, whatever the others remove; nobody is locked out, and
// a wrong password is no more than that; mail goes on to arrive.
// There is no lock, so no [IN-USE] either (RFC 2449 section 8.1.2).
func TestSnapshots(t *testing.T) {
	at := startStandalone(t)
	at.receive("Subject: 0\r\n\r\n", "Subject: 1\r\n\r\n", "Subject: 2\r\n\r\n")
	old, uids := at.fresh()
	at.receive("Subject: late\r\n\r\n")
	if err := at.connect().Login("zoe@shop.example", "wrong"); err == nil || !strings.Contains(err.Error(), "[AUTH]") {
		t.Errorf("a wrong password while a session is open: %v", err)
	}
	other, all := at.fresh()
	if len(all) != 4 || !slices.Equal(all[:3], uids) {
		t.Fatalf("%v, beside %v", all, uids)
	}
	noError(t, other.Dele(2))
	noError(t, other.Quit())
	if got := uidsOf(t, old); !slices.Equal(got, uids) {
		t.Errorf("the older session has %v, had %v", got, uids)
	}
	if count, _, err := old.Stat(); count != 3 || err != nil {
		t.Errorf("the older session has %d messages: %v", count, err)
	}
	var m strings.Builder
	if _, err := old.Retr(2, &m); err != nil && !strings.Contains(err.Error(), "no longer there") || err == nil && !strings.HasSuffix(m.String(), "Subject: 1\r\n\r\n") {
		t.Errorf("what another session removed: %q, %v", m.String(), err)
	}
	for n := 1; n <= 3; n++ { // a removal by two sessions is one
		noError(t, old.Dele(n))
	}
	noError(t, old.Quit())
	last, left := at.fresh()
	if !slices.Equal(left, all[3:]) {
		t.Errorf("left: %v, want %v", left, all[3:])
	}
	noError(t, last.Close())
	for range 10 { // no lock outlives its session
		pop, again := at.fresh()
		if !slices.Equal(again, left) {
			t.Errorf("%v, want %v", again, left)
		}
		noError(t, pop.Quit())
	}
}

// TestEverySecondMessage is UPD-12 and SCL-02 (RFC 1939 section 6): of 1,000 messages the 500
// that are marked are removed, and no other; then all of the rest at once.
func TestEverySecondMessage(t *testing.T) {
	at := startStandalone(t)
	l, err := mailclient.DialLMTP(t.Context(), at.lmtp, nil)
	noError(t, err)
	for n := range 1000 {
		verdicts, err := l.Deliver("s@sender.example", []string{"zoe@shop.example"}, fmt.Appendf(nil, "Subject: %d\r\n\r\n", n))
		if err != nil || verdicts[0] != nil {
			t.Fatal(err, verdicts)
		}
	}
	pop, uids := at.fresh()
	var want []string
	for n := range uids {
		if n%2 == 0 {
			noError(t, pop.Dele(n+1))
		} else {
			want = append(want, uids[n])
		}
	}
	noError(t, pop.Quit())
	pop, left := at.fresh()
	if len(uids) != 1000 || !slices.Equal(left, want) {
		t.Fatalf("%d of %d are left", len(left), len(uids))
	}
	for n := range left {
		noError(t, pop.Dele(n+1))
	}
	noError(t, pop.Quit())
	if _, none := at.fresh(); len(none) > 0 {
		t.Errorf("left: %v", none)
	}
}

// everywhere is PRD-01 to PRD-04: one maildrop at every region's front, with the same
// unique-ids, sizes and octets; sessions side by side at all of them; what is removed at one
// is gone at all at once; and EXPIRE says the class (RFC 2449 section 6.7).
// No session locks another out (RFC 1939 section 4).
func (r *running) everywhere() {
	r.t.Helper()
	user := r.makeUsers("eu", 1)[0]
	for n := range 3 {
		noError(r.t, deliver(r.t.Context(), r.region("eu").LMTP, "s@sender.example", []string{user.Address}, fmt.Appendf(nil, "Subject: %d\r\n\r\n", n)))
	}
	regions := []string{"eu", "us", "za"}
	sessions := make([]*mailclient.POP, len(regions))
	var uids, sizes, messages []string
	for i, region := range regions {
		at := r.region(region)
		sessions[i] = r.patientLogin(at, user)
		got := uidsOf(r.t, sessions[i])
		lengths, err := sessions[i].Sizes()
		noError(r.t, err)
		var m strings.Builder
		_, err = sessions[i].Retr(1, &m)
		noError(r.t, err)
		uids, sizes, messages = append(uids, fmt.Sprint(got)), append(sizes, fmt.Sprint(slices.Sorted(maps.Values(lengths)))), append(messages, m.String())
		if len(got) != 3 || uids[i] != uids[0] || sizes[i] != sizes[0] || messages[i] != messages[0] {
			r.t.Errorf("%s: %s %s %q, at home %s %s %q", region, uids[i], sizes[i], messages[i], uids[0], sizes[0], messages[0])
		}
		if expire := capability(r.t, sessions[i], "EXPIRE"); expire != "60" {
			r.t.Errorf("%s: EXPIRE %s", region, expire)
		}
	}
	if expire := capability(r.t, r.connect("za"), "EXPIRE"); expire != "5 USER" {
		r.t.Errorf("before the login: EXPIRE %s", expire)
	}
	noError(r.t, sessions[1].Dele(2))
	noError(r.t, sessions[1].Quit())
	for i, region := range regions {
		pop := r.patientLogin(r.region(region), user)
		if got := uidsOf(r.t, pop); len(got) != 2 {
			r.t.Errorf("%s: %v after a removal at %s", region, got, regions[1])
		}
		noError(r.t, pop.Quit())
		if i != 1 {
			if _, err := sessions[i].Retr(3, io.Discard); err != nil {
				r.t.Errorf("%s: an older session: %v", region, err)
			}
			noError(r.t, sessions[i].Quit())
		}
	}
}

// capability is what CAPA says behind a tag.
func capability(t testing.TB, pop *mailclient.POP, tag string) string {
	t.Helper()
	list, err := pop.Capabilities()
	noError(t, err)
	for _, line := range list {
		if name, rest, _ := strings.Cut(line, " "); name == tag {
			return rest
		}
	}
	return ""
}
