// Package movein reads a maildrop that another server kept, so that it can be
// moved in whole: the messages in the order in which the old server listed them,
// each under the unique-id that its users' mail clients know, and with the time
// at which it arrived. A client that meets the same unique-ids downloads nothing
// again.
//
//	Maildir ── new/ cur/ ─────────────┐
//	   │ dovecot-uidlist, or          ├─▶ Messages, in order ─▶ Measure ─▶ Content,
//	   └ courierpop3dsizelist ─▶ UIDs ┘   (name, UID, time)                a maildrop.Body
//	mbox ── From_ lines, X-UIDL ──────┘
//
// # What a unique-id is made of
//
//	dovecot-uidlist        P of its line; else pop3_uidl_format, %08Xu%08Xv if not said otherwise
//	courierpop3dsizelist   UID<n>-<validity>, UID<n>, or the file's name, as its version has it
//	neither                a hash of the unique part of the file's name
//	mbox                   X-UIDL; else a hash of the content, and how many the same went before
//
// Whatever it is made of, it is the same at the next run, so a run may be
// repeated, also while the old server still takes mail. A message that has come
// since the old server last wrote its list gets the number that this server would
// give it next. A unique-id that RFC 1939 section 7 forbids, or one that is there
// twice, is replaced by a hash, and the Maildrop says how many there are.
//
// Nothing is ever written, locked or renamed in the old maildrop.
//
// # Decisions
//
//   - 2026-11-23: octets reach wire form by package wire, as those of a delivery
//     do: bare LF becomes CRLF, a last line gets its end. What Dovecot and Courier
//     send for RETR is the same, octet for octet, but where they are wrong: both lose
//     a dot at the very first octet, Dovecot makes an empty line of a file without any
//     octet, and Courier sends CR CR LF for CRLF.
//   - 2026-11-23: a list that cannot be read is an error, not a reason to go on
//     without it: every client would download everything again. The caller can ask
//     for names in place of it.
//   - 2026-11-23: a Maildir is read within its directory (os.Root) and of regular
//     files only. It belongs to its user, and a link in it to a file of somebody
//     else would become a message.
//   - 2026-11-23: in an mbox, a line "From " begins a message where it follows an
//     empty line and has a date. Refused: every such line (mail with an unquoted
//     "From " in it would be cut in two), and Content-Length (it is often wrong).
//   - 2026-11-23: the fields in which a mailbox keeps notes of its own (Status,
//     X-Status, X-Keywords, X-UID, X-IMAP, X-IMAPbase) are left out, as servers on
//     mbox do: they change whenever somebody reads, and a second run would take the
//     message for another one.
package movein

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// Limits on what is read of a maildrop that somebody else wrote.
const (
	maxMessages  = 1 << 20   // messages of one maildrop
	maxListFile  = 256 << 20 // octets of a list of unique-ids
	maxListLine  = 64 << 10  // octets of a line of it
	maxField     = 4 << 10   // octets of a header field that is looked at
	readBuffer   = 64 << 10
	hashedDigits = 32 // of a unique-id that is a hash
)

// Why is why a message is not moved.
type Why string

const (
	Trashed  Why = "trashed"   // its user marked it as deleted
	TooOld   Why = "too old"   // its retention has ended
	TooLarge Why = "too large" // for the mailbox
	Damaged  Why = "damaged"   // it can't be read, or is no file of a message
	Vanished Why = "vanished"  // it was there when the maildrop was read, and isn't any more
	Internal Why = "no mail"   // a note of the old server to itself
	Refused  Why = "refused"   // by the mailbox
)

// Failed reports whether somebody should look at the message: it is one that
// should have been moved.
func (w Why) Failed() bool { return w == TooLarge || w == Damaged || w == Refused }

// Skip is a message that is not moved.
type Skip struct {
	Name string // of the message, as in Message
	Why  Why
	Text string // more about it, for people; may be empty
}

// Maildrop is what an old server kept for one user.
type Maildrop struct {
	Messages []*Message // in the order of the old server's listing
	Skipped  []Skip     // what is there and not to be moved
	Listed   string     // where the unique-ids come from, for people
	Replaced int        // unique-ids that could not be kept

	closer io.Closer
}

// Close ends the use of the Maildrop and its Messages.
func (m *Maildrop) Close() error { return m.closer.Close() }

// Message is one message of a Maildrop. It has not been read yet.
type Message struct {
	Name     string // of its file, or where in the file it is
	UID      maildrop.UID
	Received time.Time

	open func() (io.ReadCloser, error) // its octets, as they are kept
}

// ErrVanished says that a message isn't there any more.
var ErrVanished = errors.New("it is not there any more")

// Content is a message that was read once: a maildrop.Body that is read again
// whenever it is opened.
type Content struct {
	message    *Message
	wire, size uint64
	sum        [sha256.Size]byte
}

// Measure reads the message through and counts it.
func (m *Message) Measure() (*Content, error) {
	c := &Content{message: m}
	r, err := c.reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := r.WriteTo(io.Discard); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	c.wire, c.size, c.sum = r.Wire(), r.Size(), r.Sum()
	return c, nil
}

// Open implements maildrop.Body.
func (c *Content) Open() (io.ReadCloser, error) { return c.reader() }

// Wire implements maildrop.Body.
func (c *Content) Wire() uint64 { return c.wire }

// Size implements maildrop.Body.
func (c *Content) Size() uint64 { return c.size }

// Envelope is what the message's delivery says. Its ID is the same whenever the
// same octets are moved to the same address under the same unique-id.
func (c *Content) Envelope(to maildrop.Address, session string) maildrop.Envelope {
	return maildrop.Envelope{
		ID: maildrop.RepeatableID("postern import "+string(c.message.UID), to, c.sum),
		To: to, Session: session, UID: c.message.UID, Received: c.message.Received,
	}
}

// contentReader is a message on its way into wire form.
type contentReader struct {
	*wire.Data
	io.Closer
}

func (c *Content) reader() (contentReader, error) {
	kept, err := c.message.open()
	if err != nil {
		return contentReader{}, fmt.Errorf("%s: %w", c.message.Name, err)
	}
	return contentReader{wire.NewReader(newSent(kept), readBuffer).Data(), kept}, nil
}

// hashed is a unique-id made of what names a message.
func hashed(kind string, parts ...string) maildrop.UID {
	h := sha256.New()
	for _, part := range append([]string{"postern import v1", kind}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return maildrop.UID(hex.EncodeToString(h.Sum(nil))[:hashedDigits])
}

// settle replaces the unique-ids that a maildrop can't have: malformed ones, and
// those that a message before has. names are what else names the messages.
func (m *Maildrop) settle(names []string) {
	taken := make(map[maildrop.UID]bool, len(m.Messages))
	for i, message := range m.Messages {
		if !message.UID.Valid() || taken[message.UID] {
			message.UID = hashed("replaced", string(message.UID), names[i])
			m.Replaced++
		}
		taken[message.UID] = true
	}
}
