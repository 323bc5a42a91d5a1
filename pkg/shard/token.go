package shard

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

const (
	tokenVersion = 1
	tokenLife    = 6 * time.Hour // renewed by each Check
	// sessionLife ends every session before the index forgets what it holds: see
	// keepRemoved, with a margin for clocks that differ.
	sessionLife = 20 * time.Hour
	tokenFixed  = 1 + 4*8 + 16
	maxToken    = tokenFixed + maildrop.MaxAddress + sha256.Size
)

// claims are what a session's token says: which snapshot, of which
// credentials, and how long it counts.
//
//	version 1 | position 8 | opened 8 | credentials 8 | expires 8 | remote 16 | address … | HMAC-SHA256 32
//
// Numbers are big-endian, times are Unix times in seconds.
type claims struct {
	snapshot
	credentials ledger.Position
	expires     int64      // Unix time in seconds
	remote      netip.Addr // where the user logged in from; zero: unknown
}

var (
	errToken   = errors.New("not a token of this shard")
	errExpired = errors.New("the session's token has expired")
)

// renewed are the claims with a new end, but never past the session's.
func (c claims) renewed(now time.Time) claims {
	c.expires = min(now.Add(tokenLife).Unix(), c.opened+int64(sessionLife/time.Second))
	return c
}

// valid reports whether the claims count at the given instant.
func (c claims) valid(now time.Time) bool { return now.Unix() < c.expires }

// token writes the claims down under the ledger's secret.
func (c claims) token(secret [32]byte) []byte {
	b := make([]byte, 0, tokenFixed+len(c.address)+sha256.Size)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.position))
	b = binary.BigEndian.AppendUint64(b, uint64(c.opened))
	b = binary.BigEndian.AppendUint64(b, uint64(c.credentials))
	b = binary.BigEndian.AppendUint64(b, uint64(c.expires))
	remote := c.remote.As16() // all zero for the zero Addr
	b = append(b, remote[:]...)
	b = append(b, c.address...)
	return append(b, tokenMAC(secret, b)...)
}

// parseToken reads claims that were written under the secret.
func parseToken(secret [32]byte, token []byte) (claims, error) {
	if len(token) < tokenFixed+sha256.Size || len(token) > maxToken || token[0] != tokenVersion {
		return claims{}, errToken
	}
	b, mac := token[:len(token)-sha256.Size], token[len(token)-sha256.Size:]
	if !hmac.Equal(tokenMAC(secret, b), mac) {
		return claims{}, errToken
	}
	return claims{
		snapshot: snapshot{
			position: ledger.Position(binary.BigEndian.Uint64(b[1:])),
			opened:   int64(binary.BigEndian.Uint64(b[9:])),
			address:  maildrop.Address(b[tokenFixed:]),
		},
		credentials: ledger.Position(binary.BigEndian.Uint64(b[17:])),
		expires:     int64(binary.BigEndian.Uint64(b[25:])),
		remote:      remoteOf([16]byte(b[33:])),
	}, nil
}

func remoteOf(octets [16]byte) netip.Addr {
	if octets == [16]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom16(octets).Unmap()
}

func tokenMAC(secret [32]byte, b []byte) []byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte("postern session token\x00")) // the secret's other uses can't collide
	mac.Write(b)
	return mac.Sum(nil)
}
