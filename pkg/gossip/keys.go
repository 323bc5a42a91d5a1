package gossip

import (
	"bytes"
	"errors"
	"slices"

	"github.com/hashicorp/memberlist"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// maxKeys is how many keys a region has at most: there are two while one is replaced.
const maxKeys = 8

func checkKeys(keys [][]byte) error {
	if len(keys) == 0 || len(keys) > maxKeys {
		return errors.New("keys: expected one, or two while one is replaced")
	}
	for _, key := range keys {
		if err := memberlist.ValidateKey(key); err != nil {
			return errors.New("key: expected 16, 24 or 32 octets")
		}
	}
	return nil
}

// SetKeys replaces the keys: the first one encrypts from now on, all are understood.
// With an error, Invalid, nothing has changed.
func (m *Member) SetKeys(keys [][]byte) error {
	const op = "gossip.keys"
	if err := checkKeys(keys); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	var errs []error
	for _, key := range keys {
		errs = append(errs, m.keys.AddKey(key))
	}
	errs = append(errs, m.keys.UseKey(keys[0]))
	for _, old := range slices.Clone(m.keys.GetKeys()) {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, old) }) {
			errs = append(errs, m.keys.RemoveKey(old))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &maildrop.Error{Op: op, Kind: maildrop.Internal, Err: err}
	}
	return nil
}
