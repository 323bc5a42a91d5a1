// Command image makes Postern's container image, from scratch: the static binary, the
// certificates of public authorities, and the user 65532. It needs no Docker, and no
// network but for what go build needs.
//
//	image -version 0.1.0 -out bin/image -binary amd64=… -binary arm64=…
//
//	bin/image/oci                    an OCI layout of all platforms
//	bin/image/postern-amd64.tar …    for docker load, and ctr images import
//
// With -push REGISTRY/NAME:TAG it goes to a registry as well, with the credentials that
// docker login has left.
//
// # Decisions
//
//   - 2026-11-25: go-containerregistry, and a layer made here. Refused: ko, which knows no
//     empty base; a Dockerfile, which needs a daemon to do what a tar file does.
//   - 2026-11-25: authorities come from golang.org/x/crypto/x509roots, which the Go
//     project keeps: the same ones on every machine, pinned by go.sum. Refused: those of the
//     machine that builds.
//   - 2026-11-25: all times are the Unix epoch: the same sources make the same image.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is nobody's: Kubernetes wants a number to know that it isn't root.
const user = 65532

const (
	program     = "postern"
	authorities = "/etc/ssl/certs/ca-certificates.crt"
	source      = "https://github.com/postern-pop/postern"
)

type options struct {
	version, out, push string
	binaries           map[string]string // by architecture
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	o := options{binaries: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.version, "version", "", "the image's `version`, and tag")
	flags.StringVar(&o.out, "out", "", "`directory` for what is made; what is in it is replaced")
	flags.StringVar(&o.push, "push", "", "`name` in a registry to push to")
	flags.Func("binary", "`architecture=file`; may be repeated", func(text string) error {
		arch, file, found := strings.Cut(text, "=")
		if !found {
			return errors.New("expected architecture=file")
		}
		o.binaries[arch] = file
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.version == "" || o.out == "" || len(o.binaries) == 0 {
		return errors.New("expected -version, -out and at least one -binary")
	}
	return o.make(out)
}

// make writes everything, and says what.
func (o *options) make(out io.Writer) error {
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return err
	}
	tag, err := name.NewTag(program + ":" + o.version)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var archs []string
	for arch := range o.binaries {
		archs = append(archs, arch)
	}
	slices.Sort(archs)
	for _, arch := range archs {
		image, err := o.image(arch)
		if err != nil {
			return err
		}
		file := filepath.Join(o.out, program+"-"+arch+".tar")
		if err := tarball.WriteToFile(file, tag, image); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %s for docker load, or ctr images import\n", file, program+":"+o.version)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	dir := filepath.Join(o.out, "oci")
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: an OCI layout for %s, %s\n", dir, strings.Join(archs, " and "), digest)
	return o.pushed(index, digest, out)
}

// pushed sends the index to a registry, if there is one.
func (o *options) pushed(index v1.ImageIndex, digest v1.Hash, out io.Writer) error {
	if o.push == "" {
		return nil
	}
	to, err := name.ParseReference(o.push)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(to, index, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "pushed: %s@%s\n", to.Context().Name(), digest)
	return err
}

// image is the image of one architecture.
func (o *options) image(arch string) (v1.Image, error) {
	text, err := o.layer(arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(mutate.ConfigMediaType(image, types.OCIConfigJSON), &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: epoch()},
		Config: v1.Config{
			User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{"/" + program}, WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title": program, "org.opencontainers.image.version": o.version,
				"org.opencontainers.image.source": source,
			},
		},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: diffIDs(image)},
		History: []v1.History{{Created: v1.Time{Time: epoch()}, CreatedBy: "make image"}},
	})
}

func diffIDs(image v1.Image) []v1.Hash {
	file, err := image.ConfigFile()
	if err != nil {
		return nil // it was made above
	}
	return file.RootFS.DiffIDs
}

func epoch() time.Time { return time.Unix(0, 0).UTC() }

// layer is all files of the image, as a tar archive. The directories below are the
// user's, so that a new volume of Docker's, which takes its owner from there, is too.
func (o *options) layer(arch string) ([]byte, error) {
	binary, err := os.ReadFile(o.binaries[arch])
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, dir := range []struct {
		name  string
		owner int
	}{{"etc", 0}, {"etc/postern", user}, {"etc/ssl", 0}, {"etc/ssl/certs", 0}, {"var", 0}, {"var/lib", 0}, {"var/lib/postern", user}} {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir.name + "/", Mode: 0o755, Uid: dir.owner, Gid: dir.owner, ModTime: epoch()})
		if err != nil {
			return nil, err
		}
	}
	for _, file := range []struct {
		name string
		mode int64
		data []byte
	}{{program, 0o755, binary}, {authorities[1:], 0o644, roots()}, {"etc/passwd", 0o644, passwd()}} {
		header := tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: file.mode, Size: int64(len(file.data)), ModTime: epoch()}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(file.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil { // it writes the end, which not every reader does without
		return nil, err
	}
	return text.Bytes(), nil
}

// roots are public authorities, in PEM. Those that are trusted up to a date only, which a
// PEM file can't say, aren't among them.
func roots() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // memory doesn't fail
		}
	}
	return text.Bytes()
}

// passwd is for those who look the user up.
func passwd() []byte {
	return fmt.Appendf(nil, "root:x:0:0:root:/:/none\n%s:x:%d:%d:%s:/:/none\n", program, user, user, program)
}
