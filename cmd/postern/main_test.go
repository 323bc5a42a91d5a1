package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/pop3"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if len(os.Args) == 4 && os.Args[1] == etcdAlone {
		return runEtcdAlone(os.Args[3]) // --config DIR
	}
	dir, err := os.MkdirTemp("", "postern-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "postern")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// postern runs a command line in this process.
func postern(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	layout, err := (&demoCmd{Data: dir}).layout()
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.write(); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "eu", "front-1.yaml")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "eu", "bad.yaml")
	os.WriteFile(bad, bytes.Replace(text, []byte("pop3s:"), []byte("pop4s:"), 1), 0o600)
	for _, c := range []struct {
		args []string
		code int
		want string // in what it prints
	}{
		{nil, 0, "standalone"},
		{[]string{"version"}, 0, "postern "},
		{[]string{"demo", "--help"}, 0, "--base-port"},
		{[]string{"config", "check", good}, 0, "ok\n"},
		{[]string{"config", "check", bad}, exitUsage, "front.pop4s: found an unknown key, expected one of certificates, pop3s, pop3s_proxy, pop3, pop3_proxy, gateway"},
		{[]string{"config", "check", bad}, exitUsage, "front.pop3s: found nothing"},
		{[]string{"config", "check", filepath.Join(dir, "none.yaml")}, exitFailed, "no such file"},
		{[]string{"front", "--config", bad}, exitUsage, bad + ":"},
		{[]string{"intake", "--config", good}, exitUsage, `role: found "front", expected intake, for this command`},
		{[]string{"front"}, exitUsage, "--config"},
		{[]string{"frnt"}, exitUsage, "unexpected argument frnt"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			code, stdout, stderr := postern(c.args...)
			if code != c.code || !strings.Contains(stdout+stderr, c.want) {
				t.Errorf("code %d and\n%s%s\nwant %d and %s", code, stdout, stderr, c.code, c.want)
			}
		})
	}
}

// TestDemoFilesAreGood checks every configuration file that a demo writes.
func TestDemoFilesAreGood(t *testing.T) {
	dir := t.TempDir()
	layout, err := (&demoCmd{Data: dir, BasePort: 20000}).layout()
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.write(); err != nil {
		t.Fatal(err)
	}
	if got := len(layout.all()); got != 20 {
		t.Errorf("%d processes", got)
	}
	for _, p := range layout.all() {
		if code, _, stderr := postern("config", "check", p.file); code != 0 {
			t.Error(stderr)
		}
	}
}

func TestDemoPorts(t *testing.T) {
	for _, base := range []int{0, 20000} {
		layout, err := (&demoCmd{Data: t.TempDir(), BasePort: base}).layout()
		if err != nil {
			t.Fatal(err)
		}
		// 2 doors and a gateway for each region, 2 ports for each process and one
		// more for each mailbox node, 3 links for each region, and etcd: all different.
		addresses := map[string]bool{}
		for _, l := range layout.listeners() {
			addresses[string(l.address)] = true
		}
		if got, want := len(addresses), 5*(3+4*2+2+3)+1; got != want {
			t.Errorf("base %d: %d addresses, want %d", base, got, want)
		}
		first := layout.regions[0]
		want := [2]string{"127.0.0.1:9951", "127.0.0.1:9241"}
		if base != 0 {
			want = [2]string{"127.0.0.1:20051", "127.0.0.1:20041"}
		}
		if got := [2]string{string(first.pop3s), string(first.lmtp)}; got != want || first.Name != "eu" {
			t.Errorf("base %d: %s has %v, want eu with %v", base, first.Name, got, want)
		}
	}
	if _, err := (&demoCmd{Data: t.TempDir(), BasePort: 65500}).layout(); err == nil {
		t.Error("ports beyond 65535 are fine")
	}
}

func TestSamplesAreTheSameEachTime(t *testing.T) {
	for _, s := range samples() {
		message := s.message("anna@eu-demo.example")
		if !bytes.Equal(message, s.message("anna@eu-demo.example")) {
			t.Errorf("%s: other octets the second time", s.name)
		}
		if !bytes.HasPrefix(message, []byte("Received: ")) {
			t.Errorf("%s has no Received field: a repetition would be stored twice", s.name)
		}
		if bytes.Count(message, []byte("\n")) != bytes.Count(message, []byte("\r\n")) {
			t.Errorf("%s has bare line feeds", s.name)
		}
	}
	if n := len(large("anna@eu-demo.example")); n < 4_900_000 || n > 5_100_000 {
		t.Errorf("the large sample has %d octets", n)
	}
}

func TestCRLF(t *testing.T) {
	for in, want := range map[string]string{"a\nb\n": "a\r\nb\r\n", "a\r\nb\n": "a\r\nb\r\n", "": "", "a": "a", "a\rb\n": "a\rb\r\n"} {
		if got := string(crlf([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c.pem": "/a/b-c.pem", "my dir/ca.pem": "'my dir/ca.pem'", "it's": `'it'\''s'`, "": "''"} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// What a role file may name is what there is, and what is there when it names nothing.
func TestMechanismsOfRoleFiles(t *testing.T) {
	if err := pop3.CheckMechanisms(config.Mechanisms()); err != nil {
		t.Error(err)
	}
	for _, name := range pop3.DefaultMechanisms() {
		if !slices.Contains(config.Mechanisms(), name) {
			t.Errorf("%s is offered and can't be named", name)
		}
	}
}
