package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// make makes an image of something that isn't Postern, and returns what it says.
func makeImage(t *testing.T, out string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(dir, arch)
		if err := os.WriteFile(file, []byte("binary for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-binary", arch+"="+file)
	}
	var said bytes.Buffer
	if err := run(append([]string{"-version", "1.2.3", "-out", out}, args...), &said); err != nil {
		t.Fatal(err)
	}
	return said.String()
}

// TestImage looks at all that is in an image.
func TestImage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image")
	makeImage(t, out)
	image, err := tarball.ImageFromPath(filepath.Join(out, "postern-arm64.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; config.Architecture != "arm64" || c.User != "65532:65532" || strings.Join(c.Entrypoint, " ") != "/postern" || len(c.Env) > 0 {
		t.Errorf("%+v", config)
	}
	files := map[string]*tar.Header{}
	var pool []byte
	reader := mutate.Extract(image)
	defer reader.Close()
	for r := tar.NewReader(reader); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(header.Name, "/")] = header
		data, _ := io.ReadAll(r)
		switch header.Name {
		case "postern":
			if string(data) != "binary for arm64" || header.Mode != 0o755 {
				t.Errorf("the binary is %q, %o", data, header.Mode)
			}
		case "etc/ssl/certs/ca-certificates.crt":
			pool = data
		}
	}
	if authorities := x509.NewCertPool(); !authorities.AppendCertsFromPEM(pool) || bytes.Count(pool, []byte("BEGIN")) < 80 {
		t.Errorf("%d authorities", bytes.Count(pool, []byte("BEGIN")))
	}
	if dir := files["var/lib/postern"]; dir == nil || dir.Uid != 65532 {
		t.Errorf("%+v", dir)
	}
	if len(files) != 10 {
		t.Errorf("%d files", len(files))
	}
}

// TestLayerIsWhole: an archive ends with two blocks of zeros, and GNU tar, containerd and
// others take one without them for a broken one.
func TestLayerIsWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := (&options{binaries: map[string]string{"amd64": file}}).layer("amd64")
	if err != nil {
		t.Fatal(err)
	}
	if end := text[max(0, len(text)-1024):]; len(text)%512 != 0 || !bytes.Equal(end, make([]byte, 1024)) {
		t.Errorf("%d octets, and the last ones are %q", len(text), end)
	}
}

// TestSameAgain: the same binaries make the same image, whenever that is.
func TestSameAgain(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	makeImage(t, filepath.Join(first, "x"))
	makeImage(t, filepath.Join(second, "x"))
	for _, file := range []string{"postern-amd64.tar", "postern-arm64.tar", "oci/index.json"} {
		one, err := os.ReadFile(filepath.Join(first, "x", file))
		if err != nil {
			t.Fatal(err)
		}
		if two, err := os.ReadFile(filepath.Join(second, "x", file)); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s differs: %v", file, err)
		}
	}
}

// TestPush sends both platforms to a registry, and takes one of them from it.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	to := strings.TrimPrefix(server.URL, "http://") + "/mail/postern:1.2.3"
	out := filepath.Join(t.TempDir(), "image")
	said := makeImage(t, out, "-push", to)
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		if config, err := image.ConfigFile(); err != nil || config.Architecture != arch {
			t.Errorf("%s: %+v, %v", arch, config, err)
		}
	}
	local, err := layout.ImageIndexFromPath(filepath.Join(out, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := local.Digest(); err != nil || !strings.Contains(said, "@"+digest.String()) {
		t.Errorf("pushed another one than %v is: %s, %v", digest, said, err)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{{}, {"-version", "1", "-out", "x"}, {"-binary", "amd64"}} {
		if err := run(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
