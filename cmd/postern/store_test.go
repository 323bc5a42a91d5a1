package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/s3test"
	"github.com/postern-pop/postern/pkg/config"
)

var noLog = slog.New(slog.DiscardHandler)

// A store of either kind works and is counted.
func TestOpenStore(t *testing.T) {
	bucket := func(t *testing.T) config.Storage {
		server := s3test.Start(t)
		s3test.Environment(t)
		return config.Storage{S3: &config.S3{
			Endpoints: []config.Endpoint{config.Endpoint(server.URL())}, Bucket: server.Bucket(), Prefix: "eu", PathStyle: true,
		}}
	}
	directory := func(t *testing.T) config.Storage {
		return config.Storage{Dir: &config.Dir{Path: config.Path(t.TempDir())}}
	}
	for name, storage := range map[string]func(*testing.T) config.Storage{"s3": bucket, "dir": directory} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			store, closer, err := openStore(t.Context(), storage(t), noLog, registry)
			if err != nil {
				t.Fatal(err)
			}
			defer closer.Close()
			for _, want := range []error{nil, blob.ErrExists} {
				if err := store.Create(t.Context(), "00/x", strings.NewReader("mail"), 4); !errors.Is(err, want) {
					t.Fatalf("%v, want %v", err, want)
				}
			}
			p := make([]byte, 9)
			if n, err := store.ReadAt(t.Context(), "00/x", p, 0); string(p[:n]) != "mail" || !errors.Is(err, io.EOF) {
				t.Errorf("read %q, %v", p[:n], err)
			}
			families, err := registry.Gather()
			metrics := map[string]int{"dir": 5, "s3": 6} // a bucket's requests are made again now and then
			if err != nil || len(families) != metrics[name] {
				t.Errorf("%d metrics, %v", len(families), err)
			}
		})
	}
}

// What is wrong with a store is said with what to do about it.
func TestOpenStoreAdvises(t *testing.T) {
	server := s3test.Start(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config.S3{Endpoints: []config.Endpoint{config.Endpoint(server.URL())}, Bucket: server.Bucket()}
	for name, c := range map[string]struct {
		change func(*config.Storage, *testing.T)
		want   []string
	}{
		"bucket": {func(s *config.Storage, _ *testing.T) { s.S3.Bucket = "elsewhere" }, []string{"elsewhere", "no such bucket", "create the bucket"}},
		"secret": {func(_ *config.Storage, t *testing.T) { t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong") }, []string{"no credentials that the store takes", "AWS_SECRET_ACCESS_KEY", "clock"}},
		"unreachable": {func(s *config.Storage, _ *testing.T) {
			s.S3.Endpoints[0] = config.Endpoint("http://" + gone.Addr().String())
		}, []string{gone.Addr().String(), "connection refused", "storage.s3.endpoints"}},
		"CA": {func(s *config.Storage, _ *testing.T) { s.S3.CA = config.Path(empty) }, []string{empty, "no certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			s3test.Environment(t)
			bucket := good
			bucket.Endpoints = append([]config.Endpoint{}, good.Endpoints...)
			storage := config.Storage{S3: &bucket}
			c.change(&storage, t)
			_, _, err := openStore(t.Context(), storage, noLog, nil)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it", err, want)
				}
			}
		})
	}
}

// A node without its key doesn't start: mail is never stored in the clear by
// mistake.
func TestSealNeedsItsKey(t *testing.T) {
	_, err := seal(&config.Encryption{KeyFile: config.Path(filepath.Join(t.TempDir(), "none"))}, noLog)
	if err == nil || !strings.Contains(err.Error(), "storage.encryption") {
		t.Errorf("%v; want storage.encryption in it", err)
	}
	if sealing, err := seal(nil, noLog); sealing != nil || err != nil {
		t.Errorf("without encryption: %v", err)
	}
}

func TestInTheClear(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"https://s3.example.net": false, "http://127.0.0.1:9000": false, "http://[::1]:9000": false, "http://localhost": false,
		"http://s3.example.net": true, "http://10.0.0.1:9000": true,
	} {
		if got := inTheClear(endpoint); got != want {
			t.Errorf("%s: %v", endpoint, got)
		}
	}
}
