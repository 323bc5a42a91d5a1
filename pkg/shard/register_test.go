package shard

import (
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestRecordsAreChecked(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	fine := maildrop.AddressRecord{Address: anna, Account: "customer"}
	for name, change := range map[string]func(*maildrop.AddressRecord){
		"no address":            func(r *maildrop.AddressRecord) { r.Address = "" },
		"not canonical":         func(r *maildrop.AddressRecord) { r.Address = "Anna@local.example" },
		"no account":            func(r *maildrop.AddressRecord) { r.Account = "" },
		"long account":          func(r *maildrop.AddressRecord) { r.Account = strings.Repeat("x", 256) },
		"its own alias":         func(r *maildrop.AddressRecord) { r.Primary = anna },
		"alias of nothing":      func(r *maildrop.AddressRecord) { r.Primary = "x" },
		"alias with a password": func(r *maildrop.AddressRecord) { r.Primary, r.Hash = "b@local.example", plainHash("x") },
		"a password":            func(r *maildrop.AddressRecord) { r.Hash = "secret" },
		"a long hash":           func(r *maildrop.AddressRecord) { r.Hash = plainHash(strings.Repeat("x", 300)) },
		"no such access":        func(r *maildrop.AddressRecord) { r.Access = 3 },
		"many groups":           func(r *maildrop.AddressRecord) { r.Groups = make([]string, 257) },
		"an empty group":        func(r *maildrop.AddressRecord) { r.Groups = []string{""} },
		"a long group":          func(r *maildrop.AddressRecord) { r.Groups = []string{strings.Repeat("x", 256)} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := fine
			change(&bad)
			wants(t, s.PutAddress(t.Context(), bad), maildrop.Invalid)
		})
	}
	ok(t, s.PutAddress(t.Context(), fine))
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"region": func(c *Config) { c.Region = "" },
		"number": func(c *Config) { c.Number = -1 },
		"node":   func(c *Config) { c.Node = "" },
		"store":  func(c *Config) { c.Store = nil },
		"rules":  func(c *Config) { c.Rules = nil },
		"verify": func(c *Config) { c.Verify = nil },
	} {
		config := testConfig(blobtest.NewMemory())
		change(&config)
		if _, err := Open(t.Context(), config, 0); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
