package maildrop

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash/fnv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Address is a mail address in canonical form: "local@domain", local part in
// lower case and NFKC, domain in lower case and in A-label form. Two spellings
// of one mailbox are one Address; it is what shards are chosen by. Make one
// with [ParseAddress] only.
type Address string

// MaxAddress is the longest address in octets: 64 for the local part, 255 for
// the domain (RFC 5321 section 4.5.3.1).
const MaxAddress = 64 + 1 + 255

// ErrAddress says that a text is no mail address.
var ErrAddress = errors.New("not a mail address: expected local-part@domain")

// ParseAddress brings an address into canonical form. It takes no display
// name, no angle brackets, and no source route. The local part's case is
// ignored, as users expect and RFC 5321 section 2.4 leaves to the host. Forms that
// NFKC makes one, such as full-width letters, are one, as SASLprep has it for user
// names (RFC 6856 section 2.2, RFC 4013). So are a local part and the same in quotes, which
// mean nothing of their own (RFC 5321 section 4.1.2).
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at == len(s)-1 || len(s) > MaxAddress || !utf8.ValidString(s) {
		return "", ErrAddress
	}
	local, ok := unquote(norm.NFKC.String(strings.ToLower(norm.NFKC.String(s[:at]))))
	if !ok {
		return "", ErrAddress
	}
	for _, r := range local {
		if unicode.IsControl(r) {
			return "", ErrAddress
		}
	}
	domain, err := ParseDomain(s[at+1:])
	if err != nil || len(local) > 64 {
		return "", ErrAddress
	}
	return Address(local + "@" + domain), nil
}

// unquote takes the quotes of a Quoted-string away, and the backslashes of its quoted-pairs
// (RFC 5321 section 4.1.2). ok is false for quotes that don't close, and for
// a local part that begins with one of its own: its canonical form would be read as another's.
func unquote(local string) (plain string, ok bool) {
	inner, quoted := strings.CutPrefix(local, `"`)
	if !quoted {
		return local, true
	}
	inner, closed := strings.CutSuffix(inner, `"`)
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '"':
			return "", false
		case c == '\\' && i+1 == len(inner):
			return "", false
		case c == '\\':
			i++
		}
		b.WriteByte(inner[i])
	}
	plain = norm.NFKC.String(b.String())
	return plain, closed && plain != "" && plain[0] != '"'
}

// ErrDomain says that a text is no domain name.
var ErrDomain = errors.New("not a domain name: expected labels with dots, such as example.com")

// ParseDomain brings a domain name into canonical form: lower case, A-labels,
// no final dot.
func ParseDomain(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	domain, err := idna.Lookup.ToASCII(norm.NFC.String(s))
	if err != nil || domain == "" || len(domain) > 253 {
		return "", ErrDomain
	}
	for _, label := range strings.Split(domain, ".") {
		if label == "" || len(label) > 63 {
			return "", ErrDomain
		}
	}
	return strings.ToLower(domain), nil
}

// Domain is the part after the at sign.
func (a Address) Domain() string { return string(a[strings.LastIndexByte(string(a), '@')+1:]) }

// Local is the part before the at sign.
func (a Address) Local() string {
	return string(a[:max(0, strings.LastIndexByte(string(a), '@'))])
}

// Shard is the number of the address's shard in a region of the given number
// of shards: FNV-1a of the address, 64 bit, modulo shards. It never changes:
// mail is stored by it.
func (a Address) Shard(shards int) int {
	h := fnv.New64a()
	h.Write([]byte(a))
	return int(h.Sum64() % uint64(shards))
}

// RandomID is the ID of a delivery that nothing tells from another one with
// the same octets.
func RandomID() (id EnvelopeID) {
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

// RepeatableID is the ID of a delivery that a gateway may repeat in another
// transaction: the same for the same sender, recipient and octets. content is
// the SHA-256 of the message as it came, before trace headers were added.
func RepeatableID(sender string, to Address, content [sha256.Size]byte) (id EnvelopeID) {
	h := sha256.New()
	h.Write([]byte("postern delivery v1\x00" + sender + "\x00" + string(to) + "\x00"))
	h.Write(content[:])
	copy(id[:], h.Sum(nil))
	return id
}
