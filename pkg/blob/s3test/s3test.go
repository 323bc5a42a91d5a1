// Package s3test starts a real S3 server inside a test: versitygw on loopback,
// with its buckets in the test's own folder, gone when the test ends. It is for
// tests only.
//
//	Start ── Bucket (a new one)
//	   ├── Stop, Kill ── Restart (same data, same port)
//	   └── Environment (credentials for this process and its children)
//
// # Decisions
//
//   - 2026-11-23: the program is made by `make bin/tools/versitygw`, which needs Go
//     and 100 s, once. A test without it is skipped with these words; with
//     POSTERN_TOOLS=required in the environment, as make test and make race set
//     it, it fails instead. Refused: building it inside a test, where nobody sees
//     why the first run takes so long.
//   - 2026-11-23: versitygw never fsyncs. It shows that we speak S3 and that races
//     have one winner; it shows nothing about power cuts.
//   - 2026-11-23: never --keep-alive, with which version 1.8.0 mixes answers up.
package s3test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	version      = "v1.8.0"
	startTimeout = 30 * time.Second // a loaded machine is slow, not broken
	stopTimeout  = 10 * time.Second
	healthPath   = "/health"
)

// Credentials that the server takes.
const (
	AccessKey = "postern-test"
	SecretKey = "postern-test-secret"
)

// Server is one versitygw.
type Server struct {
	t       testing.TB
	program string
	data    string // each folder in it is a bucket
	address string // host:port, fixed after the first start
	tls     []string
	running *process
}

type process struct {
	cmd  *exec.Cmd
	done chan error
	said strings.Builder
}

// Start starts a server that ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	return start(t)
}

// StartTLS starts a server with a certificate and key from PEM files.
func StartTLS(t testing.TB, cert, key string) *Server {
	t.Helper()
	return start(t, "--cert", cert, "--key", key)
}

func start(t testing.TB, tls ...string) *Server {
	t.Helper()
	s := &Server{t: t, program: program(t), data: t.TempDir(), address: freeAddress(t), tls: tls}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// URL is the endpoint.
func (s *Server) URL() string {
	if len(s.tls) > 0 {
		return "https://" + s.address
	}
	return "http://" + s.address
}

// Address is the endpoint's host:port.
func (s *Server) Address() string { return s.address }

// Data is the folder of all buckets.
func (s *Server) Data() string { return s.data }

// Bucket makes a new, empty bucket.
func (s *Server) Bucket() string {
	s.t.Helper()
	name := "test-" + strings.ToLower(rand.Text())
	if err := os.Mkdir(filepath.Join(s.data, name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// Environment makes the server's credentials the environment's until the test
// ends, for this process and those it starts.
func Environment(t *testing.T) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
}

// Stop ends the server as an operator does, and keeps its data. Stopping a
// stopped one does nothing.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server as a crash does, and keeps its data.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) {
	if s.running == nil {
		return
	}
	_ = s.running.cmd.Process.Signal(signal) // it may have ended by itself
	select {
	case <-s.running.done:
	case <-time.After(stopTimeout):
		_ = s.running.cmd.Process.Kill()
		<-s.running.done
	}
	s.running = nil
}

// Restart starts the server on its data, at its address; one that runs is
// stopped before.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	p := &process{done: make(chan error, 1)}
	args := append([]string{"--port", s.address, "--health", healthPath, "--quiet"}, s.tls...)
	p.cmd = exec.CommandContext(context.Background(), s.program, append(args, "posix", s.data)...)
	p.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("versitygw: %v", err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	s.running = p
	s.ready()
}

// ready waits until the server answers.
func (s *Server) ready() {
	s.t.Helper()
	deadline := time.After(startTimeout)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-s.running.done:
			said := s.running.said.String()
			s.running = nil
			s.t.Fatalf("versitygw ended: %v\n%s", err, said)
		case <-deadline:
			s.t.Fatalf("versitygw isn't ready after %v", startTimeout)
		case <-look.C:
			if s.answers() {
				return
			}
		}
	}
}

func (s *Server) answers() bool {
	if len(s.tls) > 0 {
		connection, err := net.DialTimeout("tcp", s.address, time.Second)
		if err != nil {
			return false
		}
		return connection.Close() == nil
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(s.URL() + healthPath)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// freeAddress is one that nobody listens on now.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// program finds versitygw, or skips the test.
func program(t testing.TB) string {
	t.Helper()
	for _, dir := range places(t) {
		file := filepath.Join(dir, "versitygw")
		if info, err := os.Stat(file); err == nil && info.Mode()&0o111 != 0 {
			return file
		}
	}
	if file, err := exec.LookPath("versitygw"); err == nil {
		return file
	}
	const words = "no versitygw " + version + " here, so nothing is tested against a real S3 server: make bin/tools/versitygw"
	if os.Getenv("POSTERN_TOOLS") == "required" {
		t.Fatal(words)
	}
	t.Skip(words)
	return ""
}

// places are the module's own tools, and where go install puts programs.
func places(t testing.TB) []string {
	t.Helper()
	ask := func(args ...string) string {
		text, err := exec.CommandContext(t.Context(), "go", args...).Output()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			t.Logf("go %s: %v", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(text))
	}
	found := []string{}
	if module := ask("env", "GOMOD"); module != "" {
		found = append(found, filepath.Join(filepath.Dir(module), "bin", "tools"))
	}
	if path := ask("env", "GOPATH"); path != "" {
		found = append(found, filepath.Join(path, "bin"))
	}
	return found
}
