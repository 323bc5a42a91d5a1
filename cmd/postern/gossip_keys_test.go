package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGossipKeyFile(t *testing.T) {
	key := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for text, want := range map[string]string{
		key(32):                               "1",
		key(32) + "\n":                        "1",
		key(16) + "\n\n " + key(24) + " \r\n": "2",
		"":                                    "no key in it",
		"\n":                                  "no key in it",
		key(32) + "\nno base64":               "line 2",
		key(15):                               "line 1",
		strings.Repeat(key(32)+"\n", 100):     "longer than",
	} {
		file := filepath.Join(t.TempDir(), "gossip.key")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := readGossipKeys(file)
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && want != string(rune('0'+len(keys))) {
			t.Errorf("%q: %d keys, %v; want %s", text, len(keys), err, want)
		}
	}
}
