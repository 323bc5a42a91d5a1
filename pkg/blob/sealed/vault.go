package sealed

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// VaultTokenFile is the environment's variable that names a file with the
// token. The file is read at each call, so whoever renews the token writes it there.
const VaultTokenFile = "VAULT_TOKEN_FILE"

const vaultTimeout = 5 * time.Second // for each of at most three tries of a call

// Vault wraps by a key of HashiCorp Vault's or OpenBao's transit engine,
// hcvault://host:port/transit/keys/name, over TLS. The environment says the rest, as
// for Vault's own tools: VAULT_CACERT, VAULT_CLIENT_CERT, VAULT_NAMESPACE, …, and
// VAULT_TOKEN or VaultTokenFile.
func Vault(uri string) (*Wrapper, error) {
	if err := checkURI(uri); err != nil {
		return nil, err
	}
	parsed, err := url.Parse(uri)
	if err != nil || parsed.Scheme != "hcvault" {
		return nil, fmt.Errorf("key %s: a key service's URI is hcvault://host:port/transit/keys/name", uri)
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("key %s: %w", uri, config.Error)
	}
	config.Address, config.Timeout = "https://"+parsed.Host, vaultTimeout
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	kms, err := hcvault.NewClientWithAEADOptions("hcvault://"+parsed.Host+"/", client.Logical())
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	return Service(uri, freshToken{kms, client})
}

// freshToken is a client that looks for a new token before each call.
type freshToken struct {
	registry.KMSClient
	client *api.Client
}

// GetAEAD implements registry.KMSClient.
func (f freshToken) GetAEAD(uri string) (tink.AEAD, error) {
	aead, err := f.KMSClient.GetAEAD(uri)
	return tokenAEAD{aead, f.client}, err
}

type tokenAEAD struct {
	aead   tink.AEAD
	client *api.Client
}

func (t tokenAEAD) renew() error {
	file := os.Getenv(VaultTokenFile)
	if file == "" {
		return nil
	}
	token, err := os.ReadFile(file) //nolint:gosec // the operator says which file
	if err != nil {
		return err
	}
	t.client.SetToken(string(bytes.TrimSpace(token)))
	return nil
}

// Encrypt implements tink.AEAD.
func (t tokenAEAD) Encrypt(plain, bound []byte) ([]byte, error) {
	if err := t.renew(); err != nil {
		return nil, err
	}
	return t.aead.Encrypt(plain, bound)
}

// Decrypt implements tink.AEAD.
func (t tokenAEAD) Decrypt(wrapped, bound []byte) ([]byte, error) {
	if err := t.renew(); err != nil {
		return nil, err
	}
	return t.aead.Decrypt(wrapped, bound)
}
