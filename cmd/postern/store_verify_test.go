package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/verify"
)

// storeVerify runs "store verify" of a region whose store is in path.
func storeVerify(t *testing.T, path string, args ...string) (stdout string, err error) {
	t.Helper()
	text, err := os.ReadFile("../../regions/eu.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "eu.yaml")
	if err := os.WriteFile(file, bytes.Replace(text, []byte("/var/lib/postern/eu"), []byte(path), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	parser, err := kong.New(&struct {
		Store storeCmd `cmd:""`
	}{}, kong.BindTo(context.Background(), (*context.Context)(nil)), kong.Writers(&out, &errs))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(append([]string{"store", "verify", "--region", file, "--rounds", "5", "--writers", "4"}, args...))
	if err != nil {
		return "", err
	}
	err = parsed.Run()
	if errs.Len() > 0 {
		t.Errorf("on standard error, which is no terminal: %q", errs.String())
	}
	return out.String(), err
}

func TestStoreVerify(t *testing.T) {
	path := t.TempDir()
	table, err := storeVerify(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 9 || strings.Count(table, " ok ") != 8 {
		t.Errorf("expected eight promises kept:\n%s", table)
	}
	text, err := storeVerify(t, path, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got verifyView
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&got); err != nil || d.More() {
		t.Fatalf("not one JSON document: %v\n%s", err, text)
	}
	if !got.OK || len(got.Promises) != 8 || got.Endpoints != 1 || got.Promises[0].Tries != 5 || got.Left != 0 {
		t.Errorf("%+v", got)
	}
	_ = filepath.WalkDir(path, func(name string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			t.Errorf("left: %s", name)
		}
		return nil
	})
}

// keeper is a store that lets nobody delete.
type keeper struct{ blob.Store }

func (k keeper) Delete(ctx context.Context, key string) error {
	return errors.Join(k.Store.Delete(ctx, key), errors.New("no permission"))
}

// A broken promise is one clear sentence, and what can't be removed is told.
func TestStoreVerifyShowsABrokenPromise(t *testing.T) {
	memory := blobtest.NewFaulty(blobtest.NewMemory(), func(c blobtest.Call) blobtest.Fault {
		if c.Op == blobtest.OpRead && c.N > 100 {
			return blobtest.Fault{Before: blob.ErrNotFound}
		}
		return blobtest.Fault{}
	})
	c := &storeVerifyCmd{Writers: 4, Rounds: 5, Output: "table"}
	var out, errs bytes.Buffer
	r := c.verify(context.Background(), []blob.Store{keeper{memory}}, &errs)
	if err := c.show(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BROKEN", "WARNING", "had no object", "postern-verify/"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("expected %q in:\n%s", want, out.String())
		}
	}
	if err := r.Err(); !errors.Is(err, verify.ErrBroken) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v; want one sentence", err)
	}
	if v := viewReport(r); v.OK || v.Left == 0 {
		t.Errorf("%+v", v)
	}
}

func TestStoreVerifyUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--config", "x.yaml"}, {"--writers", "1"}, {"-o", "xml"},
	} {
		if out, err := storeVerify(t, t.TempDir(), args...); err == nil || out != "" {
			t.Errorf("%q is taken: %q", args, out)
		}
	}
}
