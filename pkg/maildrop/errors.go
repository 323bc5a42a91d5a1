package maildrop

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Kind sorts errors by what the caller may do next. It crosses every border,
// gRPC included: a Kind that goes in comes out.
type Kind uint8

const (
	// Internal is the kind of an error that nobody classified: a bug. To users it
	// is Transient.
	Internal Kind = iota
	// Busy: the callee has too much to do. Repeat later.
	Busy
	// NotOwner: the callee doesn't own the shard. Ask the owner; nothing happened.
	NotOwner
	// Transient: something that passes is in the way. Nothing happened; repeat.
	Transient
	// Maybe: the outcome is unknown. Resolve it by repeating the same call; never
	// take it for failure.
	Maybe
	// NotFound: no such address (deliveries) or no such message any more (reads).
	NotFound
	// Denied: credentials or policy refuse. Reason tells which, Text is for the user.
	Denied
	// Full: there is no room to store the message.
	Full
	// Corrupt: stored octets fail their checksum. They are not served.
	Corrupt
	// Alias: the address is another name of Primary. Ask there.
	Alias
	// Canceled: the caller went away or its deadline passed; nothing was changed.
	Canceled
	// Invalid: the call makes no sense (a UID that isn't in the snapshot, a token
	// that isn't ours or is too old). Don't repeat.
	Invalid
	// ReadOnly: the store takes nothing in until somebody acts. Nothing happened;
	// what is stored can be read. Repeat later, and not at once.
	ReadOnly
)

// Kinds is how many kinds there are, numbered from 0.
const Kinds = int(ReadOnly) + 1

var kindNames = [...]string{
	Internal: "internal", Busy: "busy", NotOwner: "not_owner", Transient: "transient",
	Maybe: "maybe", NotFound: "not_found", Denied: "denied", Full: "full",
	Corrupt: "corrupt", Alias: "alias", Canceled: "canceled", Invalid: "invalid", ReadOnly: "read_only",
}

// String is the kind's name in logs and metrics.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// Temporary reports whether the same call may succeed later.
func (k Kind) Temporary() bool {
	switch k {
	case NotFound, Denied, Alias, Invalid:
		return false
	}
	return true
}

// Error is the error of every package of Postern at its border.
type Error struct {
	Op      string // what was tried, "shard.open"
	Kind    Kind
	Reason  Reason        // why, for Denied
	Text    string        // words for the user, ASCII, one line; empty: the protocol's own words for the Kind
	Primary Address       // for Alias
	Wait    time.Duration // for ReasonLockout and ReasonLoginDelay: how long it lasts from now on
	Err     error         // cause, for the log; never shown to the user
}

// Error is for the log. It may name internals.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	b.WriteString(": ")
	b.WriteString(e.Kind.String())
	if e.Reason != ReasonNone {
		b.WriteString(" (" + string(e.Reason) + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	} else if e.Text != "" {
		b.WriteString(": " + e.Text)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of an error: that of the outermost *Error in its chain,
// Canceled for a context's bare error, Internal for anything else. Don't ask it
// about nil.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	}
	return Internal
}

// ReasonOf is the reason of the outermost *Error in the chain.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ReasonNone
}

// WaitOf is how long the refusal of the outermost *Error in the chain lasts from
// then on; 0: it doesn't say.
func WaitOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.Wait
	}
	return 0
}

// TextOf is the user's words in the outermost *Error of the chain, or "".
func TextOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Text
	}
	return ""
}
