package scram

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxMessage is the longest message of a client in octets.
const MaxMessage = 2048

// Why a message is refused. The texts begin with the value of e= (RFC 5802 section
// 7) that says so.
var (
	ErrEncoding   = errors.New("invalid-encoding: not a message of " + Name)
	ErrName       = errors.New("invalid-username-encoding: the user name is not UTF-8, or has an escape that doesn't exist")
	ErrExtension  = errors.New("extensions-not-supported: an extension is mandatory to the client")
	ErrNonce      = errors.New("other-error: the nonce is not the one that was sent")
	ErrBinding    = errors.New("channel-bindings-dont-match: the TLS connection is another one than the client's")
	ErrBound      = errors.New("channel-binding-not-supported: channel binding is asked for, and the mechanism has none")
	ErrUnbound    = errors.New("server-does-support-channel-binding: the client did not use the channel binding that is offered")
	ErrNoBinding  = errors.New("unsupported-channel-binding-type: this kind of channel binding isn't known here")
	errProofValue = errors.New("invalid-encoding: the proof has another length than " + Name + " gives it")
)

// First is client-first-message.
type First struct {
	Header  string // gs2-header, its two commas included
	Flag    byte   // 'n': no channel binding; 'y': the client could, and believes that the server can't; 'p'
	Binding string // with 'p': the kind of channel binding
	Authzid string
	Name    string
	Nonce   string
	Bare    string // client-first-message-bare
}

// ParseFirst reads client-first-message (RFC 5802 section 7).
func ParseFirst(message []byte) (First, error) {
	if len(message) > MaxMessage || bytes.IndexByte(message, 0) >= 0 {
		return First{}, ErrEncoding
	}
	text := string(message)
	flag, rest, ok1 := strings.Cut(text, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 {
		return First{}, ErrEncoding
	}
	f := First{Header: text[:len(text)-len(bare)], Bare: bare}
	if !f.binding(flag) {
		return First{}, ErrEncoding
	}
	if err := f.authzid(authzid); err != nil {
		return First{}, err
	}
	return f, f.bare()
}

// binding is gs2-cbind-flag.
func (f *First) binding(flag string) bool {
	kind, bound := strings.CutPrefix(flag, "p=")
	switch {
	case bound && isBindingName(kind):
		f.Flag, f.Binding = 'p', kind
	case flag == "n", flag == "y":
		f.Flag = flag[0]
	default:
		return false
	}
	return true
}

// isBindingName is cb-name.
func isBindingName(kind string) bool {
	for _, c := range []byte(kind) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '-' {
			return false
		}
	}
	return kind != ""
}

func (f *First) authzid(text string) (err error) {
	if text == "" {
		return nil
	}
	name, ok := strings.CutPrefix(text, "a=")
	if !ok {
		return ErrEncoding
	}
	f.Authzid, err = saslName(name)
	return err
}

// bare is client-first-message-bare. What follows the nonce are extensions that
// may be ignored.
func (f *First) bare() (err error) {
	if strings.HasPrefix(f.Bare, "m=") {
		return ErrExtension
	}
	name, rest, ok1 := strings.Cut(f.Bare, ",")
	nonce, extensions, more := strings.Cut(rest, ",")
	name, ok2 := strings.CutPrefix(name, "n=")
	nonce, ok3 := strings.CutPrefix(nonce, "r=")
	if !ok1 || !ok2 || !ok3 || !printable(nonce) || more && !areExtensions(extensions) {
		return ErrEncoding
	}
	f.Nonce = nonce
	f.Name, err = saslName(name)
	return err
}

// saslName is saslname: a comma is "=2C", an equals sign "=3D".
func saslName(text string) (string, error) {
	if text == "" || !utf8.ValidString(text) {
		return "", ErrName
	}
	var b strings.Builder
	for {
		plain, escaped, found := strings.Cut(text, "=")
		b.WriteString(plain)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(escaped, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(escaped, "3D"):
			b.WriteByte('=')
		default:
			return "", ErrName
		}
		text = escaped[2:]
	}
}

// printable is the value of r=: not empty, 0x21 to 0x7E without a comma.
func printable(text string) bool {
	for _, c := range []byte(text) {
		if c < 0x21 || c > 0x7E || c == ',' {
			return false
		}
	}
	return text != ""
}

// areExtensions is extensions: attributes of one letter, with a value.
func areExtensions(text string) bool {
	for attribute := range strings.SplitSeq(text, ",") {
		if len(attribute) < 3 || attribute[1] != '=' || attribute[0]|0x20 < 'a' || attribute[0]|0x20 > 'z' || !utf8.ValidString(attribute) {
			return false
		}
	}
	return true
}

// Final is client-final-message.
type Final struct {
	Binding []byte // of c=: the gs2-header, and behind it the channel's data
	Nonce   string
	Proof   []byte // 32 octets
	Without string // client-final-message-without-proof
}

// ParseFinal reads client-final-message (RFC 5802 section 7).
func ParseFinal(message []byte) (Final, error) {
	at := bytes.LastIndex(message, []byte(",p="))
	if len(message) > MaxMessage || at < 0 || bytes.IndexByte(message, 0) >= 0 {
		return Final{}, ErrEncoding
	}
	f, err := parseWithout(string(message[:at]))
	if err != nil {
		return Final{}, err
	}
	proof, ok := decode(string(message[at+len(",p="):]))
	switch {
	case !ok:
		return Final{}, ErrEncoding
	case len(proof) != sha256.Size:
		return Final{}, errProofValue
	}
	f.Proof = proof
	return f, nil
}

// parseWithout reads client-final-message-without-proof.
func parseWithout(text string) (Final, error) {
	binding, rest, ok1 := strings.Cut(text, ",")
	nonce, extensions, more := strings.Cut(rest, ",")
	binding, ok2 := strings.CutPrefix(binding, "c=")
	nonce, ok3 := strings.CutPrefix(nonce, "r=")
	octets, ok4 := decode(binding)
	if !ok1 || !ok2 || !ok3 || !ok4 || !printable(nonce) || more && !areExtensions(extensions) {
		return Final{}, ErrEncoding
	}
	return Final{Binding: octets, Nonce: nonce, Without: text}, nil
}

// ServerFirst is server-first-message. The nonce is the client's and the server's.
func ServerFirst(nonce string, salt []byte, iterations int) string {
	return "r=" + nonce + ",s=" + encode(salt) + ",i=" + strconv.Itoa(iterations)
}

// ServerFinal is server-final-message of a login that succeeded.
func ServerFinal(signature string) string { return "v=" + encode([]byte(signature)) }

// AuthMessage is what proof and signature are over (RFC 5802 section 3).
func AuthMessage(firstBare, serverFirst, finalWithout string) string {
	return firstBare + "," + serverFirst + "," + finalWithout
}

// Transcript is the AuthMessage of a client that was sent the nonce with the salt and
// the count of the keys. It is made of the client's messages alone, and of what the
// server must have said: whoever carries them between the two can change nothing. The
// error is ErrEncoding or ErrNonce.
func Transcript(firstBare, finalWithout, nonce string, k *Keys) (string, error) {
	first := First{Bare: firstBare}
	if len(firstBare)+len(finalWithout) > 2*MaxMessage || first.bare() != nil {
		return "", ErrEncoding
	}
	final, err := parseWithout(finalWithout)
	if err != nil {
		return "", err
	}
	if !printable(nonce) || final.Nonce != first.Nonce+nonce {
		return "", ErrNonce
	}
	return AuthMessage(firstBare, ServerFirst(final.Nonce, k.Salt[:], k.Iterations), finalWithout), nil
}
