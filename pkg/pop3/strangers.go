package pop3

import (
	"bytes"
	"strings"
)

// foreign tells by its first line somebody who doesn't speak POP3; empty if he may. Only
// what no POP3 client can mean is foreign: a mistake gets -ERR, and another chance.
func foreign(line []byte) End {
	verb, rest, _ := bytes.Cut(line, []byte(" "))
	switch {
	case isHTTP(string(verb), rest):
		return EndHTTP
	case isSMTP(strings.ToUpper(string(verb))), isBinary(line):
		return EndForeign
	}
	return ""
}

// isHTTP tells a web browser, or a page that makes one talk to us (ALPACA), by its
// request line.
func isHTTP(verb string, rest []byte) bool {
	switch verb {
	case "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PRI":
		return true
	}
	return bytes.Contains(rest, []byte(" HTTP/"))
}

// isSMTP tells a client of SMTP or LMTP by the commands that it may begin with (RFC 5321
// section 4.1.4, RFC 2033 section 4.1).
func isSMTP(verb string) bool {
	switch verb {
	case "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "STARTTLS":
		return true
	}
	return false
}

// isBinary tells what is no text: a TLS handshake within TLS, a database's client.
func isBinary(line []byte) bool {
	return bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F })
}
