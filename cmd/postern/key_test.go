package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/blob/sealed"
)

// keyCommand runs a line of "postern key" and returns what it prints.
func keyCommand(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	parser, err := kong.New(&struct {
		Key keyCmd `cmd:""`
	}{}, kong.BindTo(t.Context(), (*context.Context)(nil)), kong.Writers(&out, &out))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(append([]string{"key"}, args...))
	if err != nil {
		return "", err
	}
	err = parsed.Run()
	return out.String(), err
}

// keyed is a region of two shards with a sealed object in each, and its files.
func keyed(t *testing.T) (region, keys string, read func() error) {
	t.Helper()
	at := t.TempDir()
	region, keys = filepath.Join(at, "eu.yaml"), filepath.Join(at, "keys.json")
	text := `name: eu
title: Europe
hostname: eu-pop.example.com
shards: 2
cross_region: relay
gateway: eu-gateway.example.com:9950
storage:
  dir:
    path: store
  encryption:
    key_file: keys.json
`
	if err := os.WriteFile(region, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := keyCommand(t, "create", keys); err != nil || !strings.Contains(out, "Keep a copy") {
		t.Fatal(out, err)
	}
	store, err := dir.Open(filepath.Join(at, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	open := func(prefix string) (*sealed.Store, error) {
		w, err := sealed.KeyFile(keys)
		if err != nil {
			return nil, err
		}
		return sealed.Open(t.Context(), store, prefix, w, sealed.Options{})
	}
	for _, prefix := range []string{"eu/shard-0000", "eu/shard-0001"} {
		s, err := open(prefix)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Create(t.Context(), prefix+"/body/x", strings.NewReader("mail"), 4); err != nil {
			t.Fatal(err)
		}
	}
	return region, keys, func() error {
		for _, prefix := range []string{"eu/shard-0000", "eu/shard-0001"} {
			s, err := open(prefix)
			if err != nil {
				return err
			}
			p := make([]byte, 4)
			if _, err := s.ReadAt(t.Context(), prefix+"/body/x", p, 0); err != nil || string(p) != "mail" {
				return fmt.Errorf("%q: %w", p, err)
			}
		}
		return nil
	}
}

// A key's life, by the commands alone.
func TestKeyCommands(t *testing.T) {
	region, keys, read := keyed(t)
	old := regexp.MustCompile(`\d+`).FindString(must(t, "list", keys))
	content, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	material := regexp.MustCompile(`"value"\s*:\s*"([^"]+)"`).FindSubmatch(content)
	if material == nil {
		t.Fatal("no key in the file")
	}
	if listed := must(t, "list", keys); strings.Contains(listed, string(material[1])) || strings.Count(listed, "\n") != 1 || !strings.Contains(listed, "wraps") {
		t.Errorf("listed: %s", listed)
	}
	if _, err := keyCommand(t, "create", keys); err == nil {
		t.Error("a keyset file was overwritten")
	}
	must(t, "rotate", keys)
	if status := must(t, "status", "--region", region); strings.Count(status, "1 by keyset/"+old) != 2 || !strings.Contains(status, "not encrypted: 0") {
		t.Errorf("status: %s", status)
	}
	if out := must(t, "rewrap", "--region", region); strings.Count(out, ": 1\n") != 2 {
		t.Errorf("rewrap: %s", out)
	}
	if out := must(t, "generation", "--region", region, "1"); !strings.Contains(out, "eu/shard-0001  data key 2") || strings.Contains(out, "0000") {
		t.Errorf("generation: %s", out)
	}
	if status := must(t, "status", "--region", region); strings.Contains(status, "keyset/"+old) || !strings.Contains(status, ", 2 by keyset/") {
		t.Errorf("status at last: %s", status)
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	if _, err := keyCommand(t, "generation", "--region", region, "2"); err == nil {
		t.Error("a shard that the region does not have")
	}
}

// To another keyset file: the one before is named, and no more needed afterwards.
func TestKeyRewrapFromAnotherFile(t *testing.T) {
	region, keys, read := keyed(t)
	before := keys + ".before"
	if err := os.Rename(keys, before); err != nil {
		t.Fatal(err)
	}
	must(t, "create", keys)
	if err := read(); err == nil || !strings.Contains(err.Error(), "keyset/") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := keyCommand(t, "rewrap", "--region", region); err == nil {
		t.Error("wrapped anew without the key before")
	}
	must(t, "rewrap", "--region", region, "--from-key-file", before)
	if err := read(); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := keyCommand(t, args...)
	if err != nil {
		t.Fatalf("key %q: %v", args, err)
	}
	return out
}
