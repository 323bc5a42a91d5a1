package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTargetRules(t *testing.T) {
	shipped, err := os.ReadFile("../../examples/drill.yaml")
	if err != nil {
		t.Fatal(err)
	}
	swap := func(from, to string) string {
		if !strings.Contains(string(shipped), from) {
			t.Fatalf("no %q in the example", from)
		}
		return strings.Replace(string(shipped), from, to, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"as shipped":     {string(shipped), ""},
		"no user":        {swap("\n  - {address: drill-1@example.com, password: change-me-1}\n  - {address: drill-2@example.com, password: change-me-2}", " []"), "users: found an empty list, expected at least one test user"},
		"a user twice":   {swap("drill-2@", "drill-1@"), "users: found drill-1@example.com twice, expected each once"},
		"a name twice":   {swap("name: mailbox-2", "name: mailbox-1"), "processes: found mailbox-1 twice, expected each once"},
		"another role":   {swap("role: intake", "role: relay"), `role: found "relay", expected mailbox, intake or front`},
		"no way to look": {swap("    http: mx1.example:9260\n", ""), "found both or neither of http and life, expected one of them"},
		"a shell's line": {swap("[ssh, mx1.example, systemctl kill -s KILL postern-mailbox]", "systemctl kill"), `kill: found "systemctl kill", expected a command that kills it`},
		"no program":     {swap("[ssh, mx1.example, systemctl kill -s KILL postern-mailbox]", "[]"), "kill: found an empty list, expected a program and its arguments"},
		"an empty one":   {swap("before: [./silence, on]", `before: [""]`), "before[0]: found an empty text"},
		"for ever":       {swap("  undo: [./firewall, heal, eu]\n", ""), "undo: found nothing, expected a command"},
		"undone by none": {swap("undo: [./firewall, heal, eu]", "undo: []"), "undo: found an empty list, expected a program and its arguments"},
		"no front":       {swap("addresses: [eu-pop.example.com:995]", "addresses: []"), "pop3s.addresses: found an empty list"},
		"half of TLS":    {swap("  hostname: intake.example.com\n", ""), "lmtp: found one of hostname and tls, expected both or neither"},
		"an unknown key": {swap("region: eu", "region: eu\nrestarts: 3"), "restarts: found an unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "drill.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			target, err := LoadTarget(file)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "" && (len(target.Processes) != 4 || target.Context != Path(filepath.Join(filepath.Dir(file), "operator.yaml"))):
				t.Errorf("read %+v", target)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
