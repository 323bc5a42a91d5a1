package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/pop3"
)

// TestDefaultLimits: README, the configuration and the server mean the same.
func TestDefaultLimits(t *testing.T) {
	if got, want := limitsOf(nil), pop3.DefaultLimits(); got.Connections != connectionsFor(want.Connections) {
		t.Errorf("%d connections", got.Connections)
	} else if got.Connections = want.Connections; *got != *want {
		t.Errorf("the configuration has %+v, the server %+v", got, want)
	}
	readme, err := os.ReadFile("../../README.md")
	noError(t, err)
	example := regexp.MustCompile("(?s)```yaml\n(front:\n  limits:\n.*?)```").FindSubmatch(readme)
	if example == nil {
		t.Fatal("README has no example of limits")
	}
	var shown struct {
		Front struct{ Limits config.Limits }
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(example[1])))
	decoder.KnownFields(true)
	noError(t, decoder.Decode(&shown))
	if shown.Front.Limits != *config.DefaultLimits() {
		t.Errorf("README has %+v", shown.Front.Limits)
	}
	process, err := config.Load("../../examples/front.yaml")
	noError(t, err)
	if *process.Front.Limits != *config.DefaultLimits() {
		t.Errorf("the example has %+v", process.Front.Limits)
	}
}

// TestNoLimits: a demo that lifts them still has them lifted when its processes have
// read their files.
func TestNoLimits(t *testing.T) {
	layout, err := (&demoCmd{Data: t.TempDir(), BasePort: 20000, NoLimits: true}).layout()
	noError(t, err)
	fronts := 0
	for _, p := range layout.all() {
		if p.config.Front == nil {
			continue
		}
		fronts++
		file := filepath.Join(t.TempDir(), "front.yaml")
		plain := *p.config
		plain.Region.File = ""
		noError(t, writeYAML(file, &plain))
		read, err := config.Load(file)
		noError(t, err)
		if got := limitsOf(read.Front.Limits); *got != (pop3.Limits{Connections: got.Connections}) {
			t.Errorf("%+v", got)
		}
	}
	if fronts != 5 || !layout.lifted {
		t.Errorf("%d fronts; lock-outs are lifted: %t", fronts, layout.lifted)
	}
}

func TestAddressesInTheLog(t *testing.T) {
	key := filepath.Join(t.TempDir(), "log.key")
	hashed := &config.Log{Addresses: config.AddressesHashed, KeyFile: config.Path(key)}
	if _, err := addressesOf(hashed); err == nil {
		t.Error("a key that isn't there")
	}
	noError(t, os.WriteFile(key, []byte("short"), 0o600))
	if _, err := addressesOf(hashed); err == nil || !strings.Contains(err.Error(), "at least 32") {
		t.Errorf("a short key: %v", err)
	}
	noError(t, os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600))
	const anna maildrop.Address = "anna@example.com"
	for name, cfg := range map[string]*config.Log{"anna@example.com": nil, "": hashed} {
		names, err := addressesOf(cfg)
		noError(t, err)
		if got := names(anna); name != "" && got != name || name == "" && strings.Contains(got, "anna") {
			t.Errorf("%+v: %s", cfg, got)
		}
	}
}
