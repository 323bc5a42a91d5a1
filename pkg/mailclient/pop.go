package mailclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// Patience is how long one call may take without an octet moving.
	Patience = 60 * time.Second
	// bufferSize is that of each connection's reader, and so the longest line
	// of a reply; lines of messages have no limit.
	bufferSize = 16 << 10
)

// ErrProtocol says that the server did not speak the protocol.
var ErrProtocol = errors.New("not the protocol")

// ReplyError is a refusal of the server: -ERR in POP3, 4xx or 5xx in LMTP.
type ReplyError struct {
	Command string // the verb only: what followed may be secret
	Reply   string // the server's line
}

// Error quotes the server.
func (e *ReplyError) Error() string { return e.Command + ": " + e.Reply }

// POP is one POP3 connection.
type POP struct {
	conn  net.Conn
	lines *bufio.Reader
	// Greeting is the server's first line.
	Greeting string
}

// DialPOP connects with TLS (RFC 8314 section 3.3) and reads the greeting.
func DialPOP(ctx context.Context, address string, config *tls.Config) (*POP, error) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p, err := NewPOP(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil
}

// NewPOP reads the greeting from a connection.
func NewPOP(conn net.Conn) (*POP, error) {
	p := &POP{conn: conn, lines: bufio.NewReaderSize(conn, bufferSize)}
	greeting, err := p.reply("greeting")
	p.Greeting = greeting
	return p, err
}

// Conn is the connection, for those who want to cut it.
func (p *POP) Conn() net.Conn { return p.conn }

// Close cuts the connection. Nothing is deleted (RFC 1939 section 6).
func (p *POP) Close() error { return p.conn.Close() }

// Command sends one line and returns the text after +OK.
func (p *POP) Command(format string, args ...any) (string, error) {
	line := fmt.Sprintf(format, args...)
	if err := p.Send(line); err != nil {
		return "", err
	}
	verb, _, _ := strings.Cut(line, " ")
	return p.reply(verb)
}

// Send sends one line and reads nothing.
func (p *POP) Send(line string) error {
	p.conn.SetDeadline(time.Now().Add(Patience))
	_, err := io.WriteString(p.conn, line+"\r\n")
	return err
}

func (p *POP) answer(verb string) (string, error) {
	p.conn.SetDeadline(time.Now().Add(Patience))
	line, err := line(p.lines)
	if err != nil {
		return "", fmt.Errorf("%s: %w", verb, err)
	}
	return line, nil
}

func (p *POP) reply(verb string) (string, error) {
	line, err := p.answer(verb)
	if err != nil {
		return "", err
	}
	switch {
	case line == "+OK":
		return "", nil
	case strings.HasPrefix(line, "+OK "):
		return line[len("+OK "):], nil
	case line == "-ERR", strings.HasPrefix(line, "-ERR "):
		return "", &ReplyError{Command: verb, Reply: line}
	}
	return "", fmt.Errorf("%s: %w: %q", verb, ErrProtocol, line)
}

// Challenge sends a line of a SASL exchange, and returns the octets of the server's
// challenge (RFC 5034 section 4).
func (p *POP) Challenge(line string) ([]byte, error) {
	if err := p.Send(line); err != nil {
		return nil, err
	}
	answer, err := p.answer("AUTH")
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(answer, "+ ")
	if !ok {
		return nil, &ReplyError{Command: "AUTH", Reply: answer}
	}
	octets, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("AUTH: %w: %q", ErrProtocol, answer)
	}
	return octets, nil
}

// line reads one line that ends with CRLF and returns it without.
func line(r *bufio.Reader) (string, error) {
	raw, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) && len(raw) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	text, ok := strings.CutSuffix(string(raw), "\r\n")
	if !ok {
		return "", fmt.Errorf("%w: a line without CR", ErrProtocol)
	}
	return text, nil
}

// Login sends USER and PASS.
func (p *POP) Login(user, password string) error {
	if _, err := p.Command("USER %s", user); err != nil {
		return err
	}
	_, err := p.Command("PASS %s", password)
	return err
}

// Stat returns the number of messages and their octets.
func (p *POP) Stat() (count int, octets uint64, err error) {
	text, err := p.Command("STAT")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(text, "%d %d", &count, &octets); err != nil {
		return 0, 0, fmt.Errorf("STAT: %w: %q", ErrProtocol, text)
	}
	return count, octets, nil
}

// Sizes is LIST: the octets of each message that isn't marked, by its number.
func (p *POP) Sizes() (map[int]uint64, error) {
	sizes := map[int]uint64{}
	return sizes, p.scan("LIST", func(n int, rest string) (err error) {
		sizes[n], err = strconv.ParseUint(rest, 10, 64)
		return err
	})
}

// UIDs is UIDL: the unique-id of each message that isn't marked, by its number.
func (p *POP) UIDs() (map[int]string, error) {
	uids := map[int]string{}
	return uids, p.scan("UIDL", func(n int, rest string) error { uids[n] = rest; return nil })
}

func (p *POP) scan(verb string, entry func(n int, rest string) error) error {
	if _, err := p.Command("%s", verb); err != nil {
		return err
	}
	for {
		p.conn.SetDeadline(time.Now().Add(Patience))
		text, err := line(p.lines)
		if err != nil || text == "." {
			return err
		}
		number, rest, _ := strings.Cut(text, " ")
		n, err := strconv.Atoi(number)
		if err == nil {
			err = entry(n, rest)
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %q", verb, ErrProtocol, text)
		}
	}
}

// Capabilities are the lines of CAPA (RFC 2449 section 5).
func (p *POP) Capabilities() ([]string, error) {
	var list strings.Builder
	if _, err := p.message(&list, "CAPA"); err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(list.String(), "\r\n"), "\r\n"), nil
}

// Retr fetches message n to w, with CRLF line ends and without dot-stuffing.
func (p *POP) Retr(n int, w io.Writer) (octets uint64, err error) {
	return p.message(w, "RETR %d", n)
}

// Top fetches the header and some lines of message n to w.
func (p *POP) Top(n, lines int, w io.Writer) (octets uint64, err error) {
	return p.message(w, "TOP %d %d", n, lines)
}

func (p *POP) message(w io.Writer, format string, args ...any) (octets uint64, err error) {
	if _, err := p.Command(format, args...); err != nil {
		return 0, err
	}
	for lineStart := true; ; {
		p.conn.SetDeadline(time.Now().Add(Patience))
		part, err := p.lines.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return octets, err
		}
		if lineStart && part[0] == '.' {
			if string(part) == ".\r\n" {
				return octets, nil
			}
			part = part[1:]
		}
		lineStart = whole
		written, err := w.Write(part)
		octets += uint64(written)
		if err != nil {
			return octets, err
		}
	}
}

// Dele marks message n as deleted.
func (p *POP) Dele(n int) error {
	_, err := p.Command("DELE %d", n)
	return err
}

// Quit ends the session, deleting what is marked, and closes the connection.
func (p *POP) Quit() error {
	_, err := p.Command("QUIT")
	return errors.Join(err, p.conn.Close())
}
