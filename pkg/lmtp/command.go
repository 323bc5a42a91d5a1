package lmtp

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Errors of the parsers; session chooses the replies.
var (
	errSyntax   = errors.New("syntax error")
	errPath     = errors.New("not a path")
	errParam    = errors.New("parameter not recognized")
	errValue    = errors.New("bad parameter value")
	errNonASCII = errors.New("non-ASCII address")
	errUTF8     = errors.New("SMTPUTF8 is not offered")
)

// parseLine cuts a command line into its verb, in upper case, and the rest.
// Control octets and octets that aren't UTF-8 are in no command (RFC 5321
// section 4.1.2, RFC 6531 section 3.3).
func parseLine(line []byte) (verb, argument string, err error) {
	for _, c := range line {
		if c < ' ' || c == 0x7F {
			return "", "", errSyntax
		}
	}
	if !utf8.Valid(line) {
		return "", "", errSyntax
	}
	verb, argument, _ = strings.Cut(strings.TrimRight(string(line), " "), " ")
	if !isASCII(verb) {
		return "", "", errSyntax
	}
	return strings.ToUpper(verb), strings.TrimLeft(argument, " "), nil
}

// parseHost checks the name that a client gives itself: a domain or an address
// literal (RFC 5321 section 4.1.1.1). It will stand in a Received field.
func parseHost(s string) (string, error) {
	if s == "" || len(s) > 255 {
		return "", errSyntax
	}
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune(".-_:[]", rune(c)) {
			return "", errSyntax
		}
	}
	return s, nil
}

// mail is what a MAIL command says.
type mail struct {
	sender string // within the angle brackets, without a source route
	size   uint64 // RFC 1870; 0: not said
}

// parseMail reads the argument of MAIL (RFC 5321 section 4.1.1.2).
func parseMail(argument string) (mail, error) {
	path, rest, err := cutPath(argument, "FROM:")
	if err != nil {
		return mail{}, err
	}
	m := mail{sender: path}
	seen := map[string]bool{}
	for _, param := range strings.Fields(rest) {
		key, value, _ := strings.Cut(param, "=")
		key = strings.ToUpper(key)
		if seen[key] {
			return mail{}, errValue
		}
		seen[key] = true
		if err := m.set(key, value); err != nil {
			return mail{}, err
		}
	}
	if !isASCII(m.sender) {
		return mail{}, errNonASCII
	}
	return m, nil
}

// set takes one parameter.
func (m *mail) set(key, value string) error {
	switch key {
	case "SIZE": // RFC 1870 section 3: up to 20 digits
		if strings.Trim(value, "0123456789") != "" || len(value) > 20 || value == "" {
			return errValue
		}
		size, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			size = math.MaxUint64 // 20 digits can be more: too large either way
		}
		m.size = size
	case "BODY": // RFC 6152 section 2; content is kept octet for octet either way
		if v := strings.ToUpper(value); v != "7BIT" && v != "8BITMIME" {
			return errValue
		}
	case "SMTPUTF8":
		return errUTF8
	default:
		return errParam
	}
	return nil
}

// parseRcpt reads the argument of RCPT (RFC 5321 section 4.1.1.3). It has no
// parameters, since none of its extensions is offered.
func parseRcpt(argument string) (maildrop.Address, error) {
	path, rest, err := cutPath(argument, "TO:")
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(rest) != "" {
		return "", errParam
	}
	if !isASCII(path) {
		return "", errNonASCII
	}
	return maildrop.ParseAddress(unquote(path))
}

// cutPath reads keyword and path, and returns what is within the angle
// brackets and what is behind them. A space between the two is none of RFC
// 5321's, but seen.
func cutPath(argument, keyword string) (path, rest string, err error) {
	if len(argument) < len(keyword) || !strings.EqualFold(argument[:len(keyword)], keyword) {
		return "", "", errSyntax
	}
	s := strings.TrimLeft(argument[len(keyword):], " ")
	end := pathEnd(s)
	if end < 0 || end+1 < len(s) && s[end+1] != ' ' {
		return "", "", errPath
	}
	path, rest = s[1:end], s[end+1:]
	if strings.HasPrefix(path, "@") { // a source route: RFC 5321 appendix C has it ignored
		var found bool
		if _, path, found = strings.Cut(path, ":"); !found || path == "" {
			return "", "", errPath
		}
	}
	if len(path) > maildrop.MaxAddress {
		return "", "", errPath
	}
	return path, rest, nil
}

// pathEnd is the index of the closing bracket of the path that s begins with,
// or -1. Within quotes a bracket is no end.
func pathEnd(s string) int {
	if s == "" || s[0] != '<' {
		return -1
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '>':
			return i
		case c == ' ' || c == '<':
			return -1
		}
	}
	return -1
}

// unquote makes "john smith"@example.com of the quoted form what it means:
// quotes are spelling, not part of the name (RFC 5321 section 4.1.2).
func unquote(path string) string {
	if path == "" || path[0] != '"' {
		return path
	}
	var local strings.Builder
	for i := 1; i < len(path); i++ {
		switch path[i] {
		case '\\':
			if i++; i < len(path) {
				local.WriteByte(path[i])
			}
		case '"':
			if !strings.HasPrefix(path[i+1:], "@") {
				return "" // no address
			}
			return local.String() + path[i+1:]
		default:
			local.WriteByte(path[i])
		}
	}
	return ""
}

// isASCII reports whether s has no octet over 0x7F.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
