// Package corpus is the messages in which mail servers lose octets: one source
// for the tests of every door that mail comes in and goes out by, and for real
// mail clients.
//
// A Message says what a gateway sends and what is to come out of it. It is known by
// its ID, under which checklists and tests name it.
//
//	Sent ── LMTP DATA ──▶ Stored ── RETR ──▶ Octets, at the client
//
// All are the messages that LMTP can carry. Loose are those that it can't, since
// they don't end with CRLF or hold every octet there is; they come in from the
// files of another server.
package corpus

import (
	"fmt"
	"strings"
)

// Message is one of the corpus.
type Message struct {
	ID     string // such as FMT-dots
	About  string // what is awkward in it
	Rule   string // the sections that say what is to come of it
	Sent   string // what follows DATA's 354, up to and with the end
	Stored string // what is to be kept, in wire form: CRLF line ends, dot-stuffed, without the end
}

// Octets is the message as its reader has it: Stored without dot-stuffing.
func (m Message) Octets() string { return unstuffed(m.Stored) }

// Where it is said what becomes of a message.
const (
	rulePOP    = "RFC 1939 sections 3, 5, 11"                         // octets, sizes and stuffing
	ruleOctets = "RFC 5321 sections 2.3.8, 4.5.2, RFC 1939 section 5" // octets that a message should not have
	ruleChunks = "RFC 3030, RFC 1939 sections 5, 11"
)

// head is a header that is like most.
const head = "From: a@example.test\r\nSubject: x\r\n\r\n"

// All returns the messages that can be sent by DATA, in a fixed order. The twins
// FMT-dup1 and FMT-dup2 are two messages.
func All() []Message {
	all := append(dots(), shapes()...)
	all = append(all, lineEnds()...)
	all = append(all, octets()...)
	all = append(all, lengths()...)
	return append(all, headers()...)
}

// dots are about transparency.
func dots() []Message {
	return []Message{
		plain("simple", "a plain message", head+"Hello.\r\n"),
		plain("dots", "lines that start with dots", head+".\r\n..\r\n...\r\n.a\r\na.\r\n"),
		plain("dotfirst", "a single dot is all", ".\r\n"),
		plain("dothdr", "a dot as the very first octet", ".Subject: x\r\n"+head+"x\r\n"),
		plain("dotend", "the last line is a single dot", head+"x\r\n.\r\n"),
		plain("dotflood", "100,000 lines of one dot: every phase of every buffer", head+strings.Repeat(".\r\n", 100_000)),
		plain("dotbound", "dots on and around the ends of buffers", head+repeat(200, func(i int) string {
			return strings.Repeat("x", 4096-i) + "\r\n." + strings.Repeat("y", i) + "\r\n"
		})),
	}
}

// shapes have no header, no body, or no clear border between the two.
func shapes() []Message {
	return []Message{
		plain("empty", "no content at all", ""),
		plain("onlycrlf", "one empty line", "\r\n"),
		plain("noeoh", "a header without the empty line behind it", "From: a@example.test\r\nSubject: x\r\n"),
		plain("nobody", "a header, the empty line, no body", head),
		plain("nohdr", "an empty line first", "\r\nbody\r\n"),
		plain("badhdr", "a first line that is no header", "this is no header\r\n"+head+"x\r\n"),
		plain("spaceeoh", "a blank continuation in place of the empty line", "From: a@example.test\r\n \r\nbody?\r\n"),
		plain("fromline", "From_ lines of an mbox in the body", head+"From a@example.test Mon Jan  1 00:00:00 2001\r\n>From b\r\n"),
		plain("mboxtop", "a From_ line of an mbox before the header", "From a@example.test Mon Jan  1 00:00:00 2001\r\n"+head+"x\r\n"),
	}
}

// lineEnds have other line ends than CRLF, some of them to smuggle a second
// message in.
func lineEnds() []Message {
	return []Message{
		odd("barelf", "bare LF", head+"a\nb\n\nc\r\n", head+"a\r\nb\r\n\r\nc\r\n"),
		odd("barelfdot", "bare LF and a dot behind it", head+"a\n.b\r\n", head+"a\r\n..b\r\n"),
		odd("barecr", "bare CR", head+"a\rb\r\r\rc\r\n", head+"a\rb\r\r\rc\r\n"),
		odd("crcrlf", "CR CR LF", head+"a\r\r\nb\r\r\n", head+"a\r\r\nb\r\r\n"),
		odd("smug-lf-lf", "LF . LF is no end", head+"a\n.\nb\r\n", head+"a\r\n..\r\nb\r\n"),
		odd("smug-lf-crlf", "LF . CRLF is no end", head+"a\n.\r\nb\r\n", head+"a\r\n..\r\nb\r\n"),
		odd("smug-crlf-lf", "CRLF . LF is no end", head+"a\r\n.\nb\r\n", head+"a\r\n\r\nb\r\n"),
		odd("smug-cr-cr", "CR . CR is no end", head+"a\r.\rb\r\n", head+"a\r.\rb\r\n"),
		odd("smug-crlf-cr", "CRLF . CR is no end", head+"a\r\n.\rb\r\n", head+"a\r\n\rb\r\n"),
	}
}

// octets have octets that not everybody expects.
func octets() []Message {
	const nul, nulHeader = head + "a\x00b\x00\r\n\x00\r\n", "Subject: a\x00b\r\n\r\nx\r\n"
	return []Message{
		odd("nul", "NUL in the body", nul, nul),
		odd("nulhdr", "NUL in a header field", nulHeader, nulHeader),
		plain("latin1", "ISO 8859-1", head+"gr\xfc\xdfe\r\n"),
		plain("utf8", "UTF-8", head+"grüße 世界\r\n"),
		plain("badutf8", "octets that aren't UTF-8", head+"\xff\xfe\xc0\x80\xed\xa0\x80\r\n"),
		plain("rawhdr", "8-bit octets in a header field", "Subject: gr\xfc\xdfe\r\n\r\nx\r\n"),
		plain("eaihdr", "UTF-8 header fields (RFC 6532)", "Subject: grüße\r\nFrom: jürgen@bücher.test\r\n\r\nx\r\n"),
		plain("alloctets", "every octet but NUL, CR and LF", head+repeat(256, func(i int) string {
			if i == 0 || i == '\r' || i == '\n' {
				return ""
			}
			return string([]byte{byte(i)})
		})+"\r\n"),
		plain("controls", "Ctrl-Z, ESC, BEL, FF, DEL", head+"\x1a\x1b[2J\x07\x0c\x7f\r\n"),
		plain("bom", "a byte order mark first", "\xef\xbb\xbf"+head+"x\r\n"),
	}
}

// lengths have lines as long as buffers are, and longer.
func lengths() (all []Message) {
	for _, n := range []int{76, 998, 1000, 1024, 2046, 2048, 4096, 8192, 64 << 10, 1 << 20, 10 << 20} {
		name := fmt.Sprint(n)
		if n >= 64<<10 {
			name = fmt.Sprint(n>>10, "k")
		}
		all = append(all, plain("line"+name, fmt.Sprintf("a line of %d octets", n), head+strings.Repeat("x", n)+"\r\n"))
	}
	for _, n := range []int{2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 1 << 20} {
		lines := strings.Repeat(strings.Repeat("x", 62)+"\r\n", n/64)
		all = append(all, plain(fmt.Sprint("size", n>>10, "k"), fmt.Sprintf("%d octets, the size of a buffer, in all", n), head+lines[:n-len(head)-2]+"\r\n"))
	}
	return append(all,
		plain("longhdr", "a header line of 100 kB", "Subject: "+strings.Repeat("x", 100_000)+"\r\n\r\nx\r\n"),
		plain("folded", "a header field of 2,000 lines", "Subject: x"+strings.Repeat("\r\n folded", 2000)+"\r\n\r\nx\r\n"),
		plain("manyhdr", "5,000 header fields", repeat(5000, func(i int) string { return fmt.Sprintf("X-%d: %d\r\n", i, i) })+"\r\nx\r\n"),
	)
}

// headers and bodies that somebody might act upon.
func headers() []Message {
	const mark = "X-UIDL: chosen-by-the-sender\r\n"
	return []Message{
		plain("trailing", "white space and empty lines at the end", head+"x  \t\r\n \r\n\t\r\n\r\n\r\n"),
		plain("emptylines", "10,000 empty lines", head+strings.Repeat("\r\n", 10_000)),
		plain("looks", "a body like replies and commands", head+"+OK\r\n-ERR\r\nQUIT\r\nMAIL FROM:<>\r\n250 OK\r\n"),
		plain("pretrace", "trace header fields already there", "Return-Path: <other@example.test>\r\nDelivered-To: other\r\nReceived: from x by y; now\r\n"+head+"x\r\n"),
		plain("mboxhdrs", "header fields in which mailboxes keep notes of their own", "Status: RO\r\nX-Status: A\r\nX-UIDL: 1\r\nContent-Length: 2\r\nX-IMAP: 1\r\n"+head+"long body\r\n"),
		plain("dup1", "the first of twins", head+"twins\r\n"),
		plain("dup2", "the second of twins", head+"twins\r\n"),
		plain("xuidl1", "an X-UIDL of the sender's", mark+head+"one\r\n"),
		plain("xuidl2", "the same X-UIDL again", mark+head+"two\r\n"),
		plain("mime", "a multipart with a message in it", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"+head+"in\r\n--b--\r\n"),
		plain("deepmime", "200 nested multiparts", repeat(200, func(i int) string {
			return fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		})+"\r\nx\r\n"),
	}
}

// Loose returns the messages that only BDAT (RFC 3030) could carry by LMTP. Sent
// is their octets as they are in a file, without an end.
func Loose() []Message {
	loose := func(name, about, sent, stored string) Message {
		return Message{ID: "FMT-" + name, About: about, Rule: ruleChunks, Sent: sent, Stored: stored}
	}
	every := repeat(256, func(i int) string { return string([]byte{byte(i)}) })
	return []Message{
		loose("nocrlf", "no line end at the end", head+"x", head+"x\r\n"),
		loose("bdatlf", "bare LF at the end", head+"x\n", head+"x\r\n"),
		loose("bdatcr", "bare CR at the end", head+"x\r", head+"x\r\r\n"),
		loose("bdatdot", "a dot without a line end at the end", head+"x\r\n.", head+"x\r\n..\r\n"),
		loose("bdatbin", "all 256 octets", head+every, head+strings.Replace(every, "\n", "\r\n", 1)+"\r\n"),
	}
}

// plain is a message whose content a gateway sends as RFC 5321 has it.
func plain(name, about, content string) Message {
	wire := stuffed(content)
	return Message{"FMT-" + name, about, rulePOP, wire + ".\r\n", wire}
}

// odd is a message that should not be sent, but is.
func odd(name, about, sent, stored string) Message {
	return Message{"FMT-" + name, about, ruleOctets, sent + ".\r\n", stored}
}

// stuffed is the wire form of content with CRLF line ends (RFC 5321 section 4.5.2).
func stuffed(content string) string {
	return strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n..")[2:]
}

// unstuffed undoes it (RFC 1939 section 3).
func unstuffed(wire string) string {
	return strings.ReplaceAll("\r\n"+wire, "\r\n..", "\r\n.")[2:]
}

// repeat joins f of 0 up to n.
func repeat(n int, f func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}
