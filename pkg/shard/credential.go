package shard

import (
	"encoding/base64"
	"strings"
)

// credential is a password hash, packed: the hashes of one product have all
// their costs in common, and differ in 16 octets of salt and 32 of tag, which a
// PHC string spells in 65 characters of base64.
type credential struct {
	text   string // empty: none. Packed: "$argon2id$v=19$m=65536,t=3,p=4$"; else the hash itself
	secret secret // salt and tag of a packed one, and then not zero
}

type secret [packedSalt + packedTag]byte

const (
	packedSalt = 16 // octets
	packedTag  = 32
	saltText   = 22 // characters of 16 octets in base64 without padding
	tagText    = 43 // of 32
	packedText = saltText + 1 + tagText
)

var phcEncoding = base64.RawStdEncoding.Strict()

func (c credential) empty() bool { return c.text == "" }

func (c credential) packed() bool { return c.secret != secret{} }

// packCredential packs any text.
func packCredential(hash string) (c credential) {
	if c.pack(hash) {
		c.text = hash[:len(hash)-packedText]
		return c
	}
	return credential{text: hash}
}

// pack fills in the secret, if the text ends like a hash of ours.
func (c *credential) pack(hash string) bool {
	cut := len(hash) - packedText
	if cut < 1 || hash[cut-1] != '$' || hash[cut+saltText] != '$' {
		return false
	}
	salt, tag := hash[cut:cut+saltText], hash[cut+saltText+1:]
	// The decoder skips line ends, which unpacking could not give back.
	if strings.ContainsAny(salt+tag, "\r\n") {
		return false
	}
	_, err1 := phcEncoding.Decode(c.secret[:packedSalt], []byte(salt))
	_, err2 := phcEncoding.Decode(c.secret[packedSalt:], []byte(tag))
	return err1 == nil && err2 == nil && c.packed()
}

// hash is the text that was packed.
func (c credential) hash() string {
	if !c.packed() {
		return c.text
	}
	return c.text + phcEncoding.EncodeToString(c.secret[:packedSalt]) + "$" + phcEncoding.EncodeToString(c.secret[packedSalt:])
}
