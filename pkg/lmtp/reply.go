package lmtp

import (
	"errors"
	"strconv"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// next is what a connection does behind a reply.
type next uint8

const (
	thenCommand next = iota // read the next command
	thenData                // read content
	thenTLS                 // shake hands
	thenClose               // close
)

// reply is one answer. Nothing the client sent is ever in it.
type reply struct {
	code     int
	enhanced string   // RFC 3463; empty where RFC 2034 section 4 has none
	text     string   // ASCII, one line
	more     []string // further lines, behind it
	then     next
}

// append adds the reply to b as it is sent.
func (r reply) append(b []byte) []byte {
	lines := append([]string{r.text}, r.more...)
	for i, line := range lines {
		b = strconv.AppendInt(b, int64(r.code), 10)
		if i < len(lines)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if r.enhanced != "" {
			b = append(b, r.enhanced...)
			b = append(b, ' ')
		}
		b = append(b, line...)
		b = append(b, "\r\n"...)
	}
	return b
}

// result is the reply's kind in metrics.
func (r reply) result() string {
	switch r.code / 100 {
	case 2, 3:
		return "ok"
	case 4:
		return "temp"
	}
	return "err"
}

// The replies that are always the same.
var (
	replyOK         = reply{code: 250, enhanced: "2.0.0", text: "OK"}
	replySender     = reply{code: 250, enhanced: "2.1.0", text: "Sender OK"}
	replyRecipient  = reply{code: 250, enhanced: "2.1.5", text: "Recipient OK"}
	replyGo         = reply{code: 354, text: "Go ahead, end with a line of one dot", then: thenData}
	replyTLS        = reply{code: 220, enhanced: "2.0.0", text: "Ready for TLS", then: thenTLS}
	replyBye        = reply{code: 221, enhanced: "2.0.0", text: "Goodbye", then: thenClose}
	replyVrfy       = reply{code: 252, enhanced: "2.0.0", text: "Not verified here; RCPT tells"}
	replyUnknown    = reply{code: 500, enhanced: "5.5.1", text: "Command not recognized"}
	replyUseLHLO    = reply{code: 500, enhanced: "5.5.1", text: "This is LMTP: say LHLO"}
	replyHTTP       = reply{code: 554, enhanced: "5.5.1", text: "This is LMTP, not HTTP", then: thenClose}
	replySyntax     = reply{code: 500, enhanced: "5.5.2", text: "Syntax error"}
	replyTooLong    = reply{code: 500, enhanced: "5.5.2", text: "Line too long"}
	replyNotOffered = reply{code: 502, enhanced: "5.5.1", text: "Command not offered"}
	replyArguments  = reply{code: 501, enhanced: "5.5.4", text: "Wrong arguments"}
	replyBadValue   = reply{code: 501, enhanced: "5.5.4", text: "Wrong or repeated parameter"}
	replyParameter  = reply{code: 555, enhanced: "5.5.4", text: "Parameter not offered"}
	replyBadSender  = reply{code: 501, enhanced: "5.1.7", text: "Sender is not a mail address"}
	replyBadRcpt    = reply{code: 553, enhanced: "5.1.3", text: "Recipient is not a mail address"}
	replyNonASCII   = reply{code: 553, enhanced: "5.6.7", text: "Address is not ASCII"}
	replyNoUTF8     = reply{code: 555, enhanced: "5.6.7", text: "SMTPUTF8 is not offered"} // RFC 6531 section 3.5
	replyLHLOFirst  = reply{code: 503, enhanced: "5.5.1", text: "LHLO first"}
	replyMailFirst  = reply{code: 503, enhanced: "5.5.1", text: "MAIL first"}
	replyMailTwice  = reply{code: 503, enhanced: "5.5.1", text: "Transaction open already; RSET first"}
	replyNoRcpt     = reply{code: 503, enhanced: "5.5.1", text: "No recipient accepted"}
	replyTLSOn      = reply{code: 503, enhanced: "5.5.1", text: "TLS is on already"}
	replyManyRcpt   = reply{code: 452, enhanced: "4.5.3", text: "Too many recipients; send the others in another transaction"}
	replyTooLarge   = reply{code: 552, enhanced: "5.3.4", text: "Message too large"}
	replySpoolFull  = reply{code: 452, enhanced: "4.3.1", text: "No room to take the message now"}
	replySpool      = reply{code: 451, enhanced: "4.3.0", text: "Could not take the message now"}
	replyMustTLS    = reply{code: 530, enhanced: "5.7.0", text: "Must issue STARTTLS with a client certificate first"}
	replyNoGateway  = reply{code: 554, enhanced: "5.7.1", text: "Only mail gateways may deliver here"}
	replyStranger   = reply{code: 554, enhanced: "5.7.1", text: "Only mail gateways may deliver here", then: thenClose}
	replyCrowd      = reply{code: 421, enhanced: "4.3.2", text: "Too many connections; try again later", then: thenClose}
	replyDraining   = reply{code: 421, enhanced: "4.3.2", text: "Shutting down; try another server or try again later", then: thenClose}
	replyIdle       = reply{code: 421, enhanced: "4.4.2", text: "Silent for too long", then: thenClose}
	replyFlood      = reply{code: 421, enhanced: "4.7.0", text: "Line without an end", then: thenClose}
)

// parseReply is the answer to an error of a parser; path is that to a path
// that is none.
func parseReply(err error, path reply) reply {
	switch {
	case errors.Is(err, errSyntax):
		return replyArguments
	case errors.Is(err, errParam):
		return replyParameter
	case errors.Is(err, errValue):
		return replyBadValue
	case errors.Is(err, errNonASCII):
		return replyNonASCII
	case errors.Is(err, errUTF8):
		return replyNoUTF8
	}
	return path
}

// refusal is the answer to an error of Accept or Deliver. It is the one place
// where errors become words for gateways, and, in a bounce, for senders. What
// nobody classified is a fault of ours: the gateway keeps the message.
func refusal(err error) reply {
	r := reply{code: 451, enhanced: "4.3.0"}
	switch maildrop.KindOf(err) {
	case maildrop.NotFound:
		return reply{code: 550, enhanced: "5.1.1", text: "No such mailbox here"}
	case maildrop.Denied:
		r = reply{code: 550, enhanced: "5.7.1", text: "Mail for this address is not taken here"}
	case maildrop.Busy:
		r = reply{code: 452, enhanced: "4.3.1", text: "Too much to do now; try again later"}
	case maildrop.Full:
		r = reply{code: 452, enhanced: "4.3.1", text: "Mail store full; try again later"}
	case maildrop.ReadOnly:
		r.text = "Mail store is read-only now; try again later"
	case maildrop.Maybe:
		return reply{code: 451, enhanced: "4.4.2", text: "Connection to the mail store lost before it confirmed; try again"}
	case maildrop.NotOwner:
		r.text = "Mailbox is moving to another server; try again later"
	case maildrop.Transient:
		r.text = "Mail store not reachable now; try again later"
	case maildrop.Canceled:
		r.text = "Mail store took too long; try again later"
	case maildrop.Corrupt:
		r.text = "Mail store is damaged and being looked after; try again later"
	default:
		r.text = "Internal error; try again later"
		return r
	}
	if text := maildrop.TextOf(err); text != "" {
		r.text = printable(text)
	}
	return r
}

// printable makes a text fit for a reply, whoever wrote it: ASCII, one line,
// and the reply within 512 octets (RFC 5321 section 4.5.3.1.5).
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, text[:min(len(text), 400)])
}
