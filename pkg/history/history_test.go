package history

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHistoryIsReadAsItWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h History
		session := h.Open("anna")
		time.Sleep(time.Second)
		if other := h.Open("ben"); other == session {
			t.Errorf("session %d twice", session)
		}
		h.Note(Event{Kind: Sent, Mailbox: "anna", Number: 1, Sum: sum(7)})
		h.Note(Event{Kind: Listed, Mailbox: "anna", Session: session, UIDs: []string{"<u&1>"}})
		h.Note(Event{Kind: Fetched, Mailbox: "anna", Session: session, UID: "<u&1>", Number: 1, Sum: sum(7)})
		var file bytes.Buffer
		if err := Write(&file, h.Events()); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(file.String(), "\n"); lines != 5 {
			t.Errorf("%d lines", lines)
		}
		got, err := Read(&file)
		if err != nil {
			t.Fatal(err)
		}
		want := h.Events()
		for i := range want {
			if !got[i].At.Equal(want[i].At) {
				t.Errorf("event %d is of %v, was of %v", i, got[i].At, want[i].At)
			}
			got[i].At = want[i].At
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestReadSaysWhichEventIsBroken(t *testing.T) {
	for _, text := range []string{"{}\n{", "{}\n{\"sum\":\"00\"}", "{}\nnonsense", "{}\n{\"sum\":\"" + strings.Repeat("x", 64) + "\"}"} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), "event 2: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
