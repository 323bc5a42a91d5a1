package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postern-pop/postern"

// rooms says which of our packages each room may import, besides maildrop,
// the page of nouns, which all may. A package that isn't here has no business
// in the tree.
var rooms = map[string]string{
	"pkg/maildrop":      "",
	"pkg/wire":          "",
	"pkg/scram":         "",
	"pkg/pop3":          "pkg/wire pkg/scram pkg/throttle",
	"pkg/throttle":      "",
	"pkg/lmtp":          "pkg/wire",
	"pkg/policy":        "",
	"pkg/auth":          "pkg/scram",
	"pkg/blob":          "",
	"pkg/blob/dir":      "pkg/blob",
	"pkg/blob/s3":       "pkg/blob",
	"pkg/blob/measured": "pkg/blob",
	"pkg/blob/verify":   "pkg/blob",
	"pkg/blob/slow":     "pkg/blob",
	"pkg/ledger":        "pkg/blob",
	"pkg/guard":         "",
	"pkg/shard":         "pkg/ledger pkg/policy pkg/blob pkg/guard pkg/scram",
	"pkg/fsck":          "pkg/shard pkg/ledger pkg/blob",
	"pkg/snapshot":      "",
	"pkg/directory":     "pkg/policy pkg/snapshot",
	"pkg/placement":     "pkg/snapshot",
	"pkg/gossip":        "",
	"pkg/node":          "pkg/blob pkg/shard pkg/placement pkg/gossip pkg/directory pkg/auth pkg/policy",
	"pkg/rpc":           "proto/postern/v1",
	"pkg/router":        "pkg/directory pkg/placement pkg/gossip pkg/rpc pkg/policy",
	"pkg/admin":         "pkg/directory pkg/placement pkg/router pkg/policy pkg/auth pkg/scram pkg/rpc proto/postern/v1",
	"pkg/config":        "pkg/blob regions",
	"pkg/run":           "",
	"pkg/pki":           "pkg/rpc",
	"pkg/certificate":   "",
	"pkg/proxy":         "",
	"pkg/embedetcd":     "",
	"proto/postern/v1":  "",
	"regions":           "",
	"deploy/helm":       "",
	"cmd/postern":       "*",
	"pkg/movein":        "pkg/wire",
	"pkg/blob/sealed":   "pkg/blob",
	"pkg/mailclient":    "",
	"pkg/history":       "",
	"pkg/drill":         "pkg/mailclient pkg/history",

	// For tests only: no room above may import them.
	"pkg/archtest":            "",
	"pkg/maildroptest/corpus": "",
	"pkg/maildroptest":        "pkg/policy pkg/auth pkg/wire pkg/scram",
	"pkg/blob/blobtest":       "pkg/blob",
	"pkg/blob/s3test":         "",
	"pkg/internal/etcdtest":   "",
	"pkg/link":                "",
	"pkg/mutation":            "",
	"pkg/sim":                 "",
}

// doors says which rooms alone may touch a piece of the outside world.
var doors = map[string]string{
	"go.etcd.io/etcd/client/v3":       "pkg/directory pkg/placement pkg/node cmd/postern",
	"go.etcd.io/etcd/server/v3":       "pkg/embedetcd",
	"github.com/hashicorp/memberlist": "pkg/gossip",
	"github.com/pires/go-proxyproto":  "pkg/proxy",
	"google.golang.org/grpc":          "pkg/rpc pkg/admin proto/postern/v1 cmd/postern",
	"github.com/minio/minio-go":       "pkg/blob/s3",
	"github.com/alecthomas/kong":      "cmd/postern",
	"github.com/schollz/progressbar":  "cmd/postern",
	"golang.org/x/crypto/argon2":      "pkg/auth",
	"github.com/xdg-go/stringprep":    "pkg/scram",
	"go.yaml.in/yaml/v3":              "pkg/config cmd/postern",
	"github.com/tink-crypto":          "pkg/blob/sealed",
	"github.com/hashicorp/vault":      "pkg/blob/sealed",
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Doc        string
	GoFiles    []string
}

// packages lists every package of the module with its non-test imports.
func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,GoFiles", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func room(importPath string) string { return strings.TrimPrefix(importPath, module+"/") }

// TestRoomsImportOnlyWhatTheyMay holds the table of rooms against the imports.
func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := rooms[room(p.ImportPath)]
		if !known {
			t.Errorf("%s is not on the floor plan: add it to rooms here, with what it may import", room(p.ImportPath))
			continue
		}
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module+"/") {
				continue
			}
			if r := room(imported); r != "pkg/maildrop" && allowed != "*" && !slices.Contains(strings.Fields(allowed), r) {
				t.Errorf("%s imports %s; it may import: maildrop %s", room(p.ImportPath), r, allowed)
			}
		}
	}
}

// TestDoorsAreUsedByTheirRoomsOnly holds that what is outside is reached through
// the rooms made for it.
func TestDoorsAreUsedByTheirRoomsOnly(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for door, allowed := range doors {
				if imported != door && !strings.HasPrefix(imported, door+"/") {
					continue
				}
				if !slices.Contains(strings.Fields(allowed), room(p.ImportPath)) && !strings.HasSuffix(p.ImportPath, "/internal/etcdtest") {
					t.Errorf("%s imports %s; that door belongs to: %s", room(p.ImportPath), imported, allowed)
				}
			}
		}
	}
}

// TestEveryRoomSaysWhatItPromises: a package without a comment is a room
// without a name on its door.
func TestEveryRoomSaysWhatItPromises(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" && !strings.HasPrefix(room(p.ImportPath), "proto/") {
			t.Errorf("%s has no package comment", room(p.ImportPath))
		}
	}
}

// TestEveryRoomExists keeps the table from outliving what it describes.
func TestEveryRoomExists(t *testing.T) {
	var found []string
	for _, p := range packages(t) {
		found = append(found, room(p.ImportPath))
	}
	for r := range rooms {
		if !slices.Contains(found, r) {
			t.Errorf("%s is on the floor plan but not in the tree", r)
		}
	}
}
