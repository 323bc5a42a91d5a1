package movein

import (
	"fmt"
	"strconv"
	"strings"
)

// DefaultUIDFormat is Dovecot's own pop3_uidl_format, in versions 2.0 to 2.3.
const DefaultUIDFormat = "%08Xu%08Xv"

// UIDFormat is a setting pop3_uidl_format of Dovecot: text with %u (the
// message's uid), %v (the mailbox's uidvalidity), %f (the file's name without
// flags), %g (the message's guid) and %% in it. Numbers may be asked for in
// hexadecimal digits, X, and filled up with zeros: %08Xu. The zero UIDFormat is
// DefaultUIDFormat.
type UIDFormat struct{ parts []formatPart }

// formatPart is one variable and the text before it.
type formatPart struct {
	text  string
	key   byte // 0: the end
	width int
	hex   bool
	lower bool
	upper bool
}

const maxFormat = 64 // octets of a format, and digits of a number in it

// ParseUIDFormat reads a setting.
func ParseUIDFormat(s string) (UIDFormat, error) {
	if s == "" || len(s) > maxFormat {
		return UIDFormat{}, fmt.Errorf("format %.80q: expected 1 to %d octets, such as %s", s, maxFormat, DefaultUIDFormat)
	}
	var f UIDFormat
	var text strings.Builder
	for rest := s; ; {
		before, after, more := strings.Cut(rest, "%")
		text.WriteString(before)
		if !more {
			f.parts = append(f.parts, formatPart{text: text.String()})
			return f, nil
		}
		if strings.HasPrefix(after, "%") {
			text.WriteByte('%')
			rest = after[1:]
			continue
		}
		part, n := parseFormatPart(after)
		if n == 0 {
			return UIDFormat{}, fmt.Errorf("format %q: expected %%u, %%v, %%f or %%g, with 0, a width and X, L or U before the letter, at octet %d", s, len(s)-len(after)-1)
		}
		part.text = text.String()
		text.Reset()
		f.parts = append(f.parts, part)
		rest = after[n:]
	}
}

// parseFormatPart reads what follows a percent sign; n is its length, 0 if it is
// none.
func parseFormatPart(s string) (p formatPart, n int) {
	zero := strings.HasPrefix(s, "0")
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	if digits > 0 {
		width, err := strconv.Atoi(s[:digits])
		if err != nil || width > maxFormat || !zero { // without the zero Dovecot cuts: nobody wants that
			return p, 0
		}
		p.width = width
	}
	for n = digits; n < len(s); n++ {
		switch s[n] {
		case 'X':
			p.hex = true
		case 'L':
			p.lower = true
		case 'U':
			p.upper = true
		case 'u', 'v', 'f', 'g':
			p.key = s[n]
			if number := p.key == 'u' || p.key == 'v'; !number && (p.hex || p.width > 0) {
				return p, 0
			}
			return p, n + 1
		default:
			return p, 0
		}
	}
	return p, 0
}

// expand is the unique-id of one message.
func (f UIDFormat) expand(validity, uid uint32, name, guid string) string {
	if f.parts == nil {
		return fmt.Sprintf("%08x%08x", uid, validity)
	}
	var b strings.Builder
	for _, p := range f.parts {
		b.WriteString(p.text)
		value := ""
		switch p.key {
		case 'u':
			value = p.number(uid)
		case 'v':
			value = p.number(validity)
		case 'f':
			value = name
		case 'g':
			value = guid
		}
		if p.lower {
			value = strings.ToLower(value)
		}
		if p.upper {
			value = strings.ToUpper(value)
		}
		b.WriteString(value)
	}
	return b.String()
}

// number writes a number as Dovecot does: hexadecimal digits are lower case, for
// all that X is not.
func (p formatPart) number(n uint32) string {
	radix := 10
	if p.hex {
		radix = 16
	}
	digits := strconv.FormatUint(uint64(n), radix)
	return strings.Repeat("0", max(0, p.width-len(digits))) + digits
}
