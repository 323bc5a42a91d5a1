package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// TestStandalone makes a customer, delivers and fetches, by one process and the
// operator's commands.
func TestStandalone(t *testing.T) {
	ofProcesses(t)
	base, dir := freePorts(t), filepath.Join(t.TempDir(), "data")
	port := func(n int) string { return fmt.Sprintf("127.0.0.1:%d", base+n) }
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "standalone", "--data", dir, "--region", "../../regions/za.yaml",
		"--pop3s", port(10), "--lmtp", port(11), "--gateway", port(12), "--http", port(13), "--base-port", strconv.Itoa(base))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s", text)
		}
	})
	awaitHTTP(t, "http://"+port(13)+"/readyz", ended)

	operate := func(into any, args ...string) {
		t.Helper()
		out, err := exec.Command(binary, append(args, "-o", "json", "--context", contextFile(dir))...).Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s%s", args, err, out, exitError(err))
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("%v: %v in %s", args, err, out)
		}
	}
	var ignored any
	var user struct{ Password string }
	operate(&ignored, "account", "create", "shop", "--region", "za")
	operate(&ignored, "domain", "add", "shop.example", "--account", "shop", "--kind", "local")
	operate(&user, "address", "add", "zoe@shop.example")

	message := []byte("Subject: one\r\n\r\n.hello\r\n")
	err = patiently(t.Context(), func() error {
		return deliver(t.Context(), port(11), "a@sender.example", []string{"ZOE@Shop.example"}, message)
	})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := readPool(filepath.Join(publicDir(dir), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pop, err := mailclient.DialPOP(t.Context(), port(10), &tls.Config{RootCAs: pool, ServerName: "za-pop.postern-za.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer pop.Close()
	if err := pop.Login("zoe@shop.example", user.Password); err != nil {
		t.Fatal(err)
	}
	var fetched bytes.Buffer
	if _, err := pop.Retr(1, &fetched); err != nil || !bytes.HasSuffix(fetched.Bytes(), message) {
		t.Errorf("fetched %q: %v", fetched.Bytes(), err)
	}
	if err := pop.Quit(); err != nil {
		t.Error(err)
	}

	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the stop: %v", err)
		}
	case <-time.After(stopWithin):
		t.Errorf("not stopped after %v", stopWithin)
	}
}

// exitError is what a command that failed said.
func exitError(err error) []byte {
	var exit *exec.ExitError
	errors.As(err, &exit)
	return exit.Stderr
}

func awaitHTTP(t *testing.T, url string, ended <-chan error) {
	t.Helper()
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); sleep(t.Context(), 50*time.Millisecond) {
		if answer, err := http.Get(url); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		default:
		}
	}
	t.Fatalf("%s: not ready after %v", url, startWithin)
}
