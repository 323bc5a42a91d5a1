package history

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Kind is what an event says.
type Kind string

// Kinds of events, with the fields they have besides At, Kind and Mailbox.
const (
	Sent         Kind = "sent"         // a message is about to be delivered: Number, Sum
	Acknowledged Kind = "acknowledged" // it was answered 250: Number
	Opening      Kind = "opening"      // a login is about to be asked for: Session
	Listed       Kind = "listed"       // the session's listing, whole: Session, UIDs
	Fetched      Kind = "fetched"      // a message, whole: Session, UID, Number, Sum
	Asked        Kind = "asked"        // a QUIT is about to remove messages: Session, UIDs
	Removed      Kind = "removed"      // it was answered +OK: Session, UIDs
	Final        Kind = "final"        // the session has fetched all that is in its listing, and no other follows: Session
)

// Sum is the SHA-256 of a message as it was sent.
type Sum [sha256.Size]byte

// MarshalText writes hexadecimal digits.
func (s Sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads them.
func (s *Sum) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(s) {
		return fmt.Errorf("a sum of %d digits, expected %d", len(text), hex.EncodedLen(len(s)))
	}
	_, err := hex.Decode(s[:], text)
	return err
}

// Event is one thing that a client did or was told. Which fields it has goes by its kind.
type Event struct {
	At      time.Time `json:"at"`
	Kind    Kind      `json:"kind"`
	Mailbox string    `json:"mailbox"`
	Session int       `json:"session,omitempty"`
	Number  int       `json:"number,omitempty"` // of a letter in its mailbox, from 1; 0: none of ours
	UID     string    `json:"uid,omitempty"`
	UIDs    []string  `json:"uids,omitempty"`
	Sum     Sum       `json:"sum,omitzero"`
}

// History is what happened, in its order. The zero value is an empty one.
type History struct {
	mu       sync.Mutex
	events   []Event
	sessions int
}

// Note adds an event, as of now.
func (h *History) Note(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(e)
}

func (h *History) note(e Event) {
	e.At = time.Now()
	h.events = append(h.events, e)
}

// Open adds an Opening and returns the session's number, which is its alone.
func (h *History) Open(mailbox string) (session int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions++
	h.note(Event{Kind: Opening, Mailbox: mailbox, Session: h.sessions})
	return h.sessions
}

// Events are those so far.
func (h *History) Events() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:len(h.events):len(h.events)]
}

// Write writes events as JSON, each on its line.
func Write(w io.Writer, events []Event) error {
	buffered := bufio.NewWriter(w)
	e := json.NewEncoder(buffered)
	e.SetEscapeHTML(false)
	for _, event := range events {
		if err := e.Encode(event); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// Read reads what Write wrote.
func Read(r io.Reader) ([]Event, error) {
	var events []Event
	for d := json.NewDecoder(r); ; {
		var e Event
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return events, nil
		case err != nil:
			return nil, fmt.Errorf("event %d: %w", len(events)+1, err)
		}
		events = append(events, e)
	}
}
