package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// parameters are argon2id's costs, and the lengths that go with them.
type parameters struct {
	memory  uint32 // KiB
	time    uint32 // passes
	threads uint8  // lanes
	salt    int    // octets
	tag     int    // octets
}

// recommended is the second recommended option of RFC 9106 section 4.
var recommended = parameters{memory: 64 << 10, time: 3, threads: 4, salt: 16, tag: 32}

// Limits on what a stored hash may ask for. A record that somebody crafted
// takes no more memory than our own hashes do, and at most three times the
// work.
const (
	maxPHC      = 256 // octets of the whole string
	maxMemory   = 64 << 10
	maxTime     = 9
	maxThreads  = 16
	minSalt     = 8 // RFC 9106 section 3.1
	maxSalt     = 48
	minTag      = 16
	maxTag      = 64
	maxPassword = 1024 // octets
)

const (
	phcName    = "argon2id"
	phcVersion = "v=19"
)

var errPHC = errors.New("not an argon2id hash in PHC string format within the limits")

// Hash makes the hash of a password, prepared by SASLprep, with a salt of its own, in PHC string
// format. An empty password, or one over 1024 octets, is Invalid.
//
// It takes 64 MiB and does not wait for a place in a Verifier's pool: it is
// for administration.
func Hash(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", &maildrop.Error{Op: "auth.hash", Kind: maildrop.Invalid,
			Text: fmt.Sprintf("a password has 1 to %d octets", maxPassword)}
	}
	return recommended.hash(scram.Prepare(password)).String(), nil
}

func (p parameters) hash(password string) phc {
	h := phc{parameters: p, saltOctets: make([]byte, p.salt)}
	rand.Read(h.saltOctets) // never fails: crypto/rand ends the process instead
	h.tagOctets = h.derive(password)
	return h
}

// nobodys is the hash of no password that anybody knows: salt and tag are
// random. Checking against it costs as much as against any other.
func (p parameters) nobodys() phc {
	h := phc{parameters: p, saltOctets: make([]byte, p.salt), tagOctets: make([]byte, p.tag)}
	rand.Read(h.saltOctets) // never fails: crypto/rand ends the process instead
	rand.Read(h.tagOctets)
	return h
}

// Check says whether hash is one that Verify can use.
func Check(hash string) error {
	if _, err := parsePHC(hash); err != nil {
		return &maildrop.Error{Op: "auth.check", Kind: maildrop.Invalid, Err: err}
	}
	return nil
}

// phc is a parsed PHC string.
type phc struct {
	parameters
	saltOctets []byte
	tagOctets  []byte
}

// String is "$argon2id$v=19$m=65536,t=3,p=4$<salt>$<tag>", base64 without
// padding.
func (h phc) String() string {
	return fmt.Sprintf("$%s$%s$m=%d,t=%d,p=%d$%s$%s", phcName, phcVersion, h.memory, h.time, h.threads,
		base64.RawStdEncoding.EncodeToString(h.saltOctets), base64.RawStdEncoding.EncodeToString(h.tagOctets))
}

func (h phc) derive(password string) []byte {
	return argon2.IDKey([]byte(password), h.saltOctets, h.time, h.memory, h.threads, uint32(h.tag))
}

// matches does the whole work in any case, then compares in constant time.
func (h phc) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.derive(password), h.tagOctets) == 1
}

func parsePHC(s string) (phc, error) {
	if len(s) > maxPHC {
		return phc{}, errPHC
	}
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != phcName || part[2] != phcVersion {
		return phc{}, errPHC
	}
	memory, time, threads, ok := parseCosts(part[3])
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(part[4])
	tag, err2 := base64.RawStdEncoding.Strict().DecodeString(part[5])
	if !ok || err1 != nil || err2 != nil ||
		!within(len(salt), minSalt, maxSalt) || !within(len(tag), minTag, maxTag) {
		return phc{}, errPHC
	}
	return phc{
		parameters: parameters{memory: uint32(memory), time: uint32(time), threads: uint8(threads), salt: len(salt), tag: len(tag)},
		saltOctets: salt, tagOctets: tag,
	}, nil
}

// parseCosts reads "m=65536,t=3,p=4", in this order and spelling only.
func parseCosts(s string) (memory, time, threads int, ok bool) {
	part := strings.Split(s, ",")
	if len(part) != 3 {
		return 0, 0, 0, false
	}
	memory, ok1 := parseCost(part[0], "m=", 1, maxMemory)
	time, ok2 := parseCost(part[1], "t=", 1, maxTime)
	threads, ok3 := parseCost(part[2], "p=", 1, maxThreads)
	// At least 8 KiB a lane: RFC 9106 section 3.1.
	return memory, time, threads, ok1 && ok2 && ok3 && memory >= 8*threads
}

func parseCost(s, name string, low, high int) (int, bool) {
	digits, found := strings.CutPrefix(s, name)
	n, err := strconv.Atoi(digits)
	return n, found && err == nil && within(n, low, high) && strconv.Itoa(n) == digits
}

func within(n, low, high int) bool { return n >= low && n <= high }
