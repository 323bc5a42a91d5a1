package placement

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

const (
	// ticketPeriod is how long a ticket key encrypts.
	ticketPeriod = 6 * time.Hour
	// staleTickets is for how many periods after its own a key goes on encrypting when
	// there is no newer one. Then etcd has been away for a day, and the tickets of TLS
	// 1.2 are only as secret as their key.
	staleTickets = 4
	// minTicketSecret is the shortest secret in octets.
	minTicketSecret = 16
)

// TicketKey encrypts session tickets. It shows itself to nobody by accident.
type TicketKey [32]byte

const hidden = "(secret)"

// String is for logs, and says nothing; so are GoString and LogValue.
func (TicketKey) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (TicketKey) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (TicketKey) LogValue() slog.Value { return slog.StringValue(hidden) }

func newTicketKey() (key TicketKey) {
	rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	return key
}

// period counts the times of ticket keys since 1970.
type period int64

func periodOf(t time.Time) period { return period(t.Unix() / int64(ticketPeriod/time.Second)) }

func (p period) begin() time.Time { return time.Unix(int64(p)*int64(ticketPeriod/time.Second), 0) }

// ticketRing is the keys that a process knows. It is pure but for the random keys that
// it makes when it has none.
//
//	period      n-1        n         n+1
//	           decrypts  encrypts   known already: to whoever's clock is ahead
type ticketRing struct {
	shared map[period]TicketKey // the region's
	own    map[period]TicketKey // made here, for want of a shared one
}

func newTicketRing() ticketRing {
	return ticketRing{shared: map[period]TicketKey{}, own: map[period]TicketKey{}}
}

// newest is the period whose shared key encrypts at p.
func (r *ticketRing) newest(p period) (period, bool) {
	for n := p; n >= p-staleTickets; n-- {
		if _, ok := r.shared[n]; ok {
			return n, true
		}
	}
	return 0, false
}

// current reports whether a shared key encrypts, and when the time of the key that does
// began.
func (r *ticketRing) current(now time.Time) (shared bool, since time.Time) {
	p := periodOf(now)
	n, ok := r.newest(p)
	if !ok {
		n = p
	}
	return ok, n.begin()
}

// inUse are the keys: the first encrypts, the others are of tickets that are out, or
// that others give out already.
func (r *ticketRing) inUse(now time.Time) (keys []TicketKey) {
	p := periodOf(now)
	n, ok := r.newest(p)
	if ok {
		keys = append(keys, r.shared[n])
	} else if _, made := r.own[p]; !made {
		r.own[p] = newTicketKey()
	}
	old := func(q period, _ TicketKey) bool { return q < p-1 && (q != n || !ok) }
	maps.DeleteFunc(r.shared, old)
	maps.DeleteFunc(r.own, old)
	for _, from := range []map[period]TicketKey{r.own, r.shared} {
		for _, q := range []period{p, p + 1, p - 1} {
			if key, there := from[q]; there && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// sealer encrypts keys for etcd.
type sealer struct{ cipher.AEAD }

// newSealer derives the sealer of a secret, and a name for it that tells nothing of it:
// processes with another secret use other entries.
func newSealer(secret []byte) (sealer, string, error) {
	if len(secret) < minTicketSecret {
		return sealer{}, "", errors.New("a secret of at least 16 octets is wanted")
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "postern session ticket keys, encryption", 32)
	if err != nil {
		return sealer{}, "", err
	}
	name, err := hkdf.Key(sha256.New, secret, nil, "postern session ticket keys, name", 8)
	if err != nil {
		return sealer{}, "", err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, "", err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, hex.EncodeToString(name), err
}

// seal binds a key to its place, so that none can be put in another's.
func (s sealer) seal(place string, key TicketKey) []byte {
	return s.Seal(nil, nil, key[:], []byte(place)) //nolint:gosec // it makes a nonce of its own
}

func (s sealer) open(place string, sealed []byte) (key TicketKey, err error) {
	plain, err := s.Open(nil, nil, sealed, []byte(place))
	if err != nil {
		return key, err
	}
	if copy(key[:], plain) != len(key) || len(plain) != len(key) {
		return key, errors.New("not the size of a key")
	}
	return key, nil
}
