package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/xdg-go/stringprep"
)

// Costs of keys.
const (
	// Iterations are those of new keys.
	Iterations = 15000
	// MinIterations is what RFC 7677 section 4 asks for.
	MinIterations = 4096
	// MaxIterations keeps a crafted record from keeping clients busy for long.
	MaxIterations = 1 << 20
	// SaltSize is the size of every salt in octets.
	SaltSize = 16
	// MaxKeys is the longest text of keys in octets.
	MaxKeys = 160
)

// Name is the mechanism's (RFC 7677); Plus the one with channel binding.
const (
	Name = "SCRAM-SHA-256"
	Plus = Name + "-PLUS"
)

// Keys are what is kept of a password (RFC 5802 section 3). Never log them.
type Keys struct {
	Iterations int
	Salt       [SaltSize]byte
	Stored     [sha256.Size]byte // H(ClientKey): the client proves that it knows what is hashed
	Server     [sha256.Size]byte // the server proves itself with it
}

// Derive makes the keys of a password, under a salt of their own. It costs some
// milliseconds.
func Derive(password string) Keys {
	k := Keys{Iterations: Iterations}
	rand.Read(k.Salt[:]) // never fails: crypto/rand ends the process instead
	k.derive(password)
	return k
}

// derive is RFC 5802 section 3.
func (k *Keys) derive(password string) {
	salted, err := pbkdf2.Key(sha256.New, Prepare(password), k.Salt[:], k.Iterations, sha256.Size)
	if err != nil {
		panic(err) // only for lengths that no key has
	}
	client := sum(salted, "Client Key")
	k.Stored = sha256.Sum256(client[:])
	k.Server = sum(salted, "Server Key")
}

// Prepare is a password as it goes into keys: see Decisions.
func Prepare(password string) string {
	prepared, err := stringprep.SASLprep.Prepare(password)
	if err != nil || prepared == "" {
		return password
	}
	return prepared
}

// Verify reports whether the proof is that of a client who knows the password
// (RFC 5802 section 3), over the AuthMessage.
func (k *Keys) Verify(authMessage string, proof []byte) bool {
	if len(proof) != sha256.Size {
		return false
	}
	signature := sum(k.Stored[:], authMessage)
	var client [sha256.Size]byte
	subtle.XORBytes(client[:], proof, signature[:])
	stored := sha256.Sum256(client[:])
	return subtle.ConstantTimeCompare(stored[:], k.Stored[:]) == 1
}

// Sign is the 32 octets of ServerSignature (RFC 5802 section 3): it shows the client
// that the server has its keys.
func (k *Keys) Sign(authMessage string) string {
	signature := sum(k.Server[:], authMessage)
	return string(signature[:])
}

func sum(key []byte, text string) (out [sha256.Size]byte) {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	mac.Sum(out[:0])
	return out
}

// Text is "SCRAM-SHA-256$15000:<salt>$<stored key>:<server key>", base64 with
// padding (RFC 5803 section 3).
func (k *Keys) Text() string {
	return Name + "$" + strconv.Itoa(k.Iterations) + ":" + encode(k.Salt[:]) + "$" + encode(k.Stored[:]) + ":" + encode(k.Server[:])
}

// String keeps keys out of logs.
func (Keys) String() string { return Name + " keys" }

// LogValue keeps keys out of logs of any form.
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// GoString keeps keys out of %#v.
func (k Keys) GoString() string { return k.String() }

var errKeys = errors.New("not keys of " + Name + " as RFC 5803 writes them, within the limits")

// ParseKeys reads Text.
func ParseKeys(text string) (k Keys, err error) {
	rest, named := strings.CutPrefix(text, Name+"$")
	info, values, ok1 := strings.Cut(rest, "$")
	count, salt, ok2 := strings.Cut(info, ":")
	stored, server, ok3 := strings.Cut(values, ":")
	if len(text) > MaxKeys || !named || !ok1 || !ok2 || !ok3 {
		return Keys{}, errKeys
	}
	n, err := strconv.Atoi(count)
	if err != nil || strconv.Itoa(n) != count || n < MinIterations || n > MaxIterations {
		return Keys{}, fmt.Errorf("%w: %d to %d iterations", errKeys, MinIterations, MaxIterations)
	}
	k.Iterations = n
	if !decodeInto(k.Salt[:], salt) || !decodeInto(k.Stored[:], stored) || !decodeInto(k.Server[:], server) {
		return Keys{}, errKeys
	}
	return k, nil
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// decode is RFC 4648 section 4 and nothing else: the library skips line ends.
func decode(text string) ([]byte, bool) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return b, err == nil
}

func decodeInto(out []byte, text string) bool {
	b, ok := decode(text)
	return ok && len(b) == len(out) && copy(out, b) == len(out)
}
