package sealed

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Wrapper wraps data keys by a key-encryption key: one of a file, or one that
// a key service keeps to itself.
type Wrapper struct {
	name    string // of the key that wraps now; stored in the clear
	source  string // where the keys are, for people
	service bool   // it may wrap by another version of the key each time, under one name
	aead    tink.AEADWithContext
	holds   func(name string) bool
}

// Name is the wrapping key's: "keyset/<key id>", or the key service's URI.
func (w *Wrapper) Name() string { return w.name }

// OpenWrapper is the wrapper of a region's settings, of which one is set: the
// path of a keyset file, or the URI of a key service's key (hcvault:// is known).
func OpenWrapper(keyFile, keyURI string) (*Wrapper, error) {
	switch {
	case (keyFile == "") == (keyURI == ""):
		return nil, errors.New("encryption needs a key file or a key service's URI, and not both")
	case keyFile != "":
		return KeyFile(keyFile)
	}
	return Vault(keyURI)
}

// Service wraps by a key service's key. A call to it that its client never ends
// holds up nothing but itself.
func Service(uri string, client registry.KMSClient) (*Wrapper, error) {
	if err := checkURI(uri); err != nil {
		return nil, err
	}
	aead, err := client.GetAEAD(uri)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	return &Wrapper{
		name: uri, source: "the key service", service: true,
		aead:  impatient{aead},
		holds: func(name string) bool { return name == uri },
	}, nil
}

// checkURI refuses what must not be stored in the clear or logged.
func checkURI(uri string) error {
	parsed, err := url.Parse(uri)
	switch {
	case err != nil, parsed.Scheme == "", parsed.Host == "":
		return errors.New("a key service's URI is scheme://host:port/path") // not quoted: it may hold a password
	case parsed.User != nil, parsed.RawQuery != "", parsed.Fragment != "":
		return errors.New("a key service's URI has no user, password, query or fragment: it is stored in the clear")
	case len(uri) > maxName:
		return fmt.Errorf("a key service's URI has at most %d octets", maxName)
	}
	return nil
}

// wrap makes a key object of a data key.
func (w *Wrapper) wrap(ctx context.Context, prefix string, generation uint32, data *secret) ([]byte, error) {
	check, err := data.check(prefix, generation)
	if err != nil {
		return nil, err
	}
	k := keyObject{generation: generation, check: check, name: w.name}
	if k.wrapped, err = w.aead.EncryptWithContext(ctx, data.reveal()[:], k.bound(prefix)); err != nil {
		return nil, fmt.Errorf("wrapping a data key by %s of %s: %w", w.name, w.source, err)
	}
	return k.encode()
}

// unwrap is the data key of a key object. Its error says which key is wanted,
// and what to do.
func (w *Wrapper) unwrap(ctx context.Context, prefix string, k keyObject) (*secret, error) {
	if !w.holds(k.name) {
		return nil, fmt.Errorf("%w: its data key is wrapped by %s, which %s does not have: put that key back, "+
			"or wrap the data key by another one where that key is (postern key rewrap)", ErrWrongKey, k.name, w.source)
	}
	octets, err := w.aead.DecryptWithContext(ctx, k.wrapped, k.bound(prefix))
	if err != nil {
		return nil, fmt.Errorf("its data key can't be unwrapped by %s of %s: %w", k.name, w.source, err)
	}
	data := newSecret(octets)
	if check, err := data.check(prefix, k.generation); err != nil || len(octets) != keySize || !same(check, k.check) {
		return nil, fmt.Errorf("its data key, wrapped by %s, is not the one of this place: restore the key object", k.name)
	}
	return data, nil
}

// impatient gives a service's calls, which take no context, one.
type impatient struct{ tink.AEAD }

type outcome struct {
	octets []byte
	err    error
}

// EncryptWithContext implements tink.AEADWithContext.
func (i impatient) EncryptWithContext(ctx context.Context, plain, bound []byte) ([]byte, error) {
	return await(ctx, func() ([]byte, error) { return i.Encrypt(plain, bound) })
}

// DecryptWithContext implements tink.AEADWithContext.
func (i impatient) DecryptWithContext(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	return await(ctx, func() ([]byte, error) { return i.Decrypt(wrapped, bound) })
}

// await leaves a call alone that outlasts ctx: the client's own time limit ends it.
func await(ctx context.Context, call func() ([]byte, error)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	done := make(chan outcome, 1)
	go func() {
		octets, err := call()
		done <- outcome{octets, err}
	}()
	select {
	case o := <-done:
		return o.octets, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
