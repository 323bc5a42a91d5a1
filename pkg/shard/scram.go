package shard

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

const (
	// nonceLife is how long after its Challenge a proof counts: time for a slow client
	// to work out its keys, and for a call to wait for the shard's next owner.
	nonceLife   = 2 * time.Minute
	nonceChance = 10 // octets of chance
	nonceMAC    = 16 // octets of HMAC-SHA256
	nonceFixed  = 8 + nonceChance
	nonceOctets = nonceFixed + nonceMAC
)

var (
	errNonce      = errors.New("not a nonce for this address")
	errNonceLate  = errors.New("the nonce has expired")
	nonceEncoding = base64.RawURLEncoding.Strict()
)

// Challenge begins a login by SCRAM. It tells of keys that don't exist what it tells
// of others.
func (s *Shard) Challenge(ctx context.Context, login maildrop.Login) (maildrop.Challenge, error) {
	const op = "shard.challenge"
	if err := s.owned(ctx, op); err != nil {
		return maildrop.Challenge{}, err
	}
	if err := s.confirm(ctx, op); err != nil {
		return maildrop.Challenge{}, err
	}
	if err := s.here(op, login.Address); err != nil {
		return maildrop.Challenge{}, err
	}
	r, _ := s.record(login.Address)
	if primary := r.primary(); primary != "" {
		return maildrop.Challenge{}, &maildrop.Error{Op: op, Kind: maildrop.Alias, Primary: primary}
	}
	keys, _ := s.keysOf(login.Address, r)
	return maildrop.Challenge{
		Nonce: mintNonce(s.ledger.Secret(), login.Address, time.Now()), Salt: keys.Salt[:], Iterations: keys.Iterations,
	}, nil
}

// keysOf are an address's keys, or nobody's: their salt is the same each time, at
// every owner of the shard, and nobody knows their password.
func (s *Shard) keysOf(address maildrop.Address, r record) (keys scram.Keys, ok bool) {
	nobodys := nobodysKeys(s.ledger.Secret(), address)
	if keys, ok = r.keys(); !ok {
		return nobodys, false
	}
	return keys, true
}

func nobodysKeys(secret [32]byte, address maildrop.Address) scram.Keys {
	k := scram.Keys{Iterations: scram.Iterations}
	k.Stored = keyed(secret, "postern scram stored", []byte(address))
	k.Server = keyed(secret, "postern scram server", []byte(address))
	salt := keyed(secret, "postern scram salt", []byte(address))
	copy(k.Salt[:], salt[:])
	return k
}

// keyed is an HMAC for one use of the ledger's secret.
func keyed(secret [32]byte, use string, parts ...[]byte) (out [sha256.Size]byte) {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(use + "\x00"))
	for _, part := range parts {
		mac.Write(part)
	}
	mac.Sum(out[:0])
	return out
}

// checkSecret verifies a login's password against the hash, or its proof against the
// record's keys. hash "" stands for a user who doesn't exist. A refusal is Denied with
// ReasonCredentials.
func (s *Shard) checkSecret(ctx context.Context, login maildrop.Login, hash string, r record) error {
	if login.Proof == nil {
		return s.config.Verify(ctx, login, hash)
	}
	keys, ok := s.keysOf(login.Address, r)
	transcript, err := scram.Transcript(login.Proof.First, login.Proof.Final, login.Proof.Nonce, &keys)
	if err != nil {
		return &maildrop.Error{Op: "shard.proof", Kind: maildrop.Invalid, Err: err}
	}
	if right := keys.Verify(transcript, login.Proof.Proof); !right || !ok || hash == "" {
		return &maildrop.Error{Op: "shard.proof", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	// Last: what is wrong with the nonce is not for guessers.
	if err := checkNonce(s.ledger.Secret(), login.Address, login.Proof.Nonce, time.Now()); err != nil {
		return &maildrop.Error{Op: "shard.proof", Kind: maildrop.Invalid, Err: err}
	}
	return nil
}

// signature is what the owner shows a user whose proof was right; empty for one who
// sent his password.
func (s *Shard) signature(login maildrop.Login, r record) string {
	keys, ok := r.keys()
	if login.Proof == nil || !ok {
		return ""
	}
	transcript, err := scram.Transcript(login.Proof.First, login.Proof.Final, login.Proof.Nonce, &keys)
	if err != nil {
		return ""
	}
	return keys.Sign(transcript)
}

// mintNonce makes the server's part of a nonce. Every owner of the shard knows it
// again, and nobody else can make one:
//
//	base64url of: expires 8 (Unix time in milliseconds, big-endian) | chance 10 | HMAC-SHA256 16
func mintNonce(secret [32]byte, address maildrop.Address, now time.Time) string {
	var b [nonceOctets]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.Add(nonceLife).UnixMilli()))
	rand.Read(b[8:nonceFixed]) // never fails: crypto/rand ends the process instead
	mac := keyed(secret, "postern scram nonce", b[:nonceFixed], []byte(address))
	copy(b[nonceFixed:], mac[:])
	return nonceEncoding.EncodeToString(b[:])
}

// checkNonce says whether a nonce was made for the address, and still counts.
func checkNonce(secret [32]byte, address maildrop.Address, nonce string, now time.Time) error {
	b, err := nonceEncoding.DecodeString(nonce)
	if err != nil || len(b) != nonceOctets {
		return errNonce
	}
	mac := keyed(secret, "postern scram nonce", b[:nonceFixed], []byte(address))
	if !hmac.Equal(mac[:nonceMAC], b[nonceFixed:]) {
		return errNonce
	}
	if now.UnixMilli() >= int64(binary.BigEndian.Uint64(b)) {
		return errNonceLate
	}
	return nil
}
