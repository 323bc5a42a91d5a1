package sealed_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// transit is a transit engine's twin: two routes, one key, versions that grow.
type transit struct {
	token   string
	old     bool // it ignores associated data, as early engines do
	version int
	aeads   map[int]cipher.AEAD
	asked   chan struct{} // nil: it answers; else told of a call that hangs
	hang    chan struct{}
}

func (tr *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if tr.asked != nil {
		tr.asked <- struct{}{}
		<-tr.hang
		return
	}
	answer := func(code int, body any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	failed := func(code int, words string) { answer(code, map[string]any{"errors": []string{words}}) }
	if r.Header.Get("X-Vault-Token") != tr.token {
		failed(http.StatusForbidden, "permission denied")
		return
	}
	var asked map[string]string
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		failed(http.StatusBadRequest, err.Error())
		return
	}
	bound, _ := base64.StdEncoding.DecodeString(asked["associated_data"])
	if tr.old {
		bound = nil
	}
	switch r.URL.Path {
	case "/v1/transit/encrypt/postern-eu":
		plain, _ := base64.StdEncoding.DecodeString(asked["plaintext"])
		nonce := make([]byte, 12)
		rand.Read(nonce)
		sealed := tr.aeads[tr.version].Seal(nonce, nonce, plain, bound)
		answer(http.StatusOK, map[string]any{"data": map[string]any{
			"ciphertext": fmt.Sprintf("vault:v%d:%s", tr.version, base64.StdEncoding.EncodeToString(sealed)),
		}})
	case "/v1/transit/decrypt/postern-eu":
		var version int
		var text string
		_, _ = fmt.Sscanf(asked["ciphertext"], "vault:v%d:%s", &version, &text)
		octets, _ := base64.StdEncoding.DecodeString(text)
		aead := tr.aeads[version]
		if aead == nil || len(octets) < 12 {
			failed(http.StatusBadRequest, "invalid ciphertext")
			return
		}
		plain, err := aead.Open(nil, octets[:12], octets[12:], bound)
		if err != nil {
			failed(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		answer(http.StatusOK, map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}})
	default:
		failed(http.StatusNotFound, "no handler")
	}
}

func (tr *transit) rotate(t *testing.T) {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	tr.version++
	if tr.aeads[tr.version], err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
}

// newTransit starts a twin; the environment says what Vault's own tools need.
func newTransit(t *testing.T) (twin *transit, uri string) {
	twin = &transit{token: "s.the-token", aeads: map[int]cipher.AEAD{}}
	twin.rotate(t)
	server := httptest.NewTLSServer(twin)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_CACERT", ca)
	t.Setenv("VAULT_TOKEN", twin.token)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	return twin, "hcvault://" + strings.TrimPrefix(server.URL, "https://") + "/transit/keys/postern-eu"
}

func vault(t *testing.T, uri string) *sealed.Wrapper {
	t.Helper()
	w, err := sealed.OpenWrapper("", uri)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestVault(t *testing.T) {
	twin, uri := newTransit(t)
	for _, twin.old = range []bool{true, false} {
		keyService(t, uri)
	}

	memory := blobtest.NewMemory()
	put(t, open(t, memory, vault(t, uri)), prefix+"/body/1", []byte("one"))
	t.Run("a new version", func(t *testing.T) {
		twin.rotate(t)
		if n, err := sealed.Rewrap(t.Context(), memory, prefix, vault(t, uri), false); n != 1 || err != nil {
			t.Error(n, err)
		}
		delete(twin.aeads, 1)
		mustRead(t, open(t, memory, vault(t, uri)), prefix+"/body/1", "one")
	})
	t.Run("a wrong token", func(t *testing.T) {
		t.Setenv("VAULT_TOKEN", "s.a-wrong-token")
		_, err := sealed.Open(t.Context(), memory, prefix, vault(t, uri), sealed.Options{})
		if !errors.Is(err, sealed.ErrNoKey) || !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "s.a-wrong") {
			t.Error(err)
		}
	})
	t.Run("a token that is renewed", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		t.Setenv(sealed.VaultTokenFile, file)
		w := vault(t, uri)
		for _, token := range []string{"s.first", "s.second"} {
			twin.token = token
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			mustRead(t, open(t, memory, w), prefix+"/body/1", "one")
		}
	})
}

// A service that hangs holds a call up until its context ends, and no longer.
func TestVaultHangs(t *testing.T) {
	twin, uri := newTransit(t)
	twin.asked, twin.hang = make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(twin.hang) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-twin.asked; cancel() }()
	_, err := sealed.Open(ctx, blobtest.NewMemory(), prefix, vault(t, uri), sealed.Options{})
	if !errors.Is(err, context.Canceled) || maildrop.KindOf(err) != maildrop.Canceled {
		t.Error(err)
	}
}

// TestVaultItself does the same on a real transit engine, whose key takes
// associated data.
func TestVaultItself(t *testing.T) {
	uri := os.Getenv("POSTERN_TEST_VAULT_KEY")
	if uri == "" {
		t.Skip("no real Vault or OpenBao: set POSTERN_TEST_VAULT_KEY to hcvault://host:port/transit/keys/name, and VAULT_TOKEN and VAULT_CACERT; TestVault has a twin of it")
	}
	keyService(t, uri)
}

// keyService is what any key service is held to.
func keyService(t *testing.T, uri string) {
	t.Helper()
	memory := blobtest.NewMemory()
	put(t, open(t, memory, vault(t, uri)), prefix+"/body/1", []byte("one"))
	mustRead(t, open(t, memory, vault(t, uri)), prefix+"/body/1", "one")
	generations, err := sealed.Generations(t.Context(), memory, prefix)
	if err != nil || len(generations) != 1 || generations[0].WrappedBy[0] != uri {
		t.Errorf("%v, %v", generations, err)
	}
	moved := blobtest.NewMemory()
	object, _ := all(memory, prefix+"/key/0000000001", 5000)
	put(t, moved, "eu/shard-0008/key/0000000001", object)
	if _, err := sealed.Open(t.Context(), moved, "eu/shard-0008", vault(t, uri), sealed.Options{}); !errors.Is(err, sealed.ErrNoKey) {
		t.Errorf("a key object of another shard: %v", err)
	}
	// From a file to the service and back.
	path := newKeyFile(t)
	for _, to := range []*sealed.Wrapper{fileWrapper(t, path), vault(t, uri)} {
		if n, err := sealed.Rewrap(t.Context(), memory, prefix, to, false, vault(t, uri), fileWrapper(t, path)); n != 1 || err != nil {
			t.Error(n, err)
		}
		mustRead(t, open(t, memory, to), prefix+"/body/1", "one")
	}
}
