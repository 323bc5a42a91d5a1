package mailclient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// LMTP is one LMTP connection (RFC 2033).
type LMTP struct {
	conn  net.Conn
	lines *bufio.Reader
	// Extensions are the lines of the server's answer to LHLO but the first.
	Extensions []string
}

// DialLMTP connects, reads the greeting and says LHLO. With a TLS configuration
// it then says STARTTLS, and LHLO again.
func DialLMTP(ctx context.Context, address string, config *tls.Config) (*LMTP, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l := &LMTP{conn: conn, lines: bufio.NewReaderSize(conn, bufferSize)}
	if err := l.hello(config); err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	return l, nil
}

func (l *LMTP) hello(config *tls.Config) error {
	if _, err := l.reply("greeting"); err != nil {
		return err
	}
	var err error
	if l.Extensions, err = l.command("LHLO localhost"); err != nil || config == nil {
		return err
	}
	if _, err := l.command("STARTTLS"); err != nil {
		return err
	}
	l.conn = tls.Client(l.conn, config)
	l.lines.Reset(l.conn)
	l.Extensions, err = l.command("LHLO localhost")
	return err
}

// Close cuts the connection.
func (l *LMTP) Close() error { return l.conn.Close() }

// Quit ends the session and closes the connection.
func (l *LMTP) Quit() error {
	_, err := l.command("QUIT")
	return errors.Join(err, l.conn.Close())
}

// Deliver sends one message, with CRLF line ends and not dot-stuffed. It
// returns the server's verdict for each recipient, in order: nil means that it
// took responsibility. err says that the transaction broke; what was then not
// answered is nil in no verdict.
func (l *LMTP) Deliver(sender string, recipients []string, message []byte) (verdicts []error, err error) {
	return l.DeliverAsIs(sender, recipients, stuffed(message))
}

// DeliverAsIs sends octets behind the reply to DATA as they are: content that is
// no message's, or a smuggler's. They have their end with them.
func (l *LMTP) DeliverAsIs(sender string, recipients []string, octets []byte) (verdicts []error, err error) {
	verdicts = make([]error, len(recipients))
	if _, err := l.command("MAIL FROM:<" + sender + ">"); err != nil {
		return unanswered(verdicts, err), err
	}
	var accepted []int
	for i, recipient := range recipients {
		_, err := l.command("RCPT TO:<" + recipient + ">")
		var refused *ReplyError
		switch {
		case err == nil:
			accepted = append(accepted, i)
		case errors.As(err, &refused):
			verdicts[i] = err
		default:
			return unanswered(verdicts, err), err
		}
	}
	if len(accepted) == 0 {
		_, err := l.command("RSET")
		return verdicts, err
	}
	for _, i := range accepted {
		verdicts[i] = errUnanswered
	}
	return verdicts, l.data(octets, accepted, verdicts)
}

var errUnanswered = errors.New("the server did not answer for this recipient")

func unanswered(verdicts []error, err error) []error {
	for i := range verdicts {
		if verdicts[i] == nil {
			verdicts[i] = fmt.Errorf("%w: %w", errUnanswered, err)
		}
	}
	return verdicts
}

func (l *LMTP) data(octets []byte, accepted []int, verdicts []error) error {
	if _, err := l.command("DATA"); err != nil {
		return err
	}
	l.conn.SetDeadline(time.Now().Add(Patience + time.Duration(len(octets)>>20)*time.Second))
	if _, err := l.conn.Write(octets); err != nil {
		return err
	}
	for _, i := range accepted {
		_, err := l.reply("DATA")
		var refused *ReplyError
		if err != nil && !errors.As(err, &refused) {
			return err
		}
		verdicts[i] = err
	}
	return nil
}

// stuffed is the message as DATA wants it (RFC 5321 section 4.5.2), with its end.
func stuffed(message []byte) []byte {
	out := make([]byte, 0, len(message)+len(message)/64+8)
	if bytes.HasPrefix(message, []byte(".")) {
		out = append(out, '.')
	}
	for {
		at := bytes.Index(message, []byte("\r\n."))
		if at < 0 {
			break
		}
		out = append(out, message[:at+2]...)
		out = append(out, '.')
		message = message[at+2:]
		out = append(out, message[0])
		message = message[1:]
	}
	out = append(out, message...)
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, '\r', '\n')
	}
	return append(out, ".\r\n"...)
}

func (l *LMTP) command(text string) ([]string, error) {
	l.conn.SetDeadline(time.Now().Add(Patience))
	if _, err := io.WriteString(l.conn, text+"\r\n"); err != nil {
		return nil, err
	}
	verb, _, _ := strings.Cut(text, " ")
	return l.reply(verb)
}

// reply reads a reply of one or more lines (RFC 5321 section 4.2) and returns
// the texts of all but the first.
func (l *LMTP) reply(verb string) ([]string, error) {
	l.conn.SetDeadline(time.Now().Add(Patience))
	var more []string
	for first := true; ; first = false {
		text, err := line(l.lines)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", verb, err)
		}
		if len(text) < 3 || (len(text) > 3 && text[3] != ' ' && text[3] != '-') {
			return nil, fmt.Errorf("%s: %w: %q", verb, ErrProtocol, text)
		}
		if !first {
			more = append(more, strings.TrimLeft(text[3:], " -"))
		}
		if len(text) == 3 || text[3] == ' ' {
			if text[0] != '2' && text[0] != '3' {
				return nil, &ReplyError{Command: verb, Reply: text}
			}
			return more, nil
		}
	}
}
