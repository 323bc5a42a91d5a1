package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInit makes what two regions begin with, twice: nothing that is there is replaced, and
// both have the same authorities. That processes start with it is the chart's test.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	files := func() map[string]string {
		found := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				text, _ := os.ReadFile(path)
				found[strings.TrimPrefix(path, dir+"/")] = string(text)
				if info, _ := entry.Info(); strings.HasSuffix(path, ".key") && info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v", path, info.Mode())
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	run := func(args ...string) string {
		t.Helper()
		code, out, errs := postern(append([]string{"init", dir}, args...)...)
		if code != 0 {
			t.Fatal(out, errs)
		}
		return out
	}
	if out := run("--region", "../../regions/eu.yaml"); !strings.Contains(out, filepath.Join(dir, "operator/eu.yaml")) {
		t.Error(out)
	}
	first := files()
	run("--region", "../../regions/eu.yaml")
	if again := files(); !maps.Equal(first, again) {
		t.Error("the second time something else is there")
	}
	run("--region", "../../regions/us.yaml", "--prefix", "mail-us", "--operator", "Anna")
	both := files()
	for name, text := range first {
		if both[name] != text {
			t.Errorf("%s was replaced", name)
		}
	}
	if both["secrets/eu-postern-front-identity/ca.crt"] != both["secrets/mail-us-mailbox-identity/ca.crt"] {
		t.Error("the regions don't know each other")
	}
	if !strings.Contains(both["operator/us.yaml"], "us-gateway.postern.example:9950") || both["operator/anna.key"] == "" {
		t.Errorf("%q", both["operator/us.yaml"])
	}
	var secrets []string
	for name := range first {
		if path := strings.Split(name, "/"); path[0] == "secrets" && !slices.Contains(secrets, path[1]) {
			secrets = append(secrets, path[1])
		}
	}
	slices.Sort(secrets)
	if got := strings.Join(secrets, " "); got != "eu-postern-etcd eu-postern-front-identity eu-postern-gateways eu-postern-gossip eu-postern-intake-identity eu-postern-log eu-postern-mailbox-identity eu-postern-pop eu-postern-test-gateway postern-etcd-server" {
		t.Error(got)
	}
	if code, _, errs := postern("init", dir, "--region", "../../regions/eu.yaml", "--prefix", "A B"); code != exitFailed || !strings.Contains(errs, `--prefix: found "A B"`) {
		t.Error(code, errs)
	}
}
