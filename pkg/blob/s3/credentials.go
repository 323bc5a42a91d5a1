package s3

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// keyring asks for credentials where they may be, in turn. What is found is
// used until it expires or a server refuses it: a file that was changed is then
// read again.
type keyring struct {
	credentials *credentials.Credentials
	places      []place
	from        credentials.Provider // of those in use
}

type place struct {
	name string
	credentials.Provider
}

func newKeyring(file string) *keyring {
	k := &keyring{places: []place{{"environment", &credentials.EnvAWS{}}}}
	if file != "" {
		k.places = append(k.places, place{file, &credentials.FileAWSCredentials{Filename: file}})
	}
	k.places = append(k.places,
		place{"shared file", &credentials.FileAWSCredentials{}},
		place{"instance role", &credentials.IAM{Client: &http.Client{Timeout: 3 * time.Second}}},
	)
	k.credentials = credentials.New(k)
	return k
}

// refused makes the next request ask anew when the store didn't take what is
// in use.
func (k *keyring) refused(err error) {
	if a, answered := answerOf(err); answered && errors.Is(a.meaning(), ErrCredentials) {
		k.credentials.Expire()
	}
}

// RetrieveWithCredContext implements credentials.Provider. Never anonymous: an
// unsigned request would be told "access denied", which says nothing.
func (k *keyring) RetrieveWithCredContext(with *credentials.CredContext) (credentials.Value, error) {
	var tried []error
	for _, p := range k.places {
		value, err := p.RetrieveWithCredContext(with)
		if err == nil && value.AccessKeyID != "" && value.SecretAccessKey != "" {
			k.from = p
			return value, nil
		}
		if err == nil {
			err = errors.New("none")
		}
		tried = append(tried, fmt.Errorf("%s: %w", p.name, err))
	}
	return credentials.Value{}, fmt.Errorf("%w:\n%w", ErrCredentials, errors.Join(tried...))
}

// Retrieve implements credentials.Provider.
func (k *keyring) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (k *keyring) IsExpired() bool { return k.from == nil || k.from.IsExpired() }
